"""A text's mixture edited before it is decoded: vectors that leave, weigh more or less, or come from another text."""

from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from ...models.attention.editing import dropped, exchanged, scaled
from ...models.attention.mixture import Mixture
from ..runs.fitted import FittedModel
from .decoding import Decoding
from .generate import GREEDY, decode, encode

__all__ = ["Edited", "Vector", "edit", "vectors"]


class Vector(NamedTuple):
    """One vector of a text's mixture; those that a token has several of count as one."""

    number: int  # 0 is the prior's, the others are numbered as the tokens are, from 1
    token: str | None  # None for the prior's
    weight: float  # its mean weight in the posterior; all of them sum to one


class Edited(NamedTuple):
    """A text that was written from an edited mixture, and what was done to it."""

    text: str
    original: str
    dropped: tuple[int, ...] = ()
    scaled: Mapping[int, float] = {}
    swapped: Mapping[int, int] = {}
    other: str | None = None


def vectors(run: FittedModel, text: str) -> list[Vector]:
    """The vectors of a text's posterior mixture, with the numbers by which :func:`edit` knows them.

    Raises:
        ValueError: If the run has no mixture, or the text does not fit its max_length.
    """
    weights = _mixture(run, text)[1].tolist()
    tokens = [None, *run.tokenizer.pieces(text)]
    every = zip(tokens, [max(0.0, 1 - sum(weights)), *weights], strict=True)
    return [Vector(number, token, weight) for number, (token, weight) in enumerate(every)]


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
    r"""What the decoder writes once the mean of a text's posterior mixture was edited.

    Vectors are numbered as :func:`vectors` has them: 0 is the prior's, which stays, and 1, 2, ... are the tokens'. The
    weights of what is left are normalized again.

    Arguments:
        run: A run of an NVAE.
        text: What to encode.
        drop: Vectors that leave the mixture. All but the prior's may.
        scale: For some vectors, what their weights are multiplied by.
        swap: For some vectors, the vector of the other text that takes their place; the weight stays.
        other: The text whose vectors come in.
        decoding: How tokens are chosen; the most probable ones by default.
        seed: Of the noise, where tokens are drawn.

    Raises:
        ValueError: If the run has no mixture, a vector does not exist, the prior's is to go, a factor is not positive,
            one of two things is asked for without the other, or a text does not fit the max_length.
    """
    drop, scale, swap = tuple(drop), scale or {}, swap or {}
    memory, weights = _mixture(run, text)
    samples_per_component = memory.components // (len(weights) + 1)
    if bool(swap) != (other is not None):
        asked, missing = ("swap", "other, the text to take vectors from") if swap else ("other", "swap, such as 3=5")
        raise ValueError(f"{asked} was given, but nothing else of an exchange: give {missing}, or leave {asked} out.")
    _check_numbers([*drop, *scale, *swap], memory, samples_per_component, text)
    _check_jobs(drop, scale, swap)
    if other is not None:
        source, _ = _mixture(run, other)
        _check_numbers(swap.values(), source, samples_per_component, other)
        memory = exchanged(memory, source, _by_component(swap, samples_per_component))
    for number, factor in scale.items():
        memory = scaled(memory, _components([number], samples_per_component), factor)
    memory = dropped(memory, _components(drop, samples_per_component))
    written = decode(run, memory, decoding, seed=seed)[0]
    return Edited(written, text, drop, dict(scale), dict(swap), other)


def _mixture(run: FittedModel, text: str) -> tuple[Mixture, Float[Tensor, " T"]]:
    """The mean of a text's posterior mixture, and the weight of each token in it."""
    posterior = None if run.guide is None else encode(run, [text])
    if posterior is not None and (weights := posterior.token_weights()) is not None:
        memory = posterior.memory()
        if isinstance(memory, Mixture):
            return memory, weights[0]
    raise ValueError(f"a {type(run.model).__name__} has no mixture to edit: fit an nvae to have one.")


def _components(numbers: Iterable[int], samples_per_component: int) -> list[int]:
    """The components of vectors: each has kappa of them."""
    return [number * samples_per_component + part for number in numbers for part in range(samples_per_component)]


def _by_component(swap: Mapping[int, int], samples_per_component: int) -> dict[int, int]:
    return dict(
        zip(_components(swap, samples_per_component), _components(swap.values(), samples_per_component), strict=True)
    )


def _check_numbers(numbers: Iterable[int], memory: Mixture, samples_per_component: int, text: str) -> None:
    last = memory.components // samples_per_component - 1
    if unknown := [number for number in numbers if number not in range(last + 1)]:
        raise ValueError(
            f"there is no vector {unknown[0]} in {text[:40]!r}: give 0, the prior's, or 1 to {last}, its tokens'."
        )


def _check_jobs(drop: Collection[int], scale: Collection[int], swap: Collection[int]) -> None:
    if 0 in drop or 0 in swap:
        raise ValueError("vector 0 is the prior's and stays: drop or swap others, or scale it.")
    if twice := sorted(set(drop) & {*scale, *swap}):
        raise ValueError(f"vector {twice[0]} is to be dropped and changed as well: choose one of these.")
