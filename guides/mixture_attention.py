r"""Amortized posteriors of the model behind attention: networks that read the queries.

The story of each::

    AssignmentGuide   assignment_m ~ Categorical(affine in q_m, or also in its
                                     squares)
                      value_m      ~ Normal(mu[assignment], 1 / beta[assignment]),
                                     where values are free
    ValueGuide        value_m      ~ Normal(m(q_m), s(q_m)), with assignments
                                     summed out
    KeyGuide          keys_n       ~ Normal(m_n, s_n), from the whole set of queries
                      assignment_m ~ Categorical(optimal given these), if it is not
                                     summed out

Each starts at a closed form (attention, its two moments, the variational update) and learns a correction. Like
attention, none depends on the order of the tokens.
"""

from collections.abc import Collection
from dataclasses import replace
from typing import Any, Literal, get_args

import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ..models.attention.attend import attend
from ..models.attention.bayes_rule import log_joint
from ..models.attention.chunked import map_chunks
from ..models.attention.em.expected_statistics import expected_statistics
from ..models.attention.em.m_step import update_means
from ..models.attention.mixture import Mixture
from ..models.attention.observations import Observations
from ..models.attention.query_variances import filled
from ..models.base import LocalModule
from ..models.mixture_attention.emission import check_gaussian
from ..models.mixture_attention.model import MixtureAttention
from ..models.mixture_attention.sites import masked_logits, nested_plates, normal_of_component, where_true
from ..models.priors.components import GaussianVectors
from ..models.utils.choices import check_choice
from ..models.utils.numbers import check_at_least

__all__ = ["AssignmentGuide", "KeyGuide", "MixtureGuide", "ValueGuide"]

Features = Literal["linear", "norm", "squares"]
Start = Literal["attention", "random"]


class MixtureGuide(LocalModule):
    r"""Base class of the guides of :class:`MixtureAttention`, which they may read but do not own.

    Arguments:
        model: The model.
        draws: The sites of the model's parts and of its free values that the guide draws; None if it draws all.

    Raises:
        ValueError: If the model draws a site that the guide does not.
    """

    def __init__(self, model: MixtureAttention, draws: Collection[str] | None = None) -> None:
        super().__init__()
        left = [] if draws is None else [name for name in model.latent_parts if name not in draws]
        if left:
            raise ValueError(
                f"{type(self).__name__} draws no {' and no '.join(left)}, which the model does: leave out "
                "their priors or free_values, or take pyroformer.guides.automatic.Automatic(model)."
            )
        self._owner = (model,)  # a tuple keeps the model from being registered as a child

    @property
    def model(self) -> MixtureAttention:
        return self._owner[0]

    def tokens(self, queries: Tensor) -> list[Any]:
        """The plates of the queries."""
        return [*self.model.plates(queries.shape[:-2]), pyro.plate("tokens", queries.shape[-2], dim=-1)]

    def sample_value(
        self, distribution: Any, values: Tensor | None, value_mask: Tensor | None, counted: Tensor | None
    ) -> None:
        """The model's site of the unknown values, if there are any."""
        if values is not None and value_mask is None:
            return
        with where_true(counted):
            if value_mask is None:
                pyro.sample("value", distribution)
                return
            with where_true(~value_mask):
                pyro.sample("value_unobserved", distribution)


class AssignmentGuide(MixtureGuide):
    r"""A classifier of queries: the component of each.

    .. math:: g_n(q) = a_n \cdot q + c_n \; [ + b_n \cdot q^2 ]

    With :math:`a_n = \alpha_n \xi_n` this is dot-product attention, the exact posterior if all components share one
    precision: its gap is zero. Components with precisions of their own need the squared norm of the query as a feature
    too, and diagonal ones the square of each entry. Known values are not read.

    Arguments:
        model: A model whose components have no prior.
        features: ``linear``, ``norm`` (and the squared norm) or ``squares`` (and every entry's square).
        start: ``attention``, the posterior itself as far as the features can express it, or ``random``.

    Raises:
        ValueError: If an option has no such name, or the model has priors.

    Examples:
        >>> mixture = pf.Mixture.from_attention(torch.randn(5, 8), torch.randn(5, 8))
        >>> guide = AssignmentGuide(MixtureAttention(mixture))
        >>> attention = (torch.randn(3, 8) @ mixture.means.T / 8**0.5).softmax(-1)
        >>> guide.logits(torch.randn(3, 8)).shape
        torch.Size([3, 5])
    """

    def __init__(self, model: MixtureAttention, features: Features = "linear", start: Start = "attention") -> None:
        super().__init__(model, draws=("free values",))
        check_choice("features", features, get_args(Features))
        check_choice("start", start, get_args(Start))
        if start == "attention":
            check_gaussian(model.emission, 'AssignmentGuide with start="attention"', model.correlated)
        parameters = model.mixture_parameters()
        keys, precision = parameters.keys.detach(), parameters.precision.detach()
        slope = precision * keys
        each = precision.expand(slope.shape)
        log_weights = parameters.log_weights.detach().reshape(model.log_weights.shape)
        bias = log_weights + 0.5 * (each.log() - each * keys.square()).sum(-1)
        curvature = -0.5 * (each if features == "squares" else each.mean(-1, keepdim=True))
        if start == "random":
            slope, bias, curvature = 0.1 * torch.randn_like(slope), torch.zeros_like(bias), torch.zeros_like(curvature)
        self.slope = nn.Parameter(slope.clone())
        self.bias = nn.Parameter(torch.where(bias.isfinite(), bias, 0))  # the model masks components without weight
        self.curvature = None if features == "linear" else nn.Parameter(curvature.clone())

    def logits(self, queries: Float[Tensor, "*batch m d"]) -> Float[Tensor, "*batch m n"]:
        """The log posterior of each component, up to a constant of each query."""
        logits = queries @ self.slope.mT + self.bias[..., None, :]
        if self.curvature is None:
            return logits
        squares = queries.square()
        squares = squares if self.curvature.shape[-1] > 1 else squares.sum(-1, keepdim=True)
        return logits + squares @ self.curvature.mT

    def forward(
        self,
        queries: Float[Tensor, "*batch m d"],
        values: Float[Tensor, "*#batch m v"] | None = None,
        value_mask: Bool[Tensor, "*#batch m"] | None = None,
        *,
        attn_mask: Bool[Tensor, "*#batch #m n"] | None = None,
        mask: Bool[Tensor, "*#batch m"] | None = None,
    ) -> None:
        attn_mask, counted = self.model.resolve_masks(attn_mask, mask)
        logits = masked_logits(self.logits(queries), attn_mask, counted)
        with nested_plates(*self.tokens(queries)):
            assignment = pyro.sample("assignment", dist.Categorical(logits=logits), infer={"enumerate": "parallel"})
            if self.model.free_values:
                parameters = self.model.mixture_parameters()
                assert parameters.values is not None and parameters.value_precision is not None
                distribution = normal_of_component(parameters.values, parameters.value_precision, assignment)
                self.sample_value(distribution, values, value_mask, counted)


class ValueGuide(MixtureGuide):
    r"""A Gaussian for the value of each query, which starts with the two moments of attention.

    .. math::
        v \sim N\left( \bar v + s_0 \, f(q),\; s_0^2 e^{2 g(q)} \right), \qquad
        \bar v = E[v \mid q], \quad s_0^2 = \text{Var}[v \mid q]

    One Gaussian is not a mixture, so that a gap remains where attention has several modes.

    Arguments:
        model: A model with ``free_values``, whose components have no prior.
        hidden: Width of the network, whose output starts at zero.

    Raises:
        ValueError: If the model's values are not free, or it has priors.

    Examples:
        >>> mixture = pf.Mixture.from_attention(torch.randn(5, 8), torch.randn(5, 4), value_variances=torch.ones(1, 1))
        >>> guide = ValueGuide(MixtureAttention(mixture, free_values=True))
        >>> mean, scale = guide.moments(torch.randn(3, 8))
        >>> mean.shape, scale.shape
        (torch.Size([3, 4]), torch.Size([3, 4]))
    """

    def __init__(self, model: MixtureAttention, hidden: int = 32) -> None:
        super().__init__(model, draws=("free values",))
        check_gaussian(model.emission, "ValueGuide", model.correlated)
        if not model.free_values or model.component_values is None:
            raise ValueError("the model's values are not sites: make it with free_values=True.")
        width = model.component_values.shape[-1]
        self.network = _residual(model.means.shape[-1] + 2 * width, hidden, 2 * width, model.means)

    def moments(
        self, queries: Float[Tensor, "*batch m d"], attn_mask: Bool[Tensor, "*#batch #m n"] | None = None
    ) -> tuple[Float[Tensor, "*batch m v"], Float[Tensor, "*batch m v"]]:
        """Mean and scale of each query's value."""
        mean, variance = _moments_of_values(queries, self.model.mixture(), attn_mask)
        scale = torch.where(variance > 0, variance, 1).sqrt()  # 0 only where everything is masked
        shift, log_ratio = self.network(torch.cat([queries, mean, scale.log()], -1)).chunk(2, -1)
        return mean + scale * shift, scale * log_ratio.exp()

    def forward(
        self,
        queries: Float[Tensor, "*batch m d"],
        values: Float[Tensor, "*#batch m v"] | None = None,
        value_mask: Bool[Tensor, "*#batch m"] | None = None,
        *,
        attn_mask: Bool[Tensor, "*#batch #m n"] | None = None,
        mask: Bool[Tensor, "*#batch m"] | None = None,
    ) -> None:
        _, counted = self.model.resolve_masks(attn_mask, mask)
        queries = queries if counted is None else torch.where(counted[..., None], queries, 0)
        distribution = dist.Normal(*self.moments(queries, attn_mask)).to_event(1)
        with nested_plates(*self.tokens(queries)):
            self.sample_value(distribution, values, value_mask, counted)


class KeyGuide(MixtureGuide):
    r"""Gaussians for the keys, from the statistics of the whole set of queries.

    .. math::
        \xi_n \sim N\left( m_n + s_n f(\cdot), \; s_n^2 e^{2 g(\cdot)} \right), \qquad
        m_n = \frac{\kappa \xi_n^0 + \sum_m w_{mn} q_m}{\kappa + N_n}, \quad s_n^2 = \frac{1}{\alpha_n (\kappa + N_n)}

    :math:`m` and :math:`s` are those of variational EM, with no gradient through them; :math:`f` and :math:`g` depend
    on the statistics of a component and start at zero.

    Arguments:
        model: A model whose keys have the prior :class:`~pyroformer.models.priors.components.GaussianVectors`, and
            whose other parts have none.
        hidden: Width of the network.
        steps: Steps of variational EM.
        assignment: Whether assignments are sites of the guide, independent of the keys. Summing them out in the model,
            the default, gives the tighter bound.

    Raises:
        ValueError: If the model has other priors or free values, ``steps`` is below 1, or the queries have more leading
            dimensions than the keys.

    References:
        Probabilistic Transformers (Movellan and Gabbur, 2020). https://arxiv.org/abs/2010.15583

    Examples:
        >>> mixture = pf.Mixture(torch.zeros(5).log_softmax(-1), torch.randn(5, 2), noise_variance=1.0)
        >>> guide = KeyGuide(MixtureAttention.conjugate(mixture))
        >>> mean, scale = guide.moments(torch.randn(20, 2))
        >>> mean.shape, scale.shape
        (torch.Size([5, 2]), torch.Size([5, 2]))
    """

    def __init__(self, model: MixtureAttention, hidden: int = 32, steps: int = 20, assignment: bool = False) -> None:
        super().__init__(model, draws=("keys",))
        check_gaussian(model.emission, "KeyGuide", model.correlated)
        if not isinstance(model.key_prior, GaussianVectors):
            raise ValueError("the variational update needs keys with GaussianVectors as their prior.")
        check_at_least(1, steps=steps)
        self.prior = (model.key_prior,)
        self.steps = steps
        self.assignment = assignment
        width = model.means.shape[-1]
        self.network = _residual(width + 1, hidden, width + 1, model.means)

    def moments(
        self,
        queries: Float[Tensor, "*batch m d"],
        values: Float[Tensor, "*#batch m v"] | None = None,
        value_mask: Bool[Tensor, "*#batch m"] | None = None,
        *,
        attn_mask: Bool[Tensor, "*#batch #m n"] | None = None,
        mask: Bool[Tensor, "*#batch m"] | None = None,
    ) -> tuple[Float[Tensor, "*batch n d"], Float[Tensor, "*batch n d"]]:
        """Mean and scale of each key."""
        if queries.ndim - 2 != len(self.model.leading):
            raise ValueError(
                f"queries have {queries.ndim - 2} leading dimensions and keys {len(self.model.leading)}: "
                "give a posterior of shared keys their queries in one set."
            )
        data = {"values": values, "value_mask": value_mask, "attn_mask": attn_mask, "mask": mask}
        means, strength = self._variational(queries, data)
        prior, precision = self.prior[0], self.model.mixture_parameters().precision
        scale = (precision * strength[..., None]).rsqrt().expand(means.shape)
        moved = (means - prior.initial) * precision.sqrt()
        features = torch.cat([moved, (strength / prior.pseudo_counts).log()[..., None]], -1)
        output = self.network(features)
        return means + scale * output[..., :-1], scale * output[..., -1:].exp()

    def forward(
        self,
        queries: Float[Tensor, "*batch m d"],
        values: Float[Tensor, "*#batch m v"] | None = None,
        value_mask: Bool[Tensor, "*#batch m"] | None = None,
        *,
        attn_mask: Bool[Tensor, "*#batch #m n"] | None = None,
        mask: Bool[Tensor, "*#batch m"] | None = None,
    ) -> None:
        model = self.model
        means, scale = self.moments(queries, values, value_mask, attn_mask=attn_mask, mask=mask)
        *plates, tokens = self.tokens(queries)
        with nested_plates(*plates, pyro.plate("components", model.components, dim=-1)):
            pyro.sample("keys", dist.Normal(means, scale).to_event(1))
        if not self.assignment:
            return
        allowed, counted = model.resolve_masks(attn_mask, mask)
        blurred = 0.5 * (model.mixture_parameters().precision * scale.square()).sum(-1)
        mixture = replace(model.mixture(), means=means)
        logits = log_joint(queries, mixture, None, values, value_mask) - blurred[..., None, :]
        with nested_plates(*plates, tokens):
            distribution = dist.Categorical(logits=masked_logits(logits, allowed, counted))
            pyro.sample("assignment", distribution, infer={"enumerate": "parallel"})

    @torch.no_grad()
    def _variational(self, queries: Tensor, data: dict[str, Tensor | None]) -> tuple[Tensor, Tensor]:
        """Means of the keys, and the number of queries that each counts as, after variational EM from the prior."""
        prior, mixture = self.prior[0], self.model.mixture()
        means, prior_counts = prior.initial, prior.pseudo_counts
        strength = prior_counts
        for _ in range(self.steps):
            weights = mixture.log_weights - 0.5 * mixture.width / strength
            state = replace(mixture, log_weights=weights, means=means)
            statistics = expected_statistics(Observations(queries, **data), state)
            means = update_means(statistics.queries, statistics.counts, prior.initial, means, prior_counts)
            strength = prior_counts + statistics.counts
        return means, strength


def _moments_of_values(queries: Tensor, mixture: Mixture, attn_mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Posterior mean and variance of values, with a variance of differences: second moments may be far larger."""
    assert mixture.values is not None and mixture.value_variances is not None
    values, own = filled(mixture.values, mixture), filled(mixture.value_variances, mixture, 1.0)
    # with one-hot values, attention returns the responsibilities
    one_hot = torch.eye(mixture.components, dtype=values.dtype, device=values.device)
    shares = attend(queries, replace(mixture, values=one_hot, value_variances=None), attn_mask=attn_mask)
    mean = shares @ values

    def part(rows: slice) -> Tensor:
        squares = (values[..., None, :, :] - mean[..., rows, None, :]).square()
        return (shares[..., rows, None, :] @ squares)[..., 0, :].mT

    spread = map_chunks(part, shares.shape[-2], mean[..., 0, :].numel() * mixture.components, values.device).mT
    return mean, spread + shares @ own.expand(*own.shape[:-2], mixture.components, -1)


def _residual(inputs: int, hidden: int, outputs: int, like: Tensor) -> nn.Sequential:
    """A small network whose output is zero at the start."""
    last = nn.Linear(hidden, outputs)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Linear(inputs, hidden), nn.SiLU(), last).to(like)
