"""A text beside what its posterior gives back."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["Reconstruction"]


@dataclass(frozen=True)
class Reconstruction:
    r"""A text, encoded into its posterior and written again from the mean of that.

    Arguments:
        text: What the decoder wrote.
        original: What it was to write.
        tokens: The tokens of the original, its end included.
        kept: Where the posterior is a mixture with a component for each token, what each weighs in its mean,
            :math:`\mathrm E \pi_i`; otherwise None.
        prior: What is left to the prior's own component; all weights sum to one.
    """

    text: str
    original: str
    tokens: tuple[str, ...]
    kept: tuple[float, ...] | None = None
    prior: float | None = None

    @classmethod
    def from_weights(
        cls, text: str, original: str, tokens: tuple[str, ...], weights: Sequence[float] | None
    ) -> "Reconstruction":
        """With the weights of a mixture, if there is one: the prior's, those of the tokens, and those of padding."""
        if weights is None:
            return cls(text, original, tokens)
        return cls(text, original, tokens, tuple(weights[1 : len(tokens) + 1]), weights[0])

    @property
    def exact(self) -> bool:
        """Whether the text came back as it was."""
        return self.text == self.original

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        held = {name: value for name, value in asdict(self).items() if value is not None}
        return held | {"exact": self.exact}
