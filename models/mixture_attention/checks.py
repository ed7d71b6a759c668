"""Checks of what a model of attention is given: the priors of its parts, and the tokens that it explains."""

import math
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Dirichlet

from ..distributions.log_simplex import LogSimplex
from ..priors.checks import broadcasts_to, check_distribution, check_support
from ..priors.components import StickBreaking
from ..utils.tensor_checks import check_entries
from .parameters import OwnParameters

__all__ = ["check_finite_tokens", "check_precision_prior", "check_weight_prior", "shape_of_tokens"]


LOST = 1e-4  # the probability with which a weight may underflow without a word


def check_weight_prior(distribution: Any, leading: Sequence[int], components: int) -> bool:
    """Whether a prior over weights draws log weights.

    Raises:
        ValueError: If its draws are neither, or of another shape.
    """
    check_distribution("weights", distribution, (*leading, 1) if leading else (), [(components,)])
    logarithms = isinstance(distribution.support, LogSimplex)
    weights = distribution.sample().exp() if logarithms else distribution.sample()
    simple = bool((weights >= 0).all()) and bool(((weights.sum(-1) - 1).abs() < 1e-3).all())
    check_support("weights", distribution, "weights, or their logarithms as LogDirichlet does", simple)
    if not logarithms:
        _warn_of_underflow(distribution)
    return logarithms


def _warn_of_underflow(distribution: Any) -> None:
    r"""Warns of a distribution whose smallest weight often underflows.

    For a small concentration, minus its logarithm is nearly Exponential(a) under a Dirichlet, and at the end of a stick
    the sum of N - 1 of those.
    """
    if not isinstance(distribution, Dirichlet | StickBreaking):
        return
    concentration = distribution.concentration.detach()
    parts = distribution.event_shape[0] - 1 if isinstance(distribution, StickBreaking) else 1
    least = concentration.min().double()
    largest = -math.log(torch.finfo(concentration.dtype).tiny)
    if torch.special.gammaincc(torch.full_like(least, parts), least * largest) > LOST:
        warnings.warn(
            f"weights has a {type(distribution).__name__} of concentration {float(least):g}, whose draws underflow in "
            f"{str(concentration.dtype).removeprefix('torch.')}, and densities with them: take a prior of their "
            "logarithms, such as pyroformer.priors.SymmetricDirichlet or DirichletProcess.",
            stacklevel=4,
        )


def check_precision_prior(distribution: Any, rows: Sequence[int], width: int) -> tuple[bool, Tensor]:
    """Whether a prior over precisions has one for each dimension, and a draw.

    Raises:
        ValueError: If its draws are not positive, or of another shape.
    """
    check_distribution("precision", distribution, rows, [(), (width,)])
    draw: Tensor = distribution.expand(rows).sample()
    check_support("precision", distribution, "positive numbers", bool((draw > 0).all()))
    return len(distribution.event_shape) == 1, draw


def shape_of_tokens(
    own: OwnParameters,
    queries: Tensor | None,
    values: Tensor | None,
    value_mask: Tensor | None,
    attn_mask: Tensor | None,
    mask: Tensor | None,
    tokens: int,
) -> torch.Size:
    """The shape of the tokens' plates, if all arguments broadcast to it.

    Raises:
        ValueError: If one does not, or values are known that the mixture cannot explain.
    """
    width, leading = own.means.shape[-1], own.leading
    shape = torch.Size((*leading, tokens)) if queries is None else queries.shape[:-1]
    if queries is not None and queries.shape[-1] != width:
        raise ValueError(f"queries have {queries.shape[-1]} dimensions and keys {width}: give them as many.")
    if not shape.numel():
        raise ValueError(f"queries have shape {tuple(shape)} x {width}, which holds none: give at least one.")
    if not broadcasts_to(leading, shape[:-1]):
        raise ValueError(
            f"queries have leading dimensions {tuple(shape[:-1])} and the mixture {tuple(leading)}: "
            "give queries those of the mixture, with others further left only."
        )
    if values is not None:
        if own.component_values is None or own.value_variances is None:
            raise ValueError("values are known but the mixture has no value_variances: give it values and both.")
        expected = (*shape, own.component_values.shape[-1])
        if not broadcasts_to(values.shape, expected):
            raise ValueError(f"values have shape {tuple(values.shape)}, expected {expected}: one for each query.")
    elif value_mask is not None:
        raise ValueError("value_mask marks known values, and there are none: give values too, or leave it out.")
    for name, tensor, expected in (
        ("value_mask", value_mask, shape),
        ("mask", mask, shape),
        ("attn_mask", attn_mask, (*shape, own.components)),
    ):
        if tensor is not None and not broadcasts_to(tensor.shape, expected):
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}, expected {tuple(expected)}.")
    return shape


def check_finite_tokens(
    queries: Tensor | None, values: Tensor | None, value_mask: Tensor | None, counted: Tensor | None
) -> None:
    """Raises a ValueError unless queries that count, and values that are known of them, are finite, if readable."""
    if queries is not None:
        rule = "give finite ones, or leave them out with mask"
        check_entries("queries", queries, _where(queries.isfinite(), counted), rule)
    if values is not None:
        rule = "give finite ones, or leave them out with value_mask"
        check_entries("values", values, _where(_where(values.isfinite(), value_mask), counted), rule)


def _where(fine: Tensor, mask: Tensor | None) -> Tensor:
    """``fine``, with True where masked."""
    return fine if mask is None else fine | ~mask[..., None]
