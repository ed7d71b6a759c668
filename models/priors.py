"""The priors that a user swaps: modules whose forward returns a distribution."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from pyro import distributions as dist
from pyro.nn import PyroModule, PyroSample
from torch import Tensor, nn
from torch.distributions import Distribution

from .adapters import as_prior, check_prior
from .distributions.log_dirichlet import Lengths, LogDirichlet
from .hyperpriors import Hierarchical
from .nvib import conditional_concentration
from .precision import at_least_float32
from .recipe import Recorded

__all__ = [
    "BaseMeasure",
    "BoundedDirichletProcess",
    "First",
    "GaussianBase",
    "Hierarchical",
    "LatentPrior",
    "LengthPrior",
    "LinearGaussian",
    "LinearPrior",
    "Role",
    "SequencePrior",
    "StandardGaussian",
    "VectorPrior",
    "WeightPrior",
    "as_prior",
    "bounded_deviation",
    "check_prior",
    "gaussian",
    "moments",
]

First = Literal["standard", "learned", "linear"]
LOG_VARIANCE = 5.0  # the largest log variance of a latent, and minus the smallest


class Role(Recorded, nn.Module):
    """What all priors share: a run remembers how each was made, and hyper-priors are not taken for numbers."""

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, PyroSample) and not isinstance(self, PyroModule):
            kind = type(self).__name__
            raise ValueError(
                f"{kind}.{name} is a PyroSample, which only a PyroModule draws: derive {kind} from Hierarchical too."
            )
        super().__setattr__(name, value)


class WeightPrior(Role):
    r"""The role of a prior over the log weights of a mixture.

    ``forward(mask)`` takes a mask of the components that exist, with shape :math:`(*, N)`, and returns a distribution
    with batch shape :math:`(*)` and event shape :math:`(N)` whose draws are log weights: their exponentials sum to one
    and are zero (``LOG_ZERO``) where ``mask`` is False. Component 0 is the prior's own and always exists, so a text
    of :math:`n` tokens has :math:`n + 1` components (times kappa, where each is drawn kappa times).
    """

    def forward(self, mask: Bool[Tensor, "*batch n"]) -> Distribution:
        raise NotImplementedError(f"{type(self).__name__} is a WeightPrior: write forward(mask) -> Distribution")


class BaseMeasure(Role):
    r"""The role of a prior over the vectors of a mixture: a :class:`VectorPrior` or a :class:`SequencePrior`.

    Both say with ``component()`` what the prior's own components are drawn from. A guide gives those components a
    Gaussian posterior with the same moments, so the law that ``component()`` returns needs a mean and a variance.
    """

    def component(self) -> Distribution:
        """The law of a vector of the prior's own component, with event shape :math:`(P)`."""
        raise NotImplementedError(f"{type(self).__name__} is a BaseMeasure: write component() -> Distribution")


class VectorPrior(BaseMeasure):
    r"""The role of a base measure that knows one vector: ``forward()`` returns a law with event shape :math:`(P)`.

    All vectors of a text are then independent draws from it.
    """

    def forward(self) -> Distribution:
        raise NotImplementedError(f"{type(self).__name__} is a VectorPrior: write forward() -> Distribution")

    def component(self) -> Distribution:
        return self()


class SequencePrior(BaseMeasure):
    r"""The role of a base measure that knows all vectors of a text, in the order of its tokens.

    ``forward(mask)`` takes a mask of the components that exist, with shape :math:`(*, N)`, and returns a distribution
    with batch shape :math:`(*)` and event shape :math:`(N, P)`. The first kappa components are the prior's own, the
    others belong to the tokens, kappa to each; those that exist come first. Vectors that do not exist have no density:
    whatever they are, ``log_prob`` is the same.

    ``first`` is the prior of the prior's own components.
    """

    first: VectorPrior

    def forward(self, mask: Bool[Tensor, "*batch n"]) -> Distribution:
        raise NotImplementedError(f"{type(self).__name__} is a SequencePrior: write forward(mask) -> Distribution")

    def component(self) -> Distribution:
        return self.first()


class LatentPrior(Role):
    r"""The role of a prior over the latent of one layer.

    ``forward(summary, layer)`` takes what the latents below and the condition say, with shape :math:`(*, S)`, and the
    latent's number from 0, and returns a distribution with batch shape :math:`(*)` and event shape :math:`(p)`.
    """

    def forward(self, summary: Float[Tensor, "*batch p"], layer: int) -> Distribution:
        raise NotImplementedError(
            f"{type(self).__name__} is a LatentPrior: write forward(summary, layer) -> Distribution"
        )


class BoundedDirichletProcess(WeightPrior):
    r"""A Dirichlet process over the mixture, bounded to as many draws as the text has components.

    .. math:: \pi \sim \mathrm{Dir}\Big( \frac{\alpha_0 + \Delta n}{\kappa (n + 1)}, \dots \Big)

    Arguments:
        concentration: :math:`\alpha_0 > 0`, the total concentration of an empty text.
        delta: :math:`\Delta \geq 0`, what each token adds to it.
        kappa: Number of draws of each component.

    References:
        A Variational AutoEncoder for Transformers with Nonparametric Variational Information Bottleneck
        (Henderson & Fehr, 2023), https://arxiv.org/abs/2207.13529

    Examples:
        >>> prior = BoundedDirichletProcess(delta=1.0)
        >>> prior(torch.tensor([[True, True, True], [True, False, False]])).log_concentration[:, 0].exp()
        tensor([1., 1.])
    """

    concentration: Tensor
    delta: Tensor

    def __init__(self, concentration: float = 1.0, delta: float = 0.3, kappa: int = 1) -> None:
        super().__init__()
        if not concentration > 0:
            raise ValueError(f"concentration {concentration}: must be positive; smaller means fewer components in use")
        if not delta >= 0:
            raise ValueError(f"delta {delta}: must not be negative; 0 is the plain Dirichlet process")
        if kappa < 1:
            raise ValueError(f"kappa {kappa}: must be at least 1, the number of draws of each component")
        self.kappa = kappa
        self.register_buffer("concentration", torch.tensor(float(concentration)))
        self.register_buffer("delta", torch.tensor(float(delta)))

    def total_concentration(self, components: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        r""":math:`\alpha_0 + \Delta n` for a text of ``components`` :math:`= \kappa (n + 1)`, the prior's included."""
        concentration, delta = at_least_float32(self.concentration), at_least_float32(self.delta)
        length = (components.to(concentration.dtype) / self.kappa - 1).clamp(min=0)
        return conditional_concentration(concentration, delta, length)

    def forward(self, mask: Bool[Tensor, "*batch n"]) -> Distribution:
        components = mask.sum(-1)
        each = self.total_concentration(components) / components.clamp(min=1)
        shape = torch.broadcast_shapes(each.shape + (1,), mask.shape)  # the concentration may have draws on the left
        return LogDirichlet(each.log()[..., None].expand(shape), mask)

    def extra_repr(self) -> str:
        return f"concentration={self.concentration:g}, delta={self.delta:g}, kappa={self.kappa}"


class GaussianBase(VectorPrior):
    r"""A Gaussian base measure, :math:`z \sim \mathcal N(\mu, \operatorname{diag} \sigma^2)`.

    Arguments:
        width: :math:`P`.
        mean: A number, or a tensor with shape :math:`(P)`.
        variance: A positive number, or a tensor with shape :math:`(P)`.
        learnable: Whether mean and variance are parameters rather than buffers.

    Examples:
        >>> GaussianBase(8)().event_shape
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
        if width < 1:
            raise ValueError(f"width {width}: must be at least 1, the number of a vector's entries")
        if not bool((torch.as_tensor(variance) > 0).all()):
            raise ValueError(f"variance {variance}: every entry must be positive")
        location, scale = _filled(mean, width), _filled(variance, width).log()
        if learnable:
            self.mean, self.log_variance = nn.Parameter(location), nn.Parameter(scale)
        else:
            self.register_buffer("mean", location)
            self.register_buffer("log_variance", scale)

    @classmethod
    def fit(cls, vectors: Float[Tensor, "n width"], learnable: bool = False) -> "GaussianBase":
        """The Gaussian with the mean and the variance of some vectors, such as those of an earlier run's posterior.

        Raises:
            ValueError: If there are fewer than two, or a dimension in which they do not differ.

        Examples:
            >>> GaussianBase.fit(torch.tensor([[1.0, 0.0], [3.0, 1.0]])).mean
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


class StandardGaussian(LatentPrior):
    r"""A standard Gaussian for every latent, whatever those below and the condition say.

    .. math:: z_l \sim \mathcal N(0, I)

    Arguments:
        latent_size: :math:`p`.

    References:
        Auto-Encoding Variational Bayes (Kingma & Welling, 2014), https://arxiv.org/abs/1312.6114

    Examples:
        >>> StandardGaussian(4)(torch.zeros(5, 0), layer=0).batch_shape
        torch.Size([5])
    """

    def __init__(self, latent_size: int) -> None:
        super().__init__()
        if latent_size < 1:
            raise ValueError(f"latent_size {latent_size}: must be at least 1")
        self.latent_size = latent_size

    def forward(self, summary: Float[Tensor, "*batch p"], layer: int) -> Distribution:
        zeros = at_least_float32(summary.new_zeros(*summary.shape[:-1], self.latent_size))
        return gaussian(zeros, zeros)


class LinearPrior(LatentPrior):
    r"""The priors of a latent whose mean and log variance are linear in the summary; a subclass says of which family.

    .. math:: (\mu_l, \log \sigma_l^2) = W_l s_l + b_l

    At the start the mean is 0 and the variance 1 for every layer.

    Arguments:
        latent_size: :math:`p`.
        summary_size: :math:`S`; 0 where the latents know nothing of one another.
        layers: How many latents there are.
        first: Of the first latent, which has none below: ``"standard"`` normal, or ``"learned"`` (a mean and a variance
            that depend on nothing), or ``"linear"`` like the others, where a condition says something.

    """

    def __init__(
        self,
        latent_size: int,
        summary_size: int,
        layers: int,
        first: First = "standard",
    ) -> None:
        super().__init__()
        for name, size in {"latent_size": latent_size, "layers": layers}.items():
            if size < 1:
                raise ValueError(f"{name} {size}: must be at least 1")
        self.latent_size = latent_size
        linear = [summary_size > 0 and (layer > 0 or first == "linear") for layer in range(layers)]
        learned = [linear[layer] or (layer == 0 and first == "learned") for layer in range(layers)]
        outputs = 2 * latent_size
        self.weights = nn.ParameterDict(
            {str(k): torch.zeros(outputs, summary_size) for k in range(layers) if linear[k]}
        )
        self.biases = nn.ParameterDict({str(k): torch.zeros(outputs) for k in range(layers) if learned[k]})

    def forward(self, summary: Float[Tensor, "*batch p"], layer: int) -> Distribution:
        name = str(layer)
        if name in self.weights:
            scores = nn.functional.linear(summary, self.weights[name], self.biases[name])
        else:
            bias = self.biases[name] if name in self.biases else summary.new_zeros(2 * self.latent_size)
            scores = bias.expand(*summary.shape[:-1], -1)
        return self.law(*at_least_float32(scores).chunk(2, -1))

    def law(self, mean: Float[Tensor, "*batch p"], log_variance: Float[Tensor, "*batch p"]) -> Distribution:
        """The law of a latent with this mean and log variance, its entries independent."""
        raise NotImplementedError(f"{type(self).__name__} is a LinearPrior: write law(mean, log_variance)")


class LinearGaussian(LinearPrior):
    r"""A Gaussian whose mean and log variance are linear in the summary.

    .. math:: z_l \sim \mathcal N(\mu_l, \operatorname{diag} \sigma_l^2), \quad (\mu_l, \log \sigma_l^2) = W_l s_l + b_l

    At the start it is standard normal for every layer. The log variance is bounded smoothly by :data:`LOG_VARIANCE`.
    Arguments are those of :class:`LinearPrior`.

    References:
        Fuse It More Deeply! (Hu et al., 2022), Eq. 8, https://arxiv.org/abs/2207.06130

    Examples:
        >>> prior = LinearGaussian(latent_size=4, summary_size=6, layers=3)
        >>> prior(torch.randn(5, 6), layer=2).batch_shape
        torch.Size([5])
    """

    def law(self, mean: Float[Tensor, "*batch p"], log_variance: Float[Tensor, "*batch p"]) -> Distribution:
        return gaussian(mean, log_variance)


def gaussian(mean: Float[Tensor, "*batch p"], log_variance: Float[Tensor, "*batch p"]) -> Distribution:
    r"""A diagonal Gaussian whose log variance is bounded smoothly, :math:`b \tanh(\log \sigma^2 / b)`.

    Examples:
        >>> gaussian(torch.zeros(4), torch.full((4,), 100.0)).stddev
        tensor([12.1825, 12.1825, 12.1825, 12.1825])
    """
    normal: Distribution = dist.Normal(mean, bounded_deviation(log_variance)).to_event(1)
    return normal


def bounded_deviation(log_variance: Float[Tensor, "*batch p"]) -> Float[Tensor, "*batch p"]:
    r"""Standard deviations from log variances that are bounded smoothly, :math:`b \tanh(\log \sigma^2 / b)`."""
    return (LOG_VARIANCE * torch.tanh(log_variance / LOG_VARIANCE) / 2).exp()


class LengthPrior(Recorded, nn.Module):
    r"""A histogram over the lengths of texts, :math:`1, \dots, W`.

    Arguments:
        window: :math:`W`, the longest text that the model takes.
        probabilities: With shape :math:`(W)`; uniform by default.

    Examples:
        >>> prior = LengthPrior.fit([3, 3, 4], window=8)
        >>> prior().log_prob(torch.tensor([3, 8])).exp()
        tensor([0.2727, 0.0909])
    """

    log_probabilities: Tensor

    def __init__(self, window: int, probabilities: Float[Tensor, " window"] | None = None) -> None:
        super().__init__()
        if window < 1:
            raise ValueError(f"window {window}: must be at least 1, the length of the longest text")
        if probabilities is None:
            probabilities = torch.ones(window)
        self.register_buffer("log_probabilities", (probabilities / probabilities.sum()).log())

    @classmethod
    def fit(cls, lengths: Int[Tensor, " texts"] | Sequence[int], window: int, smoothing: float = 1.0) -> "LengthPrior":
        r"""The smoothed histogram of the texts of a training split.

        .. math:: p(n) = \frac{c_n + s}{\sum_m (c_m + s)}

        Arguments:
            lengths: Of each text, from 1 to ``window``.
            window: :math:`W`.
            smoothing: :math:`s > 0`, added to each count, so that no length is impossible.
        """
        if not smoothing > 0:
            raise ValueError(f"smoothing {smoothing}: must be positive, or lengths nobody has seen are impossible")
        lengths = torch.as_tensor(lengths, dtype=torch.long)
        outside = (lengths < 1) | (lengths > window)
        if outside.any():
            raise ValueError(f"length {int(lengths[outside][0])}: must be from 1 to the window of {window}")
        counts = torch.bincount(lengths - 1, minlength=window).double() + smoothing
        prior = cls(window)
        prior.log_probabilities = (counts / counts.sum()).log().float()
        return prior

    def forward(self) -> Distribution:
        return Lengths(at_least_float32(self.log_probabilities))

    def extra_repr(self) -> str:
        return f"window={len(self.log_probabilities)}"


def moments(vectors: Float[Tensor, "n width"]) -> tuple[Float[Tensor, " width"], Float[Tensor, " width"]]:
    """Mean and variance of vectors that are to be a prior.

    Raises:
        ValueError: If there are fewer than two, or a dimension in which they do not differ.
    """
    if len(vectors) < 2:
        raise ValueError(f"there are {len(vectors)} vectors: a variance needs at least 2.")
    variance, mean = torch.var_mean(vectors.detach(), 0)
    if not bool((variance > 0).all()):
        raise ValueError(f"the vectors do not differ in dimension {int(variance.argmin())}: give others, or more.")
    return mean, variance


def _filled(value: float | Tensor, width: int) -> Tensor:
    return torch.as_tensor(value, dtype=torch.get_default_dtype()).expand(width).clone()
