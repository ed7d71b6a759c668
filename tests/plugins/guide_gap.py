"""KL divergence of a guide from the exact posterior of a mixture."""

import torch
from pyro.infer import TraceEnum_ELBO
from torch import Tensor, nn

from pyroformer.models.attention.bayes_rule import evidence
from pyroformer.models.attention.log_space import safe_logsumexp
from pyroformer.models.mixture_attention.model import MixtureAttention
from pyroformer.models.mixture_attention.sites import masked_logits


@torch.no_grad()
def guide_gap(
    model: MixtureAttention,
    guide: nn.Module,
    queries: Tensor,
    values: Tensor | None = None,
    value_mask: Tensor | None = None,
    *,
    attn_mask: Tensor | None = None,
    mask: Tensor | None = None,
    num_particles: int = 1,
) -> Tensor:
    """Log p(queries) less the guide's ELBO, in nats for each query in ``mask``, of a model without priors.

    Exact if the guide enumerates all of its sites; otherwise a Monte Carlo estimate, which can be negative.
    """
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
