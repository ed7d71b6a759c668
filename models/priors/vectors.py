"""Priors of the vectors of a mixture."""

import torch
from jaxtyping import Bool, Float
from pyro import distributions as dist
from pyro.nn import PyroModule
from torch import Tensor, nn
from torch.distributions import Distribution

from ..distributions.foreign import as_pyro
from ..utils.numbers import check_at_least
from ..utils.precision import at_least_float32
from ..utils.seeding import forked_rng
from .checks import check_prior, described
from .latents import gaussian
from .roles import BaseMeasure, SequencePrior, VectorPrior

__all__ = [
    "GaussianVectorPrior",
    "KernelVectorPrior",
    "MixtureVectorPrior",
    "check_base_measure",
    "check_own_component",
    "gaussian_mixture",
    "mixture_scores",
    "moments",
    "over_components",
    "own_component",
]

DRAWS = 100  # number of draws of hyper-priors at which a prior is checked
SPREAD = 0.1  # initial standard deviation of a mixture's means: enough for its components to separate


class GaussianVectorPrior(VectorPrior):
    r"""A Gaussian base measure, :math:`z \sim \mathcal N(\mu, \operatorname{diag} \sigma^2)`.

    Arguments:
        width: :math:`P`.
        mean: A number, or a tensor with shape :math:`(P)`.
        variance: A positive number, or a tensor with shape :math:`(P)`.
        learnable: Whether mean and variance are parameters rather than buffers.

    Examples:
        >>> GaussianVectorPrior(8)().event_shape
        torch.Size([8])
    """

    mean: Tensor
    log_variance: Tensor

    def __init__(
        self,
        width: int,
        mean: float | Float[Tensor, " width"] = 0.0,
        variance: float | Float[Tensor, " width"] = 1.0,
        learnable: bool = False,
    ) -> None:
        super().__init__()
        check_at_least(1, width=width)
        if not bool((torch.as_tensor(variance) > 0).all()):
            raise ValueError(f"variance is {variance}: give positive numbers.")
        location, scale = _filled(mean, width), _filled(variance, width).log()
        if learnable:
            self.mean, self.log_variance = nn.Parameter(location), nn.Parameter(scale)
        else:
            self.register_buffer("mean", location)
            self.register_buffer("log_variance", scale)

    @classmethod
    def fit(cls, vectors: Float[Tensor, "n width"], learnable: bool = False) -> "GaussianVectorPrior":
        """The Gaussian with the mean and the variance of some vectors, such as those of an earlier run's posterior.

        Raises:
            ValueError: If there are fewer than two, or a dimension in which they do not differ.

        Examples:
            >>> GaussianVectorPrior.fit(torch.tensor([[1.0, 0.0], [3.0, 1.0]])).mean
            tensor([2.0000, 0.5000])
        """
        prior = cls(vectors.shape[-1], learnable=learnable)
        mean, variance = moments(vectors)
        with torch.no_grad():
            prior.mean.copy_(mean)
            prior.log_variance.copy_(variance.log())
        return prior

    @property
    def variance(self) -> Float[Tensor, " width"]:
        return at_least_float32(self.log_variance).exp()

    def forward(self) -> Distribution:
        scale = (at_least_float32(self.log_variance) / 2).exp()
        normal: Distribution = dist.Normal(at_least_float32(self.mean), scale).to_event(1)
        return normal

    def extra_repr(self) -> str:
        return f"width={len(self.mean)}, learnable={self.mean.requires_grad}"


class MixtureVectorPrior(VectorPrior):
    r"""A mixture of diagonal Gaussians as base measure.

    .. math:: p(z) = \sum_{k=1}^K w_k \, \mathcal N(z; \mu_k, \operatorname{diag} \sigma_k^2)

    At the start all components are near :math:`\mathcal N(0, I)` and equally probable. Log variances are bounded
    smoothly, as in :func:`~pyroformer.models.priors.latents.gaussian`.

    Arguments:
        width: :math:`P`.
        components: :math:`K`.

    Raises:
        ValueError: If either is not positive.

    References:
        VAE with a VampPrior (Tomczak & Welling, 2018), https://arxiv.org/abs/1705.07120, for mixtures as priors.

    Examples:
        >>> distribution = MixtureVectorPrior(8, components=3)()
        >>> distribution.event_shape, distribution.mean.shape, distribution.variance.shape
        (torch.Size([8]), torch.Size([8]), torch.Size([8]))
    """

    def __init__(self, width: int, components: int = 16) -> None:
        super().__init__()
        check_at_least(1, width=width, components=components)
        self.logits = nn.Parameter(torch.zeros(components))
        self.mean = nn.Parameter(SPREAD * torch.randn(components, width))
        self.log_variance = nn.Parameter(torch.zeros(components, width))

    def forward(self) -> Distribution:
        return gaussian_mixture(*map(at_least_float32, (self.logits, self.mean, self.log_variance)))

    def extra_repr(self) -> str:
        return f"width={self.mean.shape[-1]}, components={len(self.logits)}"


class KernelVectorPrior(VectorPrior):
    r"""A Gaussian kernel at each of some vectors.

    .. math:: p(z) = \frac1K \sum_{k=1}^K \mathcal N(z; v_k, h^2 \operatorname{diag} s^2)

    with the variances :math:`s^2` of the vectors and Scott's bandwidth :math:`h = K^{-1/(P + 4)}`. It has no parameters
    to train. For one Gaussian with their moments take :meth:`GaussianVectorPrior.fit`. Divergences of a Gaussian guide
    are estimated at its draws.

    Until it is fitted or its weights are loaded, all vectors are zero and it is a standard Gaussian.

    Arguments:
        width: :math:`P`.
        points: :math:`K`.

    Raises:
        ValueError: If either is not positive.

    References:
        | Multivariate Density Estimation (Scott, 1992), for the bandwidth
        | VAE with a VampPrior (Tomczak & Welling, 2018), https://arxiv.org/abs/1705.07120, for priors of posteriors

    Examples:
        >>> KernelVectorPrior.fit(torch.randn(50, 4))().event_shape
        torch.Size([4])
    """

    vectors: Tensor
    log_variance: Tensor

    def __init__(self, width: int, points: int) -> None:
        super().__init__()
        check_at_least(1, width=width, points=points)
        self.register_buffer("vectors", torch.zeros(points, width))
        self.register_buffer("log_variance", torch.zeros(width))

    @classmethod
    def fit(cls, vectors: Float[Tensor, "n width"]) -> "KernelVectorPrior":
        """Kernels at these vectors.

        Raises:
            ValueError: If there are fewer than two, or a dimension in which they do not differ.
        """
        points, width = vectors.shape
        prior = cls(width, points)
        _, variance = moments(vectors)
        prior.vectors.copy_(vectors.detach())
        prior.log_variance.copy_((variance * points ** (-2 / (width + 4))).log())
        return prior

    def forward(self) -> Distribution:
        vectors, log_variance = (at_least_float32(x) for x in (self.vectors, self.log_variance))
        kernels = dist.Normal(vectors, (log_variance / 2).exp()).to_event(1)
        distribution: Distribution = dist.MixtureSameFamily(
            dist.Categorical(logits=torch.zeros_like(vectors[:, 0])), kernels
        )
        return distribution

    def extra_repr(self) -> str:
        return f"width={self.vectors.shape[1]}, points={self.vectors.shape[0]}"


def gaussian_mixture(
    logits: Float[Tensor, "*batch k"], mean: Float[Tensor, "*batch k p"], log_variance: Float[Tensor, "*batch k p"]
) -> Distribution:
    r"""A mixture of diagonal Gaussians with bounded log variances; weights are the softmax of ``logits``.

    Examples:
        >>> gaussian_mixture(torch.zeros(5, 3), torch.randn(5, 3, 4), torch.zeros(5, 3, 4)).batch_shape
        torch.Size([5])
    """
    distribution: Distribution = dist.MixtureSameFamily(dist.Categorical(logits=logits), gaussian(mean, log_variance))
    return distribution


def mixture_scores(
    scores: Float[Tensor, "*batch s"], components: int, width: int
) -> tuple[Float[Tensor, "*batch k"], Float[Tensor, "*batch k p"], Float[Tensor, "*batch k p"]]:
    """Logits, means and log variances of a mixture, from the scores of a linear layer: k (1 + 2 p) of them.

    Examples:
        >>> [tuple(part.shape) for part in mixture_scores(torch.zeros(5, 27), components=3, width=4)]
        [(5, 3), (5, 3, 4), (5, 3, 4)]
    """
    logits, mean, log_variance = torch.split(scores, [components, components * width, components * width], -1)
    return logits, mean.unflatten(-1, (components, width)), log_variance.unflatten(-1, (components, width))


def moments(vectors: Float[Tensor, "n width"]) -> tuple[Float[Tensor, " width"], Float[Tensor, " width"]]:
    """Mean and variance of vectors that a prior is fitted to.

    Raises:
        ValueError: If there are fewer than two, or a dimension in which they do not differ.
    """
    if len(vectors) < 2:
        raise ValueError(f"there are {len(vectors)} vectors: a variance needs at least 2.")
    variance, mean = torch.var_mean(vectors.detach(), 0)
    if not bool((variance > 0).all()):
        raise ValueError(f"the vectors do not differ in dimension {int(variance.argmin())}: give others, or more.")
    return mean, variance


def over_components(prior: nn.Module, mask: Bool[Tensor, "*batch n"]) -> Distribution:
    r"""The distribution of all vectors of a text, with batch shape :math:`(*)` and event shape :math:`(N, P)`.

    Arguments:
        prior: A base measure, or a distribution over one vector as a module
            (:func:`~pyroformer.models.priors.checks.as_prior`).
        mask: True for the components that exist; the vectors of the others do not enter the density.

    Examples:
        >>> from pyroformer.models.priors import GaussianVectorPrior
        >>> over_components(GaussianVectorPrior(8), torch.tensor([[True, True, True], [True, True, False]])).event_shape
        torch.Size([3, 8])
    """
    if isinstance(prior, SequencePrior):
        distribution: Distribution = as_pyro(prior(mask))
        return distribution
    distribution = as_pyro(prior()).expand(mask.shape).mask(mask).to_event(1)
    return distribution


def own_component(prior: nn.Module) -> Distribution:
    r"""The distribution of the prior's own components, whose mean and variance a guide copies.

    Examples:
        >>> from pyroformer.models.priors import GaussianVectorPrior
        >>> own_component(GaussianVectorPrior(3, mean=2.0)).mean
        tensor([2., 2., 2.])
    """
    distribution: Distribution = as_pyro(prior.component() if isinstance(prior, BaseMeasure) else prior())
    return distribution


def check_base_measure(
    prior: nn.Module, mask: Bool[Tensor, "*batch n"], width: int, name: str = "base_measure"
) -> None:
    """Draws once from a base measure and raises if it breaks the contract of its role.

    Arguments:
        prior: The base measure.
        mask: True for components that exist, best with some that do not.
        width: Number of a vector's entries.
        name: Its name in the message.

    Raises:
        ValueError: If it returns no distribution, or one of another shape or support.
    """
    if isinstance(prior, BaseMeasure) and not isinstance(prior, VectorPrior | SequencePrior):
        raise ValueError(
            f"{described(prior, name)} is neither a prior of one vector nor one of all: derive it from VectorPrior or "
            "SequencePrior."
        )
    if isinstance(prior, SequencePrior):
        check_prior(prior, mask, event_shape=(mask.shape[-1], width), name=name)
        check_prior(prior.first, event_shape=(width,), name=f"{name}.first")
    else:
        check_prior(prior, event_shape=(width,), name=name)


def check_own_component(prior: nn.Module) -> None:
    """Raises a ValueError unless the prior's own components have a finite mean and variance, at all hyper-priors drawn.

    Examples:
        >>> check_own_component(GaussianVectorPrior(3))
    """
    hierarchical = any(isinstance(part, PyroModule) for part in prior.modules())
    # building a model must not advance the random state, and refuses the same prior every time
    with torch.no_grad(), forked_rng(seed=0):
        lacks = [_lacks(own_component(prior)) for _ in range(DRAWS if hierarchical else 1)]
    if lack := next(filter(None, lacks), None):
        where = " at some draws of its hyper-priors" if hierarchical else ""
        raise ValueError(
            f"{described(prior, 'base_measure')} has no {lack}{where}, which the posterior of the prior's own "
            "component copies: define component(), which returns a Gaussian near it, or take a VAE."
        )


def _lacks(distribution: Distribution) -> str | None:
    """The moment that a distribution lacks and a Gaussian needs; None if it has both."""
    try:
        mean, variance = distribution.mean, distribution.variance
    except NotImplementedError:
        return "mean and variance"
    fine = mean.isfinite() & variance.isfinite() & (variance > 0)
    return None if bool(fine.all()) else "finite, positive variance"


def _filled(value: float | Tensor, width: int) -> Tensor:
    return torch.as_tensor(value, dtype=torch.get_default_dtype()).expand(width).clone()
