"""The roles of priors: the arguments of each and the distribution that it returns."""

from typing import Any, ClassVar, NamedTuple

from jaxtyping import Bool, Float, Int
from pyro.nn import PyroModule, PyroSample
from torch import Tensor, nn
from torch.distributions import Distribution

from ..serialization import Configurable

__all__ = ["BaseMeasure", "LatentPrior", "Prior", "SequencePrior", "TokenGaussians", "VectorPrior", "WeightPrior"]


class Prior(Configurable, nn.Module):
    """The base class of all priors: a run records its constructor's arguments, and hyper-priors are checked.

    Examples:
        >>> class Wide(pf.priors.VectorPrior):
        ...     def __init__(self, width, scale=2.0):
        ...         super().__init__()
        ...         self.width, self.scale = width, scale
        ...     def forward(self):
        ...         return pyro.distributions.Normal(torch.zeros(self.width), self.scale).to_event(1)
        >>> Wide(4, scale=3.0).arguments
        {'width': 4, 'scale': 3.0}
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, PyroSample) and not isinstance(self, PyroModule):
            kind = type(self).__name__
            raise ValueError(
                f"{kind}.{name} is a PyroSample, which only a PyroModule draws: derive {kind} from Hierarchical too."
            )
        super().__setattr__(name, value)

    sees_guide: ClassVar[bool] = False  # whether the prior is made of posteriors, at :attr:`guide`

    def set_guide(self, guide: nn.Module) -> None:
        """Called by a guide of the prior's model when the guide is made, if ``sees_guide``."""
        self._seen = (guide,)  # a tuple keeps the guide from being registered as a child

    @property
    def guide(self) -> Any:
        """The guide of the prior's model, the last that was made.

        Raises:
            ValueError: If none was made.
        """
        seen = self.__dict__.get("_seen")
        if seen is None:
            kind = type(self).__name__
            raise ValueError(f"{kind} is made of posteriors, and its model has no guide yet: make the guide first.")
        return seen[0]


class WeightPrior(Prior):
    r"""The role of a prior over the log weights of a mixture.

    ``forward(mask)`` takes a mask of the components that exist, with shape :math:`(*, N)`, and returns a distribution
    with batch shape :math:`(*)` and event shape :math:`(N)` whose draws are log weights: their exponentials sum to one
    and are zero (``LOG_ZERO``) where ``mask`` is False. Component 0 is the prior's own and always exists, so a text
    of :math:`n` tokens has :math:`n + 1` components (times :math:`\kappa`, where each is drawn :math:`\kappa` times).

    Examples:
        >>> class Flat(WeightPrior):
        ...     def forward(self, mask):
        ...         return pf.distributions.LogDirichlet(torch.zeros(mask.shape), mask)
        >>> prior = Flat()(torch.tensor([True, True, False]))
        >>> prior.sample().exp().sum()
        tensor(1.)
    """

    def forward(self, mask: Bool[Tensor, "*batch n"]) -> Distribution:
        raise NotImplementedError(f"{type(self).__name__} is a WeightPrior: write forward(mask) -> Distribution")

    def own_log_concentration(self) -> Float[Tensor, "..."] | float:
        """The log concentration of the prior's own component, which guides give to theirs; by default 0."""
        return 0.0

    def token_log_concentration(self) -> float | None:
        """The log concentration of a token's component, where guides start if the decoder finds vectors by place.

        None, the default, leaves the start to the guide.
        """
        return None


class TokenGaussians(NamedTuple):
    """The Gaussian at which a prior lets the posterior of each token's vector start.

    Examples:
        >>> prior = pf.priors.TokenVectorPrior(width=8, vocabulary=20)
        >>> start = prior.gaussians(torch.tensor([[5, 6, 2]]))
        >>> start.mean.shape, start.log_variance.exp().max() < 1
        (torch.Size([1, 3, 8]), tensor(True))
    """

    mean: Float[Tensor, "*batch T p"]
    log_variance: Float[Tensor, "*#batch p"]


class BaseMeasure(Prior):
    r"""The role of a prior over the vectors of a mixture: a :class:`VectorPrior` or a :class:`SequencePrior`.

    In both, ``component()`` is the distribution of the prior's own components. A guide gives those components a
    Gaussian posterior with the same moments, so this distribution needs a mean and a variance.

    Examples:
        >>> issubclass(pf.priors.GaussianVectorPrior, pf.priors.BaseMeasure)
        True
        >>> pf.priors.GaussianVectorPrior(width=4).component().event_shape
        torch.Size([4])
    """

    def component(self) -> Distribution:
        """The distribution of a vector of the prior's own component, with event shape :math:`(P)`."""
        raise NotImplementedError(f"{type(self).__name__} is a BaseMeasure: write component() -> Distribution")

    starts_posteriors: ClassVar[bool] = False  # whether :meth:`gaussians` is defined

    def gaussians(self, tokens: Int[Tensor, "*batch T"]) -> TokenGaussians | None:
        """The initial posterior of each token's vector; None, the default, leaves it to the guide."""
        return None

    @property
    def wants_start(self) -> bool:
        """Whether :meth:`start_at` is to be called before training; by default, never."""
        return False

    def start_at(self, mean: Float[Tensor, "n p"], variance: Float[Tensor, "n p"]) -> None:
        """Initializes the parameters from the posterior means and variances of some texts' vectors."""
        raise NotImplementedError(f"{type(self).__name__} wants a start: write start_at(mean, variance)")


class VectorPrior(BaseMeasure):
    r"""The role of a prior over one vector: ``forward()`` returns a distribution with event shape :math:`(P)`.

    The vectors of a text are independent draws from it.

    Examples:
        >>> class Wide(VectorPrior):
        ...     def forward(self):
        ...         return pyro.distributions.Normal(torch.zeros(16), 3.0).to_event(1)
        >>> from pyroformer.models.transformer.config import TransformerConfig
        >>> network = TransformerConfig(vocabulary=20, max_length=8, width=16, layers=1, heads=2)
        >>> pf.NVAE(network, base_measure=Wide()).base_measure.component().variance[0]
        tensor(9.)
    """

    def forward(self) -> Distribution:
        raise NotImplementedError(f"{type(self).__name__} is a VectorPrior: write forward() -> Distribution")

    def component(self) -> Distribution:
        return self()


class SequencePrior(BaseMeasure):
    r"""The role of a joint prior over all vectors of a text, in the order of its tokens.

    ``forward(mask)`` takes a mask of the components that exist, with shape :math:`(*, N)`, and returns a distribution
    with batch shape :math:`(*)` and event shape :math:`(N, P)`. The first :math:`\kappa` components are the prior's
    own, the others belong to the tokens, :math:`\kappa` to each; those that exist come first. Vectors that do
    not exist do not enter ``log_prob``.

    ``first`` is the prior of the prior's own components.

    Vectors may also tell where their text ends (``ends_texts``); a model then draws the length after them, from
    :meth:`length`, and has no other prior of it.

    Examples:
        >>> class Walk(SequencePrior):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.first = pf.priors.GaussianVectorPrior(1)
        ...     def forward(self, mask):
        ...         steps = torch.arange(1.0, mask.shape[-1] + 1)
        ...         covariance = torch.minimum(steps[:, None], steps).expand(*mask.shape, -1)
        ...         return pyro.distributions.MultivariateNormal(torch.zeros(mask.shape), covariance)
        >>> Walk()(torch.ones(3, dtype=torch.bool)).variance
        tensor([1., 2., 3.])
    """

    first: VectorPrior

    def forward(self, mask: Bool[Tensor, "*batch n"]) -> Distribution:
        raise NotImplementedError(f"{type(self).__name__} is a SequencePrior: write forward(mask) -> Distribution")

    @property
    def ends_texts(self) -> bool:
        """Whether the vectors tell where a text ends, by :meth:`length`; by default not."""
        return False

    def length(self, distribution: Distribution, vectors: Float[Tensor, "*batch n p"], max_length: int) -> Distribution:
        """The distribution of the number of tokens, given the vectors, whose own distribution is the first argument."""
        raise NotImplementedError(f"{type(self).__name__} ends texts: write length(distribution, vectors, max_length)")

    def component(self) -> Distribution:
        return self.first()


class LatentPrior(Prior):
    r"""The role of a prior over the latent of one layer.

    ``forward(summary, index)`` takes a summary of the latents below and of the condition, with shape :math:`(*, S)`,
    and the index of the latent, from 0 at the lowest, and returns a distribution with batch shape :math:`(*)` and event
    shape :math:`(p)`.

    Examples:
        >>> class Narrow(LatentPrior):
        ...     def forward(self, summary, index):
        ...         mean = torch.zeros(*summary.shape[:-1], 4)
        ...         return pyro.distributions.Normal(mean, 0.5**index).to_event(1)
        >>> Narrow()(torch.zeros(2, 6), index=1).stddev[0]
        tensor([0.5000, 0.5000, 0.5000, 0.5000])
    """

    def forward(self, summary: Float[Tensor, "*batch p"], index: int) -> Distribution:
        raise NotImplementedError(
            f"{type(self).__name__} is a LatentPrior: write forward(summary, index) -> Distribution"
        )
