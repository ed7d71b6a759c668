r"""How far a guide is from the exact posterior of a mixture, in nats."""

import torch
from jaxtyping import Bool, Float
from pyro.infer import TraceEnum_ELBO
from torch import Tensor, nn

from ...models.attention.mixture import evidence, log_sum
from ...models.mixture_attention import MixtureAttention, masked_logits

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
    r"""What a guide's bound misses of the log density, in nats for each query that counts.

    .. math::
        \frac1M \left( \log p(q) - \text{ELBO} \right) =
        \frac1M \text{KL}\left( \text{guide} \, \| \, \text{posterior} \right) \ge 0

    Exact where the guide enumerates all that it draws; otherwise an average over draws, which may fall below zero.

    Arguments:
        model: A model whose units have no prior: only then has its log density a closed form.
        guide: A guide of its assignments, values or both.
        queries: The queries, with shape :math:`(*, M, D)`; the other arguments are those of the model.
        num_particles: Draws from the guide that are averaged.

    Raises:
        ValueError: If the units have a prior.

    Examples:
        >>> from pyroformer.guides.mixture_attention import AssignmentGuide
        >>> model = MixtureAttention(pf.Mixture.from_attention(torch.randn(5, 8), torch.randn(5, 8)))
        >>> abs(float(guide_gap(model, AssignmentGuide(model), torch.randn(3, 8)))) < 1e-5  # attention is the posterior
        True
    """
    if any(p is not None for p in (model.key_prior, model.value_prior, model.precision_prior, model.weight_prior)):
        raise ValueError("with a prior over units log p(queries) has no closed form: compare bounds instead")
    elbo = TraceEnum_ELBO(
        num_particles=num_particles, max_plate_nesting=queries.ndim - 1, vectorize_particles=num_particles > 1
    )
    options = {"attn_mask": attn_mask, "mask": mask}
    loss = elbo.loss(model, guide, queries, values, value_mask, **options)
    seen, counted = model.resolve_masks(attn_mask, mask)
    if counted is not None:
        queries = torch.where(counted[..., None], queries, 0)
    mixture = model.mixture()
    log_p = evidence(queries, mixture, attn_mask, values, value_mask)
    log_p = log_p - log_sum(masked_logits(mixture.log_weights[..., None, :], seen, None))  # drawn among what is seen
    counted = torch.ones_like(log_p, dtype=torch.bool) if counted is None else counted.expand(log_p.shape)
    return (torch.where(counted, log_p, 0).sum() + loss) / counted.sum().clamp_min(1)
