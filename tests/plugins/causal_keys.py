"""Keys that adapt causally, every query's own written out: what the computation in blocks is compared with."""

import torch
from torch import Tensor

from pyroformer.models.attention.bayes_rule import responsibilities
from pyroformer.models.attention.mixture import Mixture

__all__ = ["causal_responsibilities"]


def causal_responsibilities(
    queries: Tensor, mixture: Mixture, steps: int, pseudo_counts: float = 1.0, mask: Tensor | None = None
) -> Tensor:
    """Attention weights [* M N] of keys [* M N D] that have adapted to the queries up to each one."""
    m, n = queries.shape[-2], mixture.components
    visible = torch.ones(m, n, dtype=torch.bool).tril(n - m)[:, None]
    variances, initial = mixture.dense_variances(), mixture.means[..., None, :, :]
    variances = None if variances is None else variances[..., None, :, :]
    present = mixture.present[..., None, :]
    means, weights = initial, queries.new_zeros(())
    for step in range(steps + 1):
        each = Mixture(
            mixture.log_weights[..., None, :], means, variances, present, noise_variance=mixture.noise_variance
        )
        weights = responsibilities(queries[..., None, :], each, visible)[..., 0, :]
        if step < steps:
            counted = weights if mask is None else torch.where(mask[..., None], weights, 0)
            sums = (counted[..., None] * queries[..., None, :]).cumsum(-3)
            means = (pseudo_counts * initial + sums) / (pseudo_counts + counted.cumsum(-2))[..., None]
    return weights
