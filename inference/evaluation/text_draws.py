"""Draws from a guide for single texts: functions of the seed and the text, whatever other texts are in its batch."""

import math
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ...models.batch import Batch
from ..objectives.bounds import with_global_sites_fixed
from ..objectives.elbo import ELBO, Terms
from ..objectives.trace_pair import trace_pair
from ..runs.fitted import FittedModel
from ..utils.seeds import derived_seed, set_seed

__all__ = ["TextDraws", "copies", "importance_bounds", "joined"]

ROWS = 64  # draws of one text at a time


class TextDraws:
    """Draws of the latents of one text: the rows of batches that hold nothing but copies of it.

    Sites outside the plate ``texts`` are shared by all texts: they are drawn as ``seed`` alone decides.

    Arguments:
        run: A run with a guide.
        batch: Texts.
        row: The row of the text.
        seed: Random seed.
    """

    def __init__(self, run: FittedModel, batch: Batch, row: int, seed: int) -> None:
        self.run, self.seed = run, seed
        self.text = copies(batch, row, 1)

    def terms(self, objective: ELBO, count: int) -> Terms:
        """The terms of an objective, averaged over ``count`` draws, as a batch of one text."""
        shared = self._guide is not self.run.guide
        drawn = []
        for number in range(count if shared else 1):  # draws of what texts share cannot be the rows of a batch
            guide = self._shared(number) if number else self._guide
            self._seed("terms", number)
            drawn.append(objective.terms(self.run.model, guide, copies(self.text, 0, 1 if shared else count)))
        return _mean(drawn)

    def log_weights(self, count: int) -> Float[Tensor, " count"]:
        """The log importance weight of each draw, in float64."""
        elbo, guide, weights = ELBO(data_size=len(self.run.corpus.train)), self._guide, []
        for start in range(0, count, ROWS):
            batch = copies(self.text, 0, min(ROWS, count - start))
            self._seed("importance", start)
            weights.append(elbo.log_weights(self.run.model, guide, batch).double())
        return torch.cat(weights)

    def distribution(self) -> Any:
        """The distribution of the text at one draw."""
        guide = self._guide
        self._seed("text", 0)
        return trace_pair(self.run.model, guide, self.text)[0].nodes["text"]["fn"]

    @cached_property
    def _guide(self) -> Any:
        return self._shared(0)

    def _shared(self, number: int) -> Any:
        """The guide, with its sites outside the plate ``texts``, if it has any, at the draw of a number."""
        set_seed(derived_seed(self.seed, "global latents", number))
        return with_global_sites_fixed(self.run.guide, self.text)

    def _seed(self, purpose: str, number: int) -> None:
        rows = [self.text.tokens, self.text.condition_tokens]
        tokens = [[] if row is None else row[0].tolist() for row in rows]
        set_seed(derived_seed(self.seed, purpose, number, str(tokens)))


def copies(batch: Batch, row: int, count: int) -> Batch:
    """Copies of one text of a batch as a batch of their own, without padding.

    Examples:
        >>> copies(Batch.pad([[5, 6, 2], [7, 2]]), 1, 3).tokens.tolist()
        [[7, 2], [7, 2], [7, 2]]
    """
    weight = batch.weight.new_full((count,), 1 / count)
    tokens, mask = _repeated(batch.tokens, batch.mask, row, count)
    condition, condition_mask = _repeated(batch.condition_tokens, batch.condition_mask, row, count)
    return Batch(tokens, mask, weight, condition, condition_mask)


def importance_bounds(
    log_weights: Float[Tensor, "*texts K"], counts: Sequence[int]
) -> dict[int, Float[Tensor, "*texts"]]:
    r"""Importance-weighted bounds :math:`\log \frac1k \sum_{j \le k} w_j` for several numbers of draws :math:`k`.

    Examples:
        >>> importance_bounds(torch.tensor([1.0, 3.0], dtype=torch.float64).log(), [1, 2])[2].exp()
        tensor(2., dtype=torch.float64)
    """
    return {count: log_weights[..., :count].logsumexp(-1) - math.log(count) for count in counts}


def joined(texts: Sequence[Terms]) -> Terms:
    """The terms of several batches as those of one."""
    return _by_part(texts, torch.cat)


def _repeated(tokens: Tensor | None, mask: Tensor | None, row: int, count: int) -> tuple[Tensor | None, Tensor | None]:
    if tokens is None or mask is None:
        return None, None
    length = max(1, int(mask[row].sum()))
    return tokens[row, :length].expand(count, -1), mask[row, :length].expand(count, -1)


def _mean(drawn: Sequence[Terms]) -> Terms:
    """The mean over the rows of all draws, as a batch of one."""
    return _by_part(drawn, lambda values: torch.cat(values).mean(0, keepdim=True))


def _by_part(parts: Sequence[Terms], join: Callable[[list[Tensor]], Tensor]) -> Terms:
    def named(field: str) -> dict[str, Tensor]:
        return {name: join([getattr(part, field)[name] for part in parts]) for name in getattr(parts[0], field)}

    log_likelihood = join([part.log_likelihood for part in parts])
    return Terms(log_likelihood, named("kl"), named("penalty"), named("counts"))
