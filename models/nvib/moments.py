"""Mean and variance of a stream of vectors in one pass."""

from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor

__all__ = ["RunningMoments"]


@dataclass
class RunningMoments:
    r"""Count, mean and sum of squared deviations of all vectors so far.

    .. math::
        n = n_a + n_b, \qquad \bar x = \bar x_a + \frac{n_b}{n} (\bar x_b - \bar x_a), \qquad
        M = M_a + M_b + \frac{n_a n_b}{n} (\bar x_b - \bar x_a)^2

    In float64: nothing is subtracted that grows with the number of vectors.

    References:
        Updating Formulae and a Pairwise Algorithm for Computing Sample Variances (Chan, Golub & LeVeque, 1979);
        for one vector at a time, Welford (1962)

    Examples:
        >>> moments = RunningMoments()
        >>> moments.add(torch.tensor([[1.0], [2.0]]))
        >>> moments.add(torch.tensor([[6.0], [9.0]]), torch.tensor([True, False]))
        >>> moments.count, moments.mean.item(), moments.variance.item()
        (3, 3.0, 7.0)
    """

    count: int = 0
    mean: Tensor | None = None
    squares: Tensor | None = None

    def add(self, x: Float[Tensor, "*batch d"], present: Bool[Tensor, "*batch"] | None = None) -> None:
        """Takes in more vectors: all, or those that are present."""
        rows = (x.flatten(0, -2) if present is None else x[present]).detach().double()
        if not len(rows):
            return
        mean = rows.mean(0)
        squares = (rows - mean).square().sum(0)
        if self.mean is None or self.squares is None:
            self.count, self.mean, self.squares = len(rows), mean, squares
            return
        total = self.count + len(rows)
        difference = mean - self.mean
        self.squares = self.squares + squares + difference.square() * (self.count * len(rows) / total)
        self.mean = self.mean + difference * (len(rows) / total)
        self.count = total

    @property
    def variance(self) -> Float[Tensor, " d"]:
        """The unbiased variance of each dimension.

        Raises:
            ValueError: If there were fewer than two vectors.
        """
        if self.squares is None or self.count < 2:
            raise ValueError(f"{self.count} vectors have no variance: give at least 2.")
        return self.squares / (self.count - 1)
