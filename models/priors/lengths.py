"""Priors of the length of a text."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.distributions import Distribution

from ..distributions.lengths import Lengths
from ..utils.numbers import check_at_least
from ..utils.precision import at_least_float32
from .roles import Prior

__all__ = ["LengthPrior"]


class LengthPrior(Prior):
    r"""A histogram over the lengths of texts, :math:`1, \dots, W`.

    Arguments:
        max_length: :math:`W`, the longest text that the model takes.
        probabilities: With shape :math:`(W)`, up to a common factor; uniform by default.

    Raises:
        ValueError: If ``max_length`` is not positive, there is not one probability for each length, one is negative or
            not finite, or all are 0.

    Examples:
        >>> prior = LengthPrior.fit([3, 3, 4], max_length=8)
        >>> prior().log_prob(torch.tensor([3, 8])).exp()
        tensor([0.2727, 0.0909])
    """

    log_probabilities: Tensor

    def __init__(self, max_length: int, probabilities: Float[Tensor, " max_length"] | None = None) -> None:
        super().__init__()
        check_at_least(1, max_length=max_length)
        if probabilities is None:
            probabilities = torch.ones(max_length)
        else:
            _check_probabilities(probabilities, max_length)
        self.register_buffer("log_probabilities", (probabilities / probabilities.sum()).log())

    @classmethod
    def fit(
        cls, lengths: Int[Tensor, " texts"] | Sequence[int], max_length: int, smoothing: float = 1.0
    ) -> "LengthPrior":
        r"""The smoothed histogram of the texts of a training split.

        .. math:: p(n) = \frac{c_n + s}{\sum_m (c_m + s)}

        Arguments:
            lengths: The length of each text, from 1 to ``max_length``.
            max_length: :math:`W`.
            smoothing: :math:`s > 0`, added to each count, so that no length is impossible.

        Raises:
            ValueError: If ``smoothing`` is not positive or a length is out of range.
        """
        if not smoothing > 0:
            raise ValueError(
                f"smoothing is {smoothing}: give a positive number, so that lengths without a text have a probability."
            )
        lengths = torch.as_tensor(lengths, dtype=torch.long)
        outside = (lengths < 1) | (lengths > max_length)
        if outside.any():
            raise ValueError(
                f"a length is {int(lengths[outside][0])}: give numbers from 1 to the max_length of {max_length}."
            )
        counts = torch.bincount(lengths - 1, minlength=max_length).double() + smoothing
        prior = cls(max_length)
        prior.log_probabilities = (counts / counts.sum()).log().float()
        return prior

    def forward(self) -> Distribution:
        return Lengths(at_least_float32(self.log_probabilities))

    @property
    def max_length(self) -> int:
        """The length of the longest text."""
        return len(self.log_probabilities)

    def extra_repr(self) -> str:
        return f"max_length={self.max_length}"


def _check_probabilities(probabilities: Tensor, max_length: int) -> None:
    if probabilities.shape != (max_length,):
        raise ValueError(
            f"probabilities have shape {tuple(probabilities.shape)}: give {max_length}, one for each length up to "
            f"the max_length of {max_length}."
        )
    wrong = probabilities[~((probabilities >= 0) & probabilities.isfinite())]
    if len(wrong):
        raise ValueError(f"a probability is {float(wrong[0]):g}: give finite numbers of at least 0.")
    if not probabilities.any():
        raise ValueError("all probabilities are 0: give a positive one to lengths that texts have.")
