r"""The posterior of the vectors that one attention layer reads, and their empirical prior.

With the noise variance :math:`s` of the layer's queries, a vector x becomes the component

.. math::
    \mu = \tau_\mu x + (1 - \tau_\mu) \mu^p, \qquad \sigma^2 = \tau_\sigma^2 (\sigma^p)^2, \qquad
    \log \alpha = \frac{|x|^2}{2 s} + \tau_\alpha \, \text{std}^p(\log \alpha) + \tau_\text{nats}

beside the prior's own, :math:`N(\mu^p, (\sigma^p)^2)` with :math:`\log \alpha^p = E^p |x|^2 / (2 s)`. For
:math:`\tau = (1, 0, \infty)` attention to this mixture is softmax attention.
"""

import math
from typing import NamedTuple, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ..attention.kernel.natural_parameters import Form
from ..distributions.log_dirichlet_math import LOG_ZERO, sample_log_gamma
from ..utils.precision import at_least_float32, without_autocast
from .moments import RunningMoments
from .observer import Observer
from .tau import IDENTITY, Tau

__all__ = ["Bottleneck", "Components", "Heads", "VectorPosterior"]

FORMS: tuple[Form, ...] = get_args(Form)  # a saved state has the place of one: add new ones at the end


class VectorPosterior(NamedTuple):
    r"""The posterior of a sequence of vectors, without the prior's component.

    Arguments:
        x: The vectors, with shape :math:`(*, N, P)`.
        means: :math:`\mu`, with shape :math:`(*, N, P)`.
        variances: :math:`\sigma^2`, with shape :math:`(P)` where all share one, else :math:`(*, N, P)`.
        excess: :math:`\log \alpha - |x|^2 / (2 s)`, with shape :math:`(*, N)`.
        present: True where there is a vector, with shape :math:`(*, N)`, or None.
    """

    x: Float[Tensor, "*batch n p"]
    means: Float[Tensor, "*batch n p"]
    variances: Float[Tensor, "..."]
    excess: Float[Tensor, "*batch n"]
    present: Bool[Tensor, "*batch n"] | None = None


class Components(NamedTuple):
    r"""Components as an attention kernel reads them, up to terms that all of them share.

    The logit of a query u is :math:`u \cdot y / s + b + c \cdot B u^2 / (2 s)`, the answer :math:`y + (c B) u`.

    Arguments:
        vectors: :math:`y = (1 - r) \mu` with :math:`r = \sigma^2 / (\sigma^2 + s)`, with shape :math:`(*, N, P)`.
        bias: :math:`b`, with shape :math:`(*, N)`.
        response: :math:`c`, with shape :math:`(*, N, R)`; the basis :math:`B` is :meth:`Bottleneck.basis`.
    """

    vectors: Float[Tensor, "*batch n p"]
    bias: Float[Tensor, "*batch n"]
    response: Float[Tensor, "*batch n r"]


class Heads(nn.Module):
    r"""Learned changes of the posterior's parameters, all zero at the start.

    .. math::
        \mu \mathrel{+}= W_\mu x + b_\mu, \qquad \log \sigma^2 \mathrel{+}= W_\sigma x + b_\sigma, \qquad
        \log \alpha \mathrel{+}= w_2 \cdot x^2 + w_1 \cdot x + b

    Arguments:
        width: The width :math:`P` of the vectors.
        diagonal: Whether each vector has variances of its own; otherwise :math:`W_\sigma = 0`.
    """

    def __init__(self, width: int, diagonal: bool) -> None:
        super().__init__()
        self.mean_weight = nn.Parameter(torch.zeros(width, width))
        self.mean_bias = nn.Parameter(torch.zeros(width))
        self.log_variance_weight = nn.Parameter(torch.zeros(width, width)) if diagonal else None
        self.log_variance_bias = nn.Parameter(torch.zeros(width))
        self.square = nn.Parameter(torch.zeros(width))
        self.linear = nn.Parameter(torch.zeros(width))
        self.constant = nn.Parameter(torch.zeros(()))

    def mean(self, x: Float[Tensor, "*batch n p"]) -> Float[Tensor, "*batch n p"]:
        return x @ self.mean_weight.mT + self.mean_bias

    def log_variance(self, x: Float[Tensor, "*batch n p"]) -> Float[Tensor, "..."]:
        weight = self.log_variance_weight
        return self.log_variance_bias if weight is None else x @ weight.mT + self.log_variance_bias

    def log_alpha(self, x: Float[Tensor, "*batch n p"]) -> Float[Tensor, "*batch n"]:
        return x.square() @ self.square + x @ self.linear + self.constant


class Bottleneck(nn.Module):
    r"""The posterior of the vectors that one attention layer reads, given its empirical prior and its ``tau``.

    Arguments:
        width: The width :math:`P` of the vectors.
        noise_variance: The variance :math:`s` of a query around its vector; logits of the layer are
            :math:`q \cdot k / s`.
        group: The kind of the layer: ``"encoder"``, ``"decoder"`` or ``"cross"``.
        learn: Whether it has :class:`Heads` to be trained.
        diagonal: Whether heads give each vector variances of its own.

    Examples:
        >>> from pyroformer.models.nvib.bottleneck import Bottleneck
        >>> layer = Bottleneck(8, noise_variance=2.0)
        >>> posterior = layer.posterior(torch.randn(3, 5, 8))
        >>> bool((posterior.means == posterior.x).all()), float(posterior.variances.max())
        (True, 0.0)
    """

    prior_mean: Tensor
    prior_variance: Tensor
    prior_log_alpha: Tensor
    log_alpha_std: Tensor
    count: Tensor

    def __init__(
        self, width: int, noise_variance: float, group: str = "encoder", learn: bool = False, diagonal: bool = False
    ) -> None:
        super().__init__()
        self.width, self.noise_variance, self.group, self.diagonal = width, noise_variance, group, learn and diagonal
        self.tau = IDENTITY
        self.sample = True
        self.form: Form = "exact"
        self.heads = Heads(width, diagonal) if learn else None
        self.register_buffer("prior_mean", torch.zeros(width))
        self.register_buffer("prior_variance", torch.ones(width))
        self.register_buffer("prior_log_alpha", torch.zeros(()))
        self.register_buffer("log_alpha_std", torch.zeros(()))
        self.register_buffer("count", torch.zeros((), dtype=torch.long))
        self.observer: Observer | None = None
        self.last: VectorPosterior | None = None
        self.last_has_graph = True

    def extra_repr(self) -> str:
        own = self.tau._asdict() if self.tau.nats else self.tau._asdict() | {"nats": None}
        tau = ", ".join(f"tau_{name}={value:g}" for name, value in own.items() if value is not None)
        return f"{self.width}, group={self.group!r}, {tau}, form={self.form!r}"

    def get_extra_state(self) -> Tensor:
        """``tau`` and the number of the form, so that a ``state_dict`` is all that a layer needs."""
        return torch.tensor([*self.tau, FORMS.index(self.form)], dtype=torch.float64)

    def set_extra_state(self, state: Tensor) -> None:
        numbers = state.tolist()
        count = len(Tau._fields)
        self.tau = Tau(*numbers[:count])
        for form in numbers[count:]:  # older states have none
            self.form = FORMS[int(form)]

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "observer": None, "last": None}  # of one forward pass, with its graph

    def set_prior(self, vectors: RunningMoments, log_alphas: RunningMoments) -> None:
        r"""Takes over the moments of the vectors and of :math:`|x|^2 / (2 s)` as the prior's.

        Raises:
            ValueError: If there were fewer than two vectors, or they are not finite.
        """
        variance, spread = vectors.variance, log_alphas.variance
        assert vectors.mean is not None and log_alphas.mean is not None
        if not bool(variance.isfinite().all()):  # nor is it where the mean is not
            raise ValueError("its vectors are NaN or infinite: look at the inputs, or at the weights of the model.")
        self.prior_mean.copy_(vectors.mean)
        # a dimension that never varies has a prior all the same, so narrow that its vectors stay as they are
        self.prior_variance.copy_(variance.clamp_min(1e-12))
        self.prior_log_alpha.copy_(log_alphas.mean.squeeze())
        self.log_alpha_std.copy_(spread.squeeze().sqrt())
        self.count.fill_(vectors.count)

    def natural_log_alpha(self, x: Float[Tensor, "*batch n p"]) -> Float[Tensor, "*batch n"]:
        r""":math:`|x|^2 / (2 s)`, with which denoising attention is softmax attention."""
        return 0.5 / self.noise_variance * at_least_float32(x).square().sum(-1)

    def posterior(
        self, x: Float[Tensor, "*batch n p"], present: Bool[Tensor, "*batch n"] | None = None
    ) -> VectorPosterior:
        """The posterior of each vector, in float32 at least.

        Raises:
            ValueError: If the prior is in half precision.
        """
        if self.prior_mean.dtype in (torch.float16, torch.bfloat16):
            dtype = str(self.prior_mean.dtype).removeprefix("torch.")
            raise ValueError(
                f"the priors of the layers are {dtype}, and distributions need float32: call model.float(), and run it "
                "under torch.autocast."
            )
        tau, x = self.tau, at_least_float32(x)
        with without_autocast(x.device):
            means = x if tau.mu == 1 else tau.mu * x + (1 - tau.mu) * self.prior_mean
            variances = self.prior_variance * tau.sigma**2
            excess = x.new_zeros(x.shape[:-1])
            if tau.alpha != math.inf:
                excess = excess + (tau.alpha * self.log_alpha_std + tau.nats)
            if self.heads is not None:
                means = means + self.heads.mean(x)
                variances = variances * self.heads.log_variance(x).exp()
                excess = excess + self.heads.log_alpha(x)
        return VectorPosterior(x, means, variances, excess, present)

    def log_alpha(self, posterior: VectorPosterior) -> tuple[Float[Tensor, "*batch m"], Bool[Tensor, "*batch m"]]:
        r""":math:`\log \alpha` of the prior's component, then of each vector, and the mask of those present."""
        x, _, _, excess, present = posterior
        own = self.prior_log_alpha.expand(*excess.shape[:-1], 1)
        present = torch.ones_like(excess, dtype=torch.bool) if present is None else present
        return torch.cat([own, self.natural_log_alpha(x) + excess], -1), F.pad(present, (1, 0), value=True)

    def components(self, posterior: VectorPosterior) -> Components:
        """The mean of the posterior over mixtures: every vector is a Gaussian component."""
        x, means, variances, excess, _ = posterior
        s = self.noise_variance
        shrinkage = variances / (variances + s)
        vectors = (1 - shrinkage) * means
        # |x|^2 - |mu|^2 and |mu|^2 - mu . y, as differences of vectors: norms would cancel only up to rounding
        squares = (x - means) * (x + means) + shrinkage * means.square()
        bias = excess + 0.5 / s * squares.sum(-1) - 0.5 * (variances / s).log1p().sum(-1)
        if variances.ndim > 1:
            return Components(vectors, bias, shrinkage)
        return Components(vectors, bias, bias.new_zeros(*bias.shape, 1))

    def prior_component(self) -> Components:
        """The prior's component in the mean of the posterior."""
        s, mean, variances = self.noise_variance, self.prior_mean, self.prior_variance
        shrinkage = variances / (variances + s)
        vector = (1 - shrinkage) * mean
        bias = self.prior_log_alpha - 0.5 / s * (vector * mean).sum() - 0.5 * (variances / s).log1p().sum()
        return Components(vector[None], self._if_visible(bias)[None], self._own_response(shrinkage)[None])

    def draw(self, posterior: VectorPosterior) -> Components:
        r"""Vectors and weights drawn from the posterior, as point masses.

        .. math:: z \sim N(\mu, \sigma^2), \qquad \log g \text{ with } g \sim \text{Gamma}(\alpha, 1)

        Attention does not need the weights normalized, so that gammas are as good as Dirichlet weights.
        """
        x, means, variances, excess, _ = posterior
        vectors = means if self.tau.sigma == 0 else means + variances.sqrt() * torch.randn_like(means)
        bias = excess + 0.5 / self.noise_variance * ((x - vectors) * (x + vectors)).sum(-1)
        if self.tau.alpha != math.inf:
            log_alpha = self.natural_log_alpha(x) + excess
            bias = bias + (sample_log_gamma(log_alpha) - log_alpha)
        return Components(vectors, bias, bias.new_zeros(*bias.shape, 0))

    def draw_prior_component(self, like: Float[Tensor, "*batch n p"]) -> Components:
        """The prior's component in such draws, one for each sequence."""
        noise = torch.randn_like(like[..., :1, :])
        vectors = self.prior_mean + self.prior_variance.sqrt() * noise
        log_alpha = self.prior_log_alpha.expand(vectors.shape[:-1])
        log_gamma = sample_log_gamma(log_alpha).to(vectors.dtype)
        bias = self._if_visible(log_gamma - 0.5 / self.noise_variance * vectors.square().sum(-1))
        return Components(vectors, bias, bias.new_zeros(*bias.shape, 0))

    def basis(self) -> tuple[Float[Tensor, " p"] | None, Float[Tensor, "r p"] | None]:
        r"""The response that all components share, and the basis :math:`B` of what they have beyond it.

        Vectors that share their variances have nothing beyond it, so that one vector for the prior's component is
        enough. For variances of their own both are None: the basis is the identity.
        """
        if self.diagonal:
            return None, None
        variances = self.prior_variance * self.tau.sigma**2
        if self.heads is not None:
            variances = variances * self.heads.log_variance_bias.exp()
        tokens, prior = (each / (each + self.noise_variance) for each in (variances, self.prior_variance))
        return tokens, (prior - tokens)[None]

    def _own_response(self, shrinkage: Tensor) -> Tensor:
        return shrinkage if self.diagonal else torch.ones_like(shrinkage[:1])

    def _if_visible(self, bias: Tensor) -> Tensor:
        return torch.full_like(bias, LOG_ZERO) if self.tau.alpha == math.inf else bias
