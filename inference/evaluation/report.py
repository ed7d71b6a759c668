"""The result of an evaluation: every metric with its units, its error and what it bounds, as a table and as JSON."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ..utils.counts import counted
from ..utils.html import html_table
from .estimates import LARGEST_PERPLEXITY, Estimate
from .table_layout import aligned, fitted, listed, prose, stacked
from .verdict import latent_verdict

__all__ = ["Estimate", "Evaluation", "MetricResult"]


@dataclass(frozen=True)
class MetricResult:
    r"""The result of one metric, in one or more units.

    Bounds are costs in nats and bits, :math:`-\log p`: smaller is better, and minus the result bounds :math:`\log p`
    from below.

    Arguments:
        label: The label of its row in the table.
        units: The estimate in each unit.
        bound_on: The quantity that it bounds, None if it is not a bound.
        exact: Whether it is that quantity itself.

    Examples:
        >>> result = MetricResult("-ELBO", {"nats/text": Estimate(12.0), "perplexity": Estimate(math.inf)}, "log p(x)")
        >>> result.value, result["perplexity"], result.bounds
        (12.0, None, 'log p(x)')
    """

    label: str
    units: dict[str, Estimate]
    bound_on: str | None = None
    exact: bool = False

    def __post_init__(self) -> None:
        finite = {unit: Estimate(*map(_finite, estimate)) for unit, estimate in self.units.items()}
        object.__setattr__(self, "units", finite)

    def __getitem__(self, unit: str) -> float | None:
        return self.units[unit].value

    @property
    def value(self) -> float | None:
        """The number in the first unit."""
        return next(iter(self.units.values())).value

    @property
    def bounds(self) -> str:
        """The quantity that it bounds, in words."""
        if self.bound_on is None:
            return "not a bound"
        return f"{self.bound_on}, exact" if self.exact else self.bound_on

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        units = {unit: {"value": value, "standard_error": error} for unit, (value, error) in self.units.items()}
        bound = {"is_bound": self.bound_on is not None, "bound_on": self.bound_on, "is_exact": self.exact}
        return {"label": self.label.strip()} | bound | {"units": units}


@dataclass(frozen=True, repr=False)
class Evaluation:
    r"""The metrics of one model on some texts; ``evaluation["accuracy"]`` is one of them.

    Arguments:
        metrics: The results by name, in the order of the table.
        about: The texts and the options of the evaluation.
        latents: The latents that have metrics of their own; the table has a row for each.

    Examples:
        >>> evaluation = run.evaluate(["The food was good."], metrics=["exact_match"])
        >>> evaluation["exact_match"].value, list(evaluation.metrics)
        (1.0, ['exact_match'])
    """

    metrics: dict[str, MetricResult]
    about: dict[str, Any]
    latents: tuple[str, ...] = ()

    def __getitem__(self, name: str) -> MetricResult:
        if name not in self.metrics:
            raise KeyError(f"there is no metric {name!r}: choose among {', '.join(self.metrics)}.")
        return self.metrics[name]

    def __contains__(self, name: str) -> bool:
        return name in self.metrics

    def __iter__(self) -> Iterator[str]:
        return iter(self.metrics)

    def __repr__(self) -> str:
        return self.table()

    def _repr_html_(self) -> str:
        rows = [
            [result.label.strip(), unit, _estimate(result, unit), result.bounds if result.bound_on else ""]
            for result in self.metrics.values()
            for unit in result.units
        ]
        heading = self._heading("±" in str(rows))
        return html_table(rows, header=("", "unit", "value", "bound on"), caption=heading, note=self.verdict)

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON: every number is finite or null."""
        sign = "where bound_on names something, nats and bits are costs: minus the number is its lower bound"
        metrics = {name: result.as_dict() for name, result in self.metrics.items()}
        return {"about": self.about | {"sign": sign}, "metrics": metrics}

    @property
    def verdict(self) -> str:
        """What the latents cost, in nats, and what to change if that is nothing; empty without a rate."""
        rate = self.metrics["rate"].units.get("nats/text") if "rate" in self.metrics else None
        return "" if rate is None or rate.value is None else latent_verdict(rate.value)

    def table(self, width: int | None = None) -> str:
        """What was evaluated; the metrics in nats, those of each latent, then the others; and the verdict.

        Arguments:
            width: Columns of a terminal, for which labels are broken and perplexity and bits are left out, if it is
                narrow; by default lines are as long as they need to be.
        """
        by_latent = {name for row in self._rows().values() for name in row.values()} - {"rate"}
        results = [result for name, result in self.metrics.items() if name not in by_latent]
        costs = [result for result in results if "nats/token" in result.units]
        others = [result for result in results if "nats/token" not in result.units]
        rows = [["", *_COSTS, "bound on"]] if costs else []
        rows += [[result.label, *(_cost(result, unit) for unit in _COSTS), result.bounds] for result in costs]
        with_units = [", ".join(f"{_estimate(result, unit)} {unit}" for unit in result.units) for result in others]
        lines = listed([(result.label, units) for result, units in zip(others, with_units, strict=True)], width)
        main, missing = fitted(rows, width, _OPTIONAL)
        if missing:
            main += ["", *prose(f"in a wider terminal: {', '.join(reversed(missing))}", width)]
        blocks = [main, self._by_latent(width), lines, [self.verdict] * bool(self.verdict)]
        blocks[0] = prose(self._heading("±" in str(blocks)), width) + main
        return "\n\n".join("\n".join(block) for block in blocks if block)

    def _heading(self, errors: bool) -> str:
        """The texts that were evaluated, and what the errors are, if there are any."""
        about = self.about
        given = f"given {about['given']}" if about.get("given") else "given texts"
        source = f"{about['split']} split" if about.get("split") else given
        counts = ", ".join(counted(about[f"{name}s"], name) for name in _COUNTED if f"{name}s" in about)
        step = f"; step {about['step']:,}" if about.get("step") else ""
        return f"{source}: {counts}{step}" + ("; ± is one standard error over texts" if errors else "")

    def _rows(self) -> dict[str, dict[str, str]]:
        """The names of the metrics of each latent and of all of them, by measure, as far as they were computed."""
        if not self.latents:
            return {}
        measures = [measure for measure, _ in _BY_LATENT.values()]
        rows = {latent: {measure: f"{measure}_{latent}" for measure in measures} for latent in self.latents}
        rows |= {"all": {measure: measure for measure in measures}}
        if "compared_kl" in self.metrics:  # at the draws of its two parts, so that these add up to it
            rows = {latent: row | {"kl": f"compared_{row['kl']}"} for latent, row in rows.items()}
        else:
            rows["all"]["kl"] = "rate"
        computed = [measure for measure in measures if all(row[measure] in self.metrics for row in rows.values())]
        return {latent: {measure: row[measure] for measure in computed} for latent, row in rows.items()}

    def _by_latent(self, width: int | None) -> list[str]:
        """A row for each latent, with a title."""
        if not self.latents:
            return []
        count = self.about["compared"]
        title = f"by latent, in nats/text: mutual information is at most ln {count:,} = {math.log(count):.2f}"
        texts, together = self.about["texts"], "compared_kl" in self.metrics
        if together:
            share = f"{count:,} of the {texts:,}" if count < texts else f"all {texts:,}"
            title += f"; over {share} texts, with other draws than in the bound"
        elif count < texts:
            title += f"; KL of all {texts:,} texts, the rest of {count:,}"
        names = self._rows()
        columns = {
            "compared KL" if name == "KL" and together else name: column
            for name, column in _BY_LATENT.items()
            if column[0] in names["all"]
        }
        rows = [
            [latent, *(_cell(self.metrics[row[measure]], unit) for measure, unit in columns.values()), ""]
            for latent, row in names.items()
        ]
        return prose(title, width) + aligned(stacked(["latent", *columns, ""], width, rows) + rows)


_COUNTED = ("text", "token", "byte")
_COSTS = ("nats/token", "nats/text", "bits/byte", "perplexity")
_OPTIONAL = ("perplexity", "bits/byte")  # they follow from the nats
_WITH_ERROR = ("nats/token", "nats/text")  # the relative error of bits and perplexity follows from it
_BY_LATENT = {
    "KL": ("kl", "nats/text"),
    "mutual information": ("mutual_information", "nats/text"),
    "marginal KL": ("marginal_kl", "nats/text"),
    "active > 0.01": ("active", "above 0.01"),
    "active > 0.2": ("active", "above 0.2"),
    "sensitivity": ("sensitivity", "nats/text"),
}


def _finite(value: float | None) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None


def _number(result: MetricResult, unit: str) -> str:
    """Three significant digits or so; nothing for a unit that the result does not have, a dash for a missing value."""
    if unit not in result.units:
        return ""
    value = result[unit]
    if value is None:
        return "-"
    return f"{value:,.{_decimals(value)}f}"


def _estimate(result: MetricResult, unit: str) -> str:
    """A number with its standard error, in as many digits, if it has one."""
    number = _number(result, unit)
    estimate = result.units.get(unit)
    if estimate is None or estimate.value is None or estimate.error is None:
        return number
    return f"{number} ± {estimate.error:,.{_decimals(estimate.value)}f}"


def _cost(result: MetricResult, unit: str) -> str:
    """The cell of a cost: a perplexity that is missing beside its rate is too large to mean anything."""
    if unit == "perplexity" and unit in result.units and result[unit] is None and result["nats/token"] is not None:
        return f"> {LARGEST_PERPLEXITY:.0e}".replace("e+0", "e")
    return _estimate(result, unit) if unit in _WITH_ERROR else _number(result, unit)


def _decimals(value: float) -> int:
    return 1 if abs(value) >= 100 else 2 if abs(value) >= 1 else 3


def _cell(result: MetricResult, unit: str) -> str:
    """A number, and for a count of units their number too."""
    return f"{result[unit]:.0f} / {result['of']:.0f}" if "of" in result.units else _number(result, unit)
