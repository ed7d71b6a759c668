"""The options of a mixture's fit, checked when it is fitted."""

from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ...models.attention.em.conjugate_priors import ConjugatePriors
from ...models.utils.numbers import declared_number
from ..utils.seeds import derived_seed
from .arrays import number_array
from .fitting import Problem
from .starts import InitialParameters

__all__ = ["check_number", "check_priors", "given_start", "own_generator", "seed_of"]

N = TypeVar("N", int, float)


def check_number(name: str, value: object, kind: type[N], least: N) -> N:
    """An option as a number of its type.

    Raises:
        ValueError: If it is no number, not whole where it has to be, not finite, or below ``least``.

    Examples:
        >>> check_number("max_iter", -1, int, 0)
        Traceback (most recent call last):
        ValueError: max_iter is -1: give a finite number of at least 0.
    """
    number: Any = declared_number(name, value, kind)
    if number is None or not least <= number < float("inf"):
        raise ValueError(f"{name} is {number}: give a finite number of at least {least}.")
    return number


def check_priors(priors: object) -> ConjugatePriors:
    """The priors of a mixture.

    Raises:
        ValueError: If they are none, or have one number for each component.
    """
    if not isinstance(priors, ConjugatePriors):
        raise ValueError(
            f"priors has type {type(priors).__name__}: give pf.em.ConjugatePriors(pseudo_counts=0.01), or None."
        )
    if isinstance(priors.pseudo_counts, Tensor):
        raise ValueError(
            "priors.pseudo_counts is a tensor: give one number, as components have no order before the fit."
        )
    return priors


def seed_of(random_state: Any) -> int:
    """A seed from a number or a generator; None draws it from torch's own.

    Raises:
        ValueError: If it is something else.

    Examples:
        >>> seed_of(3)
        3
    """
    if random_state is None:
        return int(torch.randint(2**31, ()))
    if isinstance(random_state, torch.Generator):
        return int(torch.randint(2**31, (), generator=random_state, device=random_state.device))
    if isinstance(random_state, np.random.RandomState):
        return int(random_state.randint(2**31 - 1))
    if isinstance(random_state, np.random.Generator):
        return int(random_state.integers(2**31))
    if isinstance(random_state, bool) or not isinstance(random_state, int | np.integer) or random_state < 0:
        raise ValueError(
            f"random_state is {random_state!r}: give a whole number of at least 0, a generator of NumPy or torch, or "
            "None."
        )
    return int(random_state)


def own_generator(seed: int) -> torch.Generator:
    """A generator on the CPU."""
    return torch.Generator().manual_seed(derived_seed(seed, "sample"))


def given_start(problem: Problem, weights: Any, means: Any, precisions: Any) -> InitialParameters:
    """The parameters to start at, checked and centered as the rows are.

    Raises:
        ValueError: If a shape is wrong, weights do not sum to one, or a precision is not positive definite.
    """
    components, width = problem.components, len(problem.summary.mean)
    center = problem.summary.mean
    shapes: dict[str, tuple[int, ...]] = {
        "full": (components, width, width),
        "tied": (width, width),
        "diag": (components, width),
        "spherical": (components,),
    }
    if weights is not None:
        weights = _array("weights_init", weights, (components,), center)
        if not bool((weights >= 0).all()) or abs(float(weights.sum()) - 1) > 1e-4:
            raise ValueError(
                f"weights_init has the smallest weight {float(weights.min()):g} and the sum {float(weights.sum()):g}: "
                "give weights of at least 0 that sum to 1."
            )
    if means is not None:
        means = _array("means_init", means, (components, width), center) - center
    if precisions is None:
        return InitialParameters(weights, means, None)
    precisions = _array("precisions_init", precisions, shapes[problem.kind], center)
    if problem.squares == "full":
        factor, failed = torch.linalg.cholesky_ex(precisions)
        if bool(failed.any()) or not torch.allclose(precisions, precisions.mT):
            raise ValueError("precisions_init is not symmetric and positive definite: give inverses of covariances.")
        covariances = torch.cholesky_inverse(factor).expand(components, -1, -1)
        return InitialParameters(weights, means, covariances)
    if not bool((precisions > 0).all()):
        raise ValueError(f"precisions_init is {float(precisions.min()):g}: give positive precisions.")
    covariances = 1 / precisions
    return InitialParameters(weights, means, covariances if problem.kind == "diag" else covariances[:, None])


def _array(name: str, value: Any, shape: tuple[int, ...], like: Tensor) -> Float[Tensor, "..."]:
    """A given parameter in double precision on the device of the rows."""
    value = value.detach() if isinstance(value, Tensor) else torch.from_numpy(number_array(name, value))
    value = value.to(like)
    if value.shape != shape:
        raise ValueError(f"{name} has shape {tuple(value.shape)}: give {shape}.")
    if not bool(value.isfinite().all()):
        raise ValueError(f"{name} has an entry that is NaN or infinite: give finite numbers.")
    return value
