r"""The evidence lower bound, term by term and text by text, without a host synchronization.

.. math::

    \mathrm{ELBO}_i = \mathbb{E}_q[\log p(x_i \mid z)] - \sum_s \beta_s \, \mathrm{KL}_{i,s}

with one term per latent site ``s`` of text ``i``. It bounds :math:`\log p(x_i)` when every :math:`\beta_s` is 1.

A latent that is discrete has no pathwise gradient. Its terms :math:`f` then get the gradient of its density, in
proportion to how much a draw is better than the others, which does not change their values and has no bias:

.. math::

    \frac1K \sum_k \Big( f_k - \frac1{K-1} \sum_{j \neq k} f_j \Big) \nabla \log q(z_k)
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import pyro
import torch
from jaxtyping import Float
from pyro.distributions.util import scale_and_mask
from pyro.poutine import Trace
from torch import Tensor, nn

from ...models.batch import Batch
from ...models.distributions.presence import Presence
from ...models.utils.numbers import check_at_least, declared_number
from .description import Described
from .divergence import closed_form
from .kl_control import FreeBits, by_dimension
from .switched_off import switched_off
from .trace_pair import trace_pair
from .traces import Site, log_prob, plate_dim, sample_sites

__all__ = ["ELBO", "Densities", "Objective", "Terms", "averaged"]

E = TypeVar("E", bound="ELBO")


class Terms(NamedTuple):
    """The terms of a bound, each entry one number per text, in nats.

    ``kl`` has one entry per site other than the text: the divergence of a latent, minus log p of an observed one; that
    of weights is infinite where vectors are switched off. ``penalty`` is what training charges for it; with free bits
    per dimension it has the site's dimensions. ``counts`` are other numbers of a text, which no loss reads: they are
    logged, and controllers read them.
    """

    log_likelihood: Float[Tensor, " B"]
    kl: dict[str, Float[Tensor, " B"]]
    penalty: dict[str, Float[Tensor, "B ..."]]
    counts: Mapping[str, Float[Tensor, " B"]] = {}

    @property
    def bound(self) -> Float[Tensor, " B"]:
        """The ELBO with every weight 1: a lower bound of log p(x)."""
        return self.log_likelihood - sum(self.kl.values(), torch.zeros_like(self.log_likelihood))


class Densities(NamedTuple):
    """Log densities of one draw by site, one number per text: of the model's sites, and of the guide's."""

    log_p: dict[str, Float[Tensor, " B"]]
    log_q: dict[str, Float[Tensor, " B"]]

    @property
    def log_weight(self) -> Float[Tensor, " B"]:
        r""":math:`\log p(x_i, z_i) - \log q(z_i \mid x_i)`."""
        log_p: Tensor = torch.stack(torch.broadcast_tensors(*self.log_p.values())).sum(0)
        return log_p - sum(self.log_q.values())


class ELBO(Described, pyro.infer.ELBO):
    r"""Pyro's ELBO, text by text: KLs in closed form where one is registered, Monte Carlo elsewhere.

    ``ELBO()(model, guide)`` is an :class:`Objective`, a module whose call gives the loss of a batch. The loss is the
    weighted mean over texts in nats per text; sites outside the plate ``texts`` are global and count once for all
    ``data_size`` texts. There is no ``.item()`` in it, so a training step never waits for the device and the whole
    bound can be captured into one graph.

    To define an objective of your own, derive from this class and override ``text_losses``, ``penalties`` or ``terms``.

    Arguments:
        num_particles: Number of draws from the guide to average over. A gradient where a latent is discrete needs two,
            which are drawn all the same if this is 1.
        kl_weights: The weight of each site's divergence, by site name; 1 for sites that are left out, 0 is allowed.
        data_size: Number of texts that share the global sites; only models with such sites need it.
        free_bits: An allowance for the divergences of some sites; the loss is then no bound.

    Raises:
        ValueError: If ``num_particles`` is not positive or a weight is negative or not finite. At the call, if the
            model has global sites and ``data_size`` is missing, ``kl_weights`` or ``free_bits`` name sites or
            dimensions that the model does not have, or all texts share a discrete latent of the guide.

    References:
        Buy 4 REINFORCE Samples, Get a Baseline for Free! (Kool et al., 2019), for the gradient of discrete latents.

    Examples:
        >>> from pyroformer.models.language_model import LanguageModel
        >>> from pyroformer.models.transformer.config import TransformerConfig
        >>> model = LanguageModel(TransformerConfig(vocabulary=20, max_length=8, width=16, layers=1, heads=2))
        >>> loss = ELBO()(model, None)
        >>> loss(Batch.pad([[5, 6, 2], [7, 2]])).shape
        torch.Size([])
    """

    name = "elbo"
    is_bound = True
    default_particles = 1  # draws of each text's latents in a step

    def __init__(
        self,
        num_particles: int = 1,
        kl_weights: Mapping[str, float] | None = None,
        data_size: int | None = None,
        free_bits: FreeBits | None = None,
    ) -> None:
        num_particles = declared_number("num_particles", num_particles, int)
        check_at_least(1, num_particles=num_particles)
        super().__init__(num_particles=num_particles)
        self.kl_weights = {site: _checked_weight(site, weight) for site, weight in (kl_weights or {}).items()}
        self.data_size = data_size
        self.free_bits = free_bits
        if free_bits is not None:
            self.is_bound = False

    @classmethod
    def from_description(cls: type[E], described: Mapping[str, Any], num_particles: int, data_size: int) -> E:
        """The objective that :meth:`describe` described."""
        if cls.terms is not ELBO.terms:  # its loss may depend on the number of draws, which stays that of training
            num_particles = described.get("num_particles", 1)
        weights, free_bits = described["kl_weights"], None
        if "free_bits" in described:
            free_bits = FreeBits(described["free_bits"], tuple(weights), described["free_bits_per"])
        return cls(num_particles=num_particles, kl_weights=weights, data_size=data_size, free_bits=free_bits)

    def __call__(self, model: nn.Module, guide: nn.Module | None) -> "Objective":
        return Objective(model, guide, self)

    def differentiable_loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Float[Tensor, ""]:
        """The loss of a batch, with gradients."""
        terms = self.terms(model, guide, *args, **kwargs)
        weights = {site: torch.as_tensor(weight) for site, weight in self.kl_weights.items()}
        return self.combine(terms, weights, _text_weights(args, terms))

    def loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        """The loss of a batch as a number."""
        with torch.no_grad():
            return float(self.differentiable_loss(model, guide, *args, **kwargs))

    def loss_and_grads(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        """The loss of a batch as a number, with gradients accumulated into the parameters."""
        loss = self.differentiable_loss(model, guide, *args, **kwargs)
        loss.backward()
        return float(loss.detach())

    def combine(self, terms: Terms, kl_weights: Mapping[str, Tensor], text_weights: Float[Tensor, " B"]) -> Tensor:
        """The loss of a batch from its terms: the weighted sum of the losses of its texts."""
        return (text_weights * self.text_losses(terms, kl_weights, text_weights)).sum()

    def text_losses(
        self, terms: Terms, kl_weights: Mapping[str, Tensor | float], text_weights: Float[Tensor, " B"]
    ) -> Float[Tensor, " B"]:
        """The loss of each text, in nats.

        Arguments:
            terms: The terms of the bound.
            kl_weights: The weight of each site's penalty; 1 for sites that are left out.
            text_weights: The weights of the texts, over which free bits average.
        """
        for site in kl_weights:
            if site not in terms.kl and site not in terms.penalty:
                raise ValueError(
                    f"kl_weights name the site {site!r}, but the model has only {', '.join(terms.kl) or 'none'}: "
                    "name its latent sites."
                )
        penalties = terms.penalty if self.free_bits is None else self.free_bits(terms.penalty, text_weights)
        loss = -terms.log_likelihood
        for site, penalty in penalties.items():
            loss = loss + (penalty if site not in kl_weights else kl_weights[site] * penalty)
        return loss

    def terms(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Terms:
        """The terms of the bound, averaged over particles."""
        draws: list[Terms] = []
        log_q: list[Tensor | None] = []
        while len(draws) < self.num_particles or (len(draws) == 1 and log_q[0] is not None):
            traces = trace_pair(model, guide, *args, **kwargs)
            draws.append(self.trace_terms(*traces))
            log_q.append(self._log_q_of_discrete(traces[1]))
        return averaged(draws, log_q)

    def log_weights(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Float[Tensor, " B"]:
        r"""One draw's log importance weight of each text, :math:`\log p(x_i, z_i) - \log q(z_i \mid x_i)`."""
        model_trace, guide_trace = trace_pair(model, guide, *args, **kwargs)
        log_weight = self.densities(model_trace, guide_trace).log_weight
        for off in self._switched_off(sample_sites(model_trace), sample_sites(guide_trace)).values():
            log_weight = log_weight.masked_fill(off, -math.inf)
        return log_weight

    def densities(self, model_trace: Trace, guide_trace: Trace) -> Densities:
        """Log densities of one draw, site by site and text by text."""
        return Densities(
            *(
                {name: self._per_text(site, log_prob(site)) for name, site in sample_sites(trace).items()}
                for trace in (model_trace, guide_trace)
            )
        )

    def _get_trace(self, model: Any, guide: Any, args: Any, kwargs: Any) -> tuple[Trace, Trace]:
        return trace_pair(model, guide, *args, **kwargs)

    def trace_terms(self, model_trace: Trace, guide_trace: Trace) -> Terms:
        """The terms of the bound at one draw."""
        sites, posterior = sample_sites(model_trace), sample_sites(guide_trace)
        log_likelihood = None
        kl = {}
        for name, site in sites.items():
            if name == "text":
                log_likelihood = self._per_text(site, log_prob(site))
            elif name in posterior:
                kl[name] = self._per_text(site, _divergence(posterior[name], site))
            elif site["is_observed"]:
                kl[name] = -self._per_text(site, log_prob(site))
        for name, site in posterior.items():
            if name not in sites:  # an auxiliary site of the guide
                kl[name] = self._per_text(site, log_prob(site))
        if log_likelihood is None:
            raise ValueError("the model has no site 'text': observe the data under that name.")
        kl = {name: value.to(log_likelihood.dtype).expand_as(log_likelihood) for name, value in kl.items()}
        penalty = self.penalties(kl, sites, posterior)
        infinite = {
            name: kl[name].masked_fill(off, math.inf) for name, off in self._switched_off(sites, posterior).items()
        }
        return Terms(log_likelihood, kl | infinite, penalty, self.counts(sites, posterior))

    def counts(self, sites: dict[str, Site], posterior: dict[str, Site]) -> dict[str, Tensor]:
        """Numbers of each text to log beside the terms: of the vectors, the mean number present, if some may be absent.

        A subclass may count something else.
        """
        presence = posterior["presence"]["fn"] if "presence" in posterior else None
        return {"kept": presence.mean.sum(-1) / presence.always - 1} if isinstance(presence, Presence) else {}

    def penalties(self, kl: dict[str, Tensor], sites: dict[str, Site], posterior: dict[str, Site]) -> dict[str, Tensor]:
        """The penalty that training charges for each site: its divergence, unless a subclass regularizes otherwise.

        Arguments:
            kl: The divergences of each text, by site.
            sites: The sample sites of the model's trace.
            posterior: The sample sites of the guide's trace.
        """
        if self.free_bits is None or self.free_bits.per != "dimension":
            return kl
        by_dim = {}
        for name in [site for site in self.free_bits.sites if site in sites and site in posterior]:
            q, p = by_dimension(posterior[name]), by_dimension(sites[name])
            dimensions = sites[name]["fn"].event_shape
            value = self._per_text(sites[name], _divergence(q, p), len(dimensions))
            by_dim[name] = value.to(kl[name].dtype).expand(*kl[name].shape, *dimensions)
        return kl | by_dim

    def _log_q_of_discrete(self, guide_trace: Trace) -> Tensor | None:
        """Log q of each text's discrete latents together; None if there are none, or no gradient is wanted."""
        log_q = []
        for name, site in sample_sites(guide_trace).items():
            if site["is_observed"] or site["fn"].has_rsample or not log_prob(site).requires_grad:
                continue
            if plate_dim(site) is None:
                raise ValueError(
                    f"the guide draws {name!r}, which is discrete and which all texts share, so that there is no "
                    "gradient of single texts: draw it in the plate 'texts', or enumerate it with TraceEnum_ELBO."
                )
            log_q.append(self._per_text(site, log_prob(site)))
        return sum(log_q[1:], log_q[0]) if log_q else None

    def _switched_off(self, sites: dict[str, Site], posterior: dict[str, Site]) -> dict[str, Tensor]:
        """By site of weights, the texts of which vectors are switched off."""
        found = switched_off(sites, posterior)
        return {name: self._per_text(posterior[name], off.float()) > 0 for name, off in found.items()}

    def _per_text(self, site: Site, value: Tensor, kept: int = 0) -> Tensor:
        """A site's values summed over all dimensions but the texts and the last ``kept`` ones.

        The values of a global site are spread evenly over all texts of the data.
        """
        plate = plate_dim(site)
        if plate is None:
            if self.data_size is None:
                raise ValueError(
                    f"site {site['name']!r} lies outside the plate 'texts', so all texts share it: "
                    "give their number as data_size=...."
                )
            return value.reshape(-1, *value.shape[value.ndim - kept :]).sum(0) / self.data_size
        right = range(plate + 1 - kept, -kept)
        return value.sum(dim=tuple(right)) if right else value


class Objective(pyro.infer.elbo.ELBOModule):
    r"""A model, its guide and an ELBO as one module: ``objective(batch)`` is the loss.

    ``kl_weights`` are buffers, one per site, so that a schedule can change them without compiling a new graph.
    """

    elbo: ELBO

    def __init__(self, model: nn.Module, guide: nn.Module | None, elbo: ELBO) -> None:
        super().__init__(model, guide, elbo)  # type: ignore[arg-type]
        self.kl_weights = nn.Module()
        for site, weight in elbo.kl_weights.items():
            self.kl_weights.register_buffer(site, torch.tensor(float(weight)), persistent=False)

    def terms(self, *args: Any) -> Terms:
        """The terms of the bound, text by text."""
        return self.elbo.terms(self.model, self.guide, *args)

    def losses(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """The loss, and without gradients the weighted mean of each term, in nats per text."""
        terms = self.terms(batch)
        parts = {"reconstruction": -terms.log_likelihood, "bound": -terms.bound}
        parts |= {f"kl_{site}": value for site, value in terms.kl.items()}
        parts |= terms.counts
        objective = self.elbo.combine(terms, dict(self.kl_weights.named_buffers()), batch.weight)
        return {"objective": objective} | {name: _weighted_sum(batch.weight, v.detach()) for name, v in parts.items()}

    def forward(self, *args: Any) -> Float[Tensor, ""]:
        terms = self.terms(*args)
        return self.elbo.combine(terms, dict(self.kl_weights.named_buffers()), _text_weights(args, terms))


def averaged(draws: Sequence[Terms], log_q: Sequence[Float[Tensor, " B"] | None] = ()) -> Terms:
    """The mean of several draws' terms.

    Arguments:
        draws: The terms of each draw.
        log_q: The log density of each draw's discrete latents, whose gradient the means get; None where there are none.
    """
    if len(draws) == 1:
        return draws[0]
    scores = torch.stack([value for value in log_q if value is not None]) if log_q and log_q[0] is not None else None

    def mean(values: Sequence[Tensor]) -> Tensor:
        stacked = torch.stack(list(values))
        return stacked.mean(0) if scores is None else _with_gradient_of_choices(stacked, scores)

    return Terms(
        mean([draw.log_likelihood for draw in draws]),
        {site: mean([draw.kl[site] for draw in draws]) for site in draws[0].kl},
        {site: mean([draw.penalty[site] for draw in draws]) for site in draws[0].penalty},
        {name: torch.stack([draw.counts[name] for draw in draws]).mean(0) for name in draws[0].counts},
    )


def _with_gradient_of_choices(values: Float[Tensor, "k B ..."], log_q: Float[Tensor, "k B"]) -> Float[Tensor, "B ..."]:
    """The mean over draws, whose gradient has that of their density too, each draw compared with the others."""
    count = len(values)
    better = (values - values.mean(0)).detach() * count / (count - 1)  # than the mean of the others
    log_q = log_q.reshape(*log_q.shape, *(1,) * (values.ndim - 2)).to(values.dtype)
    mean: Tensor = (values + better * (log_q - log_q.detach())).mean(0)
    return mean


def _checked_weight(site: str, weight: float) -> float:
    """The weight of a site's divergence as a number, or a ValueError if it is negative or not finite."""
    number: float = declared_number(f"the KL weight of {site!r}", weight, float)
    if not 0 <= number < math.inf:
        raise ValueError(f"the KL weight of {site!r} is {number}: give a finite number, 0 or more.")
    return number


def _divergence(posterior: Site, prior: Site) -> Tensor:
    """The site's KL in closed form where there is one, otherwise its unbiased estimate at the draw."""
    kl = closed_form(posterior["fn"], prior["fn"])
    if kl is None:
        return log_prob(posterior) - log_prob(prior)
    value: Tensor = scale_and_mask(kl, posterior["scale"], posterior["mask"])
    return value


def _weighted_sum(weights: Float[Tensor, " B"], values: Float[Tensor, " B"]) -> Float[Tensor, ""]:
    """The sum of values, which may be infinite, without those of weight 0."""
    return torch.where(weights > 0, weights * values, 0).sum()


def _text_weights(args: tuple[Any, ...], terms: Terms) -> Tensor:
    """The weights of the batch; those of a plain mean for models whose argument is not a :class:`Batch`."""
    if args and isinstance(args[0], Batch):
        return args[0].weight
    return torch.full_like(terms.log_likelihood, 1 / terms.log_likelihood.shape[-1])
