r"""The nonparametric variational autoencoder: a text is decoded from a random mixture over vectors.

The story of one text::

    n       ~ LengthPrior                         its length in tokens
    log pi  ~ WeightPrior(n)                      weights of kappa (n + 1) components: a bounded Dirichlet process
    z_i     ~ BaseMeasure                         one vector per component, independent or in sequence
    text    ~ AutoregressiveText(decoder, F)      whose every cross-attention is the posterior mean under
                                                  F = sum_i pi_i delta(z_i)

The first kappa components belong to the prior; the others, kappa each, to the tokens that a guide may see. That the
mixture knows ``n`` makes the length a random variable: the bound is one of log p(x), and includes log p(n).

References:
    A Variational AutoEncoder for Transformers with Nonparametric Variational Information Bottleneck (Henderson & Fehr,
    2023), https://arxiv.org/abs/2207.13529
"""

from collections.abc import Callable
from typing import Any

import pyro
import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.distributions import Distribution

from .attention.editing import interpolated
from .attention.mixture import Mixture
from .base import Model
from .batch import Batch
from .priors.checks import as_prior, check_prior
from .priors.lengths import LengthPrior
from .priors.roles import BaseMeasure, VectorPrior, WeightPrior
from .priors.vectors import GaussianVectorPrior, check_base_measure, over_components
from .priors.weights import BoundedDirichletProcess
from .transformer.config import TransformerConfig
from .transformer.memory import Memory, check_mixture
from .transformer.stacks import Decoder
from .transformer.text_distribution import AutoregressiveText

__all__ = ["NVAE", "component_mask"]


class NVAE(Model):
    r"""A Transformer decoder that attends to a Dirichlet-process mixture instead of to encoded tokens.

    Arguments:
        config: The network.
        weight_prior: Prior of the log weights; a bounded Dirichlet process by default.
        base_measure: Prior of a vector, or of all vectors of a text; a standard Gaussian by default.
        length_prior: Prior of the number of tokens; uniform over the max_length by default, and a smoothed histogram of
            the training texts in :meth:`for_corpus`.
        samples_per_component: Vectors drawn for each component of the posterior.

    Raises:
        ValueError: If ``samples_per_component`` is not positive or a prior has another shape or support than its role asks for.

    Examples:
        >>> model = NVAE(TransformerConfig(vocabulary=20, max_length=8, width=16, layers=1, heads=2))
        >>> trace = pyro.poutine.trace(model).get_trace(Batch.unobserved(3))
        >>> trace.nodes["vectors"]["value"].shape[-1]
        16
    """

    latents = ("weights", "vectors")
    objective = "nvib"

    def __init__(
        self,
        config: TransformerConfig,
        weight_prior: WeightPrior | Distribution | Callable[..., Distribution] | None = None,
        base_measure: BaseMeasure | Distribution | Callable[..., Distribution] | None = None,
        length_prior: LengthPrior | None = None,
        samples_per_component: int = 1,
    ) -> None:
        super().__init__()
        if samples_per_component < 1:
            raise ValueError(f"kappa is {samples_per_component}: each component needs at least one vector.")
        self.config = config
        self.samples_per_component = samples_per_component
        self.weight_prior = as_prior(
            weight_prior or BoundedDirichletProcess(samples_per_component=samples_per_component),
            WeightPrior,
            "weight_prior",
        )
        self.base_measure = as_prior(base_measure or GaussianVectorPrior(config.width), VectorPrior, "base_measure")
        self.length_prior = length_prior or LengthPrior(config.max_length)
        self.decoder = Decoder(config, cross_attention=True)
        check_prior(
            self.weight_prior,
            component_mask(torch.tensor([1, 2]), samples_per_component, 3 * samples_per_component),
            name="weight_prior",
        )
        if getattr(self.base_measure, "samples_per_component", samples_per_component) != samples_per_component:
            raise ValueError(
                f"kappa is {samples_per_component}, but {self.base_measure.samples_per_component} of base_measure: give both the same."
            )
        check_base_measure(
            self.base_measure,
            component_mask(torch.tensor([1, 2]), samples_per_component, 3 * samples_per_component),
            config.width,
        )

    @classmethod
    def corpus_arguments(cls, corpus: Any) -> dict[str, Any]:
        return {"length_prior": LengthPrior.fit(torch.as_tensor(corpus.train.lengths), corpus.max_length)}

    def forward(self, batch: Batch) -> Int[Tensor, "*batch T"]:
        observed = batch.mask is not None
        with self.texts(batch):
            length = pyro.sample("length", self.length_prior(), obs=batch.lengths if observed else None)
            width = batch.mask.shape[-1] if batch.mask is not None else int(length.max())
            mask = component_mask(length, self.samples_per_component, self.samples_per_component * (width + 1))
            log_weights = pyro.sample("weights", self.weight_prior(mask))
            distribution: Any = over_components(self.base_measure, mask)
            vectors = pyro.sample("vectors", distribution)
            mixture = Mixture(log_weights.to(vectors.dtype), vectors, mask=mask)
            return pyro.sample("text", self.likelihood(mixture, batch.mask), obs=batch.tokens)

    @property
    def dimensions(self) -> dict[str, tuple[str, ...]]:
        return {"weights": ("component",), "vectors": ("component", "dimension")}

    def likelihood(self, memory: Mixture, mask: Bool[Tensor, "*batch T"] | None = None) -> AutoregressiveText:
        """p(text | mixture): of a drawn mixture, or of the posterior's mean one."""
        return AutoregressiveText(self.decoder, memory, mask=mask)

    def check_memory(self, memory: Memory) -> Mixture:
        return check_mixture(memory, self.config.width)

    def interpolate(self, first: Memory, second: Memory, t: float) -> Mixture:
        """The components of both mixtures, weighted by their shares: see :func:`~.mixing.interpolated`."""
        return interpolated(self.check_memory(first), self.check_memory(second), t)


def component_mask(length: Int[Tensor, "*batch"], samples_per_component: int, width: int) -> Bool[Tensor, "*batch N"]:
    """Which of ``width`` components exist for texts of these lengths: samples_per_component of the prior and kappa for each token.

    Examples:
        >>> component_mask(torch.tensor([1, 2]), samples_per_component=1, width=3).tolist()
        [[True, True, False], [True, True, True]]
    """
    return torch.arange(width, device=length.device) < samples_per_component * (length[..., None] + 1)
