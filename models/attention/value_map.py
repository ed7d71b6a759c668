r"""The most probable value of a query by EM: mean-shift on the components' values, weighted by the query."""

from dataclasses import replace
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from .attend import attend
from .bayes_rule import responsibilities
from .kernel.packed import causal_mask
from .key_adaptation import check_steps
from .mixture import Mixture
from .observations import check_queries
from .query_variances import filled, query_variances

__all__ = ["value_map"]


def value_map(
    queries: Float[Tensor, "*#batch m d"],
    mixture: Mixture,
    *,
    steps: int = 1,
    start: Float[Tensor, "*#batch m v"] | None = None,
    causal: bool = False,
    implicit: bool = False,
) -> Float[Tensor, "*batch m v"]:
    r"""Maximizes :math:`\log p(v \mid u)` for each query by EM.

    .. math::
        w_n \propto \pi_n \, N(u; \mu_n, \sigma_n^2 + s) \, N(v; \text{value}_n, \beta_n^{-1}), \qquad
        v \leftarrow \frac{\sum_n w_n \beta_n \text{value}_n}{\sum_n w_n \beta_n}

    Each step is one call of the attention kernel on queries concatenated with current values.
    :math:`\log p(v \mid u)` never falls; it may have several modes, and the start decides which is reached. The step
    from zero under ``Mixture.from_attention(keys, values, value_variances=...)`` is softmax attention.

    Arguments:
        queries: The queries, with shape :math:`(*, M, D)`.
        mixture: A mixture with values and ``value_variances`` :math:`1 / \beta`.
        steps: The number of steps.
        start: Initial values; None is the posterior mean, the output of attention.
        causal: Whether query m may attend to component n only if :math:`n \le m + N - M`.
        implicit: Gradients by the implicit function theorem at the end point, in memory that does not grow with the
            number of steps. They are gradients of the fixed point, so give enough steps to reach it.

    Raises:
        ValueError: If the mixture has no value variances, shapes do not fit, or ``steps`` is negative.

    References:
        Probabilistic Transformers (Movellan and Gabbur, 2020). https://arxiv.org/abs/2010.15583

    Examples:
        >>> keys, values = torch.randn(5, 8), torch.tensor([[0.0], [0.1], [4.0], [4.1], [9.0]])
        >>> mixture = pf.Mixture.from_attention(keys, values, value_variances=torch.full((1, 1), 0.1))
        >>> modes = value_map(torch.randn(3, 8), mixture, steps=50)
        >>> (modes - values.T).abs().min(-1).values.max() < 0.1  # a value, not a compromise
        tensor(True)
    """
    check_queries(queries, mixture, start=start)
    if mixture.values is None or mixture.value_variances is None:
        raise ValueError("a value's mode needs value_variances: give the mixture values and their variances.")
    steps = check_steps(steps)
    values = attend(queries, mixture, causal=causal) if start is None else start
    if not implicit or steps == 0:
        for _ in range(steps):
            values = _step(queries, values, mixture, causal)
        return values
    with torch.no_grad():
        for _ in range(steps - 1):
            values = _step(queries, values, mixture, causal)
        jacobian = _jacobian(queries, values, mixture, causal)
    values = _step(queries, values.detach(), mixture, causal)
    if values.requires_grad:
        system = (torch.eye(values.shape[-1], dtype=values.dtype, device=values.device) - jacobian).mT
        values.register_hook(partial(_solved, system))
    return values


def _solved(system: Tensor, gradient: Tensor | None) -> Tensor | None:
    """The implicit gradient of the fixed point; None where no output depends on it."""
    return None if gradient is None else torch.linalg.solve(system, gradient[..., None])[..., 0]


def _step(queries: Tensor, values: Tensor, mixture: Mixture, causal: bool) -> Tensor:
    """One E-step on query and value together, and the M-step of the value."""
    pairs, both = _together(queries, values, mixture)
    assert mixture.values is not None and mixture.value_variances is not None
    precision = 1 / mixture.value_variances
    if precision.shape[-2] == 1:
        return attend(pairs, both, causal=causal)
    weighted = torch.cat([precision * mixture.values, precision], -1)
    both = replace(both, values=weighted)
    width = mixture.values.shape[-1]
    answers = attend(pairs, both, causal=causal)
    total = answers[..., width:]
    return answers[..., :width] / torch.where(total > 0, total, 1)


def _together(queries: Tensor, values: Tensor, mixture: Mixture) -> tuple[Tensor, Mixture]:
    """Queries beside values, and the mixture over both."""
    assert mixture.values is not None and mixture.value_variances is not None
    own, second = query_variances(mixture), mixture.value_variances
    own = own.expand(*own.shape[:-1], mixture.width)
    second = second.expand(*second.shape[:-1], mixture.values.shape[-1])
    rows = max(own.shape[-2], second.shape[-2])
    batch = torch.broadcast_shapes(own.shape[:-2], second.shape[:-2])
    variances = torch.cat([x.expand(*batch, rows, x.shape[-1]) for x in (own, second)], -1)
    leading = torch.broadcast_shapes(mixture.means.shape[:-2], mixture.values.shape[:-2])
    vectors = torch.cat([x.expand(*leading, *x.shape[-2:]) for x in (mixture.means, mixture.values)], -1)
    leading = torch.broadcast_shapes(queries.shape[:-2], values.shape[:-2])
    pairs = torch.cat([x.expand(*leading, *x.shape[-2:]) for x in (queries, values)], -1)
    return pairs, Mixture(mixture.log_weights, vectors, variances, mixture.mask, mixture.values, noise_variance=0.0)


def _jacobian(queries: Tensor, values: Tensor, mixture: Mixture, causal: bool) -> Tensor:
    r"""Derivative of the EM map at ``values``; :math:`\beta \, \text{Cov}_w(\text{value})` where precisions are equal.

    .. math::
        \sum_n r_n (\text{value}_n - F) \left( \beta_n (\text{value}_n - v) \right)^T, \qquad r_n \propto w_n \beta_n
    """
    assert mixture.values is not None and mixture.value_variances is not None
    pairs, both = _together(queries, values, mixture)
    attn_mask = causal_mask(queries.shape[-2], mixture.components, queries.device) if causal else None
    precision = (1 / filled(mixture.value_variances, mixture, 1.0))[..., None, :, :]
    shares = responsibilities(pairs, both, attn_mask)[..., None] * precision
    shares = shares / shares.sum(-2, keepdim=True).clamp_min(torch.finfo(shares.dtype).tiny)
    targets = filled(mixture.values, mixture)[..., None, :, :]
    means = (shares * targets).sum(-2, keepdim=True)
    return (shares * (targets - means)).mT @ (precision * (targets - values[..., None, :]))
