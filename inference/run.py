"""A fitted model with everything that belongs to it, and the way back from its folder."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

import torch
from jaxtyping import Float
from torch import Tensor

from ..models.serialization import from_config
from ..models.transformer.memory import Memory
from .data.corpus import Corpus
from .data.readers import Pair
from .evaluation.evaluate import evaluate, text_bounds
from .evaluation.report import Evaluation
from .generation.decoding import Decoding
from .generation.editing import Edited, edit
from .generation.generate import decode, encode, reconstruct, sample
from .generation.interpolation import interpolate, swap
from .generation.reconstruction import Reconstruction
from .objectives.elbo import ELBO
from .posterior.export import posterior
from .runs.fitted import FittedModel
from .runs.folder import RunFolder, objective_state, read_checkpoint

__all__ = ["Run", "load"]


class Run(FittedModel):
    r"""A fitted model with everything that can be done with it; :func:`~pyroformer.fit` and
    :func:`~pyroformer.load` return one.

    Arguments are those of :class:`~pyroformer.inference.runs.fitted.FittedModel`.
    """

    def encode(self, texts: str | Sequence[str], conditions: str | Sequence[str] | None = None) -> Any:
        """The posterior of each text, as the guide's ``encode`` gives it; its ``memory()`` can be decoded.

        Arguments:
            texts: What to encode; none may be longer than the model's max_length.
            conditions: What each answers to, if the run was trained on pairs.

        Raises:
            ValueError: If nothing is latent in the model, or a text does not fit its max_length.
        """
        return encode(self, texts, conditions)

    def decode(self, memory: Memory, *, seed: int = 0, **decoding: Any) -> list[str]:
        """The text that the model writes for each memory of a batch.

        Arguments:
            memory: What the decoder is told: a mixture with vectors of shape :math:`(B, N, P)`, or a context with
                latents of shape :math:`(B, K, p)`.
            seed: Of the noise, where tokens are drawn.
            decoding: Fields of :class:`Decoding`; without any, the most probable token is taken.

        Raises:
            ValueError: If the memory is of another kind or size than the model's.
        """
        return decode(self, memory, _greedy_unless(decoding), seed=seed)

    @overload
    def reconstruct(
        self, texts: str, *, conditions: str | None = None, min_weight: float = 0.0, seed: int = 0, **decoding: Any
    ) -> Reconstruction: ...
    @overload
    def reconstruct(
        self,
        texts: Sequence[str],
        *,
        conditions: Sequence[str] | None = None,
        min_weight: float = 0.0,
        seed: int = 0,
        **decoding: Any,
    ) -> list[Reconstruction]: ...
    def reconstruct(
        self,
        texts: str | Sequence[str],
        *,
        conditions: str | Sequence[str] | None = None,
        min_weight: float = 0.0,
        seed: int = 0,
        **decoding: Any,
    ) -> Reconstruction | list[Reconstruction]:
        """Each text, encoded and written again from the mean of its posterior; one for a text, a list for several.

        Arguments:
            texts: What to encode; none may be longer than the model's max_length.
            conditions: What each answers to, if the run was trained on pairs.
            min_weight: Vectors of a mixture that weigh less leave before anything is written, which takes less time.
            seed: Of the noise, where tokens are drawn.
            decoding: Fields of :class:`Decoding`; without any, the most probable token is taken.

        Raises:
            ValueError: If nothing is latent in the model, or a text does not fit its max_length.
        """
        told = None if conditions is None else _several(conditions)
        options: dict[str, Any] = {"conditions": told, "min_weight": min_weight, "seed": seed}
        found = reconstruct(self, _several(texts), _greedy_unless(decoding), **options)
        return found[0] if isinstance(texts, str) else found

    def sample(
        self, n: int = 1, *, seed: int = 0, prompt: str = "", condition: str | None = None, **decoding: Any
    ) -> list[str]:
        """Texts that the model makes up, from its latents down.

        Arguments:
            n: How many.
            seed: Of latents and tokens; the first texts of a longer list are those of a shorter one.
            prompt: How every text begins.
            condition: What every text answers to, if the run was trained on pairs.
            decoding: Fields of :class:`Decoding`, such as ``temperature``; without any, the model itself is drawn from.
        """
        return sample(self, n, Decoding(**decoding), seed=seed, prompt=prompt, condition=condition)

    def interpolate(self, first: str, second: str, steps: int = 5, **options: Any) -> list[str]:
        """The texts on the way from one text's latents to another's.

        Arguments:
            first: The text to begin with.
            second: The text to end with.
            steps: How many texts to write, both ends included.
            options: Of :func:`~pyroformer.inference.generation.interpolation.interpolate`, such as ``layers``.
        """
        return [found.text for found in interpolate(self, first, second, steps, **options)]

    def swap(self, text: str, other: str, layers: Sequence[int], **options: Any) -> str:
        """What a text becomes with the latents of some layers, from 1, replaced by another text's.

        Arguments:
            text: The text that is changed.
            other: The text whose latents come in.
            layers: In which layers.
            options: Of :func:`~pyroformer.inference.generation.interpolation.swap`, such as ``seed``.
        """
        return swap(self, text, other, layers, **options).text

    def edit(self, text: str, **options: Any) -> Edited:
        """What a text becomes with vectors of its mixture dropped, scaled or swapped for another text's.

        Arguments:
            text: What to encode.
            options: Of :func:`~pyroformer.inference.generation.editing.edit`, such as ``drop`` or ``scale``.
        """
        return edit(self, text, **options)

    def posterior(
        self,
        texts: str | Sequence[str],
        conditions: str | Sequence[str] | None = None,
        draws: int = 100,
        **options: Any,
    ) -> Any:
        """Draws from the posterior of some texts, with their densities, as ArviZ has them.

        Arguments:
            texts: Which texts; a few, since every draw of their latents is kept.
            conditions: What each answers to, if the run was trained on pairs.
            draws: How many draws of each text's latents.
            options: Of :func:`~pyroformer.inference.posterior.export.posterior`, such as ``predictive`` or ``sites``.
        """
        return posterior(self, texts, conditions, draws, **options)

    def bound(
        self,
        texts: str | Sequence[str],
        num_particles: int = 64,
        *,
        conditions: str | Sequence[str] | None = None,
        seed: int = 0,
    ) -> Float[Tensor, " texts"]:
        """A lower bound of each text's log p(x), in nats: importance-weighted; log p(x) itself if nothing is latent.

        Where texts answer to conditions, of log p(x | c).

        Raises:
            ValueError: If a text does not fit the model's max_length.
        """
        told = None if conditions is None else _several(conditions)
        return text_bounds(self, _several(texts), num_particles, conditions=told, seed=seed)

    def evaluate(self, texts: Sequence[str] | Sequence[Pair] | None = None, **options: Any) -> Evaluation:
        """Measure the model, on the test split of its corpus by default.

        Arguments:
            texts: Other texts to measure it on; pairs (condition, text), if it was trained on pairs.
            options: Of :func:`~pyroformer.inference.evaluation.evaluate.evaluate`, such as ``num_particles`` or ``limit``.
        """
        return evaluate(self, texts, **options)


def load(path: str | Path, *, trust: Collection[str] = (), device: str | torch.device = "cpu") -> Run:
    """The run in a folder, with its best weights.

    Arguments:
        path: The folder that ``fit`` wrote.
        trust: Modules or class paths outside pyroformer that the run's configuration may import.
        device: Where the model goes.

    Raises:
        ValueError: If there is no run, its checkpoint is damaged, or it needs code that is not trusted.
    """
    folder = RunFolder(path)
    config = folder.read_config()
    model = from_config(config["model"], trust)
    guide = from_config(config["guide"], trust, model=model) if config.get("guide") else None
    checkpoint = read_checkpoint(folder.best if folder.best.exists() else folder.last)
    objective = ELBO()(model, guide)
    try:
        objective.load_state_dict(objective_state(checkpoint))
    except RuntimeError as error:
        raise ValueError(f"{folder.best} is a checkpoint of another model than {folder.config_file} names.") from error
    objective.to(device).eval()
    return Run(model, guide, Corpus.load(folder.corpus), folder, config, int(checkpoint["global_step"]))


def _several(texts: str | Sequence[str]) -> Sequence[str]:
    return [texts] if isinstance(texts, str) else texts


def _greedy_unless(decoding: Mapping[str, Any]) -> Decoding:
    """Whoever names no rule wants the most probable text."""
    return Decoding(**decoding) if decoding else Decoding(greedy=True)
