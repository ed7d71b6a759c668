"""Editing of a text's posterior mixture: vectors are dropped, reweighted or replaced before decoding."""

import math
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from ...models.attention.editing import dropped, exchanged, scaled
from ...models.attention.mixture import Mixture
from ...models.utils.numbers import declared_numbers
from ..runs.fitted import FittedModel
from .decoding import Decoding
from .generate import GREEDY, decode, encode

__all__ = ["Edited", "Vector", "edit", "vectors"]


class Vector(NamedTuple):
    """One vector of a text's mixture; several components of one token count as one vector.

    Arguments:
        number: 0 for the prior's vector, and the position of the token, from 1, for the others.
        token: The token; None for the prior's vector.
        weight: Mean weight in the posterior; the weights of all vectors sum to one.
    """

    number: int
    token: str | None
    weight: float


class Edited(NamedTuple):
    """A text decoded from an edited mixture, and the edits.

    Arguments:
        text: The generated text.
        original: The text that was encoded.
        dropped: Numbers of the vectors that were dropped.
        scaled: Factors of the weights, by the number of the vector.
        swapped: Numbers of the other text's vectors, by the number of the vector that they replaced.
        other: The other text, if vectors were replaced.
    """

    text: str
    original: str
    dropped: tuple[int, ...] = ()
    scaled: Mapping[int, float] = {}
    swapped: Mapping[int, int] = {}
    other: str | None = None


def vectors(run: FittedModel, text: str) -> list[Vector]:
    """The vectors of a text's posterior mixture, with their numbers for :func:`edit`.

    Raises:
        ValueError: If the memory of the model is not a mixture, or the text is longer than its max_length.
    """
    weights = _mixture(run, text)[1].tolist()
    tokens = [None, *run.tokenizer.pieces(text)]
    pairs = zip(tokens, [max(0.0, 1 - sum(weights)), *weights], strict=True)
    return [Vector(number, token, weight) for number, (token, weight) in enumerate(pairs)]


def edit(
    run: FittedModel,
    text: str,
    *,
    drop: Iterable[int] = (),
    scale: Mapping[int, float] | None = None,
    swap: Mapping[int, int] | None = None,
    other: str | None = None,
    decoding: Decoding = GREEDY,
    seed: int = 0,
) -> Edited:
    r"""Decode the mean of a text's posterior mixture after dropping, reweighting or replacing vectors.

    Vectors have the numbers of :func:`vectors`: 0 is the prior's vector, 1, 2, ... are those of the tokens. The
    remaining weights are renormalized.

    Arguments:
        run: A run whose posterior is a mixture, such as that of an NVAE.
        text: The text to edit.
        drop: Vectors to drop; the prior's cannot be dropped.
        scale: Factors of the weights, by vector.
        swap: Vectors of the other text, by the vector that they replace; the weight stays.
        other: The text that the new vectors come from.
        decoding: Decoding strategy; greedy by default.
        seed: Random seed of the sampled tokens.

    Raises:
        ValueError: If the memory of the model is not a mixture, ``drop`` is no list or ``scale`` or ``swap`` no
            dictionary of numbers, a vector does not exist, the prior's vector is dropped or replaced, a factor is not
            positive, only one of ``swap`` and ``other`` is set, or a text is longer than the model's max_length.
    """
    drop, scale, swap = tuple(declared_numbers("drop", drop, int)), scale or {}, swap or {}
    _check_by_vector("scale", scale)
    _check_by_vector("swap", swap)
    memory, weights = _mixture(run, text)
    samples_per_component = memory.components // (len(weights) + 1)
    if bool(swap) != (other is not None):
        name, missing = ("swap", "other, the text to take vectors from") if swap else ("other", "swap, such as 3=5")
        raise ValueError(f"{name} needs {missing}: give both, or leave {name} out.")
    _check_numbers([*drop, *scale, *swap], memory, samples_per_component, text)
    _check_conflicts(drop, scale, swap)
    if other is not None:
        source, _ = _mixture(run, other)
        _check_numbers(swap.values(), source, samples_per_component, other)
        memory = exchanged(memory, source, _by_component(swap, samples_per_component))
    for number, factor in scale.items():
        if not 0 < factor < math.inf:
            raise ValueError(f"scale is {number}={factor:g}: give a positive, finite factor, as in 3=0.1.")
        memory = scaled(memory, _components([number], samples_per_component), factor)
    memory = dropped(memory, _components(drop, samples_per_component))
    edited = decode(run, memory, decoding, seed=seed)[0]
    return Edited(edited, text, drop, dict(scale), dict(swap), other)


def _mixture(run: FittedModel, text: str) -> tuple[Mixture, Float[Tensor, " T"]]:
    """The mean of a text's posterior mixture, and the weight of each token in it."""
    posterior = None if run.guide is None else encode(run, [text])
    if posterior is not None and (weights := posterior.token_weights()) is not None:
        memory = posterior.memory()
        if isinstance(memory, Mixture):
            return memory, weights[0]
    raise ValueError(f"a {type(run.model).__name__} has no mixture to edit: fit an nvae to have one.")


def _components(numbers: Iterable[int], samples_per_component: int) -> list[int]:
    """The indices of the components of vectors; each vector has ``samples_per_component`` of them."""
    return [number * samples_per_component + index for number in numbers for index in range(samples_per_component)]


def _by_component(swap: Mapping[int, int], samples_per_component: int) -> dict[int, int]:
    return dict(
        zip(_components(swap, samples_per_component), _components(swap.values(), samples_per_component), strict=True)
    )


def _check_by_vector(name: str, edits: object) -> None:
    if not isinstance(edits, Mapping):
        raise ValueError(f"{name} is {edits!r:.40}: give a number for each vector by its own, such as {name}={{3: 5}}.")


def _check_numbers(numbers: Iterable[int], memory: Mixture, samples_per_component: int, text: str) -> None:
    last = memory.components // samples_per_component - 1
    if unknown := [number for number in numbers if number not in range(last + 1)]:
        raise ValueError(
            f"there is no vector {unknown[0]} in {text[:40]!r}: give 0, the prior's, or 1 to {last}, its tokens'."
        )


def _check_conflicts(drop: Collection[int], scale: Collection[int], swap: Collection[int]) -> None:
    if 0 in drop or 0 in swap:
        raise ValueError("vector 0 is the prior's and stays: drop or swap others, or scale it.")
    if twice := sorted(set(drop) & {*scale, *swap}):
        raise ValueError(f"vector {twice[0]} is both dropped and changed: choose one.")
