r"""Information of each latent of a hierarchy about its text, and the decoder's sensitivity to it.

The divergence of a latent, which the bound charges, has two parts:

.. math::

    \mathbb E \, \mathrm{KL}(q(z_l \mid z_{<l}, x) \,\|\, p(z_l \mid z_{<l}))
        = I_q(x; z_l \mid z_{<l}) + \mathbb E \, \mathrm{KL}(q(z_l \mid z_{<l}) \,\|\, p(z_l \mid z_{<l}))

the mutual information with the text, given the latents below, and the marginal KL: the divergence of the aggregated
posterior, that of all texts together, from the prior. The texts are a sample of :math:`N`, each as probable as another,
so that the mutual information of all latents together is at most :math:`\ln N` nats.

Where texts answer to conditions, :math:`x` stands for the pair of both. The mutual information is then that with the
pair, and the marginal KL that from the prior aggregated over the same conditions, so that the two no longer add up to
the divergence, whose prior depends on the condition.

References:
    ELBO surgery (Hoffman & Johnson, 2016), http://approximateinference.org/accepted/HoffmanJohnson2016.pdf
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.distributions import Distribution

from ...guides.della import DELLAGuide
from ...models.batch import Batch
from ...models.della import DELLA, joined
from ..objectives.divergence import closed_form

__all__ = [
    "LatentInformation",
    "aggregated",
    "derangement",
    "explained_variance",
    "latent_information",
    "mutual_information_and_marginal_kl",
]

ENTRIES = 2**20  # of the largest tensor while texts are compared in pairs


class LatentInformation(NamedTuple):
    r"""Information of each of :math:`K` latents over :math:`N` texts, in nats and float64.

    Arguments:
        kl: Divergence from the prior, given a draw of those below.
        mutual_information: Information about the text, given those below, at the same draw.
        marginal_kl: Log ratio of the aggregated posterior and the prior, at the same draw.
        variance: Of each unit's posterior mean over texts, the latents below averaged out; see
            :func:`explained_variance`.
        sensitivity: Drop of log p(x | z) where the latent is that of another text; None if it was not asked for.
        sensitivity_all: Its drop where all latents are; likewise.
    """

    kl: Float[Tensor, "N K"]
    mutual_information: Float[Tensor, "N K"]
    marginal_kl: Float[Tensor, "N K"]
    variance: Float[Tensor, "K p"]
    sensitivity: Float[Tensor, "N K"] | None = None
    sensitivity_all: Float[Tensor, " N"] | None = None


@torch.no_grad()
def latent_information(
    model: DELLA,
    guide: DELLAGuide,
    batches: Sequence[Batch],
    draws: int = 16,
    sensitivity: bool = True,
) -> LatentInformation:
    r"""Information of each latent of a hierarchy.

    Every text is read once. Its latents are drawn once, and their density is taken under the posterior of each of the
    texts, a few draws at a time: :math:`O(N^2 K p)` operations, in memory that :data:`ENTRIES` bounds.

    Arguments:
        model: The model.
        guide: Its guide.
        batches: Texts; rows of weight zero are left out.
        draws: Draws of the latents below, over which the mean of a latent is averaged.
        sensitivity: Whether the decoder's sensitivity to each latent is measured too: it then reads each text K + 2
            times, which takes far longer than all else.

    Raises:
        ValueError: If there are fewer than two texts, or fewer than two draws.

    Examples:
        >>> from pyroformer.models.transformer.config import TransformerConfig
        >>> model = pf.DELLA(TransformerConfig(vocabulary=20, max_length=8, width=16, layers=2, heads=2), latent_size=4)
        >>> batches = [Batch.pad([[5, 6, 2], [7, 2], [8, 2]])]
        >>> mutual_information = latent_information(model, pf.DELLAGuide(model), batches).mutual_information
        >>> mutual_information.shape, bool((mutual_information.sum(-1) <= math.log(3)).all())
        (torch.Size([3, 2]), True)
    """
    batches = [_without_fillers(batch) for batch in batches]
    sizes = [len(batch.weight) for batch in batches]
    _check(sum(sizes), draws)
    shape = len(model.latents), model.latent_size
    noise = torch.randn(sum(sizes), *shape, device=model.device).split(sizes)
    common = torch.randn(draws, 1, *shape, device=model.device)
    with guide.set_hyperparameters():
        paths = _joined([_sample_paths(model, guide, *each, common) for each in zip(batches, noise, strict=True)])
        divergences, compared = _divergences(model, guide, paths), _compared(model, guide, paths)
    information = LatentInformation(divergences, *compared, explained_variance(paths.means))
    if not sensitivity:
        return information
    others = paths.latents[derangement(sum(sizes)).to(model.device)].split(sizes)
    latents = paths.latents.split(sizes)
    drops = torch.cat([_drops(model, *each) for each in zip(batches, latents, others, strict=True)])
    return information._replace(sensitivity=drops[:, :-1], sensitivity_all=drops[:, -1])


def mutual_information_and_marginal_kl(
    log_q: Float[Tensor, "K n N"], log_p: Float[Tensor, "K n M"], own: Int[Tensor, " n"]
) -> tuple[Float[Tensor, "n K"], Float[Tensor, "n K"]]:
    r"""The two parts of the divergence of each latent, at draws of all of them.

    .. math::

        \log \frac{q(z_l \mid z_{<l}, x)}{q(z_l \mid z_{<l})} \quad \text{and} \quad
        \log \frac{q(z_l \mid z_{<l})}{p(z_l \mid z_{<l})}

    with the aggregated posterior of :func:`aggregated`. Averaged over draws of each text's own posterior they are
    unbiased estimates for these texts.

    Arguments:
        log_q: Log density of each draw of a latent, given those drawn below, under the posterior of each text.
        log_p: The same under the prior of each condition, or under the prior.
        own: The text that a draw was made for.

    Examples:
        >>> log_q = torch.tensor([[[0.0, -1e9], [-1e9, 0.0]]])  # the draw of each text is impossible for the other
        >>> log_p = torch.zeros(1, 2, 1)
        >>> mutual_information, marginal_kl = mutual_information_and_marginal_kl(log_q, log_p, torch.arange(2))
        >>> mutual_information.exp(), marginal_kl.exp()
        (tensor([[2.],
                [2.]], dtype=torch.float64), tensor([[0.5000],
                [0.5000]], dtype=torch.float64))
    """
    of_own = log_q.double().gather(-1, own.expand(len(log_q), -1).unsqueeze(-1)).squeeze(-1)
    of_all = aggregated(log_q)
    return (of_own - of_all).T, (of_all - aggregated(log_p)).T


def aggregated(log_densities: Float[Tensor, "K n N"]) -> Float[Tensor, "K n"]:
    r"""Log density of each latent, given those below, under all texts together.

    .. math:: q(z_l \mid z_{<l}) = \frac{\sum_m q(z_{\le l} \mid x_m)}{\sum_m q(z_{<l} \mid x_m)}

    Arguments:
        log_densities: :math:`\log q(z_l \mid z_{<l}, x_m)` of each draw under each text :math:`m`.

    Examples:
        >>> aggregated(torch.tensor([[[0.5, 0.5, 0.5]], [[0.1, 0.2, 0.3]]]).log()).exp()
        tensor([[0.5000],
                [0.2000]], dtype=torch.float64)
    """
    up_to = log_densities.double().cumsum(0).logsumexp(-1) - math.log(log_densities.shape[-1])
    return up_to.diff(dim=0, prepend=torch.zeros_like(up_to[:1]))


def explained_variance(means: Float[Tensor, "S N *unit"]) -> Float[Tensor, "*unit"]:
    r"""The variance of a unit's mean over texts once the noise in it is averaged out, without bias.

    .. math::

        \operatorname{Var}_x \big( \mathbb E_{z_{<l} \sim q(z_{<l} \mid x)} \mu_l(z_{<l}, x) \big)
            \approx \frac{1}{S (S - 1)} \sum_{s \ne t} \operatorname{Cov}_n \big( \mu_n^{(s)}, \mu_n^{(t)} \big)

    The mean of a latent depends on those drawn below, so that its variance along one path, the published measure of
    active units, counts a unit as active that does not depend on the text. Two paths share only what the text decides.
    This is the variance between texts of the average path less what noise adds to it, and can be negative. Paths may
    share their noise among texts; noise that moves the means of all texts alike then cancels.

    Arguments:
        means: The means of each unit, along :math:`S` independent paths for each of :math:`N` texts.

    References:
        Importance Weighted Autoencoders (Burda et al., 2016), for active units, https://arxiv.org/abs/1509.00519

    Examples:
        >>> text, noise = torch.randn(1, 5000, 1), torch.randn(8, 5000, 1)
        >>> round(explained_variance(2 * text + 3 * noise).item())
        4
    """
    draws, texts = means.shape[:2]
    centered = means.double()
    centered = centered - centered.mean(1, keepdim=True)
    pairs = centered.sum(0).square() - centered.square().sum(0)  # the sum over all pairs of different paths
    return pairs.sum(0) / (draws * (draws - 1) * (texts - 1))


def derangement(count: int) -> Int[Tensor, " count"]:
    """A random order in which nothing stays in its place: one cycle through all.

    Examples:
        >>> bool((derangement(9) == torch.arange(9)).any())
        False
    """
    order = torch.randperm(count)
    return torch.empty_like(order).scatter(0, order, order.roll(1))


class _Paths(NamedTuple):
    """Draws of the latents, posterior means, summaries and encodings of texts; lists have an entry for each latent."""

    latents: Float[Tensor, "N K p"]
    means: Float[Tensor, "S N K p"]  # along other paths, whose noise all texts share
    summaries: list[Float[Tensor, "N _"]]
    read: list[Float[Tensor, "N _"]]


def _sample_paths(
    model: DELLA,
    guide: DELLAGuide,
    batch: Batch,
    noise: Float[Tensor, "B K p"],
    common: Float[Tensor, "S 1 K p"],
) -> _Paths:
    """One path with noise of each text's own, and with it those whose noise is common."""
    read, means, summaries = guide.read(batch), [], []
    every = torch.cat([noise[None], common.expand(-1, *noise.shape)])

    def draw(name: str, index: int, summary: Tensor) -> Tensor:
        distribution = guide.conditional(index, summary, read)
        means.append(distribution.mean.expand(every[:, :, index].shape)[1:])
        summaries.append(summary.expand(*every.shape[:2], -1)[0])
        latent: Tensor = distribution.mean + distribution.stddev * every[:, :, index]
        return latent

    latents = model.sample_hierarchy(batch, draw)[0]
    return _Paths(latents, torch.stack(means, -2), summaries, read)


def _joined(parts: list[_Paths]) -> _Paths:
    latents, means, summaries, read = zip(*parts, strict=True)
    lists = [[torch.cat(layer) for layer in zip(*each, strict=True)] for each in (summaries, read)]
    return _Paths(torch.cat(latents), torch.cat(means, 1), *lists)


def _divergences(model: DELLA, guide: DELLAGuide, paths: _Paths) -> Float[Tensor, "N K"]:
    """The divergence of each latent: in closed form if available, otherwise estimated at the draw."""
    divergences = []
    for index, summary in enumerate(paths.summaries):
        posterior: Distribution = guide.conditional(index, summary, paths.read)
        prior, latent = model.prior(summary, index), paths.latents[:, index]
        exact = closed_form(posterior, prior)
        divergences.append(posterior.log_prob(latent) - prior.log_prob(latent) if exact is None else exact)
    return torch.stack(divergences, -1).double()


def _compared(model: DELLA, guide: DELLAGuide, paths: _Paths) -> tuple[Float[Tensor, "N K"], Float[Tensor, "N K"]]:
    """Mutual information and marginal KL of each draw."""
    texts = torch.arange(len(paths.latents), device=paths.latents.device)
    size = max(2 * model.latent_size, 0 if model.config.max_condition_length == 0 else model.summary_size)
    parts = [
        mutual_information_and_marginal_kl(*_pairs(model, guide, paths, rows), rows)
        for rows in texts.split(max(1, ENTRIES // (len(texts) * size)))
    ]
    mutual_information, marginal_kl = zip(*parts, strict=True)
    return torch.cat(mutual_information), torch.cat(marginal_kl)


def _pairs(
    model: DELLA, guide: DELLAGuide, paths: _Paths, rows: Int[Tensor, " n"]
) -> tuple[Float[Tensor, "K n N"], Float[Tensor, "K n M"]]:
    """Log densities of some texts' latents under the posterior of every text, and under the prior of its condition."""
    log_q, log_p = [], []
    for index, summaries in enumerate(paths.summaries):
        summary, latent = summaries[rows, None], paths.latents[rows, None, index]
        if model.config.max_condition_length:  # the latents of one text and the condition of another
            below = summaries.shape[-1] - model.config.width
            summary = joined(summary[..., :below], summaries[:, below:])
        log_q.append(guide.conditional(index, summary, paths.read).log_prob(latent).double())
        log_p.append(model.prior(summary, index).log_prob(latent).double())
    return torch.stack(log_q), torch.stack(torch.broadcast_tensors(*log_p))


def _drops(
    model: DELLA, batch: Batch, latents: Float[Tensor, "B K p"], others: Float[Tensor, "B K p"]
) -> Float[Tensor, "B K_and_1"]:
    """Drop in log p(x | z) when one latent, or all of them, is swapped for another text's."""
    tokens = batch.tokens
    assert tokens is not None  # the guide has read it

    def score(latents: Tensor) -> Tensor:
        return model.likelihood(model.context(latents, batch), batch.mask).log_prob(tokens).double()

    swapped = [
        torch.cat([latents[:, :index], others[:, index : index + 1], latents[:, index + 1 :]], 1)
        for index in range(latents.shape[1])
    ]
    return score(latents)[:, None] - torch.stack([score(z) for z in (*swapped, others)], -1)


def _without_fillers(batch: Batch) -> Batch:
    real = batch.weight > 0
    return batch._replace(**{name: part[real] for name, part in batch._asdict().items() if part is not None})


def _check(texts: int, draws: int) -> None:
    if texts < 2:
        raise ValueError(
            f"number of texts is {texts}: what a latent carries shows where texts differ, so give two or more."
        )
    if draws < 2:
        raise ValueError(
            f"draws is {draws}: what noise adds to a mean shows in how two draws differ, so give two or more."
        )
