r"""KL divergence of a guide from the exact posterior of a mixture, in nats."""

import torch
from jaxtyping import Bool, Float
from pyro.infer import TraceEnum_ELBO
from torch import Tensor, nn

from ...models.attention.bayes_rule import evidence
from ...models.attention.log_space import safe_logsumexp
from ...models.mixture_attention.emission import check_gaussian
from ...models.mixture_attention.model import MixtureAttention
from ...models.mixture_attention.sites import masked_logits

__all__ = ["guide_gap"]


@torch.no_grad()
def guide_gap(
    model: MixtureAttention,
    guide: nn.Module,
    queries: Float[Tensor, "*batch m d"],
    values: Float[Tensor, "*#batch m v"] | None = None,
    value_mask: Bool[Tensor, "*#batch m"] | None = None,
    *,
    attn_mask: Bool[Tensor, "*#batch #m n"] | None = None,
    mask: Bool[Tensor, "*#batch m"] | None = None,
    num_particles: int = 1,
) -> Float[Tensor, ""]:
    r"""Difference between the log density of queries and the guide's ELBO, in nats for each query in ``mask``.

    .. math::
        \frac1M \left( \log p(q) - \text{ELBO} \right) =
        \frac1M \text{KL}\left( \text{guide} \, \| \, \text{posterior} \right) \ge 0

    Exact if the guide enumerates all of its sites; otherwise a Monte Carlo estimate, which can be negative.

    Arguments:
        model: A model without a prior over its components: only then does its log density have a closed form.
        guide: A guide for its assignments, its values or both.
        queries: The queries, with shape :math:`(*, M, D)`; the other arguments are those of the model.
        num_particles: Number of draws from the guide that are averaged.

    Raises:
        ValueError: If there is a prior over components.

    Examples:
        >>> from pyroformer.guides.mixture_attention import AssignmentGuide
        >>> model = MixtureAttention(pf.Mixture.from_attention(torch.randn(5, 8), torch.randn(5, 8)))
        >>> abs(float(guide_gap(model, AssignmentGuide(model), torch.randn(3, 8)))) < 1e-5  # attention is the posterior
        True
    """
    check_gaussian(model.emission, "guide_gap")
    priors = (model.key_prior, model.value_prior, model.precision_prior, model.weight_prior, model.correlation_prior)
    if any(prior is not None for prior in priors):
        raise ValueError("with a prior over components, log p(queries) has no closed form: compare bounds instead.")
    elbo = TraceEnum_ELBO(
        num_particles=num_particles, max_plate_nesting=queries.ndim - 1, vectorize_particles=num_particles > 1
    )
    options = {"attn_mask": attn_mask, "mask": mask}
    loss = elbo.loss(model, guide, queries, values, value_mask, **options)
    attended, counted = model.resolve_masks(attn_mask, mask)
    if counted is not None:
        queries = torch.where(counted[..., None], queries, 0)
    mixture = model.mixture()
    log_p = evidence(queries, mixture, attn_mask, values, value_mask)
    log_p = log_p - safe_logsumexp(
        masked_logits(mixture.log_weights[..., None, :], attended, None)
    )  # weights are renormalized
    counted = torch.ones_like(log_p, dtype=torch.bool) if counted is None else counted.expand(log_p.shape)
    return (torch.where(counted, log_p, 0).sum() + loss) / counted.sum().clamp_min(1)
