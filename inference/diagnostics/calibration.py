r"""Ranks of true values among draws from a guide, and what they say of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Int

from ...models.utils.numbers import check_at_least

__all__ = ["Calibration", "chosen_quantities"]


@dataclass(frozen=True, eq=False)
class Calibration:
    r"""Ranks of latents drawn from the model among draws from the guide.

    Arguments:
        ranks: The ranks of each quantity, from 0 to ``draws``, one for each simulated text.
        draws: Number of draws from the guide.

    Raises:
        ValueError: If the ranks of a quantity are no row of whole numbers from 0 to ``draws``.

    Examples:
        >>> Calibration({"z": np.array([0, 7, 10])}, draws=9)
        Traceback (most recent call last):
        ...
        ValueError: the ranks of 'z' go from 0 to 10: give whole numbers from 0 to 9, the number of draws.
    """

    ranks: dict[str, Int[np.ndarray, " n"]]
    draws: int

    def __post_init__(self) -> None:
        check_at_least(1, draws=self.draws)
        object.__setattr__(self, "ranks", {name: self._checked(name, ranks) for name, ranks in self.ranks.items()})

    def __repr__(self) -> str:
        ranks = f"{max(map(len, self.ranks.values()), default=0):,} ranks among {self.draws:,} draws"
        return f"Calibration({', '.join(self.ranks)}: {ranks}; see table())"

    def counts(self, name: str, bins: int = 10) -> Int[np.ndarray, " bins"]:
        """Histogram of the ranks of a quantity, in bins of equal width.

        Raises:
            ValueError: If the quantity does not exist, or the number of ranks is not divisible by ``bins``.
        """
        ranks = self._ranks_of(name)
        if bins < 2 or (self.draws + 1) % bins:
            raise ValueError(f"bins is {bins}: give 2 or more, a divisor of the {self.draws + 1} possible ranks.")
        return np.bincount(ranks * bins // (self.draws + 1), minlength=bins)

    def coverage(self, name: str, level: float) -> float:
        r"""The share of the true values that lie in the guide's central interval of a level, such as 0.9.

        .. math::
            \frac1n \sum_i 1 \left\{ \left| \frac{2 r_i + 1}{L + 1} - 1 \right| \le \text{level} \right\}

        A calibrated guide has a share equal to the level, within a standard error of
        :math:`\sqrt{\text{level} (1 - \text{level}) / n}`.

        Raises:
            ValueError: If the quantity does not exist, or the level is not between 0 and 1.

        Examples:
            >>> pf.diagnostics.Calibration({"z": np.arange(100)}, draws=99).coverage("z", 0.9)
            0.9
        """
        ranks = self._ranks_of(name)
        if not 0 <= level <= 1:
            raise ValueError(f"level is {level}: give the share that the interval should hold, from 0 to 1.")
        outward = np.abs((2 * ranks + 1) / (self.draws + 1) - 1)
        return float((outward <= level + 1e-12).mean())

    def p_value(self, name: str, bins: int = 10) -> float:
        r"""P-value of Pearson's chi-square test that the ranks of a quantity are uniform.

        .. math::
            X^2 = \sum_b \frac{(c_b - n / B)^2}{n / B} \sim \chi^2_{B - 1}

        It is accurate from about five ranks per bin. With many quantities, the smallest p-value is small by chance.
        """
        counts = self.counts(name, bins)
        expected = counts.sum() / bins
        statistic = torch.tensor(float(((counts - expected) ** 2).sum() / expected), dtype=torch.float64)
        half = torch.tensor((bins - 1) / 2, dtype=torch.float64)
        return float(torch.special.gammaincc(half, statistic / 2))

    def table(self, bins: int = 10) -> str:
        """A table with the number of ranks, the mean rank, the fraction in the outer bins and the p-value.

        A calibrated guide has a mean rank of 0.5 and a fraction of ``2 / bins`` in the outer bins. A larger fraction
        means that the guide is too narrow, a smaller one that it is too wide; a mean above 0.5 that the guide is biased
        towards low values.
        """
        width = max(map(len, [*self.ranks, "quantity"]))
        lines = [f"{'quantity':{width}}  ranks   mean  outer      p"]
        for name, ranks in self.ranks.items():
            counts = self.counts(name, bins)
            outer, mean = (counts[0] + counts[-1]) / counts.sum(), (ranks.mean() + 0.5) / (self.draws + 1)
            lines.append(f"{name:{width}}  {len(ranks):5}  {mean:5.3f}  {outer:5.3f}  {self.p_value(name, bins):5.3f}")
        return "\n".join(lines)

    def _ranks_of(self, name: str) -> Int[np.ndarray, " n"]:
        if name not in self.ranks:
            raise ValueError(f"there is no quantity {name!r}: choose among {', '.join(self.ranks)}.")
        return self.ranks[name]

    def _checked(self, name: str, ranks: Any) -> Int[np.ndarray, " n"]:
        """Ranks as an array that fits the number of draws."""
        array = np.asarray(ranks)
        whole = f"give whole numbers from 0 to {self.draws}, the number of draws."
        if array.ndim != 1 or not array.size or array.dtype.kind not in "iu":
            raise ValueError(f"the ranks of {name!r} have shape {array.shape} and type {array.dtype}: {whole}")
        if array.min() < 0 or array.max() > self.draws:
            raise ValueError(f"the ranks of {name!r} go from {array.min()} to {array.max()}: {whole}")
        return array.astype(int)


def chosen_quantities(calibration: Calibration, names: str | Sequence[str] | None) -> list[str]:
    """The quantities of a name or of names; all without.

    Raises:
        ValueError: If a quantity does not exist, there are none, or it is no calibration.
    """
    if not isinstance(calibration, Calibration):
        kind = type(calibration).__name__
        raise ValueError(f"calibration has type {kind}: give what calibrate returns, or Calibration(ranks, draws).")
    chosen = list(calibration.ranks) if names is None else [names] if isinstance(names, str) else list(names)
    if not chosen:
        raise ValueError("there are no quantities: give at least one, or leave names out.")
    for name in chosen:
        calibration._ranks_of(name)
    return chosen
