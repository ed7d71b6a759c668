r"""Bayes' rule for a mixture and noisy observations of its vectors: the definition of attention here.

Explicit formulas with an :math:`M \times N` matrix, to read and to test against; :func:`~.attend.attend` computes the
same at the cost of softmax attention.
"""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from .log_space import finite_max, safe_logsumexp
from .mixture import Mixture
from .observations import Observations
from .query_variances import cholesky, filled, own_variances, query_covariances
from .variances import Covariances

__all__ = ["evidence", "log_joint", "posterior_mean", "posterior_variance", "responsibilities"]


def log_joint(
    queries: Float[Tensor, "*#batch m d"],
    mixture: Mixture,
    attn_mask: Bool[Tensor, "*#batch m n"] | None = None,
    values: Float[Tensor, "*#batch m v"] | None = None,
    value_mask: Bool[Tensor, "*#batch m"] | None = None,
) -> Float[Tensor, "*#batch m n"]:
    r"""Joint log density of each query, its value (if known) and each component.

    .. math::
        \ell_{mn} = \log \pi_n + \log N(u_m; \mu_n, \sigma_n^2 + s)
        \; [ + \log N(v_m; \text{value}_n, \beta_n^{-1}) ]

    It is :math:`-\infty` at masked components and where ``attn_mask`` is False.

    Arguments:
        queries: The queries :math:`u`, with shape :math:`(*, M, D)`.
        mixture: The mixture, with :math:`N` components.
        attn_mask: True where query m may attend to component n, with shape :math:`(*, M, N)`, or None.
        values: Values that are known, with shape :math:`(*, M, V)`, or None.
        value_mask: True where a query's value is known, with shape :math:`(*, M)`; None is everywhere.

    Raises:
        ValueError: If shapes do not fit, a covariance is not positive definite, or there are values and the mixture has
            no ``value_variances`` for them.

    Examples:
        >>> mixture = pf.Mixture(torch.tensor([0.5, 0.5]).log(), torch.tensor([[0.0], [2.0]]), noise_variance=1.0)
        >>> log_joint(torch.tensor([[0.0]]), mixture).exp()  # a half of the density of N(0, 1), at distances 0 and 2
        tensor([[0.1995, 0.0270]])
    """
    Observations(queries, attn_mask, values, value_mask).check(mixture)
    joint = mixture.log_weights[..., None, :] + _log_density(queries, mixture)
    if values is not None:
        joint = joint + _log_density_of_values(values, value_mask, mixture)
    if mixture.mask is not None:
        joint = torch.where(mixture.mask[..., None, :], joint, -torch.inf)
    return joint if attn_mask is None else torch.where(attn_mask, joint, -torch.inf)


def evidence(
    queries: Float[Tensor, "*#batch m d"],
    mixture: Mixture,
    attn_mask: Bool[Tensor, "*#batch m n"] | None = None,
    values: Float[Tensor, "*#batch m v"] | None = None,
    value_mask: Bool[Tensor, "*#batch m"] | None = None,
) -> Float[Tensor, "*#batch m"]:
    r"""Log density of each query, and of its value (if known), under the mixture.

    .. math::
        \log p(u_m) = \log \sum_n \exp \ell_{mn}

    The evidence of a mixture without any component is :math:`-\infty`.

    Examples:
        >>> mixture = pf.Mixture(torch.tensor([0.5, 0.5]).log(), torch.tensor([[0.0], [2.0]]), noise_variance=1.0)
        >>> evidence(torch.tensor([[0.0]]), mixture).exp()
        tensor([0.2265])
    """
    return safe_logsumexp(log_joint(queries, mixture, attn_mask, values, value_mask))


def responsibilities(
    queries: Float[Tensor, "*#batch m d"],
    mixture: Mixture,
    attn_mask: Bool[Tensor, "*#batch m n"] | None = None,
    values: Float[Tensor, "*#batch m v"] | None = None,
    value_mask: Bool[Tensor, "*#batch m"] | None = None,
) -> Float[Tensor, "*#batch m n"]:
    r"""Posterior probabilities of the components given each query: the attention weights, the E-step of EM.

    .. math::
        w_{mn} = \frac{\exp \ell_{mn}}{\sum_k \exp \ell_{mk}}

    A query that may attend to no component gives zeros.

    Examples:
        >>> mixture = pf.Mixture(torch.zeros(2), torch.tensor([[0.0], [4.0]]), mask=torch.tensor([True, False]))
        >>> responsibilities(torch.tensor([[3.0]]), mixture).tolist()
        [[1.0, 0.0]]
    """
    joint = log_joint(queries, mixture, attn_mask, values, value_mask)
    weights = (joint - finite_max(joint)).exp()
    total = weights.sum(-1, keepdim=True)
    return weights / torch.where(total > 0, total, 1)


def posterior_mean(
    queries: Float[Tensor, "*#batch m d"],
    mixture: Mixture,
    attn_mask: Bool[Tensor, "*#batch m n"] | None = None,
) -> Float[Tensor, "*#batch m v"]:
    r"""Posterior mean of the vector, or value, behind each query: attention.

    .. math::
        E[v \mid u_m] = \sum_n w_{mn} \frac{\sigma_n^2 u_m + s \mu_n}{\sigma_n^2 + s}
        \qquad \text{or} \qquad \sum_n w_{mn} \, \text{value}_n

    A query that may attend to no component gives zeros.

    Examples:
        With the weights of ``from_attention`` it is softmax attention:

        >>> queries, keys, values = torch.randn(3, 4), torch.randn(5, 4), torch.randn(5, 4)
        >>> mixture = pf.Mixture.from_attention(keys, values)
        >>> expected = torch.softmax(queries @ keys.T / 2, -1) @ values
        >>> torch.allclose(posterior_mean(queries, mixture), expected, atol=1e-5)
        True
    """
    weights = responsibilities(queries, mixture, attn_mask)
    means, _ = _component_posterior(queries, mixture)
    return (weights[..., None] * means).sum(-2)


def posterior_variance(
    queries: Float[Tensor, "*#batch m d"],
    mixture: Mixture,
    attn_mask: Bool[Tensor, "*#batch m n"] | None = None,
) -> Float[Tensor, "*#batch m v"]:
    r"""Posterior variance of the vector, or value, behind each query, in every dimension.

    .. math::
        \text{Var}[v \mid u] = \sum_n w_n \left[ \frac{s \, \sigma_n^2}{\sigma_n^2 + s} + (m_n - \bar m)^2 \right],
        \qquad \bar m = \sum_n w_n m_n

    by the law of total variance, where :math:`m_n` is the posterior mean under component n. Values have the variance
    ``value_variances``, or none.

    Examples:
        Halfway between two means, each at a distance of 1:

        >>> mixture = pf.Mixture(torch.tensor([0.5, 0.5]).log(), torch.tensor([[0.0], [2.0]]), noise_variance=1.0)
        >>> posterior_variance(torch.tensor([[1.0]]), mixture)
        tensor([[1.]])
    """
    weights = responsibilities(queries, mixture, attn_mask)[..., None]
    means, variances = _component_posterior(queries, mixture)
    mean = (weights * means).sum(-2, keepdim=True)
    return (weights * (variances + (means - mean).square())).sum(-2)


def _log_density(queries: Tensor, mixture: Mixture) -> Tensor:
    """log N(u_m; mu_n, sigma_n^2 + s), with shape [*batch M N]."""
    means = filled(mixture.means, mixture)
    if isinstance(mixture.variances, Covariances):
        factor = cholesky(query_covariances(mixture))
        # the queries are the right-hand sides of one system for each component
        difference = queries[..., None, :, :].mT - means[..., :, :, None]
        whitened = torch.linalg.solve_triangular(factor, difference, upper=False).square().sum(-2)
        log_det = 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return -0.5 * (whitened.mT + log_det[..., None, :] + mixture.width * math.log(2 * math.pi))
    difference = queries[..., :, None, :] - means[..., None, :, :]
    return _log_normal(difference, (own_variances(mixture) + mixture.query_variance)[..., None, :, :])


def _log_density_of_values(values: Tensor, value_mask: Tensor | None, mixture: Mixture) -> Tensor:
    """log N(v_m; value_n, 1 / beta_n) where a value is known and 0 elsewhere, with shape [*batch M N]."""
    if mixture.values is None or mixture.value_variances is None:
        raise ValueError("values are known but the mixture has no value_variances: give it values and their variances.")
    variances = filled(mixture.value_variances, mixture, 1.0)[..., None, :, :]
    if value_mask is not None:
        values = torch.where(value_mask[..., None], values, 0)
    density = _log_normal(values[..., None, :] - filled(mixture.values, mixture)[..., None, :, :], variances)
    return density if value_mask is None else torch.where(value_mask[..., None], density, 0)


def _log_normal(difference: Tensor, variances: Tensor) -> Tensor:
    return -0.5 * (difference.square() / variances + variances.log() + math.log(2 * math.pi)).sum(-1)


def _component_posterior(queries: Tensor, mixture: Mixture) -> tuple[Tensor, Tensor]:
    """Posterior mean and variance given the component; both broadcast to [*batch M N V]."""
    if mixture.values is not None:
        values = filled(mixture.values, mixture)[..., None, :, :]
        own = values.new_zeros(1, 1) if mixture.value_variances is None else mixture.value_variances
        return values, filled(own, mixture)[..., None, :, :]
    component_means = filled(mixture.means, mixture)[..., None, :, :]
    if isinstance(mixture.variances, Covariances):
        noise = mixture.query_variance * torch.eye(
            mixture.width, dtype=component_means.dtype, device=component_means.device
        )
        total = query_covariances(mixture)
        shrinkage = torch.linalg.solve(total, total - noise, left=False)
        moved = (shrinkage[..., None, :, :, :] @ (queries[..., :, None, :] - component_means)[..., None])[..., 0]
        return component_means + moved, (mixture.query_variance * shrinkage.diagonal(dim1=-2, dim2=-1))[..., None, :, :]
    variances = own_variances(mixture)
    shrinkage = (variances / (variances + mixture.query_variance))[..., None, :, :]
    means = shrinkage * queries[..., :, None, :] + (1 - shrinkage) * component_means
    return means, shrinkage * mixture.query_variance
