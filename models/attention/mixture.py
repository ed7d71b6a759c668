r"""Mixtures over vectors that queries are noisy observations of."""

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from ..utils.numbers import declared_number
from ..utils.precision import at_least_float32
from ..utils.scalars import tensor_like
from ..utils.tensor_checks import check_entries, check_leading, check_types
from .centering import common_center
from .log_space import normalized
from .mixture_checks import (
    check_rank,
    check_rows,
    check_value_variances,
    check_variance_types,
    check_variances,
    check_width,
)
from .variances import Covariances, SharedVariances, nonnegative_entries

__all__ = ["Mixture", "in_dtype"]


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
        noise_variance: Variance :math:`s` of a query around its vector; None is :math:`\sqrt D`. With 0 a query is the
            vector itself, as in an ordinary mixture of Gaussians: then the variances must be positive.
        value_variances: Variance of a value around its component's, with a shape that broadcasts to :math:`(*, N, V)`,
            or None where values are exact. With them, known values enter the posterior of the component.

    Raises:
        ValueError: If types or shapes do not fit, value variances come without values, a variance of a component that
            is present is negative, infinite or NaN, or there are neither variances nor noise. Values are checked on the
            CPU only, where that waits for no device.

    References:
        A Variational AutoEncoder for Transformers with Nonparametric Variational Information Bottleneck
        (Henderson and Fehr, 2023), https://arxiv.org/abs/2207.13529

        Probabilistic Transformers (Movellan and Gabbur, 2020). https://arxiv.org/abs/2010.15583

    Examples:
        >>> mixture = pf.Mixture(torch.zeros(2), torch.tensor([[0.0], [4.0]]), noise_variance=1.0)
        >>> pf.attend(torch.tensor([[0.0], [2.0], [4.0]]), mixture).round(decimals=2).tolist()
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
        names = ("log_weights", "means", "mask", "values", "value_variances")
        check_types(("mask",), **{name: getattr(self, name) for name in names})
        check_variance_types(self.variances, self.noise_variance)
        check_rank("means", self.means, "(*, N, D)")
        check_rows("log_weights", self.log_weights.shape, self.components)
        if self.mask is not None:
            check_rows("mask", self.mask.shape, self.components)
        if self.values is not None:
            check_rows("values", self.values.shape[:-1], self.components)
        if isinstance(self.variances, SharedVariances):
            shape = (*self.variances.group.shape, self.variances.table.shape[-1])
            check_variances("variances", shape, self.means.shape)
            check_width("the table of SharedVariances", self.variances.table.shape, (self.width,))
        elif isinstance(self.variances, Covariances):
            check_rows("variances", self.variances.matrices.shape[:-2], self.components)
            check_width("Covariances", self.variances.matrices.shape, (self.width, self.width))
        elif self.variances is not None:
            check_variances("variances", self.variances.shape, self.means.shape)
        if self.value_variances is not None:
            check_value_variances(self.values, self.value_variances)
        check_leading(self.leading_shapes())
        self._check_signs()

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

        Softmax attention silently assumes this prior in favor of long keys. With value variances
        :math:`1 / \beta` it favors long values too, by :math:`\beta |\text{value}_n|^2 / 2`, and what equals softmax
        attention is one step of :func:`~.value_map.value_map` from zero (Movellan and Gabbur, 2020).

        Examples:
            >>> q, k, v = torch.randn(3, 8), torch.randn(5, 8), torch.randn(5, 8)
            >>> softmax = torch.nn.functional.scaled_dot_product_attention(q[None], k[None], v[None])[0]
            >>> torch.allclose(pf.attend(q, Mixture.from_attention(k, v)), softmax, atol=1e-5)
            True
        """
        check_types(("mask",), ("keys",), keys=keys, values=values, mask=mask, value_variances=value_variances)
        check_rank("keys", keys, "(*, N, D)")
        if mask is not None:
            check_rows("mask", mask.shape, keys.shape[-2], "keys")
            check_leading({"keys": keys.shape[:-2], "mask": mask.shape[:-1]})
            keys = torch.where(mask[..., None], keys, 0)
        if value_variances is not None:
            check_value_variances(values, value_variances)
        high = at_least_float32(keys)
        center = common_center(high, mask)  # |k|^2 - |c|^2, as |c|^2 cancels but would be rounded
        lengths = ((high - center) * (high + center)).sum(-1) / (2 * math.sqrt(keys.shape[-1]))
        if value_variances is not None:
            lengths = lengths + 0.5 * (values.square() / value_variances).sum(-1)
        return cls(normalized(lengths, mask), keys, mask=mask, values=values, value_variances=value_variances)

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
        required = {
            "log_weights": log_weights,
            "inner_log_weights": inner_log_weights,
            "means": means,
            "values": values,
        }
        check_types((), tuple(required), variances=variances, **required)
        check_rank("means", means, "(*, N, R, D)")
        n, r = means.shape[-3:-1]
        check_rows("log_weights", log_weights.shape, n)
        if inner_log_weights.shape[-2:] != (n, r):
            shape = tuple(inner_log_weights.shape)
            raise ValueError(f"inner_log_weights has shape {shape}: give one whose dimensions end in {(n, r)}.")
        if variances is not None and variances.shape[-3:-1] != (n, r):
            shape = tuple(variances.shape)
            raise ValueError(f"variances has shape {shape}: give one whose dimensions end in ({n}, {r}, D or 1).")
        check_leading({"log_weights": log_weights.shape[:-1], "inner_log_weights": inner_log_weights.shape[:-2]})
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
        r"""The mixture with a null component in front, for queries that no other component explains.

        Its mean is zero. Where all components have one variance, its logit is ``log_weight`` for every query, so that
        0 is the "softmax plus one": a query may attend to nothing.

        Arguments:
            log_weight: Its log weight, with shape :math:`(*)`. The weights are not normalized again.
            variance: Its variance, broad for a component that catches outliers; None is the first component's.
            value: Its value, with shape :math:`(V)`; None is zero.

        Raises:
            ValueError: If the mixture has full covariances, a shape does not fit, or there is a value and the mixture
                has none.

        Examples:
            >>> mixture = Mixture.from_attention(torch.randn(5, 8), torch.randn(5, 8)).with_null()
            >>> mixture.components
            6
        """
        self._check_null(log_weight, variance, value)
        variances = self.dense_variances()
        null_variance = variances if variances is None or variances.shape[-2] == 1 else variances[..., :1, :]
        if variance is not None:
            variances = self.means.new_zeros(1, 1) if variances is None else variances
            null_variance = tensor_like(variance, variances)
            null_variance = null_variance.reshape(-1, 1, 1)[0]
        null_mean = self.means.new_zeros(*self.means.shape[:-2], 1, self.width)
        null_weight = tensor_like(log_weight, self.log_weights)
        null_weight = null_weight.expand(self.log_weights.shape[:-1])[..., None]
        values = self.values
        if values is not None:
            null_value = values.new_zeros(values.shape[-1]) if value is None else value.to(values.dtype)
            values = torch.cat([null_value.expand(*values.shape[:-2], 1, -1), values], -2)
        return replace(
            self,
            log_weights=torch.cat([null_weight, self.log_weights], -1),
            means=torch.cat([null_mean, self.means], -2),
            variances=_prepend(variances, null_variance, self.components),
            mask=None if self.mask is None else F.pad(self.mask, (1, 0), value=True),
            values=values,
            value_variances=_prepend(self.value_variances, None, self.components),
        )

    def _check_null(self, log_weight: object, variance: object, value: object) -> None:
        """Raises unless the parts of a null component are of types and shapes that fit."""
        for name, number, sizes in (
            ("log_weight", log_weight, self.log_weights.shape[:-1]),
            ("variance", variance, ()),
        ):
            if not isinstance(number, Tensor):
                declared_number(name, number, float if name == "log_weight" else float | None)
                continue
            check_types((), **{name: number})
            own = tuple(number.shape)
            fits = len(own) <= len(sizes) and all(x in (1, y) for x, y in zip(own[::-1], sizes[::-1], strict=False))
            if number.numel() != 1 and not fits:
                raise ValueError(f"{name} has shape {own}: give a number.")
        check_types(value=value)
        if not isinstance(value, Tensor):
            return
        if self.values is None:
            raise ValueError("value is given, and the mixture has no values: give it values, or leave value out.")
        if value.shape not in ((), (1,), self.values.shape[-1:]):
            raise ValueError(
                f"value has shape {tuple(value.shape)}: give one of shape {tuple(self.values.shape[-1:])}."
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
        r"""The variance of a query around its vector: ``noise_variance``, or :math:`\sqrt D`."""
        return math.sqrt(self.width) if self.noise_variance is None else self.noise_variance

    @property
    def present(self) -> Bool[Tensor, "*batch n"]:
        """True for the components that are not masked and have any weight."""
        weighted = self.log_weights != -torch.inf
        return weighted if self.mask is None else weighted & self.mask

    def leading_shapes(self) -> dict[str, torch.Size]:
        """The leading dimensions of each part, by its name."""
        parts = {"means": self.means, "log_weights": self.log_weights, "mask": self.mask, "values": self.values}
        parts |= {"variances": nonnegative_entries(self.variances), "value_variances": self.value_variances}
        rows = {"log_weights": -1, "mask": -1}
        shapes = {name: x.shape[: rows.get(name, -2)] for name, x in parts.items() if x is not None}
        if isinstance(self.variances, SharedVariances):
            shapes["variances"] = self.variances.group.shape[:-1]
        return shapes

    def _check_signs(self) -> None:
        """Raises unless variances are finite and not negative; those of values and of queries have to be positive."""
        noise, own = torch.as_tensor(self.query_variance), nonnegative_entries(self.variances)
        fine = (noise >= 0 if own is not None else noise > 0) & noise.isfinite()
        rule = "give a finite number of at least 0, and a positive one where there are no variances"
        check_entries("noise_variance", noise, fine, rule)
        if own is not None:
            rule = "give finite numbers of at least 0, or leave components out with mask"
            check_entries("variances", own, self._unless_absent((own >= 0) & own.isfinite()), rule)
        if self.value_variances is not None:
            rule = "give positive, finite numbers, or leave value_variances out where values are exact"
            fine = (self.value_variances > 0) & self.value_variances.isfinite()
            check_entries("value_variances", self.value_variances, self._unless_absent(fine), rule)

    def _unless_absent(self, fine: Tensor) -> Tensor:
        """``fine``, and True for the components that are absent, whatever stands there."""
        return fine if fine.shape[-2] != self.components else fine | ~self.present[..., None]

    def dense_variances(self) -> Float[Tensor, "..."] | None:
        """The variances as a tensor that broadcasts to the vectors, or None for point masses.

        Raises:
            ValueError: If they are full covariances.
        """
        if isinstance(self.variances, Covariances):
            raise ValueError(
                "attention does not take full covariances: use diagonal variances, or the functions of "
                "models.attention.bayes_rule."
            )
        return self.variances.dense() if isinstance(self.variances, SharedVariances) else self.variances


def _prepend(rows: Tensor | None, row: Tensor | None, components: int) -> Tensor | None:
    """Variances with one more row in front, by default a copy of the first; one row for all components stays one."""
    if rows is None or (rows.shape[-2] == 1 and components > 1 and (row is None or row is rows)):
        return rows
    row = rows[..., :1, :] if row is None else row
    batch, width = rows.shape[:-2], max(rows.shape[-1], row.shape[-1])
    return torch.cat([row.expand(*batch, 1, width), rows.expand(*batch, components, width)], -2)


def in_dtype(mixture: Mixture, dtype: torch.dtype) -> Mixture:
    """The mixture in another precision."""
    variances = mixture.variances
    if isinstance(variances, Covariances):
        variances = Covariances(variances.matrices.to(dtype))
    elif isinstance(variances, SharedVariances):
        variances = variances._replace(table=variances.table.to(dtype))
    elif variances is not None:
        variances = variances.to(dtype)
    noise = mixture.noise_variance
    return replace(
        mixture,
        log_weights=mixture.log_weights.to(dtype),
        means=mixture.means.to(dtype),
        variances=variances,
        values=None if mixture.values is None else mixture.values.to(dtype),
        noise_variance=noise.to(dtype) if isinstance(noise, Tensor) else noise,
        value_variances=None if mixture.value_variances is None else mixture.value_variances.to(dtype),
    )
