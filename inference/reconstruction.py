"""A text beside what its posterior gives back."""

from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["Reconstruction"]


@dataclass(frozen=True)
class Reconstruction:
    r"""A text, encoded into its posterior mixture and written again from that.

    Arguments:
        text: What the decoder wrote.
        original: What it was to write.
        tokens: The tokens of the original, its end included.
        kept: What each of them weighs in the posterior's mean mixture, :math:`\mathrm E \pi_i`.
        prior: What is left to the prior's own component; all weights sum to one.
    """

    text: str
    original: str
    tokens: tuple[str, ...]
    kept: tuple[float, ...]
    prior: float

    @property
    def exact(self) -> bool:
        """Whether the text came back as it was."""
        return self.text == self.original

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self) | {"exact": self.exact}
