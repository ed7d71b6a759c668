r"""The posterior mean of a mixture through one call of ``scaled_dot_product_attention``.

The logit of component n for a query u, up to what is the same for every n, is

    logit_n(u) = u . (mu_n / V_n) + b_n + u^2 . g_n          V_n = sigma_n^2 + s   (for every dimension)
    b_n        = log pi_n - 1/2 sum mu_n^2 / V_n - 1/2 sum log V_n
    g_n        = 1/2 (max_k 1/V_k - 1/V_n)                    (zero when all variances are equal)

and what the component returns is r_n u + (1 - r_n) mu_n with r_n = sigma_n^2 / V_n. All of it is linear in functions of u
alone, so extra columns beside queries, keys and values carry it through an ordinary attention kernel:

    queries  [u,          1,   u^2 . basis]
    keys     [mu_n / V_n, b_n, coefficients of g_n]
    values   [(1 - r_n) mu_n,  coefficients of r_n]

A basis of one vector does for isotropic variances, one of R vectors for R groups of components that share theirs, and the
identity for free diagonal variances.
"""

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from .mixture import Mixture, SharedVariances

__all__ = ["Form", "Natural", "fused_attention", "natural", "pack_keys", "pack_queries", "pack_values", "packed_width"]

Form = Literal["exact", "published"]

_HALF = (torch.float16, torch.bfloat16)


class Natural(NamedTuple):
    r"""A mixture in the terms that attention needs; None stands for a term that is zero or cancels.

    Arguments:
        slope: What multiplies the query in a component's logit, :math:`\mu_n / V_n`, with shape :math:`(*, N, D)`.
        bias: The rest of the logit less ``peak``: finite, at most 0, with shape :math:`(*, N)`.
        values: What the component returns whatever the query is, with shape :math:`(*, N, V)`.
        peak: The largest bias of each row, with shape :math:`(*, 1)`.
        reference: The smallest total variance of each dimension, which broadcasts to :math:`(*, 1, D)`.
        curvature: Coefficients of the squared query in the logit, with shape :math:`(*, N, R)`.
        curvature_basis: Their basis, with shape :math:`(R, D)`; None is the identity.
        response: Coefficients of the query in what the component returns, with shape :math:`(*, N, R)`.
        response_basis: Their basis, with shape :math:`(R, D)`; None is the identity.
    """

    slope: Tensor
    bias: Tensor
    values: Tensor
    peak: Tensor
    reference: Tensor
    curvature: Tensor | None = None
    curvature_basis: Tensor | None = None
    response: Tensor | None = None
    response_basis: Tensor | None = None


def natural(mixture: Mixture, noise: float | Tensor, form: Form = "exact") -> Natural:
    r"""The terms of a mixture's logits and answers, in float32 at least; masked components are all zeros.

    Arguments:
        mixture: The mixture.
        noise: The variance of a query around the vector that it saw.
        form: ``"published"`` leaves out the query's squared norm, as the NVIB paper does; with unequal variances the
            result then is not the posterior mean.
    """
    mask = mixture.mask
    vectors = _cleared(_float(mixture.vectors), mask)
    values = vectors if mixture.values is None else _cleared(_float(mixture.values), mask)
    if mixture.variances is None:
        total = torch.as_tensor(noise, dtype=vectors.dtype, device=vectors.device)[..., None, None]
        slope = vectors / total
        bias, peak = _bias(_float(mixture.log_weights) - 0.5 * (vectors * slope).sum(-1), mask)
        return Natural(slope, bias, values, peak, total)

    variances, groups = _compact(mixture)
    total = variances + noise
    reference = _smallest(total, None if groups else mask)
    curvature = 0.5 * (1 / reference - 1 / total)
    response = variances / total
    log_ratio = 0.5 * (total / reference).log()
    if groups is None:
        basis = None if variances.shape[-1] > 1 else vectors.new_ones(1, mixture.width)
        bases = basis, basis
        coefficients = _cleared(curvature, mask), _cleared(response, mask)
    else:
        bases = curvature, response
        member = _cleared(groups.membership(), mask)
        coefficients = member, member
        total, log_ratio = total[groups.index], log_ratio[groups.index]

    slope = vectors / total
    log_det = log_ratio.sum(-1) * (mixture.width / log_ratio.shape[-1])
    bias, peak = _bias(_float(mixture.log_weights) - 0.5 * (vectors * slope).sum(-1) - log_det, mask)
    terms = Natural(slope, bias, values, peak, reference)
    if form == "exact" and curvature.shape[-2] > 1:
        terms = terms._replace(curvature=coefficients[0], curvature_basis=bases[0])
    if mixture.values is None:
        terms = terms._replace(values=_cleared((1 - _dense(response, groups)) * vectors, mask))
        terms = terms._replace(response=coefficients[1], response_basis=bases[1])
    return terms


def packed_width(width: int, columns: int, answer: int, dtype: torch.dtype) -> int:
    """The common width of packed queries, keys and values: what they hold, rounded up to a multiple of 8."""
    extra = 2 + 3 * columns if dtype in _HALF else 1 + columns
    return -(-max(width + extra, answer) // 8) * 8


def pack_queries(
    queries: Float[Tensor, "*batch m e"], squares: Float[Tensor, "*batch m r"] | None, width: int
) -> Float[Tensor, "*batch m w"]:
    """Queries, a column of ones for the bias, and the squares that meet the components' curvature."""
    ones = 2 if queries.dtype in _HALF else 1
    columns = [queries, queries.new_ones(*queries.shape[:-1], ones)]
    if squares is not None:
        high, *low = _split(squares, queries.dtype)
        columns += [high, *low, *([high] if low else [])]
    return _pack(columns, width)


def pack_keys(
    keys: Float[Tensor, "*batch n e"],
    bias: Float[Tensor, "*batch n"],
    curvature: Float[Tensor, "*batch n r"] | None,
    width: int,
) -> Float[Tensor, "*batch n w"]:
    """Keys, their bias, and their curvature: the counterpart of :func:`pack_queries`."""
    columns = [keys, *_split(bias.clamp_min(_lowest(keys.dtype))[..., None], keys.dtype)]
    if curvature is not None:
        high, *low = _split(curvature, keys.dtype)
        columns += [high, *([high] if low else []), *low]
    return _pack(columns, width)


def pack_values(
    values: Float[Tensor, "*batch n v"], response: Float[Tensor, "*batch n r"] | None, width: int
) -> Float[Tensor, "*batch n w"]:
    """Values and the coefficients of the query in what their component returns."""
    return _pack([values] if response is None else [values, response.to(values.dtype)], width)


def fused_attention(
    queries: Float[Tensor, "*#batch m w"],
    keys: Float[Tensor, "*#batch n w"],
    values: Float[Tensor, "*#batch n w"],
    causal: bool = False,
    dropout: float = 0.0,
) -> Float[Tensor, "*batch m w"]:
    r"""softmax(Q K^T) V of packed queries, keys and values, by whichever kernel torch has for them.

    With ``causal`` the last M components are the queries' own: query m sees component n if :math:`n \le m + N - M`.

    Raises:
        ValueError: If attention is causal and there are more queries than components.
    """
    batch = torch.broadcast_shapes(queries.shape[:-2], keys.shape[:-2])
    queries, keys, values = (_four_dimensions(x, batch) for x in (queries, keys, values))
    m, n = queries.shape[-2], keys.shape[-2]
    if causal and m > n:
        raise ValueError(f"causal attention of {m} queries over {n} components: give each query a component")
    mask = torch.ones(m, n, dtype=torch.bool, device=queries.device).tril(n - m) if causal and m < n else None
    answer = F.scaled_dot_product_attention(
        queries, keys, values, attn_mask=mask, is_causal=causal and m == n, dropout_p=dropout, scale=1.0
    )
    return answer.reshape(*batch, *answer.shape[-2:])


def _compact(mixture: Mixture) -> tuple[Tensor, SharedVariances | None]:
    """Variances with as few entries as they have, and the groups of components that share them."""
    variances = mixture.variances
    if isinstance(variances, Tensor) and variances.ndim == 2 and len(variances) == 1:
        index = torch.zeros(mixture.components, dtype=torch.long, device=variances.device)
        variances = SharedVariances(variances.expand(1, mixture.width), index)
    if isinstance(variances, SharedVariances):
        groups = variances._replace(table=_float(variances.table))
        return groups.table, groups
    assert variances is not None
    if variances.shape[-2] == 1:
        variances = variances.expand(*variances.shape[:-2], mixture.components, variances.shape[-1])
    variances = _float(variances)
    return variances if mixture.mask is None else torch.where(mixture.mask[..., None], variances, 1), None


def _dense(compact: Tensor, groups: SharedVariances | None) -> Tensor:
    return compact if groups is None else compact[groups.index]


def _smallest(total: Tensor, mask: Tensor | None) -> Tensor:
    """The smallest entry over the components that are present: a constant that cancels."""
    total = total.detach() if mask is None else torch.where(mask[..., None], total.detach(), torch.inf)
    smallest = total.amin(-2, keepdim=True)
    return torch.where(smallest.isfinite(), smallest, 1)


def _bias(bias: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """The bias less its largest entry, with a finite stand-in for -inf, and that entry."""
    if mask is not None:
        bias = torch.where(mask, bias, -torch.inf)
    peak = bias.detach().amax(-1, keepdim=True)
    peak = torch.where(peak.isfinite(), peak, 0)
    return (bias - peak).clamp_min(_lowest(bias.dtype)), peak


def _lowest(dtype: torch.dtype) -> float:
    """Minus infinity for a kernel: finite, so that gradients stay finite, and far below every real logit."""
    return -3e4 if dtype == torch.float16 else -1e30


def _split(x: Tensor, dtype: torch.dtype) -> list[Tensor]:
    """x in ``dtype``; in half precision as a sum of two, which hold its leading and its next bits."""
    if dtype not in _HALF:
        return [x.to(dtype)]
    high = x.to(dtype)
    return [high, (x - high.to(x.dtype)).to(dtype)]


def _pack(columns: list[Tensor], width: int) -> Tensor:
    """Columns side by side, filled up with zeros to ``width``."""
    batch = torch.broadcast_shapes(*(column.shape[:-1] for column in columns))
    rest = width - sum(column.shape[-1] for column in columns)
    columns = [*columns, columns[0].new_zeros(rest)]
    return torch.cat([column.expand(*batch, column.shape[-1]) for column in columns], -1)


def _four_dimensions(x: Tensor, batch: torch.Size) -> Tensor:
    """[*batch, rows, width] as [batch, heads, rows, width], which is all that the kernels know."""
    x = x.expand(*batch, *x.shape[-2:])
    if len(batch) < 2:
        return x[(None,) * (2 - len(batch))] if not batch else x[:, None]
    return x.flatten(0, -4) if len(batch) > 2 else x


def _cleared(x: Tensor, mask: Bool[Tensor, "*#batch n"] | None) -> Tensor:
    return x if mask is None else torch.where(mask[..., None], x, 0)


def _float(x: Tensor) -> Tensor:
    return x.float() if x.dtype in _HALF else x
