r"""Simulation-based calibration of a guide."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import pyro
import torch
from jaxtyping import Int
from pyro import poutine
from pyro.poutine import Trace
from torch import Tensor, nn

from ...models.batch import EOS, Batch
from ...models.transformer.text_distribution import text_mask
from ..objectives.elbo import ELBO
from ..objectives.trace_pair import trace_pair
from ..objectives.traces import Site, is_local, latent_sites, mask_of
from ..utils.errors import check_at_least
from ..utils.progress import progress_bar
from ..utils.seeded_eval import seeded_eval

__all__ = ["Calibration", "calibrate", "chosen_quantities"]

Quantities: TypeAlias = Callable[[Mapping[str, Site]], Mapping[str, Tensor]]

MAX_QUANTITIES = 64  # more p-values than these are no longer inspected one by one


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
    if unknown := [name for name in chosen if name not in calibration.ranks]:
        raise ValueError(f"there is no quantity {unknown[0]!r}: choose among {', '.join(calibration.ranks)}.")
    return chosen


def calibrate(
    model: nn.Module,
    guide: nn.Module,
    simulations: int = 20,
    draws: int = 99,
    *,
    texts: int = 25,
    args: Sequence[Any] | None = None,
    observe: Callable[[Trace], Any] | None = None,
    quantities: Quantities | None = None,
    seed: int = 0,
    progress: bool | None = None,
) -> Calibration:
    r"""Simulate latents and texts from the model, and rank the latents among draws from the guide.

    .. math::
        z \sim p(z), \quad x \sim p(x \mid z), \quad z_1, \dots, z_L \sim q(z \mid x), \qquad
        r = |\{ l : f(z_l) < f(z) \}|

    If the guide is the exact posterior, :math:`r` is uniform on :math:`0, \dots, L` for every :math:`f`. By default
    :math:`f` is each entry of a latent, the mean of a latent whose entries differ in number between texts, and
    ``log_p``, the joint log density of latents and data, which detects a guide that returns the prior: its other ranks
    are uniform. Ties are broken at random. The guide is tested on data simulated from the model; it can be worse on
    real data.

    Arguments:
        model: A generative model.
        guide: Its guide.
        simulations: Number of simulations, with ``texts`` texts each. Global latents have one rank per simulation.
        draws: Number of draws from the guide, :math:`L`; with 99, ranks divide into 10 or 20 bins.
        texts: Number of texts per simulation.
        args: Arguments with which the model generates everything; by default an unobserved
            :class:`~pyroformer.Batch`. Of a batch of texts, only their number and their conditions count.
        observe: Function from the model's trace to the argument of the guide; by default the batch of generated texts.
            Texts whose length differs from their latent ``length`` get no rank, since the model gives them probability
            zero.
        quantities: Function from the sites of a trace to the quantities :math:`f`, with one value for each text or a
            single one; replaces the default.
        seed: Random seed.
        progress: Whether to show a progress bar on standard error; by default in a terminal and in notebooks.

    Raises:
        ValueError: If a number is below 1, the model reads conditions or has no site ``text`` and gets neither, there
            would be more than 64 default quantities, a quantity is NaN or has another shape, or no text has a rank.

    References:
        Validating Bayesian Inference Algorithms with Simulation-Based Calibration (Talts et al., 2018),
        https://arxiv.org/abs/1804.06788

        Simulation-Based Calibration Checking for Bayesian Computation: The Choice of Test Quantities Shapes Sensitivity
        (Modrák et al., 2023), for ``log_p``, https://arxiv.org/abs/2211.02383

    Examples:
        >>> from pyroformer.models.transformer.config import TransformerConfig
        >>> model = pf.DELLA(TransformerConfig(vocabulary=9, max_length=4, width=8, layers=1, heads=2), latent_size=2)
        >>> calibration = calibrate(model, pf.DELLAGuide(model), simulations=2, draws=9, texts=10)
        >>> {name: len(ranks) for name, ranks in calibration.ranks.items()}
        {'z_1[0]': 20, 'z_1[1]': 20, 'log_p': 20}
    """
    check_at_least(1, simulations=simulations, draws=draws, texts=texts)
    collected: dict[str, list[np.ndarray]] = {}
    bar = progress_bar("calibrating", simulations, "simulation", progress)
    with bar as advance, seeded_eval(model, guide, seed=seed):
        arguments = _arguments(model, args, texts)
        for _ in range(simulations):
            truth = poutine.trace(model).get_trace(*arguments)
            data = generated_batch(truth, arguments) if observe is None else observe(truth)
            for name, ranks in _ranks(model, guide, truth, data, draws, quantities).items():
                collected.setdefault(name, []).append(ranks)
            advance(1)
    joined = {name: np.concatenate(ranks) for name, ranks in collected.items()}
    if empty := [name for name, ranks in joined.items() if not len(ranks)]:
        raise ValueError(
            f"no text of {simulations * texts} had the length that was drawn for it, so {empty[0]} has no rank: give "
            "more simulations, or a fitted model."
        )
    return Calibration(joined, draws)


def _arguments(model: nn.Module, args: Sequence[Any] | None, texts: int) -> list[Any]:
    """The arguments with which the model draws everything."""
    if args is not None:
        return [arg._replace(tokens=None, mask=None) if isinstance(arg, Batch) else arg for arg in args]
    if getattr(getattr(model, "config", None), "max_condition_length", 0):
        raise ValueError("the model reads conditions: give those of some texts, args=[run.batch(texts, conditions)].")
    return [Batch.unobserved(texts, like=_float(model))]


def generated_batch(trace: Trace, arguments: Sequence[Any] = ()) -> Batch:
    """The texts of a model's trace as a batch, with the conditions of the batch among the model's arguments.

    Texts whose length differs from their latent one have weight 0.
    """
    if "text" not in trace.nodes:
        raise ValueError(
            "the model has no site 'text' to make a batch of: give observe=..., a function from the model's trace to "
            "the argument of the guide."
        )
    tokens: Any = trace.nodes["text"]["value"]
    mask = text_mask(tokens, EOS)
    weight = torch.full((len(tokens),), 1 / len(tokens), device=tokens.device)
    if "length" in trace.nodes:
        length: Any = trace.nodes["length"]["value"]
        weight = torch.where(mask.sum(-1) == length, weight, 0)
        tokens, mask = tokens[:, : length.max()], mask[:, : length.max()]
    asked = next((arg for arg in arguments if isinstance(arg, Batch)), None)
    conditions = () if asked is None else (asked.condition_tokens, asked.condition_mask)
    return Batch(tokens, mask, weight, *conditions)


def _ranks(
    model: nn.Module,
    guide: nn.Module,
    truth: Trace,
    data: Any,
    draws: int,
    quantities: Quantities | None,
) -> dict[str, np.ndarray]:
    """The ranks of one simulation: of local latents for each text with a weight, of global ones a single rank."""
    weight = data.weight if isinstance(data, Batch) else None
    with pyro.settings.context(validate_distributions_pyro=False, validate_distributions_torch=False):
        # The latents of a text of another length than was drawn, whose weight is 0, lie outside of their support.
        replayed = poutine.trace(poutine.replay(model, trace=truth)).get_trace(data)
    names = list(latent_sites(replayed))
    below: dict[str, Tensor] = {}
    ties: dict[str, Tensor] = {}
    true = _quantities(replayed, names, weight, quantities)
    for _ in range(draws):
        pair = trace_pair(model, guide, data)
        for name, value in _quantities(pair[0], names, weight, quantities).items():
            below[name] = below.get(name, torch.zeros_like(true[name])) + (value < true[name])
            ties[name] = ties.get(name, torch.zeros_like(true[name])) + (value == true[name])
    result = {}
    for name, value in below.items():
        ranks = value + (torch.rand_like(value) * (ties[name] + 1)).floor()
        if ranks.ndim and weight is not None:
            ranks = ranks[weight > 0]
        result[name] = np.atleast_1d(ranks.long().cpu().numpy())
    return result


def _quantities(
    trace: Trace,
    names: list[str],
    weight: Tensor | None,
    custom: Quantities | None,
) -> dict[str, Tensor]:
    """The quantities to rank, in float64: one value for each text, or a single one."""
    sites = {name: trace.nodes[name] for name in names}
    if custom is not None:
        return {name: _quantity(name, value, weight) for name, value in custom(sites).items()}
    entries = {key: value for name, site in sites.items() for key, value in _entries(name, site).items()}
    if len(entries) > MAX_QUANTITIES:
        raise ValueError(
            f"there are {len(entries)} entries of latents to rank: give at most {MAX_QUANTITIES} with quantities=...."
        )
    densities = ELBO(data_size=1 if weight is None else len(weight)).densities(trace, Trace()).log_p
    each = torch.stack(torch.broadcast_tensors(*densities.values())).sum(0).double()
    entries["log_p"] = each if all(is_local(site) for site in sites.values()) else each.sum()
    return {name: _quantity(name, value, weight) for name, value in entries.items()}


def _quantity(name: str, value: Any, weight: Tensor | None) -> Tensor:
    """A quantity in float64, checked: texts of weight 0 have no rank, whatever their value is."""
    try:
        result = torch.as_tensor(value).double()
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"the quantity {name!r} is a {type(value).__name__}: give a tensor or a number.") from error
    if result.ndim > 1 or result.ndim and weight is not None and len(result) != len(weight):
        texts = "text" if weight is None else f"of {len(weight)} texts"
        raise ValueError(
            f"the quantity {name!r} has shape {tuple(result.shape)}: give one value for each {texts}, or a single one."
        )
    counted = result[weight > 0] if weight is not None and result.ndim else result
    if counted.isnan().any():
        raise ValueError(f"the quantity {name!r} is NaN in a draw, which has no rank: give a number for each text.")
    return result


def _entries(name: str, site: Site) -> dict[str, Tensor]:
    """Each entry of a latent; the mean over its entries if their number differs between texts."""
    value, mask = site["value"], mask_of(site["fn"])
    first = 1 if is_local(site) else 0
    if mask is not None:
        mask = mask.reshape(*mask.shape, *(1,) * (value.ndim - mask.ndim)).expand(value.shape)
        total = torch.where(mask, value, 0).flatten(first).sum(-1)
        return {f"mean of {name}": total / mask.flatten(first).sum(-1)}
    if value.ndim == first:
        return {name: value}
    places = np.ndindex(*value.shape[first:])
    return {f"{name}[{', '.join(map(str, place))}]": value[(..., *place)] for place in places}


def _float(model: nn.Module) -> Tensor:
    """A tensor with the model's dtype and device."""
    return next(model.parameters(), torch.zeros(()))
