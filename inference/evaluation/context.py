"""Shared quantities of an evaluation, computed when a metric first reads them, once for a batch or for all texts."""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, TypeVar, cast

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.distributions import Distribution

from ...guides.base import encodes
from ...guides.della import DELLAGuide
from ...guides.posteriors import TextPosterior
from ...models.batch import Batch
from ...models.della import DELLA
from ...models.transformer.memory import Memory, stacked
from ...models.transformer.mixtures.posterior import MixturePosterior
from ...models.transformer.text_distribution import AutoregressiveText
from ...models.utils.numbers import declared_number
from ..data.loaders import sequential_batches
from ..data.texts import Texts, evenly_spaced
from ..generation.generate import check_min_weight, likelihood, reconstruct, sample
from ..generation.reconstruction import Reconstruction
from ..objectives.elbo import ELBO, Terms
from ..objectives.registry import held_out_objective
from ..objectives.trace_pair import trace_pair
from ..runs.fitted import FittedModel
from ..utils.progress import progress_bar
from ..utils.seeded_eval import seeded_eval
from .latent_information import LatentInformation, latent_information
from .text_draws import TextDraws, importance_bounds, joined

__all__ = ["BatchContext", "EvaluationContext", "EvaluationOptions", "importance_draws"]

T = TypeVar("T")

DRAWS = 8  # of the bound's terms, which vary less than texts do: standard errors over texts include both
REFERENCES = 10  # held-out texts for each generated one


@dataclass(frozen=True)
class EvaluationOptions:
    """Options of :func:`~pyroformer.inference.evaluation.evaluate.evaluate`, which documents them.

    Raises:
        ValueError: If one is out of range.
    """

    num_particles: int = 64
    seed: int = 0
    limit: int | None = None
    reconstructions: int = 256
    compared: int = 512
    samples: int = 0
    min_weight: float = 0.0
    batch_size: int = 64
    progress: bool | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            object.__setattr__(self, field.name, declared_number(field.name, getattr(self, field.name), field.type))
        for name in ("num_particles", "limit", "reconstructions", "compared", "batch_size"):
            number = getattr(self, name)
            if number is not None and number < 1:
                some = name in ("reconstructions", "compared")  # which only some metrics read
                without = ", or metrics that need none, such as metrics=['bound', 'rate']" if some else ""
                raise ValueError(f"{name} is {number}: give a positive whole number{without}.")
        if self.samples < 0 or self.samples == 1:
            raise ValueError(
                f"samples is {self.samples}: give 0 for none, or at least 2, which are compared with each other."
            )
        check_min_weight(self.min_weight)


class EvaluationContext:
    """A run, the texts it is evaluated on, and what metrics of all texts read.

    Arguments:
        run: The run.
        texts: The texts.
        options: The options of the evaluation.
    """

    def __init__(self, run: FittedModel, texts: Texts, options: EvaluationOptions) -> None:
        self.run, self.texts, self.options = run, texts, options

    @property
    def tokens(self) -> Float[np.ndarray, " texts"]:
        """The number of tokens of each text, its end included."""
        return self.texts.lengths.astype(float)

    @property
    def bytes(self) -> Float[np.ndarray, " texts"]:
        """The number of bytes of each text in UTF-8."""
        return self.texts.bytes.astype(float)

    @property
    def evidence(self) -> str:
        """The log probability that bounds are bounds of."""
        return "log p(x | c)" if self.run.corpus.conditional else "log p(x)"

    @cached_property
    def objective(self) -> ELBO:
        """The objective that the run was trained on, as far as held-out texts determine it."""
        return held_out_objective(self.run.config["objective"], 1, len(self.run.corpus.train), self.run.trust)

    @property
    def draws(self) -> int:
        """Draws of each text over which the terms of the objective are averaged."""
        return max(1, min(self.options.num_particles, DRAWS) // self.objective.num_particles)

    @cached_property
    def reconstructions(self) -> list[Reconstruction] | None:
        """Greedy reconstructions of evenly spaced texts; None without a posterior to decode from.

        Raises:
            ValueError: If the model writes no texts token by token, or there are no weights to drop vectors by.
        """
        min_weight = self.options.min_weight
        if not (encodes(self.run.guide) or min_weight):
            return None
        texts = evenly_spaced(self.texts, self.options.reconstructions)
        result: list[Reconstruction] = []
        for part in self._parts("reconstructing", len(texts)):
            conditions = None if texts.conditions is None else texts.conditions[part]
            options: dict[str, Any] = {"seed": self.options.seed, "batch_size": self.options.batch_size}
            result += reconstruct(
                self.run, texts[part], conditions=conditions, min_weight=min_weight, start=part.start, **options
            )
        return result

    @cached_property
    def samples(self) -> list[str]:
        """Texts generated from the prior, as many as the options say."""
        parts, seed = self._parts("sampling", self.options.samples), self.options.seed
        return [
            text for part in parts for text in sample(self.run, part.stop - part.start, seed=seed, start=part.start)
        ]

    @cached_property
    def references(self) -> list[str]:
        """Held-out texts that generated ones are compared with."""
        return evenly_spaced(self.run.corpus.test, REFERENCES * self.options.samples)[:]

    @property
    def compared(self) -> int:
        """The number of texts that are compared with one another."""
        return min(self.options.compared, len(self.texts))

    @cached_property
    def latent_information(self) -> LatentInformation | None:
        """Information of each latent over evenly spaced texts; None without a hierarchy of latents, or for one text.

        The marginal KL is what the mutual information leaves of the divergence, which has a closed form, so that they
        add up; where texts have conditions they do not, and it is estimated for itself.
        """
        return self._latent_information(sensitivity=False)

    @cached_property
    def latent_sensitivity(self) -> LatentInformation | None:
        """The same with the decoder's sensitivity to each latent, at the cost of one decoder pass per latent."""
        return self._latent_information(sensitivity=True)

    def _latent_information(self, sensitivity: bool) -> LatentInformation | None:
        model, guide = self.run.model, self.run.guide
        if not isinstance(model, DELLA) or not isinstance(guide, DELLAGuide) or self.compared < 2:
            return None
        texts = evenly_spaced(self.texts, self.compared)
        batches = [batch.to(model.device) for _, batch in sequential_batches(texts, self.options.batch_size)]
        with seeded_eval(model, guide, seed=self.options.seed):
            information = latent_information(model, guide, batches, sensitivity=sensitivity)
        if self.run.corpus.conditional:
            return information
        return information._replace(marginal_kl=information.kl - information.mutual_information)

    def _parts(self, description: str, count: int) -> Iterator[slice]:
        """Batches of so many texts, with a bar of what is done."""
        with progress_bar(description, count, progress=self.options.progress) as advance:
            for start in range(0, count, self.options.batch_size):
                yield (part := slice(start, min(start + self.options.batch_size, count)))
                advance(part.stop - part.start)

    @property
    def about(self) -> dict[str, Any]:
        """The texts and options of the results computed so far."""
        options, computed = self.options, vars(self)  # a cached property is in it once it has been read
        about: dict[str, Any] = {
            "texts": len(self.texts),
            "tokens": int(self.tokens.sum()),
            "bytes": int(self.bytes.sum()),
            "split": None,
            "samples": options.samples,
            "seed": options.seed,
            "step": self.run.step,
        }
        if self.run.guide is not None:
            about |= {"num_particles": options.num_particles, "draws": self.draws * self.objective.num_particles}
        if computed.get("reconstructions") is not None:
            about |= {"reconstructions": len(computed["reconstructions"]), "min_weight": options.min_weight}
        if any(computed.get(name) is not None for name in ("latent_information", "latent_sensitivity")):
            about["compared"] = self.compared
        return about


class BatchContext:
    """A batch of an evaluation, and what metrics of single texts read.

    The draws of a text are a function of the seed and of the text: they depend neither on the other texts of its batch
    nor on the metrics that are computed.

    Arguments:
        evaluation: The evaluation that the batch belongs to.
        batch: Texts, on the model's device.
    """

    def __init__(self, evaluation: EvaluationContext, batch: Batch) -> None:
        assert batch.tokens is not None and batch.mask is not None
        self.evaluation, self.run, self.batch = evaluation, evaluation.run, batch
        self.tokens: Int[Tensor, "B T"] = batch.tokens
        self.mask: Bool[Tensor, "B T"] = batch.mask

    @cached_property
    def terms(self) -> Terms:
        """The terms of the bound, averaged over a few draws of the guide."""
        objective = self.evaluation.objective
        if self.run.guide is None:
            return objective.terms(self.run.model, None, self.batch)
        return joined(self._rows([draws.terms(objective, self.evaluation.draws) for draws in self._draws]))

    @cached_property
    def sampled_text(self) -> Distribution | None:
        """The distribution of the texts, given one draw of the guide; None if it is not autoregressive."""
        if self.run.guide is None:
            text: Any = trace_pair(self.run.model, None, self.batch)[0].nodes["text"]["fn"]
            return cast(Distribution, text)
        each = [draws.distribution() for draws in self._draws]
        if not all(isinstance(one, AutoregressiveText) for one in each):
            return None
        return likelihood(self.run, stacked(self._rows([one.memory for one in each])), self.mask)

    @cached_property
    def importance_weighted(self) -> dict[int, Float[Tensor, " B"]] | None:
        """The importance-weighted bound by number of draws; None where nothing is latent."""
        if self.run.guide is None:
            return None
        count = self.evaluation.options.num_particles
        log_weights = self._rows([draws.log_weights(count) for draws in self._draws])
        return importance_bounds(torch.stack(log_weights), importance_draws(count))

    @cached_property
    def _draws(self) -> list[TextDraws]:
        """The draws of each text, without rows that only fill up the batch."""
        rows = range(int((self.batch.weight > 0).sum()))
        return [TextDraws(self.run, self.batch, row, self.evaluation.options.seed) for row in rows]

    def _rows(self, each: list[T]) -> list[T]:
        """A row for each text, and some for those that fill up the batch."""
        return each + each[:1] * (len(self.batch.weight) - len(each))

    @cached_property
    def posterior(self) -> TextPosterior | None:
        """The posterior of each text; None where the guide defines no ``encode``."""
        guide = self.run.guide
        return guide.encode(self.batch) if encodes(guide) else None

    @cached_property
    def memory(self) -> Memory | None:
        """The memory at the mean of the posterior; None where there is no posterior."""
        return None if self.posterior is None else self.posterior.memory()

    @cached_property
    def mixture(self) -> MixturePosterior | None:
        """The parameters of the posterior where it is a mixture, else None."""
        return None if self.posterior is None else self.posterior.mixture()

    @cached_property
    def mean_text(self) -> Distribution | None:
        """The distribution of the texts, given the mean of the posterior; None where there is no posterior."""
        return None if self.memory is None else likelihood(self.run, self.memory, self.mask)


def importance_draws(num_particles: int) -> list[int]:
    """The numbers of draws of importance-weighted bounds: at most three, in steps of four, up to the largest.

    Examples:
        >>> importance_draws(64), importance_draws(100), importance_draws(1)
        ([4, 16, 64], [16, 64, 100], [1])
    """
    fewer = [4**power for power in range(1, 16) if 4**power < num_particles]
    return [*fewer[-2:], num_particles]
