"""The points of the curve of rate against distortion: models, weights of the KL, and ways to get there."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from resumable import file_name

__all__ = ["FAMILIES", "JOINT", "LANGUAGE_MODELS", "POINTS", "Point"]

JOINT = {  # priors that are trained with the model, in words
    "tokens": "prior of tokens",
    "language_model": "from a language model",
    "mixture": "mixture prior trained with it",
    "flow": "flow prior trained with it",
}


class Point(NamedTuple):
    """One model to train and evaluate."""

    family: str
    beta: float = 1.0
    ladder: tuple[float, ...] = ()  # the betas of earlier training, each for as many steps
    schedule: str = "linear"
    free_bits: float = 0.0  # nats per text, in total
    prior: str = ""  # of a second stage, fitted to the posterior of the same point without one
    times: int = 1  # factor on the number of steps
    joint: str = ""  # a prior that is trained with the model, of JOINT

    @property
    def name(self) -> str:
        """The name of its files."""
        parts = [self.family, *(f"{beta:g}" for beta in (*self.ladder, self.beta))]
        parts += [self.schedule] if self.schedule != "linear" else []
        parts += [f"free{self.free_bits:g}"] if self.free_bits else []
        parts += [f"x{self.times}"] if self.times > 1 else []
        return file_name(*parts, *filter(None, (self.prior, self.joint)))

    @property
    def start(self) -> "Point | None":
        """The point whose weights this one continues from."""
        return self._replace(beta=self.ladder[-1], ladder=self.ladder[:-1]) if self.ladder else None

    @classmethod
    def of(cls, result: Mapping[str, Any]) -> "Point":
        """The point of a stored result."""
        point = cls(**result["point"])
        return point._replace(ladder=tuple(point.ladder))

    def steps(self, each: int) -> int:
        """The total number of training steps, with ``each`` on each rung."""
        return each * (len(self.ladder) + self.times) + (max(1, each // 2) if self.prior else 0)

    def weight(self, width: int) -> float:
        """The weight on the KL of the vectors: with the published objective, that of the equivalent exact KL."""
        return self.beta * 1e-3 / width if self.family.startswith("nvib") else self.beta


LANGUAGE_MODELS = ("language model", "shallow language model")
FAMILIES = (*LANGUAGE_MODELS, "nvae", "nvib", "nvib relu", "vae", "one vector", "autoencoder")
POINTS = [  # the most informative first
    Point("language model"),
    Point("shallow language model"),
    Point("vae", schedule="constant", joint="tokens"),
    Point("nvae", schedule="constant", joint="tokens"),
    Point("vae", schedule="constant", joint="language_model"),
    Point("nvae", schedule="constant", joint="language_model"),
    Point("nvae", 1e-3),
    Point("nvae", 1e-2, (1e-3,)),
    Point("nvae", 1e-1, (1e-3, 1e-2)),
    Point("nvae", 1e-2, (1e-3,), prior="autoregressive"),
    Point("nvae", 1.0, (1e-3, 1e-2, 1e-1)),
    Point("nvae", 0.3, (1e-3, 1e-2, 1e-1)),
    Point("nvae", 1e-2),
    Point("nvae", 1e-2, prior="autoregressive"),
    Point("nvib", 1.0, schedule="constant"),
    Point("nvib", 1e2, (1.0,), schedule="constant"),
    Point("nvib", 1e3, (1.0, 1e2), schedule="constant"),
    Point("nvib relu", 1.0, schedule="constant"),
    Point("nvib relu", 1e2, (1.0,), schedule="constant"),
    Point("nvib relu", 1e3, (1.0, 1e2), schedule="constant"),
    Point("nvae", 1e-5),
    Point("vae", 1e-3),
    Point("vae", 1e-2, (1e-3,)),
    Point("vae", 1e-1, (1e-3, 1e-2)),
    Point("one vector", 1e-2),
    Point("one vector", 1e-1, (1e-2,)),
    Point("one vector", 1.0, (1e-2, 1e-1)),
    Point("one vector", 1e-1, (1e-2,), joint="mixture"),
    Point("one vector", 1.0, (1e-2, 1e-1), joint="mixture"),
    Point("one vector", 1e-1, (1e-2,), joint="flow"),
    Point("one vector", 1.0, (1e-2, 1e-1), joint="flow"),
    Point("autoencoder", 0.0),
    Point("vae", 1e-2, (1e-3,), prior="autoregressive"),
    Point("nvae", 1e-1, (1e-3, 1e-2), prior="autoregressive"),
    Point("nvae", 1e-2, (1e-3,), prior="mixture"),
    Point("language model", times=4),
    Point("nvae", 1e-1, schedule="geometric"),
    Point("nvae", 1e-1, schedule="cyclical"),
    Point("nvae", 1e-2, times=2),
    Point("nvae", 1.0, free_bits=30.0),
]
