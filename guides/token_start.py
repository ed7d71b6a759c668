"""The start of a guide at the Gaussians of tokens, where the prior of the vectors has one for each token."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor, nn

from ..models.mixture_memory import MixtureMemoryModel
from ..models.nvae import NVAE
from ..models.priors.roles import BaseMeasure, WeightPrior
from ..models.priors.sequence.language_model import LanguageModelVectorPrior
from ..models.transformer.config import TransformerConfig
from ..models.transformer.mixtures.heads import AlphaHead
from ..models.utils.numbers import check_finite_number

__all__ = ["check_log_variance", "encoder_config", "from_prior", "start_alpha", "start_log_variance", "start_mean"]

LAYERS = 2  # of an encoder beside a trained language model, which may have dozens


def encoder_config(model: MixtureMemoryModel) -> TransformerConfig:
    """The network of a new encoder: that of the decoder, with two layers if its output layer finds each vector.

    There, posteriors start at their tokens' Gaussians, and an encoder has only the rest to say.
    """
    config = model.config
    return config if model.decoder.reader is None else replace(config, layers=min(config.layers, LAYERS))


def start_alpha(head: AlphaHead, model: NVAE) -> None:
    """Starts the head of the concentrations at those of the prior, if the decoder finds each vector by its place."""
    prior = model.weight_prior
    start = prior.token_log_concentration() if isinstance(prior, WeightPrior) else None
    if model.decoder.reader is not None and head.form == "linear" and start is not None:
        nn.init.zeros_(head.linear.weight)
        nn.init.constant_(head.linear.bias, start)


def start_mean(head: nn.Linear, base_measure: nn.Module) -> None:
    """Starts the head of the means: at a token's Gaussian of the prior, or else at the token's encoding."""
    nn.init.zeros_(head.bias)
    nn.init.zeros_(head.weight) if starts(base_measure) else nn.init.eye_(head.weight)


def start_log_variance(base_measure: nn.Module, log_variance: float) -> float:
    """The initial bias of the head of the log variances: this log variance, or 0 beside that of a prior's Gaussians."""
    check_finite_number(log_variance=log_variance)
    return 0.0 if starts(base_measure) else log_variance


def check_log_variance(base_measure: nn.Module, options: Mapping[str, Any]) -> None:
    """Raises a ValueError if options of a guide have an initial log variance beside that of a prior's Gaussians."""
    if "log_variance" in options and starts(base_measure):
        raise ValueError(
            f"log_variance is {options['log_variance']}, and posteriors start at the Gaussians of the tokens in the "
            f"prior, a {type(base_measure).__name__}: leave log_variance out, or take another prior."
        )


def from_prior(
    base_measure: nn.Module,
    tokens: Int[Tensor, "*batch T"],
    mean: Float[Tensor, "*batch T P"],
    log_variance: Float[Tensor, "*batch T P"],
) -> tuple[Float[Tensor, "*batch T P"], Float[Tensor, "*batch T P"]]:
    """Means and log variances of the tokens' vectors: what the heads give, added to the Gaussians of the prior.

    Beside a trained language model, heads of means count in standard deviations: the first steps of training then do
    not move the vectors out of Gaussians that are far narrower than what tells tokens apart.

    Examples:
        >>> prior = pf.priors.TokenVectorPrior(8, vocabulary=30, heads=2)
        >>> tokens, zeros = torch.tensor([[5, 2]]), torch.zeros(1, 2, 8)
        >>> torch.equal(from_prior(prior, tokens, zeros, zeros)[0], prior.gaussians(tokens).mean)
        True
    """
    start = base_measure.gaussians(tokens) if isinstance(base_measure, BaseMeasure) else None
    if start is None:
        return mean, log_variance
    means, log_variances = start
    if isinstance(base_measure, LanguageModelVectorPrior):
        mean = mean * (0.5 * log_variances).exp()
    return mean + means, log_variance + log_variances


def starts(base_measure: nn.Module) -> bool:
    """Whether the prior has a Gaussian for each token."""
    return isinstance(base_measure, BaseMeasure) and base_measure.starts_posteriors
