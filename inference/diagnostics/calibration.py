r"""Simulation-based calibration: does a guide find what was really drawn, as often as it says it does?"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Int
from pyro import poutine
from pyro.poutine import Trace
from torch import Tensor, nn

from ...models.batch import EOS, Batch
from ...models.transformer.text_distribution import text_mask
from ..objectives.elbo import ELBO, trace_pair
from ..objectives.traces import is_local, latent_sites, mask_of
from ..utils.seeded_eval import seeded_eval

__all__ = ["Calibration", "calibrate"]

MOST = 64  # quantities that one is still expected to look at


class Calibration(NamedTuple):
    r"""Ranks of what was drawn among draws of the guide.

    Arguments:
        ranks: For each quantity, one rank a simulation, from 0 to ``draws``.
        draws: How many draws of the guide each was ranked among.
    """

    ranks: dict[str, Int[np.ndarray, " n"]]
    draws: int

    def counts(self, name: str, bins: int = 10) -> Int[np.ndarray, " bins"]:
        """How many ranks of a quantity fall into each of so many bins of equal width.

        Raises:
            ValueError: If there is no such quantity, or the ranks do not divide into so many bins.
        """
        if name not in self.ranks:
            raise ValueError(f"there is no quantity {name!r}: choose among {', '.join(self.ranks)}.")
        if bins < 2 or (self.draws + 1) % bins:
            raise ValueError(f"bins is {bins}: give 2 or more that divide the {self.draws + 1} ranks there are.")
        return np.bincount(self.ranks[name] * bins // (self.draws + 1), minlength=bins)

    def p_value(self, name: str, bins: int = 10) -> float:
        r"""How probable ranks that are no more uniform would be under a perfect guide, by Pearson's chi-square.

        .. math::
            X^2 = \sum_b \frac{(c_b - n / B)^2}{n / B} \sim \chi^2_{B - 1}

        It is good from about five ranks a bin. With many quantities the smallest of their p-values is small by chance.
        """
        counts = self.counts(name, bins)
        expected = counts.sum() / bins
        statistic = torch.tensor(float(((counts - expected) ** 2).sum() / expected), dtype=torch.float64)
        half = torch.tensor((bins - 1) / 2, dtype=torch.float64)
        return float(torch.special.gammaincc(half, statistic / 2))

    def table(self, bins: int = 10) -> str:
        """For reading: each quantity's mean rank, which is 0.5 where it is right, the share in the outer bins, p.

        Too many ranks in the outer bins (share above ``2 / bins``) are a guide that is too narrow, too few one that is
        too wide; a mean off 0.5 is a bias: above, the truth lies higher than the guide says.
        """
        width = max(map(len, [*self.ranks, "quantity"]))
        lines = [f"{'quantity':{width}}  ranks   mean  outer      p"]
        for name, ranks in self.ranks.items():
            counts = self.counts(name, bins)
            outer, mean = (counts[0] + counts[-1]) / counts.sum(), (ranks.mean() + 0.5) / (self.draws + 1)
            lines.append(f"{name:{width}}  {len(ranks):5}  {mean:5.3f}  {outer:5.3f}  {self.p_value(name, bins):5.3f}")
        return "\n".join(lines)


def calibrate(
    model: nn.Module,
    guide: nn.Module,
    simulations: int = 20,
    draws: int = 99,
    *,
    texts: int = 25,
    args: Sequence[Any] | None = None,
    observe: Callable[[Trace], Any] | None = None,
    quantities: Callable[[Mapping[str, Any]], Mapping[str, Tensor]] | None = None,
    seed: int = 0,
) -> Calibration:
    r"""Rank latents that the model drew among draws of the guide for the data that it then made of them.

    .. math::
        z \sim p(z), \quad x \sim p(x \mid z), \quad z_1, \dots, z_L \sim q(z \mid x), \qquad
        r = |\{ l : f(z_l) < f(z) \}|

    If the guide is the posterior, :math:`r` is uniform on :math:`0, \dots, L`, whatever :math:`f` is. By default there
    is one :math:`f` for each entry of a latent, the mean of a latent whose entries not every text has, and ``log_p``,
    the joint density of latents and data: that one finds out a guide that ignores the data, whose other ranks are
    uniform. Ties are broken at random. It is the model's own data on which the guide is tested; on real data a guide
    can be worse.

    Arguments:
        model: A generative model that makes up what it is not given.
        guide: Its posterior.
        simulations: How often the model is run, for ``texts`` texts each. Latents that all texts share have one rank a
            run.
        draws: :math:`L`; with 99 the ranks divide into 10 or 20 bins.
        texts: How many texts are made up in a run.
        args: What the model is called with to make everything up; by default an unobserved
            :class:`~pyroformer.Batch`.
        observe: What the guide is given of a run's trace; by default the batch of the texts. Those whose length is not
            the one that was drawn do not count: no text could be such data.
        quantities: :math:`f`: from the sites of a trace to numbers, one a text or one in all. In place of the default.
        seed: Of everything.

    Raises:
        ValueError: If a number is not positive, the default would rank more than 64 quantities, or no text counts.

    References:
        Validating Bayesian Inference Algorithms with Simulation-Based Calibration (Talts et al., 2018),
        https://arxiv.org/abs/1804.06788

        Simulation-Based Calibration Checking for Bayesian Computation: The Choice of Test Quantities Shapes Sensitivity
        (Modrák et al., 2023), for ``log_p``, https://arxiv.org/abs/2211.02383

    Examples:
        >>> from pyroformer.models.transformer.stacks import TransformerConfig
        >>> model = pf.DELLA(TransformerConfig(vocabulary=9, max_length=4, width=8, layers=1, heads=2), latent_size=2)
        >>> found = calibrate(model, pf.DELLAGuide(model), simulations=2, draws=9, texts=10)
        >>> {name: len(ranks) for name, ranks in found.ranks.items()}
        {'z_1[0]': 20, 'z_1[1]': 20, 'log_p': 20}
    """
    for name, number in (("simulations", simulations), ("draws", draws), ("texts", texts)):
        if number < 1:
            raise ValueError(f"{name} is {number}: give a whole number of at least 1.")
    found: dict[str, list[np.ndarray]] = {}
    with seeded_eval(model, guide, seed=seed):
        given = [Batch.unobserved(texts, like=_float(model))] if args is None else args
        for _ in range(simulations):
            truth = poutine.trace(model).get_trace(*given)
            data = written(truth) if observe is None else observe(truth)
            for name, ranks in _ranks(model, guide, truth, data, draws, quantities).items():
                found.setdefault(name, []).append(ranks)
    joined = {name: np.concatenate(ranks) for name, ranks in found.items()}
    if empty := [name for name, ranks in joined.items() if not len(ranks)]:
        raise ValueError(
            f"no text of {simulations * texts} had the length that was drawn for it, so {empty[0]} has no rank: give "
            "more simulations, or a fitted model."
        )
    return Calibration(joined, draws)


def written(trace: Trace) -> Batch:
    """The texts that a model made up, as a batch; those whose length is not the one that was drawn weigh nothing."""
    tokens: Any = trace.nodes["text"]["value"]
    mask = text_mask(tokens, EOS)
    weight = torch.full((len(tokens),), 1 / len(tokens), device=tokens.device)
    if "length" in trace.nodes:
        length: Any = trace.nodes["length"]["value"]
        weight = torch.where(mask.sum(-1) == length, weight, 0)
        tokens, mask = tokens[:, : length.max()], mask[:, : length.max()]
    return Batch(tokens, mask, weight)


def _ranks(
    model: nn.Module,
    guide: nn.Module,
    truth: Trace,
    data: Any,
    draws: int,
    quantities: Callable[[Mapping[str, Any]], Mapping[str, Tensor]] | None,
) -> dict[str, np.ndarray]:
    """The ranks of one run's latents, one a text that counts for those of texts."""
    count = len(data.weight) if isinstance(data, Batch) else 1
    replayed = poutine.trace(poutine.replay(model, trace=truth)).get_trace(data)
    names = list(latent_sites(replayed))
    below: dict[str, Tensor] = {}
    ties: dict[str, Tensor] = {}
    right = _quantities(replayed, names, count, quantities)
    for _ in range(draws):
        pair = trace_pair(model, guide, data)
        for name, value in _quantities(pair[0], names, count, quantities).items():
            below[name] = below.get(name, torch.zeros_like(right[name])) + (value < right[name])
            ties[name] = ties.get(name, torch.zeros_like(right[name])) + (value == right[name])
    counts = data.weight > 0 if isinstance(data, Batch) else None
    found = {}
    for name, value in below.items():
        ranks = value + (torch.rand_like(value) * (ties[name] + 1)).floor()
        if ranks.ndim and counts is not None:
            ranks = ranks[counts]
        found[name] = np.atleast_1d(ranks.long().cpu().numpy())
    return found


def _quantities(
    trace: Trace,
    names: list[str],
    count: int,
    chosen: Callable[[Mapping[str, Any]], Mapping[str, Tensor]] | None,
) -> dict[str, Tensor]:
    """What is ranked, in float64: one number a text, or one in all."""
    sites = {name: trace.nodes[name] for name in names}
    if chosen is not None:
        return {name: value.double() for name, value in chosen(sites).items()}
    found = {key: value.double() for name, site in sites.items() for key, value in _entries(name, site).items()}
    if len(found) > MOST:
        raise ValueError(f"there are {len(found)} entries of latents to rank: name at most {MOST} with quantities=....")
    densities = ELBO(data_size=count).densities(trace, Trace()).log_p
    each = torch.stack(torch.broadcast_tensors(*densities.values())).sum(0).double()
    return found | {"log_p": each if all(is_local(site) for site in sites.values()) else each.sum()}


def _entries(name: str, site: Mapping[str, Any]) -> dict[str, Tensor]:
    """Every entry of a latent; the mean of those that there are, where not every text has all."""
    value, mask = site["value"], mask_of(site["fn"])
    first = 1 if is_local(site) else 0
    if mask is not None:
        spread = mask.reshape(*mask.shape, *(1,) * (value.ndim - mask.ndim)).expand(value.shape)
        total = torch.where(spread, value, 0).flatten(first).sum(-1)
        return {f"mean of {name}": total / spread.flatten(first).sum(-1)}
    if value.ndim == first:
        return {name: value}
    places = np.ndindex(*value.shape[first:])
    return {f"{name}[{', '.join(map(str, place))}]": value[(..., *place)] for place in places}


def _float(model: nn.Module) -> Tensor:
    """A tensor of the model's type, on its device."""
    return next(model.parameters(), torch.zeros(()))
