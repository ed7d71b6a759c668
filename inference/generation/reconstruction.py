"""A text and its reconstruction."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from html import escape
from typing import Any

__all__ = ["Reconstruction"]


@dataclass(frozen=True, repr=False)
class Reconstruction:
    r"""A text, and the text decoded from the mean of its posterior.

    Arguments:
        text: The reconstruction.
        original: The text that was encoded.
        tokens: The tokens of the original, the end-of-text token included.
        token_weights: If the posterior is a mixture with a component for each token, their mean weights
            :math:`\mathrm E \pi_i`; otherwise None.
        prior_weight: The mean weight of the prior's component; together with ``token_weights`` it sums to one.
    """

    text: str
    original: str
    tokens: tuple[str, ...]
    token_weights: tuple[float, ...] | None = None
    prior_weight: float | None = None

    @classmethod
    def from_weights(
        cls, text: str, original: str, tokens: tuple[str, ...], weights: Sequence[float] | None
    ) -> "Reconstruction":
        """A reconstruction with the weights of tokens and padding, if any; the prior's is one minus their sum."""
        if weights is None:
            return cls(text, original, tokens)
        return cls(text, original, tokens, tuple(weights[: len(tokens)]), max(0.0, 1 - sum(weights)))

    def __repr__(self) -> str:
        result = "exact" if self.exact else f"from {self.original!r}"
        weight = "" if self.prior_weight is None else f", weight of the prior {self.prior_weight:.2f}"
        return f"Reconstruction({self.text!r}, {result}{weight})"

    def _repr_html_(self) -> str:
        """The original, its tokens shaded by their weights, above the reconstruction."""
        largest = max(self.token_weights or (1.0,)) or 1.0
        shades = [weight / largest for weight in self.token_weights or ()] or [0.0] * len(self.tokens)
        tokens = "".join(
            f'<span style="background: rgba(0, 114, 178, {0.5 * shade:.2f})">{escape(token)}</span>'
            for token, shade in zip(self.tokens, shades, strict=True)
        )
        exact = " (exact)" if self.exact else ""
        return f"<p>{tokens}<br>{escape(self.text)}{exact}</p>"

    @property
    def exact(self) -> bool:
        """Whether the reconstruction equals the original."""
        return self.text == self.original

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        fields = {name: value for name, value in asdict(self).items() if value is not None}
        return fields | {"exact": self.exact}
