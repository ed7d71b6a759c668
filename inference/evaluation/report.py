"""What an evaluation found: every figure with its units, its error and what it bounds, as a table and as JSON."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

__all__ = ["Estimate", "Evaluation", "Metric"]


class Estimate(NamedTuple):
    """A number and its standard error over texts; None for what is not finite or too large to mean anything."""

    value: float | None
    error: float | None = None


@dataclass(frozen=True)
class Metric:
    r"""One thing that was measured, in one or more units.

    Figures that bound something are costs in nats and bits, :math:`-\log p`: smaller is better, and what bounds
    :math:`\log p` from below is minus the figure.

    Arguments:
        label: What it is.
        units: The number in each unit.
        bound_on: What it is a bound of, None if of nothing.
        exact: Whether the bound is the thing itself.

    Examples:
        >>> figure = Metric("bound", {"nats/text": Estimate(12.0), "perplexity": Estimate(math.inf)}, "log p(x)")
        >>> figure.value, figure["perplexity"], figure.bounds
        (12.0, None, 'log p(x)')
    """

    label: str
    units: dict[str, Estimate]
    bound_on: str | None = None
    exact: bool = False

    def __post_init__(self) -> None:
        finite = {unit: Estimate(*map(_finite, quantity)) for unit, quantity in self.units.items()}
        object.__setattr__(self, "units", finite)

    def __getitem__(self, unit: str) -> float | None:
        return self.units[unit].value

    @property
    def value(self) -> float | None:
        """The number in the figure's first unit."""
        return next(iter(self.units.values())).value

    @property
    def bounds(self) -> str:
        """What it bounds, in words."""
        if self.bound_on is None:
            return "not a bound"
        return f"{self.bound_on}, exact" if self.exact else self.bound_on

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        units = {unit: {"value": value, "standard_error": error} for unit, (value, error) in self.units.items()}
        bound = {"is_bound": self.bound_on is not None, "bound_on": self.bound_on, "is_exact": self.exact}
        return {"label": self.label.strip()} | bound | {"units": units}


@dataclass(frozen=True)
class Evaluation:
    r"""The figures of one model on some texts; ``evaluation["accuracy"]`` is one of them.

    Arguments:
        figures: The figures by name, in the order in which they are read.
        about: What they were measured on, and how.
        latents: Which latents of a text have figures of their own; the table gives each a row.
    """

    figures: dict[str, Metric]
    about: dict[str, Any]
    latents: tuple[str, ...] = ()

    def __getitem__(self, name: str) -> Metric:
        if name not in self.figures:
            raise KeyError(f"there is no figure {name!r}: choose among {', '.join(self.figures)}.")
        return self.figures[name]

    def __contains__(self, name: str) -> bool:
        return name in self.figures

    def __iter__(self) -> Iterator[str]:
        return iter(self.figures)

    def __str__(self) -> str:
        return self.table()

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON: every number is finite or null."""
        sign = "where bound_on names something, nats and bits are costs: minus the figure is its lower bound"
        figures = {name: figure.as_dict() for name, figure in self.figures.items()}
        return {"about": self.about | {"sign": sign}, "figures": figures}

    def table(self) -> str:
        """For reading: the figures in nats, what each latent carries, then the others."""
        by_latent = {name for row in self._rows().values() for name in row.values()} - {"rate"}
        figures = [figure for name, figure in self.figures.items() if name not in by_latent]
        costs = [figure for figure in figures if "nats/token" in figure.units]
        others = [figure for figure in figures if "nats/token" not in figure.units]
        rows = [["", *_COSTS, "bound on"]]
        rows += [[figure.label, *(_number(figure, unit) for unit in _COSTS), figure.bounds] for figure in costs]
        with_units = [", ".join(f"{_number(figure, unit)} {unit}" for unit in figure.units) for figure in others]
        lines = _aligned([[figure.label, units] for figure, units in zip(others, with_units, strict=True)])
        return "\n".join([*_aligned(rows), *self._by_latent(), "", *lines])

    def _rows(self) -> dict[str, dict[str, str]]:
        """The names of the figures about each latent and about all of them, by what they measure."""
        if not self.latents:
            return {}
        measures = [measure for measure, _ in _BY_LATENT.values()]
        rows = {latent: {measure: f"{measure}_{latent}" for measure in measures} for latent in self.latents}
        return rows | {"all": {measure: measure for measure in measures} | {"kl": "rate"}}

    def _by_latent(self) -> list[str]:
        """A row for each latent, with a title."""
        if not self.latents:
            return []
        count = self.about["compared"]
        title = f"by latent, in nats/text: information is at most ln {count:,} = {math.log(count):.2f}"
        if count < self.about["texts"]:
            title += f"; KL of all {self.about['texts']:,} texts, the rest of {count:,}"
        rows = [["latent", *_BY_LATENT, ""]]
        for latent, names in self._rows().items():
            cells = [_cell(self.figures[names[measure]], unit) for measure, unit in _BY_LATENT.values()]
            rows.append([latent, *cells, ""])
        return ["", title, *_aligned(rows)]


_COSTS = ("nats/token", "nats/text", "bits/byte", "perplexity")
_BY_LATENT = {
    "KL": ("kl", "nats/text"),
    "mutual_information": ("mutual_information", "nats/text"),
    "marginal_kl": ("marginal_kl", "nats/text"),
    "active > 0.01": ("active", "above 0.01"),
    "active > 0.2": ("active", "above 0.2"),
    "sensitivity": ("sensitivity", "nats/text"),
}


def _finite(value: float | None) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None


def _number(figure: Metric, unit: str) -> str:
    """A number with a sensible number of digits; nothing if it was not asked for, a dash if it could not be had."""
    if unit not in figure.units:
        return ""
    value = figure[unit]
    if value is None:
        return "-"
    return f"{value:,.{1 if abs(value) >= 100 else 2 if abs(value) >= 1 else 3}f}"


def _cell(figure: Metric, unit: str) -> str:
    """A number, and where it is a count of units, of how many."""
    return f"{figure[unit]:.0f} / {figure['of']:.0f}" if "of" in figure.units else _number(figure, unit)


def _aligned(rows: list[list[str]]) -> list[str]:
    """Rows as lines: the first and the last column to the left, those between to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *middle, last in rows:
        cells = [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(middle, widths[1:-1], strict=True))]
        lines.append("  ".join([*cells, " " + last]).rstrip())
    return lines
