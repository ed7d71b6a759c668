"""Priors over the vectors of a mixture: what a model, a guide and a second stage of training do with any of them."""

import torch
from jaxtyping import Bool, Float
from pyro import distributions as dist
from torch import Tensor, nn
from torch.distributions import Distribution

from .adapters import check_prior
from .precision import at_least_float32
from .priors import BaseMeasure, SequencePrior, VectorPrior, gaussian

__all__ = ["MixtureBase", "check_base_measure", "gaussian_mixture", "over_components", "own_component"]

SPREAD = 0.1  # standard deviation of the means that a mixture starts with: enough for its components to part


class MixtureBase(VectorPrior):
    r"""A mixture of diagonal Gaussians as base measure.

    .. math:: p(z) = \sum_{k=1}^K w_k \, \mathcal N(z; \mu_k, \operatorname{diag} \sigma_k^2)

    At the start all components are near :math:`\mathcal N(0, I)` and equally probable. Log variances are bounded
    smoothly, as in :func:`~pyroformer.models.priors.gaussian`.

    Arguments:
        width: :math:`P`.
        components: :math:`K`.

    Raises:
        ValueError: If either is not positive.

    References:
        VAE with a VampPrior (Tomczak & Welling, 2018), https://arxiv.org/abs/1705.07120, for mixtures as priors.

    Examples:
        >>> law = MixtureBase(8, components=3)()
        >>> law.event_shape, law.mean.shape, law.variance.shape
        (torch.Size([8]), torch.Size([8]), torch.Size([8]))
    """

    def __init__(self, width: int, components: int = 16) -> None:
        super().__init__()
        for name, size in {"width": width, "components": components}.items():
            if size < 1:
                raise ValueError(f"{name} {size}: must be at least 1")
        self.logits = nn.Parameter(torch.zeros(components))
        self.mean = nn.Parameter(SPREAD * torch.randn(components, width))
        self.log_variance = nn.Parameter(torch.zeros(components, width))

    def forward(self) -> Distribution:
        return gaussian_mixture(*map(at_least_float32, (self.logits, self.mean, self.log_variance)))

    def extra_repr(self) -> str:
        return f"width={self.mean.shape[-1]}, components={len(self.logits)}"


def gaussian_mixture(
    logits: Float[Tensor, "*batch k"], mean: Float[Tensor, "*batch k p"], log_variance: Float[Tensor, "*batch k p"]
) -> Distribution:
    r"""A mixture of diagonal Gaussians with bounded log variances; weights are the softmax of ``logits``.

    Examples:
        >>> gaussian_mixture(torch.zeros(5, 3), torch.randn(5, 3, 4), torch.zeros(5, 3, 4)).batch_shape
        torch.Size([5])
    """
    law: Distribution = dist.MixtureSameFamily(dist.Categorical(logits=logits), gaussian(mean, log_variance))
    return law


def over_components(prior: nn.Module, mask: Bool[Tensor, "*batch n"]) -> Distribution:
    r"""The law of all vectors of a text, with batch shape :math:`(*)` and event shape :math:`(N, P)`.

    Arguments:
        prior: A base measure, or what :func:`~pyroformer.models.adapters.as_prior` made of a law over one vector.
        mask: The components that exist; the vectors of the others have no density.

    Examples:
        >>> from pyroformer.models.priors import GaussianBase
        >>> over_components(GaussianBase(8), torch.tensor([[True, True, True], [True, True, False]])).event_shape
        torch.Size([3, 8])
    """
    if isinstance(prior, SequencePrior):
        law: Distribution = prior(mask)
        return law
    law = prior().expand(mask.shape).mask(mask).to_event(1)
    return law


def own_component(prior: nn.Module) -> Distribution:
    r"""The law of the prior's own components, whose mean and variance a guide takes over.

    Examples:
        >>> from pyroformer.models.priors import GaussianBase
        >>> own_component(GaussianBase(3, mean=2.0)).mean
        tensor([2., 2., 2.])
    """
    law: Distribution = prior.component() if isinstance(prior, BaseMeasure) else prior()
    return law


def check_base_measure(
    prior: nn.Module, mask: Bool[Tensor, "*batch n"], width: int, name: str = "base_measure"
) -> None:
    """Draws once and says in one sentence what is wrong with a base measure, if anything is.

    Arguments:
        prior: The base measure.
        mask: Of components that exist, best with some that do not.
        width: Of a vector.
        name: What the message calls it.

    Raises:
        ValueError: If it returns no distribution, or one of another shape or support.
    """
    if isinstance(prior, SequencePrior):
        check_prior(prior, mask, event_shape=(mask.shape[-1], width), name=name)
        check_prior(prior.first, event_shape=(width,), name=f"{name}.first")
    else:
        check_prior(prior, event_shape=(width,), name=name)
