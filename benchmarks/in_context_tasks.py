"""Tasks of regression in context: keys that are noisy, have missing entries or are contaminated.

In each, a task has 16 hidden keys of 6 dimensions, N(0, I), each with a value N(0, 1). The context shows a token for
each: the key as it was observed, what is known about its errors, and the value. A query is one of the hidden keys with
noise of standard deviation 0.3, one more token, and that key's value is the answer.
"""

from typing import NamedTuple

import torch
from torch import Tensor

import pyroformer as pf
from pyroformer.models.attention.bayes_rule import responsibilities

__all__ = ["CONTEXT", "DIMENSIONS", "KINDS", "QUERY", "Tasks", "contaminated", "incomplete", "noisy", "token_width"]

CONTEXT, DIMENSIONS = 16, 6
QUIET, NOISY, QUERY = 0.1, 1.5, 0.3
MISSING, MORE_MISSING = 0.4, 0.6  # shares of entries
WRONG, MORE_WRONG, GROSS = 0.25, 0.4, 4.0  # shares of entries with gross errors, and their standard deviation


class Tasks(NamedTuple):
    """Some tasks.

    Arguments:
        keys: The keys of the context as observed, with shape [b n d].
        known: What tokens tell about the errors of keys, with shape [b n k].
        values: Their values, with shape [b n 1].
        queries: The queries, with shape [b 1 d].
        answers: The values that are asked for, with shape [b 1 1].
        expected: Their posterior mean for one who knows how tasks are drawn, with shape [b 1 1].
    """

    keys: Tensor
    known: Tensor
    values: Tensor
    queries: Tensor
    answers: Tensor
    expected: Tensor

    def tokens(self) -> Tensor:
        """The context and the query as tokens: key, what is known of its errors, value, and whether it is the query."""
        context = [self.keys, self.known, self.values, torch.zeros_like(self.values)]
        one = torch.ones_like(self.queries[..., :1])
        empty = self.known.new_zeros(len(one), 1, self.known.shape[-1])
        query = torch.cat([self.queries, empty, 0 * one, one], -1)
        return torch.cat([torch.cat(context, -1), query], 1)


def noisy(number: int, generator: torch.Generator, shifted: bool = False) -> Tasks:
    """Half of the keys have noise of standard deviation 1.5, or 3 if shifted, the others of 0.1; its log is known."""
    hidden, values = _normal(number, CONTEXT, DIMENSIONS, generator), _normal(number, CONTEXT, 1, generator)
    order = torch.rand(number, CONTEXT, generator=generator).argsort(-1)
    deviations = torch.where(order < CONTEXT // 2, NOISY * (1 + shifted), QUIET)[..., None]
    keys = hidden + deviations * _normal(number, CONTEXT, DIMENSIONS, generator)
    queries = _queries(hidden, generator)
    shrinkage = 1 / (1 + deviations.square())  # given its noisy key a hidden one is Gaussian
    expected = _expected(queries, shrinkage * keys, 1 - shrinkage, values)
    return Tasks(keys, deviations.square().log(), values, queries, values[:, :1], expected)


def incomplete(number: int, generator: torch.Generator, shifted: bool = False) -> Tasks:
    """Two of five entries are missing, three if shifted, and 0 in the token, which says which; the others have noise
    of 0.1."""
    hidden, values = _normal(number, CONTEXT, DIMENSIONS, generator), _normal(number, CONTEXT, 1, generator)
    share = MORE_MISSING if shifted else MISSING
    present = (torch.rand(number, CONTEXT, DIMENSIONS, generator=generator) >= share).float()
    keys = present * (hidden + QUIET * _normal(number, CONTEXT, DIMENSIONS, generator))
    queries = _queries(hidden, generator)
    shrinkage = present / (1 + QUIET**2)
    expected = _expected(queries, shrinkage * keys, 1 - shrinkage, values)
    return Tasks(keys, present, values, queries, values[:, :1], expected)


def contaminated(number: int, generator: torch.Generator, shifted: bool = False) -> Tasks:
    """A quarter of the entries, two of five if shifted, have gross errors of standard deviation 4, and nothing says
    which; the others have noise of 0.1."""
    hidden, values = _normal(number, CONTEXT, DIMENSIONS, generator), _normal(number, CONTEXT, 1, generator)
    share = MORE_WRONG if shifted else WRONG
    wrong = torch.rand(number, CONTEXT, DIMENSIONS, generator=generator) < share
    errors = _normal(number, CONTEXT, DIMENSIONS, generator)
    keys = hidden + torch.where(wrong, GROSS, QUIET) * errors
    queries = _queries(hidden, generator)
    logits = _log_contaminated(queries, keys, share).sum(-1)
    expected = logits.softmax(-1)[:, None] @ values
    return Tasks(keys, keys[..., :0], values, queries, values[:, :1], expected)


KINDS = {"noisy": noisy, "incomplete": incomplete, "contaminated": contaminated}


def token_width(kind: str) -> int:
    """The number of entries of a token."""
    return KINDS[kind](1, torch.Generator()).tokens().shape[-1]


def _queries(hidden: Tensor, generator: torch.Generator) -> Tensor:
    """The first of the hidden keys, which are exchangeable, with noise."""
    return hidden[:, :1] + QUERY * _normal(len(hidden), 1, DIMENSIONS, generator)


def _expected(queries: Tensor, means: Tensor, variances: Tensor, values: Tensor) -> Tensor:
    """The posterior mean of the value where hidden keys are Gaussian given what was observed."""
    mixture = pf.Mixture(torch.zeros(len(means), CONTEXT), means, variances, noise_variance=QUERY**2)
    return responsibilities(queries, mixture) @ values


def _log_contaminated(queries: Tensor, keys: Tensor, share: float) -> Tensor:
    """log p(query | key, entry by entry): a mixture over whether the entry is wrong, given its size."""
    likelihoods, densities = [], []
    for weight, deviation in ((1 - share, QUIET), (share, GROSS)):
        shrinkage = 1 / (1 + deviation**2)
        scale = torch.tensor(1 - shrinkage + QUERY**2).sqrt()
        prior = torch.distributions.Normal(0.0, (1 + deviation**2) ** 0.5).log_prob(keys)
        likelihoods.append(torch.tensor(weight).log() + prior)
        densities.append(torch.distributions.Normal(shrinkage * keys, scale).log_prob(queries))
    weights = torch.stack(likelihoods).log_softmax(0)
    return (weights + torch.stack(densities)).logsumexp(0)


def _normal(number: int, rows: int, columns: int, generator: torch.Generator) -> Tensor:
    return torch.randn(number, rows, columns, generator=generator)
