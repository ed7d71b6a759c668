r"""A mixture over vectors, and what a noisy sight of one of them tells about it: the definition of attention here."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

__all__ = [
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


@dataclass(frozen=True)
class Mixture:
    r"""A mixture over vectors that a query is a noisy sight of.

    .. math::
        v \sim \sum_n \pi_n \, N(\mu_n, \sigma_n^2), \qquad u \mid v \sim N(v, s I), \qquad
        u \mid n \sim N(\mu_n, \sigma_n^2 + s)

    Attention returns the posterior mean of :math:`v` given the query :math:`u`, or of a value that comes with the
    component. Point masses (``variances=None``) with :math:`s = \sqrt D` and the weights of :meth:`from_attention` are
    softmax attention.

    Arguments:
        log_weights: :math:`\log \pi_n`, with shape :math:`(*, N)`. Means do not need them normalised; the evidence
            takes them as they are.
        vectors: The means :math:`\mu_n`, with shape :math:`(*, N, D)`.
        variances: :math:`\sigma_n^2` with a shape that broadcasts to :math:`(*, N, D)`, :class:`SharedVariances`, or
            None for point masses. Attention is cheap for :math:`(*, N, 1)` and :math:`(1, D)`.
        mask: True where a component is present, with shape :math:`(*, N)`, or None when all are.
        values: What is returned for a component, with shape :math:`(*, N, V)`, or None for the vectors themselves.
        noise: Variance :math:`s` of a query around the vector that it saw; None is :math:`\sqrt D`.

    Raises:
        ValueError: If the shapes do not fit.

    References:
        A Variational AutoEncoder for Transformers with Nonparametric Variational Information Bottleneck
        (Henderson and Fehr, 2023), https://arxiv.org/abs/2207.13529

        Probabilistic Transformers (Movellan and Gabbur, 2020). https://arxiv.org/abs/2010.15583

    Examples:
        >>> mixture = Mixture(torch.zeros(2), torch.tensor([[0.0], [4.0]]), noise=1.0)
        >>> posterior_mean(torch.tensor([[0.0], [2.0], [4.0]]), mixture).round(decimals=2).tolist()
        [[0.0], [2.0], [4.0]]
    """

    log_weights: Float[Tensor, "*#batch n"]
    vectors: Float[Tensor, "*#batch n d"]
    variances: Float[Tensor, "..."] | SharedVariances | None = None
    mask: Bool[Tensor, "*#batch n"] | None = None
    values: Float[Tensor, "*#batch n v"] | None = None
    noise: float | Float[Tensor, ""] | None = None

    def __post_init__(self) -> None:
        _check_rows("log_weights", self.log_weights.shape, self.components)
        if self.mask is not None:
            _check_rows("mask", self.mask.shape, self.components)
        if self.values is not None:
            _check_rows("values", self.values.shape[:-1], self.components)
        if isinstance(self.variances, SharedVariances):
            _check_variances((*self.variances.group.shape, self.variances.table.shape[-1]), self.vectors.shape)
        elif self.variances is not None:
            _check_variances(self.variances.shape, self.vectors.shape)

    @classmethod
    def from_attention(
        cls,
        keys: Float[Tensor, "*batch n d"],
        values: Float[Tensor, "*batch n v"],
        mask: Bool[Tensor, "*batch n"] | None = None,
    ) -> "Mixture":
        r"""The mixture whose posterior mean is softmax attention, exactly.

        .. math::
            \pi_n \propto \exp \frac{|k_n|^2}{2 \sqrt D} \quad\Rightarrow\quad
            E[\text{value} \mid q] = \sum_n \text{softmax}_n(q \cdot k_n / \sqrt D) \, \text{value}_n

        The prior in favour of long keys is what softmax attention silently assumes.

        Examples:
            >>> q, k, v = torch.randn(3, 8), torch.randn(5, 8), torch.randn(5, 8)
            >>> softmax = torch.nn.functional.scaled_dot_product_attention(q[None], k[None], v[None])[0]
            >>> torch.allclose(posterior_mean(q, Mixture.from_attention(k, v)), softmax, atol=1e-5)
            True
        """
        keys = keys if mask is None else torch.where(mask[..., None], keys, 0)
        lengths = keys.square().sum(-1) / (2 * math.sqrt(keys.shape[-1]))
        lengths = lengths if mask is None else torch.where(mask, lengths, -torch.inf)
        total = log_sum(lengths)[..., None]
        return cls(lengths - torch.where(total.isfinite(), total, 0), keys, mask=mask, values=values)

    @property
    def width(self) -> int:
        """The number of dimensions :math:`D` of a vector."""
        return self.vectors.shape[-1]

    @property
    def components(self) -> int:
        """The number of components :math:`N`, masked ones included."""
        return self.vectors.shape[-2]

    @property
    def query_noise(self) -> float | Tensor:
        r"""The variance of a query around the vector that it saw: ``noise``, or :math:`\sqrt D`."""
        return math.sqrt(self.width) if self.noise is None else self.noise

    @property
    def present(self) -> Bool[Tensor, "*batch n"]:
        """True for the components that are not masked and have any weight."""
        weighted = self.log_weights != -torch.inf
        return weighted if self.mask is None else weighted & self.mask

    def dense_variances(self) -> Float[Tensor, "..."] | None:
        """The variances as a tensor that broadcasts to the vectors, or None for point masses."""
        return self.variances.dense() if isinstance(self.variances, SharedVariances) else self.variances


def log_joint(
    queries: Float[Tensor, "*#batch m d"],
    mixture: Mixture,
    visible: Bool[Tensor, "*#batch m n"] | None = None,
) -> Float[Tensor, "*#batch m n"]:
    r"""Log density of each query together with the component that it came from.

    .. math::
        \ell_{mn} = \log \pi_n + \log N(u_m; \mu_n, \sigma_n^2 + s)

    It is :math:`-\infty` at masked components and where ``visible`` is False.

    Arguments:
        queries: The queries :math:`u`, with shape :math:`(*, M, D)`.
        mixture: The mixture, with :math:`N` components.
        visible: True where query m may see component n, with shape :math:`(*, M, N)`, or None.
    """
    vectors, variances, _ = _present(mixture)
    total = (variances + mixture.query_noise)[..., None, :, :]
    distance = (queries[..., :, None, :] - vectors[..., None, :, :]).square() / total
    log_density = -0.5 * (distance + total.log() + math.log(2 * math.pi)).sum(-1)
    joint = mixture.log_weights[..., None, :] + log_density
    if mixture.mask is not None:
        joint = torch.where(mixture.mask[..., None, :], joint, -torch.inf)
    return joint if visible is None else torch.where(visible, joint, -torch.inf)


def evidence(
    queries: Float[Tensor, "*#batch m d"],
    mixture: Mixture,
    visible: Bool[Tensor, "*#batch m n"] | None = None,
) -> Float[Tensor, "*#batch m"]:
    r"""Log density of each query under the mixture.

    .. math::
        \log p(u_m) = \log \sum_n \exp \ell_{mn}

    The evidence of a mixture without any component is :math:`-\infty`.
    """
    return log_sum(log_joint(queries, mixture, visible))


def responsibilities(
    queries: Float[Tensor, "*#batch m d"],
    mixture: Mixture,
    visible: Bool[Tensor, "*#batch m n"] | None = None,
) -> Float[Tensor, "*#batch m n"]:
    r"""Posterior probability that a query came from a component: the attention weights.

    .. math::
        w_{mn} = \frac{\exp \ell_{mn}}{\sum_k \exp \ell_{mk}}

    A query that sees no component gives zeros.

    Examples:
        >>> mixture = Mixture(torch.zeros(2), torch.tensor([[0.0], [4.0]]), mask=torch.tensor([True, False]))
        >>> responsibilities(torch.tensor([[3.0]]), mixture).tolist()
        [[1.0, 0.0]]
    """
    joint = log_joint(queries, mixture, visible)
    weights = (joint - _top(joint)).exp()
    total = weights.sum(-1, keepdim=True)
    return weights / torch.where(total > 0, total, 1)


def posterior_mean(
    queries: Float[Tensor, "*#batch m d"],
    mixture: Mixture,
    visible: Bool[Tensor, "*#batch m n"] | None = None,
) -> Float[Tensor, "*#batch m v"]:
    r"""Posterior mean of what each query saw: attention.

    .. math::
        E[v \mid u_m] = \sum_n w_{mn} \frac{\sigma_n^2 u_m + s \mu_n}{\sigma_n^2 + s}
        \qquad \text{or} \qquad \sum_n w_{mn} \, \text{value}_n

    A query that sees no component gives zeros.
    """
    weights = responsibilities(queries, mixture, visible)
    means, _ = _component_posterior(queries, mixture)
    return (weights[..., None] * means).sum(-2)


def posterior_variance(
    queries: Float[Tensor, "*#batch m d"],
    mixture: Mixture,
    visible: Bool[Tensor, "*#batch m n"] | None = None,
) -> Float[Tensor, "*#batch m v"]:
    r"""Posterior variance of what each query saw, for every dimension, by the law of total variance.

    .. math::
        \text{Var}[v \mid u] = \sum_n w_n \left[ \frac{s \, \sigma_n^2}{\sigma_n^2 + s} + (m_n - \bar m)^2 \right],
        \qquad \bar m = \sum_n w_n m_n

    where :math:`m_n` is the posterior mean under component n. Values have no variance of their own.
    """
    weights = responsibilities(queries, mixture, visible)[..., None]
    means, variances = _component_posterior(queries, mixture)
    mean = (weights * means).sum(-2, keepdim=True)
    return (weights * (variances + (means - mean).square())).sum(-2)


def _component_posterior(queries: Tensor, mixture: Mixture) -> tuple[Tensor, Tensor]:
    """Mean and variance of what was seen if the component were known; both broadcast to [*batch M N V]."""
    vectors, variances, values = _present(mixture)
    if values is not None:
        return values[..., None, :, :], values.new_zeros(())
    shrinkage = (variances / (variances + mixture.query_noise))[..., None, :, :]
    means = shrinkage * queries[..., :, None, :] + (1 - shrinkage) * vectors[..., None, :, :]
    return means, shrinkage * mixture.query_noise


def _present(mixture: Mixture) -> tuple[Tensor, Tensor, Tensor | None]:
    """Vectors, variances (zero for point masses) and values, with whatever stands in masked places cleared away."""
    variances = mixture.dense_variances()
    variances = mixture.vectors.new_zeros(1, 1) if variances is None else variances
    if mixture.mask is None:
        return mixture.vectors, variances, mixture.values
    mask = mixture.mask[..., None]
    values = None if mixture.values is None else torch.where(mask, mixture.values, 0)
    return torch.where(mask, mixture.vectors, 0), torch.where(mask, variances, 1), values


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
        raise ValueError(
            f"{name} has {shape[-1:].numel()} components and vectors {components}; give one for each vector"
        )


def _check_variances(shape: tuple[int, ...], vectors: tuple[int, ...]) -> None:
    if len(shape) < 2 or shape[-2] not in (1, vectors[-2]) or shape[-1] not in (1, vectors[-1]):
        raise ValueError(
            f"variances of shape {tuple(shape)} do not broadcast to vectors of shape {tuple(vectors)}; "
            "give (N, D), (N, 1), (1, D) or SharedVariances"
        )
