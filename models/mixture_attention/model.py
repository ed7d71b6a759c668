r"""Attention as a generative model: every query and its value are drawn from one component of a mixture.

The story of one mixture of N components and the M tokens that it explains::

    weights        ~ WeightPrior                        pi; each of the first five
                                                        is fixed without a prior
    precision_n    ~ a prior over precisions            alpha_n
    correlation_n  ~ a prior over correlations          L_n, where the dimensions of
                                                        a query are correlated
    keys_n         ~ ComponentPrior(precision_n)        xi_n
    values_n       ~ ComponentPrior(value precision_n)  mu_n
    assignment_m   ~ Categorical(pi)                    the component; summed out:
                                                        its posterior is attention
    query_m        ~ Normal(xi[assignment], 1 / alpha[assignment])
                                                        or with a full covariance
    value_m        ~ Normal(mu[assignment], 1 / beta[assignment])
                                                        known for value_mask tokens

References:
    Probabilistic Transformers (Movellan and Gabbur, 2020). https://arxiv.org/abs/2010.15583

    Probabilistic Attention for Interactive Segmentation (Gabbur et al., 2021). https://arxiv.org/abs/2106.15338
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Bool, Float
from pyro import poutine
from torch import Tensor, nn
from torch.distributions import Distribution

from ..attention.em.conjugate_priors import ConjugatePriors
from ..attention.mixture import Mixture
from ..attention.variances import Covariances
from ..base import TEXTS
from ..distributions.foreign import as_pyro
from ..priors.checks import as_prior, check_distribution, check_mixture
from ..priors.components import ComponentPrior
from ..priors.conjugate import conjugate_priors
from ..priors.roles import WeightPrior
from ..utils.seeding import forked_rng
from .checks import check_finite_tokens, check_precision_prior, check_weight_prior, shape_of_tokens
from .correlation import check_correlation_prior, correlated_query, covariances, split_covariances
from .emission import EmissionLike, as_emission, check_emission, query_of_component
from .parameters import MixtureParameters, OwnParameters
from .sites import masked_logits, nested_plates, normal_of_component, sample_in, where_true

__all__ = ["MixtureAttention"]

PriorLike = nn.Module | Distribution | Callable[..., Distribution]


class MixtureAttention(OwnParameters):
    r"""The joint density of queries, their values and the mixture that they are drawn from.

    .. math::
        p(q, v, \xi, \mu, \alpha, \pi) = p(\pi) \prod_n p(\alpha_n) \, p(\xi_n \mid \alpha_n) \, p(\mu_n)
        \prod_m \sum_n \pi_n N(q_m; \xi_n, \alpha_n^{-1}) \left[ N(v_m; \mu_n, \beta_n^{-1}) \right]

    ``TraceEnum_ELBO().compute_marginals(model, guide, queries)["assignment"]`` is the attention matrix; with point
    masses for all that has a prior, the loss is exactly minus the log joint, the objective of
    :mod:`~pyroformer.inference.em`.

    Plates are ``components`` and ``tokens``, siblings at dim -1, ``heads`` at -2, ``texts`` at -3 and ``batch_4``, ...
    further left: as many as the mixture has leading dimensions. Queries may have more of them than the mixture, which
    they then share. ``max_plate_nesting`` is 1 plus the number of the queries' leading dimensions.

    Each part with a prior is a site of the same name: ``weights`` (:math:`(*, 1, N)`, or :math:`(N)` of a single
    mixture), ``precision`` (:math:`(*, N)`, or :math:`(*, N, D)` if the prior has one for each dimension),
    ``correlation`` (:math:`(*, N, D, D)`), ``keys`` and ``values`` (:math:`(*, N, D)` and :math:`(*, N, V)`).

    Arguments:
        mixture: The components: weights that sum to one, keys (its means), the variance of a query (its variances plus
            its noise variance), values and their variances. A part without a prior is fixed, or trained if it is an
            ``nn.Parameter``, as the ``table`` of :class:`~.attention.variances.SharedVariances` may be; full
            covariances are fixed. Masked components may hold anything.
        keys: Prior over the keys, called with the precisions; see
            :class:`~pyroformer.models.priors.components.ComponentPrior`.
        values: Prior over the values, called with their precisions.
        precision: Prior over the precision of queries, with event shape () for one per component or :math:`(D)`.
        weights: Prior over the weights or their logarithms, called with a mask of the components that exist; of the
            mixture's own weights only the zeros then matter.
        correlation: Prior over the Cholesky factors of the correlations of a query's dimensions, with event shape
            :math:`(D, D)`: ``dist.LKJCholesky(D, 2.0)``. The covariance of a query is
            :math:`\alpha^{-1/2} L L^T \alpha^{-1/2}`, so that ``precision`` is one over the variance of each dimension
            alone. A mixture with :class:`~.attention.variances.Covariances` has fixed correlations.
        emission: A module or function that is called with the means and the scales (:math:`\alpha^{-1/2}`) of the
            queries' components, both with shape :math:`(*, D)`, and returns the distribution of a query in place of the
            Gaussian, with event shape :math:`(D)`. Values stay Gaussian, and so does :meth:`mixture`.
        free_values: Whether unknown values are sites too, ``value`` if none is known and ``value_unobserved`` if some
            are. Otherwise they are integrated out.

    Raises:
        ValueError: If a precision is not positive, weights do not sum to one, no component is left, a prior has another
            shape or support than its site requires, an emission gives no distribution over a query or comes with
            correlations, a covariance is not positive definite, values need a mixture with some, or a part is computed
            from what requires a gradient.

    Examples:
        >>> from pyro.infer import TraceEnum_ELBO
        >>> keys, values, queries = torch.randn(5, 8), torch.randn(5, 4), torch.randn(3, 8)
        >>> mixture = pf.Mixture.from_attention(keys, values)
        >>> model = MixtureAttention(mixture)
        >>> attention = TraceEnum_ELBO(max_plate_nesting=1).compute_marginals(model, lambda *_: None, queries)
        >>> torch.allclose(attention["assignment"].probs @ values, pf.attend(queries, mixture), atol=1e-5)
        True

        Queries with heavy tails:

        >>> from pyro.distributions import StudentT
        >>> heavy = MixtureAttention(mixture, emission=lambda mean, scale: StudentT(4.0, mean, scale).to_event(1))
        >>> heavy(tokens=7).shape
        torch.Size([7, 8])
    """

    def __init__(
        self,
        mixture: Mixture,
        *,
        keys: PriorLike | None = None,
        values: PriorLike | None = None,
        precision: PriorLike | None = None,
        weights: PriorLike | None = None,
        correlation: PriorLike | None = None,
        emission: EmissionLike | None = None,
        free_values: bool = False,
    ) -> None:
        super().__init__()
        mixture, factors = split_covariances(mixture)
        check_mixture(mixture, weighted=weights is None)
        if (free_values or values is not None) and mixture.value_variances is None:
            raise ValueError("values need a mixture with values and value_variances: give it both.")
        self._register(mixture, factors)
        self.free_values = free_values
        self.key_prior = None if keys is None else as_prior(keys, ComponentPrior, "keys")
        self.value_prior = None if values is None else as_prior(values, ComponentPrior, "values")
        self.precision_prior = None if precision is None else as_prior(precision, nn.Module, "precision")
        self.weight_prior = None if weights is None else as_prior(weights, WeightPrior, "weights")
        self.correlation_prior = None if correlation is None else as_prior(correlation, nn.Module, "correlation")
        self.emission = None if emission is None else as_emission(emission)
        if self.emission is not None and self.correlated:
            raise ValueError(
                "emission and correlations do not go together, as an emission is given one scale for each "
                "dimension: leave one of the two out, or return a correlated distribution from the emission."
            )
        self._log_weights_drawn = self._diagonal = False
        # building a model must not advance the random state
        with torch.no_grad(), forked_rng(), poutine.block():
            self._read_priors()
            self._draw(self.plates(self.leading))

    @classmethod
    def conjugate(
        cls, mixture: Mixture, priors: ConjugatePriors | None = None, moves: str | Sequence[str] = ("means",)
    ) -> "MixtureAttention":
        r"""The model whose log joint is the objective of :func:`~pyroformer.inference.em.adapt`, up to a constant.

        Means that do not move count as observed: their density is part of the prior of the variances. Components that
        are absent have priors of means and variances here and none in EM. An ``attn_mask`` goes together with moving
        weights in EM only: this model draws a query from the components that it may attend to, with their weights
        renormalized, and EM takes the weights as they are.

        Arguments:
            mixture: The mixture, which is the center of the priors.
            priors: The priors of EM. The prior of a part in ``moves`` must be proper: :math:`\kappa > 0` and, for
                variances, :math:`b > 0`.
            moves: The parts with a prior, of ``means``, ``values``, ``variances`` (isotropic) and ``weights``.

        Raises:
            ValueError: If a prior is improper or there is no part of such a name.

        Examples:
            >>> mixture = pf.Mixture(torch.zeros(5).log_softmax(-1), torch.randn(5, 2), noise_variance=1.0)
            >>> MixtureAttention.conjugate(mixture).key_prior.pseudo_counts
            tensor([1., 1., 1., 1., 1.])
        """
        return cls(mixture, **conjugate_priors(mixture, priors, moves))

    @property
    def correlated(self) -> bool:
        """Whether the dimensions of a query are correlated, given its component."""
        return self.correlation_prior is not None or self.correlation is not None

    @property
    def latent_parts(self) -> list[str]:
        """The parts that are drawn, by name: those with a prior, and ``free values``."""
        priors = {
            "weights": self.weight_prior,
            "precision": self.precision_prior,
            "correlation": self.correlation_prior,
            "keys": self.key_prior,
            "values": self.value_prior,
        }
        drawn = [name for name, prior in priors.items() if prior is not None]
        return [*drawn, "free values"] if self.free_values else drawn

    def mixture_parameters(self, draws: Mapping[str, Tensor] | None = None) -> MixtureParameters:
        """The parameters of the components: from ``draws`` by site name, otherwise the mixture's own."""
        draws = {} if draws is None else draws
        moved = {name: draws[name] for name in ("keys", "values", "correlation") if name in draws}
        if "weights" in draws:
            moved["log_weights"] = draws["weights"] if self._log_weights_drawn else draws["weights"].log()
        if "precision" in draws:
            moved["precision"] = draws["precision"] if self._diagonal else draws["precision"][..., None]
        return self.own_parameters()._replace(**moved)

    def mixture(self, draws: Mapping[str, Tensor] | None = None) -> Mixture:
        """The mixture with some parts replaced, for example by a guide's ``median()``."""
        draws = {} if draws is None else draws
        parameters = self.mixture_parameters(draws)
        log_weights = parameters.log_weights
        if "weights" in draws:
            log_weights = masked_logits(log_weights, self.resolve_masks()[0], None).log_softmax(-1)
        moved = "precision" in draws or "correlation" in draws
        variances = 1 / parameters.precision if moved else self._own_variances()
        return Mixture(
            log_weights.squeeze(-2) if self.leading else log_weights,
            parameters.keys,
            variances if parameters.correlation is None else self._covariances(parameters, 0.0 if moved else 1.0),
            self.mask,
            parameters.values,
            torch.zeros_like(self.noise_variance) if moved else self.noise_variance,
            self.value_variances,
        )

    def forward(
        self,
        queries: Float[Tensor, "*batch m d"] | None = None,
        values: Float[Tensor, "*#batch m v"] | None = None,
        value_mask: Bool[Tensor, "*#batch m"] | None = None,
        *,
        attn_mask: Bool[Tensor, "*#batch #m n"] | None = None,
        mask: Bool[Tensor, "*#batch m"] | None = None,
        tokens: int = 1,
    ) -> Float[Tensor, "..."]:
        r"""Draws the components, then the tokens; returns the queries.

        Arguments:
            queries: With shape :math:`(*, M, D)`, or None to draw them.
            values: Values that are known, with shape :math:`(*, M, V)`.
            value_mask: True where a value is known; None is everywhere.
            attn_mask: True where query m may attend to component n: it is drawn from one of those, with their weights
                renormalized. A query without any does not count. ``torch.ones(M, N).tril().bool()`` is causal.
            mask: True for the queries that count.
            tokens: Number of queries to draw where ``queries`` is None.

        Raises:
            ValueError: If shapes do not fit, what counts is not finite, or there are values but the mixture has no
                value variances.
        """
        shape = shape_of_tokens(self, queries, values, value_mask, attn_mask, mask, tokens)
        plates = self.plates(shape[:-1])
        parameters = self._draw(plates)
        attn_mask, counted = self.resolve_masks(attn_mask, mask)
        check_finite_tokens(queries, values, value_mask, counted)
        with nested_plates(*plates, pyro.plate("tokens", shape[-1], dim=-1)):
            distribution = dist.Categorical(logits=masked_logits(parameters.log_weights, attn_mask, counted))
            assignment = pyro.sample("assignment", distribution, infer={"enumerate": "parallel"})
            distribution = self._query(parameters, assignment)
            with where_true(counted):
                if queries is not None and counted is not None:
                    queries = torch.where(counted[..., None], queries, 0)
                if values is not None and counted is not None:
                    values = torch.where(counted[..., None], values, 0)
                drawn: Tensor = pyro.sample("query", distribution, obs=queries)
                if values is not None or self.free_values:
                    assert parameters.values is not None and parameters.value_precision is not None
                    distribution = normal_of_component(parameters.values, parameters.value_precision, assignment)
                    self._sample_values(distribution, values, value_mask)
        return drawn

    def plates(self, leading: Sequence[int]) -> list[Any]:
        """A plate for each leading dimension, from the left."""
        names = {-2: "heads", -3: TEXTS}
        dims = range(-1 - len(leading), -1)
        return [
            pyro.plate(names.get(dim, f"batch_{-dim}"), size, dim=dim) for dim, size in zip(dims, leading, strict=True)
        ]

    def _draw(self, plates: Sequence[Any]) -> MixtureParameters:
        """Draw the sites of the components, inside the plates of the mixture's leading dimensions."""
        leading, draws = self.leading, dict[str, Tensor]()
        own = plates[len(plates) - len(leading) :]
        if self.weight_prior is not None:
            # before any plate: its own priors are drawn once
            distribution = as_pyro(self.weight_prior(self._component_mask()))
            draws["weights"] = sample_in(own, "weights", distribution)
        components = (*own, pyro.plate("components", self.components, dim=-1))
        if self.precision_prior is not None:
            draws["precision"] = sample_in(components, "precision", as_pyro(self.precision_prior()))
        if self.correlation_prior is not None:
            draws["correlation"] = sample_in(components, "correlation", as_pyro(self.correlation_prior()))
        if self.key_prior is not None:
            distribution = as_pyro(self.key_prior(self.mixture_parameters(draws).precision))
            draws["keys"] = sample_in(components, "keys", distribution)
        if self.value_prior is not None:
            distribution = as_pyro(self.value_prior(self.mixture_parameters(draws).value_precision))
            draws["values"] = sample_in(components, "values", distribution)
        return self.mixture_parameters(draws)

    def _query(self, parameters: MixtureParameters, assignment: Tensor) -> Any:
        """The distribution of a query around its component."""
        if parameters.correlation is None:
            return query_of_component(self.emission, parameters.keys, parameters.precision, assignment)
        return correlated_query(parameters.keys, parameters.precision, parameters.correlation, assignment)

    def _covariances(self, parameters: MixtureParameters, noise: float) -> Covariances:
        """The covariances of vectors: those of queries without ``noise`` times the mixture's."""
        assert parameters.correlation is not None
        total = covariances(parameters.precision, parameters.correlation)
        identity = torch.eye(total.shape[-1], dtype=total.dtype, device=total.device)
        return Covariances((total - noise * self.noise_variance * identity).expand(*parameters.keys.shape, -1))

    def _read_priors(self) -> None:
        """Determines the form of the priors' draws; raises if a shape or support is wrong."""
        rows = (*self.leading, self.components)
        draws: dict[str, Tensor] = {}
        if self.weight_prior is not None:
            distribution = as_pyro(self.weight_prior(self._component_mask()))
            self._log_weights_drawn = check_weight_prior(distribution, self.leading, self.components)
        if self.precision_prior is not None:
            self._diagonal, draw = check_precision_prior(as_pyro(self.precision_prior()), rows, self.means.shape[-1])
            draws["precision"] = draw
        if self.correlation_prior is not None:
            check_correlation_prior(as_pyro(self.correlation_prior()), torch.Size(rows), self.means.shape[-1])
        parameters = self.mixture_parameters(draws)
        if self.emission is not None:
            check_emission(self.emission, parameters.keys, parameters.precision)
        if self.key_prior is not None:
            check_distribution("keys", as_pyro(self.key_prior(parameters.precision)), rows, [self.means.shape[-1:]])
        if self.value_prior is not None:
            assert self.component_values is not None
            distribution = as_pyro(self.value_prior(parameters.value_precision))
            check_distribution("values", distribution, rows, [self.component_values.shape[-1:]])

    def _sample_values(self, distribution: Any, values: Tensor | None, value_mask: Tensor | None) -> None:
        if value_mask is None or values is None:
            pyro.sample("value", distribution, obs=values)
            return
        values = torch.where(value_mask[..., None], values, 0)
        if self.free_values:
            known: Any = value_mask  # Pyro's annotation asks for torch.BoolTensor
            pyro.sample("value", distribution, obs=values, obs_mask=known)
            return
        with where_true(value_mask):
            pyro.sample("value", distribution, obs=values)
