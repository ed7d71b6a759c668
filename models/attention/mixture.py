r"""A mixture over vectors, and what a noisy observation of one of them tells about it: the definition of attention here."""

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

__all__ = [
    "Covariances",
    "Mixture",
    "SharedVariances",
    "evidence",
    "log_joint",
    "posterior_mean",
    "posterior_variance",
    "responsibilities",
]


class SharedVariances(NamedTuple):
    r"""Variances that groups of components have in common.

        variance of component n = table[group[n]]

    A few rows in ``table`` let attention over Gaussian components run at the cost of plain attention.

    Arguments:
        table: One variance vector for each group, with shape :math:`(R, D)`.
        group: The group of each component, with shape :math:`(*, N)`.

    Examples:
        >>> prior_and_tokens = SharedVariances(torch.tensor([[1.0, 1.0], [0.1, 0.2]]), torch.tensor([0, 1, 1]))
        >>> prior_and_tokens.dense().shape
        torch.Size([3, 2])
    """

    table: Float[Tensor, "r d"]
    group: Int[Tensor, "*batch n"]

    def dense(self) -> Float[Tensor, "*batch n d"]:
        """The variances of every component, written out."""
        return self.table[self.group]

    def membership(self) -> Float[Tensor, "*batch n r"]:
        """One-hot groups: ``dense() == membership() @ table``."""
        groups = torch.arange(len(self.table), device=self.group.device)
        return (self.group[..., None] == groups).to(self.table.dtype)


class Covariances(NamedTuple):
    r"""Full covariance matrices, which only the explicit functions of this module take: no attention kernel can.

    Arguments:
        matrices: One symmetric, positive semi-definite matrix for each component, with shape :math:`(*, N, D, D)`.

    Examples:
        >>> Covariances(torch.eye(2).expand(3, 2, 2)).matrices.shape
        torch.Size([3, 2, 2])
    """

    matrices: Float[Tensor, "*batch n d d"]


@dataclass(frozen=True)
class Mixture:
    r"""A mixture over vectors that a query is a noisy observation of.

    .. math::
        v \sim \sum_n \pi_n \, N(\mu_n, \sigma_n^2), \qquad u \mid v \sim N(v, s I), \qquad
        u \mid n \sim N(\mu_n, \sigma_n^2 + s)

    Attention returns the posterior mean of :math:`v` given the query :math:`u`, or of a value that comes with the
    component. Point masses (``variances=None``) with :math:`s = \sqrt D` and the weights of :meth:`from_attention` are
    softmax attention.

    Arguments:
        log_weights: :math:`\log \pi_n`, with shape :math:`(*, N)`. Means do not need them normalized; the evidence
            takes them as they are.
        means: The means :math:`\mu_n`, with shape :math:`(*, N, D)`.
        variances: :math:`\sigma_n^2` with a shape that broadcasts to :math:`(*, N, D)`, :class:`SharedVariances`,
            :class:`Covariances`, or None for point masses. Attention is cheap for :math:`(*, N, 1)` and :math:`(1, D)`.
        mask: True where a component is present, with shape :math:`(*, N)`, or None when all are.
        values: What is returned for a component, with shape :math:`(*, N, V)`, or None for the vectors themselves.
        noise_variance: Variance :math:`s` of a query around the vector that it saw; None is :math:`\sqrt D`. With 0 a query is
            the vector itself, as in an ordinary mixture of Gaussians: then the variances must be positive.
        value_variances: Variance of a value around its component's, with a shape that broadcasts to :math:`(*, N, V)`,
            or None where values are exact. A token whose value is known tells by it which component it came from.

    Raises:
        ValueError: If the shapes do not fit, or value variances come without values.

    References:
        A Variational AutoEncoder for Transformers with Nonparametric Variational Information Bottleneck
        (Henderson and Fehr, 2023), https://arxiv.org/abs/2207.13529

        Probabilistic Transformers (Movellan and Gabbur, 2020). https://arxiv.org/abs/2010.15583

    Examples:
        >>> mixture = Mixture(torch.zeros(2), torch.tensor([[0.0], [4.0]]), noise_variance=1.0)
        >>> posterior_mean(torch.tensor([[0.0], [2.0], [4.0]]), mixture).round(decimals=2).tolist()
        [[0.0], [2.0], [4.0]]
    """

    log_weights: Float[Tensor, "*#batch n"]
    means: Float[Tensor, "*#batch n d"]
    variances: Float[Tensor, "..."] | SharedVariances | Covariances | None = None
    mask: Bool[Tensor, "*#batch n"] | None = None
    values: Float[Tensor, "*#batch n v"] | None = None
    noise_variance: float | Float[Tensor, ""] | None = None
    value_variances: Float[Tensor, "..."] | None = None

    def __post_init__(self) -> None:
        _check_rows("log_weights", self.log_weights.shape, self.components)
        if self.mask is not None:
            _check_rows("mask", self.mask.shape, self.components)
        if self.values is not None:
            _check_rows("values", self.values.shape[:-1], self.components)
        if isinstance(self.variances, SharedVariances):
            shape = (*self.variances.group.shape, self.variances.table.shape[-1])
            _check_variances("variances", shape, self.means.shape)
        elif isinstance(self.variances, Covariances):
            _check_rows("variances", self.variances.matrices.shape[:-2], self.components)
        elif self.variances is not None:
            _check_variances("variances", self.variances.shape, self.means.shape)
        if self.value_variances is not None:
            if self.values is None:
                raise ValueError("value_variances without values: give values too, or leave both out")
            _check_variances("value_variances", self.value_variances.shape, self.values.shape)

    @classmethod
    def from_attention(
        cls,
        keys: Float[Tensor, "*batch n d"],
        values: Float[Tensor, "*batch n v"],
        mask: Bool[Tensor, "*batch n"] | None = None,
        value_variances: Float[Tensor, "..."] | None = None,
    ) -> "Mixture":
        r"""The mixture whose posterior mean is softmax attention, exactly.

        .. math::
            \pi_n \propto \exp \frac{|k_n|^2}{2 \sqrt D} \quad\Rightarrow\quad
            E[\text{value} \mid q] = \sum_n \text{softmax}_n(q \cdot k_n / \sqrt D) \, \text{value}_n

        The prior in favor of long keys is what softmax attention silently assumes. With value variances
        :math:`1 / \beta` it favors long values too, by :math:`\beta |\text{value}_n|^2 / 2`, and what equals softmax
        attention is one step of :func:`~.value_map.value_map` from zero (Movellan and Gabbur, 2020).

        Examples:
            >>> q, k, v = torch.randn(3, 8), torch.randn(5, 8), torch.randn(5, 8)
            >>> softmax = torch.nn.functional.scaled_dot_product_attention(q[None], k[None], v[None])[0]
            >>> torch.allclose(posterior_mean(q, Mixture.from_attention(k, v)), softmax, atol=1e-5)
            True
        """
        keys = keys if mask is None else torch.where(mask[..., None], keys, 0)
        lengths = keys.square().sum(-1) / (2 * math.sqrt(keys.shape[-1]))
        if value_variances is not None:
            lengths = lengths + 0.5 * (values.square() / value_variances).sum(-1)
        lengths = lengths if mask is None else torch.where(mask, lengths, -torch.inf)
        total = log_sum(lengths)[..., None]
        log_weights = lengths - torch.where(total.isfinite(), total, 0)
        return cls(log_weights, keys, mask=mask, values=values, value_variances=value_variances)

    @classmethod
    def from_nested(
        cls,
        log_weights: Float[Tensor, "*#batch n"],
        inner_log_weights: Float[Tensor, "*#batch n r"],
        means: Float[Tensor, "*batch n r d"],
        variances: Float[Tensor, "*#batch n r e"] | None = None,
        *,
        values: Float[Tensor, "*batch n v"],
        noise_variance: float | Float[Tensor, ""] | None = None,
    ) -> "Mixture":
        r"""A mixture whose components are mixtures of R Gaussians themselves, written out as N R components.

        .. math::
            \pi_n \sum_r \pi_{r \mid n} N(u; \mu_{nr}, \sigma_{nr}^2 + s)

        The R components of one share its value. This is attention with a mixture of Gaussian keys.

        References:
            Improving Transformers with Probabilistic Attention Keys (Nguyen et al., 2022)
            https://arxiv.org/abs/2110.08678

        Examples:
            >>> log_weights, inner = torch.zeros(3), torch.zeros(3, 2)
            >>> Mixture.from_nested(log_weights, inner, torch.randn(3, 2, 4), values=torch.randn(3, 4)).components
            6
        """
        flat = log_weights[..., None] + inner_log_weights
        return cls(
            flat.flatten(-2),
            means.flatten(-3, -2),
            None if variances is None else variances.flatten(-3, -2),
            values=values.repeat_interleave(means.shape[-2], -2),
            noise_variance=noise_variance,
        )

    def with_null(
        self, log_weight: float | Tensor = 0.0, variance: float | Tensor | None = None, value: Tensor | None = None
    ) -> "Mixture":
        r"""The mixture and, before the others, one more component for queries that none of them explains.

        Its mean is zero. Where all components have one variance, its logit is ``log_weight`` whatever the query, so
        that 0 is the "softmax plus one": a query may attend to nothing.

        Arguments:
            log_weight: Its log weight, with shape :math:`(*)`. The weights are not normalized again.
            variance: Its own variance, broad for a component that catches outliers; None is the first component's.
            value: What it returns, with shape :math:`(V)`; None is zero.

        Raises:
            ValueError: If the mixture has full covariances.

        Examples:
            >>> mixture = Mixture.from_attention(torch.randn(5, 8), torch.randn(5, 8)).with_null()
            >>> mixture.components
            6
        """
        own = self.dense_variances()
        new = own if own is None or own.shape[-2] == 1 else own[..., :1, :]
        if variance is not None:
            own = self.means.new_zeros(1, 1) if own is None else own
            new = torch.as_tensor(variance, dtype=own.dtype, device=own.device).reshape(-1, 1, 1)[0]
        row = self.means.new_zeros(*self.means.shape[:-2], 1, self.width)
        weight = torch.as_tensor(log_weight, dtype=self.log_weights.dtype, device=self.log_weights.device)
        batch = self.log_weights.shape[:-1]
        weights = torch.cat([weight.expand(batch)[..., None], self.log_weights], -1)
        values = self.values
        if values is not None:
            nothing = values.new_zeros(values.shape[-1]) if value is None else value.to(values.dtype)
            values = torch.cat([nothing.expand(*values.shape[:-2], 1, -1), values], -2)
        return replace(
            self,
            log_weights=weights,
            means=torch.cat([row, self.means], -2),
            variances=_preceded(own, new, self.components),
            mask=None if self.mask is None else F.pad(self.mask, (1, 0), value=True),
            values=values,
            value_variances=_preceded(self.value_variances, None, self.components),
        )

    @property
    def width(self) -> int:
        """The number of dimensions :math:`D` of a vector."""
        return self.means.shape[-1]

    @property
    def components(self) -> int:
        """The number of components :math:`N`, masked ones included."""
        return self.means.shape[-2]

    @property
    def query_variance(self) -> float | Tensor:
        r"""The variance of a query around the vector that it saw: ``noise``, or :math:`\sqrt D`."""
        return math.sqrt(self.width) if self.noise_variance is None else self.noise_variance

    @property
    def present(self) -> Bool[Tensor, "*batch n"]:
        """True for the components that are not masked and have any weight."""
        weighted = self.log_weights != -torch.inf
        return weighted if self.mask is None else weighted & self.mask

    def dense_variances(self) -> Float[Tensor, "..."] | None:
        """The variances as a tensor that broadcasts to the vectors, or None for point masses.

        Raises:
            ValueError: If they are full covariances.
        """
        if isinstance(self.variances, Covariances):
            raise ValueError("full covariances have only the explicit functions of models.mixture; use diagonal ones")
        return self.variances.dense() if isinstance(self.variances, SharedVariances) else self.variances


def log_joint(
    queries: Float[Tensor, "*#batch m d"],
    mixture: Mixture,
    attn_mask: Bool[Tensor, "*#batch m n"] | None = None,
    values: Float[Tensor, "*#batch m v"] | None = None,
    value_mask: Bool[Tensor, "*#batch m"] | None = None,
) -> Float[Tensor, "*#batch m n"]:
    r"""Log density of each query, and of its value where that is known, together with the component it came from.

    .. math::
        \ell_{mn} = \log \pi_n + \log N(u_m; \mu_n, \sigma_n^2 + s)
        \; [ + \log N(v_m; \text{value}_n, \beta_n^{-1}) ]

    It is :math:`-\infty` at masked components and where ``attn_mask`` is False.

    Arguments:
        queries: The queries :math:`u`, with shape :math:`(*, M, D)`.
        mixture: The mixture, with :math:`N` components.
        attn_mask: True where query m may see component n, with shape :math:`(*, M, N)`, or None.
        values: Values that are known, with shape :math:`(*, M, V)`, or None.
        value_mask: True where a query's value is known, with shape :math:`(*, M)`; None is everywhere.

    Raises:
        ValueError: If shapes do not fit, or there are values and the mixture has no ``value_variances`` for them.
    """
    check_queries(queries, mixture, attn_mask=attn_mask, values=values, value_mask=value_mask)
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
    r"""Log density of each query, and of its value where that is known, under the mixture.

    .. math::
        \log p(u_m) = \log \sum_n \exp \ell_{mn}

    The evidence of a mixture without any component is :math:`-\infty`.
    """
    return log_sum(log_joint(queries, mixture, attn_mask, values, value_mask))


def responsibilities(
    queries: Float[Tensor, "*#batch m d"],
    mixture: Mixture,
    attn_mask: Bool[Tensor, "*#batch m n"] | None = None,
    values: Float[Tensor, "*#batch m v"] | None = None,
    value_mask: Bool[Tensor, "*#batch m"] | None = None,
) -> Float[Tensor, "*#batch m n"]:
    r"""Posterior probability that a query came from a component: the attention weights, the E-step of EM.

    .. math::
        w_{mn} = \frac{\exp \ell_{mn}}{\sum_k \exp \ell_{mk}}

    A query that sees no component gives zeros.

    Examples:
        >>> mixture = Mixture(torch.zeros(2), torch.tensor([[0.0], [4.0]]), mask=torch.tensor([True, False]))
        >>> responsibilities(torch.tensor([[3.0]]), mixture).tolist()
        [[1.0, 0.0]]
    """
    joint = log_joint(queries, mixture, attn_mask, values, value_mask)
    weights = (joint - _top(joint)).exp()
    total = weights.sum(-1, keepdim=True)
    return weights / torch.where(total > 0, total, 1)


def posterior_mean(
    queries: Float[Tensor, "*#batch m d"],
    mixture: Mixture,
    attn_mask: Bool[Tensor, "*#batch m n"] | None = None,
) -> Float[Tensor, "*#batch m v"]:
    r"""Posterior mean of what each query saw: attention.

    .. math::
        E[v \mid u_m] = \sum_n w_{mn} \frac{\sigma_n^2 u_m + s \mu_n}{\sigma_n^2 + s}
        \qquad \text{or} \qquad \sum_n w_{mn} \, \text{value}_n

    A query that sees no component gives zeros.
    """
    weights = responsibilities(queries, mixture, attn_mask)
    means, _ = _component_posterior(queries, mixture)
    return (weights[..., None] * means).sum(-2)


def posterior_variance(
    queries: Float[Tensor, "*#batch m d"],
    mixture: Mixture,
    attn_mask: Bool[Tensor, "*#batch m n"] | None = None,
) -> Float[Tensor, "*#batch m v"]:
    r"""Posterior variance of what each query saw, for every dimension, by the distribution of total variance.

    .. math::
        \text{Var}[v \mid u] = \sum_n w_n \left[ \frac{s \, \sigma_n^2}{\sigma_n^2 + s} + (m_n - \bar m)^2 \right],
        \qquad \bar m = \sum_n w_n m_n

    where :math:`m_n` is the posterior mean under component n. Values have the variance that ``value_variances`` gives
    them, or none.
    """
    weights = responsibilities(queries, mixture, attn_mask)[..., None]
    means, variances = _component_posterior(queries, mixture)
    mean = (weights * means).sum(-2, keepdim=True)
    return (weights * (variances + (means - mean).square())).sum(-2)


def _log_density(queries: Tensor, mixture: Mixture) -> Tensor:
    """log N(u_m; mu_n, sigma_n^2 + s), with shape [*batch M N]."""
    difference = queries[..., :, None, :] - _present(mixture.means, mixture.mask)[..., None, :, :]
    if isinstance(mixture.variances, Covariances):
        factor = torch.linalg.cholesky(_total_covariances(mixture))[..., None, :, :, :]
        whitened = torch.linalg.solve_triangular(factor, difference[..., None], upper=False)[..., 0]
        log_det = 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return -0.5 * (whitened.square().sum(-1) + log_det + mixture.width * math.log(2 * math.pi))
    return _log_normal(difference, (_variances(mixture) + mixture.query_variance)[..., None, :, :])


def _log_density_of_values(values: Tensor, value_mask: Tensor | None, mixture: Mixture) -> Tensor:
    """log N(v_m; value_n, 1 / beta_n) where a value is known and 0 elsewhere, with shape [*batch M N]."""
    if mixture.values is None or mixture.value_variances is None:
        raise ValueError("values are known but the mixture has no value_variances: give it values and their variances")
    variances = _present(mixture.value_variances, mixture.mask, 1.0)[..., None, :, :]
    if value_mask is not None:
        values = torch.where(value_mask[..., None], values, 0)
    density = _log_normal(values[..., None, :] - _present(mixture.values, mixture.mask)[..., None, :, :], variances)
    return density if value_mask is None else torch.where(value_mask[..., None], density, 0)


def _log_normal(difference: Tensor, variances: Tensor) -> Tensor:
    return -0.5 * (difference.square() / variances + variances.log() + math.log(2 * math.pi)).sum(-1)


def _component_posterior(queries: Tensor, mixture: Mixture) -> tuple[Tensor, Tensor]:
    """Mean and variance of what was seen if the component were known; both broadcast to [*batch M N V]."""
    if mixture.values is not None:
        values = _present(mixture.values, mixture.mask)[..., None, :, :]
        own = values.new_zeros(1, 1) if mixture.value_variances is None else mixture.value_variances
        return values, _present(own, mixture.mask)[..., None, :, :]
    vectors = _present(mixture.means, mixture.mask)[..., None, :, :]
    if isinstance(mixture.variances, Covariances):
        noise = mixture.query_variance * torch.eye(mixture.width, dtype=vectors.dtype, device=vectors.device)
        shrinkage = torch.linalg.solve(_total_covariances(mixture), _total_covariances(mixture) - noise, left=False)
        moved = (shrinkage[..., None, :, :, :] @ (queries[..., :, None, :] - vectors)[..., None])[..., 0]
        return vectors + moved, (mixture.query_variance * shrinkage.diagonal(dim1=-2, dim2=-1))[..., None, :, :]
    variances = _variances(mixture)
    shrinkage = (variances / (variances + mixture.query_variance))[..., None, :, :]
    means = shrinkage * queries[..., :, None, :] + (1 - shrinkage) * vectors
    return means, shrinkage * mixture.query_variance


def _variances(mixture: Mixture) -> Tensor:
    """The variances, zero for point masses, with ones in masked places."""
    variances = mixture.dense_variances()
    return mixture.means.new_zeros(1, 1) if variances is None else _present(variances, mixture.mask, 1.0)


def _total_covariances(mixture: Mixture) -> Tensor:
    """Covariances of a query, with ones on the diagonal in masked places."""
    assert isinstance(mixture.variances, Covariances)
    matrices = mixture.variances.matrices
    unit = torch.eye(mixture.width, dtype=matrices.dtype, device=matrices.device)
    total = matrices + mixture.query_variance * unit
    return total if mixture.mask is None else torch.where(mixture.mask[..., None, None], total, unit)


def _present(rows: Tensor, mask: Tensor | None, otherwise: float = 0.0) -> Tensor:
    """Rows with whatever stands in masked places cleared away."""
    return rows if mask is None else torch.where(mask[..., None], rows, otherwise)


def _preceded(rows: Tensor | None, row: Tensor | None, components: int) -> Tensor | None:
    """Variances with one more row, by default the first; rows that all components share stay as they are."""
    if rows is None or (rows.shape[-2] == 1 and components > 1 and (row is None or row is rows)):
        return rows
    row = rows[..., :1, :] if row is None else row
    batch, width = rows.shape[:-2], max(rows.shape[-1], row.shape[-1])
    return torch.cat([row.expand(*batch, 1, width), rows.expand(*batch, components, width)], -2)


def check_queries(queries: Tensor, mixture: Mixture, **others: Tensor | None) -> None:
    """Raises a ValueError where queries, or what comes with them by name, do not fit the mixture or one another."""
    if queries.shape[-1] != mixture.width:
        raise ValueError(
            f"queries have {queries.shape[-1]} dimensions and the mixture's vectors {mixture.width}; give them as many"
        )
    m, n = queries.shape[-2], mixture.components
    width = None if mixture.values is None else mixture.values.shape[-1]
    expected = {"attn_mask": (m, n), "values": (m, width), "start": (m, width), "value_mask": (m,), "mask": (m,)}
    for name, given in others.items():
        sizes = expected[name]
        if given is None or None in sizes:
            continue
        ends = given.shape[-len(sizes) :]
        if len(ends) < len(sizes) or any(size not in (1, full) for size, full in zip(ends, sizes, strict=True)):
            raise ValueError(
                f"{name} has shape {tuple(given.shape)}; {m} queries and {n} components need it to end in {sizes}"
            )


def log_sum(joint: Tensor) -> Tensor:
    """logsumexp over the last dimension whose gradient is zero, not NaN, where every entry is -inf."""
    top = _top(joint)
    total = (joint - top).exp().sum(-1)
    empty = total == 0
    return torch.where(empty, -torch.inf, top.squeeze(-1) + torch.where(empty, 1, total).log())


def _top(joint: Tensor) -> Tensor:
    """The largest entry of each row, or 0 where a row has none that is finite."""
    top = joint.detach().amax(-1, keepdim=True)
    return torch.where(top.isfinite(), top, 0)


def _check_rows(name: str, shape: torch.Size, components: int) -> None:
    if shape[-1:] != (components,):
        raise ValueError(f"{name} has {shape[-1:].numel()} components and means {components}; give one for each mean")


def _check_variances(name: str, shape: tuple[int, ...], vectors: tuple[int, ...]) -> None:
    if len(shape) < 2 or shape[-2] not in (1, vectors[-2]) or shape[-1] not in (1, vectors[-1]):
        what = "values" if name == "value_variances" else "means"
        rest = "" if name == "value_variances" else " or SharedVariances"
        raise ValueError(
            f"{name} of shape {tuple(shape)} do not broadcast to {what} of shape {tuple(vectors)}; "
            f"give (N, D), (N, 1), (1, D){rest}"
        )
