"""The start of a prior at the posterior of training texts, before a new run's first step."""

from typing import Any

import torch
from torch import Tensor, nn

from ...guides.base import encodes
from ...models.priors.roles import BaseMeasure
from ..data.corpus import Corpus
from ..data.loaders import TrainingStream
from ..utils.seeded_eval import seeded_eval

__all__ = ["start_prior"]

VECTORS = 16_384  # enough for a thousand clusters


def start_prior(model: nn.Module, guide: nn.Module | None, corpus: Corpus, seed: int = 0) -> bool:
    """Starts the base measure of a model at its guide's posteriors of training texts, if the prior wants that.

    A prior that a run has trained wants no start, and neither does one of a model whose guide does not encode.

    Arguments:
        model: The model.
        guide: Its guide.
        corpus: The corpus; some of its training texts are read.
        seed: Random seed of the texts and of what the prior draws.

    Returns:
        Whether the prior has been started.

    Examples:
        >>> corpus = pf.Corpus.from_texts([f"The number {n} is even." for n in range(0, 100, 2)], max_length=32)
        >>> prior = pf.priors.CodebookVectorPrior(16, entries=32, heads=2)
        >>> model = pf.NVAE.for_corpus(corpus, width=16, layers=1, heads=2, base_measure=prior)
        >>> guide = pf.NVAEGuide(model)
        >>> start_prior(model, guide, corpus), start_prior(model, guide, corpus)
        (True, False)
    """
    prior = getattr(model, "base_measure", None)
    if not isinstance(prior, BaseMeasure) or not prior.wants_start or not encodes(guide):
        return False
    with seeded_eval(model, guide, seed=seed):
        prior.start_at(*_vectors(model, guide, corpus, seed))
    return True


def _vectors(model: Any, guide: Any, corpus: Corpus, seed: int) -> tuple[Tensor, Tensor]:
    """Means and variances of the tokens' vectors in the posteriors of some training texts."""
    own = int(getattr(model, "samples_per_component", 0))
    stream = TrainingStream(corpus.train, batch_size=64, seed=seed)
    means, variances, vectors = [], [], 0
    for step in range(stream.steps_per_epoch):
        batch = stream.micro_batch(step).to(model.device)
        posterior = guide.encode(batch)
        present = posterior.mask & (batch.weight > 0)[:, None]
        present[..., :own] = False
        means.append(posterior.mean[present])
        variances.append(posterior.variance[present])
        vectors += len(means[-1])
        if vectors >= VECTORS:
            break
    return torch.cat(means), torch.cat(variances)
