"""Checks of a mixture's parts: types and shapes."""

import torch
from torch import Tensor

from ..utils.numbers import declared_number
from ..utils.tensor_checks import check_types
from .variances import Covariances, SharedVariances

__all__ = [
    "check_rank",
    "check_rows",
    "check_value_variances",
    "check_variance_types",
    "check_variances",
    "check_width",
]


def check_variance_types(variances: object, noise_variance: object) -> None:
    """Raises unless variances are of one of their types, and the noise is a number."""
    if isinstance(variances, SharedVariances):
        check_types((), ("table",), table=variances.table)
        _check_integers(variances.group)
    elif isinstance(variances, Covariances):
        check_types((), ("matrices",), matrices=variances.matrices)
    else:
        check_types(variances=variances)
    if not isinstance(noise_variance, Tensor):
        declared_number("noise_variance", noise_variance, float | None)
    elif noise_variance.ndim:
        raise ValueError(f"noise_variance has shape {tuple(noise_variance.shape)}: give one number for all components.")


def _check_integers(group: object) -> None:
    if not isinstance(group, Tensor) or group.is_floating_point() or group.dtype == torch.bool:
        kind = str(getattr(group, "dtype", type(group).__name__)).removeprefix("torch.")
        raise ValueError(f"the group of SharedVariances is {kind}: give a tensor of whole numbers, a row of the table.")


def check_rank(name: str, vectors: Tensor, dimensions: str) -> None:
    if vectors.ndim < dimensions.count(","):
        shape = tuple(vectors.shape)
        raise ValueError(f"{name} have shape {shape}: give a row for each of N components, {dimensions}.")


def check_rows(name: str, shape: torch.Size, components: int, of: str = "means") -> None:
    if shape[-1:] != (components,):
        count = shape[-1:].numel()
        raise ValueError(f"{name} has {count} components and {of} {components}: give one for each of the {of}.")


def check_width(name: str, shape: torch.Size, expected: tuple[int, ...]) -> None:
    if shape[-len(expected) :] != expected:
        wanted = " x ".join(str(size) for size in expected)
        raise ValueError(
            f"{name} has shape {tuple(shape)}: give one that ends in {wanted}, as the means have {expected[0]}."
        )


def check_variances(name: str, shape: tuple[int, ...], vectors: tuple[int, ...]) -> None:
    if len(shape) < 2 or shape[-2] not in (1, vectors[-2]) or shape[-1] not in (1, vectors[-1]):
        target, more = ("values", "") if name == "value_variances" else ("means", " or SharedVariances")
        raise ValueError(
            f"{name} of shape {tuple(shape)} do not broadcast to {target} of shape {tuple(vectors)}: "
            f"give (N, D), (N, 1), (1, D){more}."
        )


def check_value_variances(values: Tensor | None, value_variances: Tensor) -> None:
    if values is None:
        raise ValueError("value_variances without values: give values too, or leave both out.")
    check_variances("value_variances", value_variances.shape, values.shape)
