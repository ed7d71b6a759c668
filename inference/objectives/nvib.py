"""The objective that the NVAE paper trains on, a regularizer and not a bound."""

from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ...models.base import REGULARIZED_TO, Model
from ...models.distributions.log_dirichlet import LogDirichlet
from ...models.distributions.log_dirichlet_math import LOG_ZERO, symmetric_dirichlet_kl
from ...models.mixture_names import MixtureNames
from ...models.priors.roles import SequencePrior
from ...models.transformer.mixtures.posterior import kept_components
from ...models.utils.choices import check_choice
from ...models.utils.precision import at_least_float32
from ...models.utils.seeding import forked_rng
from ..options import TrainingOptions
from .description import check_no_kl_options
from .elbo import ELBO
from .traces import Site

__all__ = ["NVIB", "vector_regularizer", "weight_regularizer"]

N = TypeVar("N", bound="NVIB")


class NVIB(ELBO):
    r"""Reconstruction plus the paper's regularizers of weights and vectors, in its own scaling.

    .. math::

        \mathcal{L} = -\log p(x \mid z, \pi) + \frac{n}{n+1} \left( \lambda_D L_D + \lambda_G L_G / P \right)

    **This is not a bound of log p(x)**: :math:`L_D, L_G` bound the divergence of another posterior than the one that is
    sampled, so that minus the loss can exceed log p(x); see :func:`weight_regularizer`. One nat of the vectors' exact
    KL costs about :math:`\lambda_G / P`, the effective beta. ``terms`` has the exact divergences all the same, and
    ``evaluate`` reports the exact bound whatever was trained.

    If the model has presence, both regularizers are those of the components that a draw has, and the exact divergence
    of presences is added. If layers of the guide's encoder or of the decoder attend to mixtures too, each has
    regularizers of its own, whose weights grow from layer to layer or are equal, as in the paper of 2023 on
    self-attention. Those of the decoder's layers are about what the model itself draws, which has no divergence in the
    bound. Each is 0 or more, so these can only raise the loss.

    Arguments:
        num_particles: Number of draws from the guide to average over.
        weights: :math:`\lambda_D`.
        vectors: :math:`\lambda_G`.
        beta: Multiplies all.
        presence: The weight of the divergence of presences, for a model that has them; None for others.
        data_size: Number of texts that share the hyper-priors, whose exact divergences are added.

    References:
        A Variational AutoEncoder for Transformers with Nonparametric Variational Information Bottleneck (Henderson &
        Fehr, 2023), https://arxiv.org/abs/2207.13529
        Learning to Abstract with Nonparametric Variational Information Bottleneck (Behjati, Fehr & Henderson, 2023),
        https://arxiv.org/abs/2310.17284
    """

    name = "nvib"
    is_bound = False
    own_options = ("lambda_d", "lambda_g", "layer_weights", "keep")

    def __init__(
        self,
        num_particles: int = 1,
        weights: float = 1.0,
        vectors: float = 1e-3,
        beta: float = 1.0,
        data_size: int | None = None,
        presence: float | None = None,
    ) -> None:
        of_presence = {} if presence is None else {"presence": beta * presence}
        super().__init__(num_particles, {"weights": beta * weights, "vectors": beta * vectors} | of_presence, data_size)

    @classmethod
    def check(cls, options: TrainingOptions, model: Model) -> None:
        """Checks that the priors have the distributions that the regularizers are defined for.

        Raises:
            ValueError: If the model has no weights or no vectors, the vectors do not share one prior, the weights are
                not Dirichlet, an option controls a KL, or one is about layers over mixtures and there are none.
        """
        if not {"weights", "vectors"} <= set(model.latents):
            raise ValueError(
                f"the objective {cls.name} is about weights and vectors, and the latents of {type(model).__name__} are "
                f"{', '.join(model.latents) or 'none'}: choose the objective elbo."
            )
        base = getattr(model, "base_measure", None)
        if isinstance(base, SequencePrior):
            raise ValueError(
                f"the objective {cls.name} compares every vector with the same distribution, and {type(base).__name__} "
                "has a different one for each vector: choose the objective elbo, or a base_measure of independent "
                "vectors (gaussian or mixture)."
            )
        _check_dirichlet(model, cls.name)
        if options.layer_weights is not None and not any(_layers(model)):
            raise ValueError(
                f"layer_weights is {options.layer_weights}, and no layer of the model attends to a mixture of its own: "
                "give it nvib_layers or nvib_decoder_layers, or leave layer_weights out."
            )
        check_no_kl_options(options, cls.name)

    @classmethod
    def full_kl_weights(cls, options: TrainingOptions, model: Model) -> dict[str, float]:
        """The weights of both regularizers, of those of each layer, and of presences, if there are some.

        By default the weights of a layer's are in proportion to its place: in the encoder among its mixtures, of which
        the text's is the last; in the decoder among those of its layers.
        """
        full = cls(beta=options.beta, presence=1.0 if "presence" in model.latents else None).kl_weights
        weights = {"weights": options.lambda_d, "vectors": options.lambda_g}
        full |= {site: options.beta * weight for site, weight in weights.items() if weight is not None}
        encoder, decoder = _layers(model)
        for layers, places in ((encoder, len(encoder) + 1), (decoder, len(decoder))):
            for place, names in enumerate(layers, 1):
                share = 1.0 if options.layer_weights == "equal" else place / places
                full |= {names.weights: share * full["weights"], names.vectors: share * full["vectors"]}
        return full

    @classmethod
    def from_description(cls: type[N], described: Mapping[str, Any], num_particles: int, data_size: int) -> N:
        """The objective that ``describe`` described."""
        objective = cls(num_particles=num_particles, data_size=data_size)
        objective.kl_weights = dict(described["kl_weights"])
        return objective

    @classmethod
    def remarks(cls, described: Mapping[str, Any]) -> list[str]:
        """Empty: its weights are those of regularizers, not of divergences, so that there is nothing to remark."""
        return []

    def penalties(self, kl: dict[str, Tensor], sites: dict[str, Site], posterior: dict[str, Site]) -> dict[str, Tensor]:
        missing = {"length", "weights", "vectors"} - set(sites)
        if missing:
            raise ValueError(f"the nvib objective needs an NVAE: the model has no site {sorted(missing)[0]!r}.")
        length = sites["length"]["value"]
        per_token = (length / (length + 1)).to(kl["vectors"].dtype)
        charged = {}
        for names in MixtureNames.all_in(sites, "weights"):
            weights, vectors = names.weights, names.vectors
            weight_term, vector_term = _regularizers(
                *_compared(weights, sites, posterior), *_compared(vectors, sites, posterior)
            )
            charged[weights], charged[vectors] = per_token * weight_term.to(per_token.dtype), per_token * vector_term
        return charged | {name: value for name, value in kl.items() if name != "length" and name not in charged}

    def counts(self, sites: dict[str, Site], posterior: dict[str, Site]) -> dict[str, Tensor]:
        """The number of each text's tokens whose vectors are not switched off: per token, the share that is kept.

        Where the model has presence, the mean number of those that are present.
        """
        counted = {}
        for names in MixtureNames.all_in(sites, "weights"):
            q, _ = _compared(names.weights, sites, posterior)
            if names.stack == "text" and "presence" in posterior:
                continue
            present = _present(q)
            each = present.sum(-1) // (sites["length"]["value"] + 1)  # components of the prior, and of each token
            kept = kept_components(q.log_concentration, present, each[..., None]).sum(-1)
            counted[names.kept] = (kept / each.clamp(min=1) - 1).float()
        return counted | super().counts(sites, posterior)


def _layers(model: Model) -> tuple[list[MixtureNames], list[MixtureNames]]:
    """The layers that attend to mixtures: those of the encoder, and those of the decoder."""
    layers: list[MixtureNames] = getattr(model, "layers_with_mixtures", [])
    encoder, decoder = ([names for names in layers if names.stack == stack] for stack in ("encoder", "decoder"))
    return encoder, decoder


def _compared(name: str, sites: dict[str, Site], posterior: dict[str, Site]) -> tuple[Any, Any]:
    """The posterior and the prior that a regularizer compares; both come from the model if it draws the site itself."""
    if name in posterior:
        return posterior[name]["fn"], sites[name]["fn"]
    return sites[name]["fn"], sites[name]["infer"][REGULARIZED_TO]


def _regularizers(posterior: Any, prior: Any, gaussian: Any, base: Any) -> tuple[Tensor, Tensor]:
    """The penalties on the weights and on the vectors of a mixture."""
    for weights in (posterior, prior):
        if not isinstance(weights, LogDirichlet):
            kind = type(weights).__name__
            raise ValueError(f"the nvib objective needs Dirichlet weights, not {kind}: take the ELBO.")
    log_alpha, mask = posterior.log_concentration, _present(posterior)
    log_prior0 = torch.logsumexp(prior.log_concentration.masked_fill(~mask, -torch.inf), -1)
    log_alpha0 = torch.logsumexp(log_alpha.masked_fill(~mask, -torch.inf), -1)
    of_vectors = vector_regularizer(
        log_alpha,
        gaussian.mean,
        gaussian.variance,
        base.mean[..., 0, :],  # the same for every component
        base.variance[..., 0, :],
        mask,
        reduction="mean",
    )
    return weight_regularizer(log_alpha0, log_prior0, mask.sum(-1)), of_vectors


def _present(weights: LogDirichlet) -> Bool[Tensor, "*batch N"]:
    """True for the components that exist; without a mask, all."""
    if weights.present is None:
        return torch.ones_like(weights.log_concentration, dtype=torch.bool)
    return weights.present


def _check_dirichlet(model: Model, name: str) -> None:
    """Raises a ValueError unless the prior of the weights, if the model has one, is a Dirichlet distribution."""
    prior = getattr(model, "weight_prior", None)
    if prior is None:
        return
    with forked_rng(), torch.no_grad():
        distribution = prior(torch.ones(1, 2, dtype=torch.bool, device=model.device))
    if not isinstance(distribution, LogDirichlet):
        raise ValueError(
            f"the objective {name} is about Dirichlet weights, and {type(prior).__name__} gives a "
            f"{type(distribution).__name__}: choose the objective elbo."
        )


def weight_regularizer(
    log_alpha0: Float[Tensor, "*#batch"],
    log_prior_alpha0: Float[Tensor, "*#batch"] | float,
    components: Int[Tensor, "*#batch"] | Float[Tensor, "*#batch"] | int,
) -> Float[Tensor, "*batch"]:
    r"""NVIB's penalty on the weights, :math:`L_D`. With :math:`L_G` it does **not** bound the evidence.

    .. math:: L_D = \mathrm{KL}\big( \mathrm{Dir}(\alpha_0 / \kappa_0, \dots, \alpha_0 / \kappa_0) \,\|\,
        \mathrm{Dir}(\alpha_0^{p\prime} / \kappa_0, \dots, \alpha_0^{p\prime} / \kappa_0) \big)

    :math:`L_D + L_G` is the divergence of another posterior than the one that is sampled: of :math:`\kappa_0`
    independent draws from the mixture of the components, with symmetric weights. Training draws
    :math:`\pi \sim \mathrm{Dir}(\alpha)` and one vector per component; charged with :math:`L_D + L_G` instead of its
    own divergence, its "bound" can exceed :math:`\log p(x)`. It depends on the concentrations through their sum alone.

    Computed in float64 by :func:`~pyroformer.models.distributions.log_dirichlet_math.symmetric_dirichlet_kl`: the
    textbook form is wrong by 248 nats in float32 at :math:`\log \alpha_0 = 19`.

    Arguments:
        log_alpha0: Log of the posterior's total concentration, the prior component's included.
        log_prior_alpha0: Log of the prior's, :math:`\alpha_0^{p\prime}`, see
            :func:`~pyroformer.models.priors.weights.conditional_concentration`.
        components: :math:`\kappa_0`, the number of components, the prior one included.

    References:
        A Variational AutoEncoder for Transformers with Nonparametric Variational Information Bottleneck
        (Henderson & Fehr, 2023), https://arxiv.org/abs/2207.13529

    Examples:
        >>> weight_regularizer(torch.tensor(0.0), 0.0, 11)
        tensor(0.)
        >>> weight_regularizer(torch.tensor(50.0), torch.tensor(4.0).log(), 11)
        tensor(240.2660)
    """
    log_prior = torch.as_tensor(log_prior_alpha0, dtype=torch.double, device=log_alpha0.device)
    return symmetric_dirichlet_kl(log_alpha0, log_prior, components).to(at_least_float32(log_alpha0).dtype)


def vector_regularizer(
    log_alpha: Float[Tensor, "*batch n"],
    mean: Float[Tensor, "*batch n p"],
    variance: Float[Tensor, "*batch n #p"],
    prior_mean: Float[Tensor, "*#batch #p"],
    prior_variance: Float[Tensor, "*#batch #p"],
    mask: Bool[Tensor, "*batch n"] | None = None,
    components: Int[Tensor, "*#batch"] | Float[Tensor, "*#batch"] | int | None = None,
    reduction: str = "sum",
) -> Float[Tensor, "*batch"]:
    r"""NVIB's penalty on the vectors, :math:`L_G`. With :math:`L_D` it does **not** bound the evidence.

    .. math:: L_G = \frac{\kappa_0}{2} \sum_i \frac{\alpha_i}{\alpha_0} \sum_p \left[
        \frac{(\mu_{ip} - \mu^p_p)^2 + \sigma_{ip}^2}{(\sigma^p_p)^2} - 1
        - \log \frac{\sigma_{ip}^2}{(\sigma^p_p)^2} \right]

    Each vector's divergence counts in proportion to the vector's mean weight, whereas the model that is sampled pays
    for each in full; see :func:`weight_regularizer`.

    Arguments:
        log_alpha: Log concentrations, the prior component's included, with shape :math:`(*, N)`.
        mean: Means of the components, with shape :math:`(*, N, P)`.
        variance: Their variances, with shape :math:`(*, N, P)`, or :math:`(*, N, 1)` where they are isotropic.
        prior_mean: Mean of the base measure, with shape :math:`(P)`.
        prior_variance: Variance of the base measure, with shape :math:`(P)`.
        mask: True where a component exists, with shape :math:`(*, N)`.
        components: :math:`\kappa_0`; the number of existing components by default.
        reduction: ``sum`` over :math:`P`, as in the paper, or ``mean``, as in its authors' code.

    References:
        A Variational AutoEncoder for Transformers with Nonparametric Variational Information Bottleneck
        (Henderson & Fehr, 2023), https://arxiv.org/abs/2207.13529

    Examples:
        >>> ones = torch.ones(5, 8)
        >>> vector_regularizer(torch.zeros(5), ones, ones, torch.zeros(8), torch.ones(8))  # 5 vectors, 8 x 1/2 nats
        tensor(20.)
    """
    check_choice("reduction", reduction, ("sum", "mean"))
    dtype = torch.promote_types(mean.dtype, torch.float32)
    log_alpha, mean, variance = log_alpha.to(dtype), mean.to(dtype), variance.to(dtype)
    prior_mean, prior_variance = prior_mean.to(dtype)[..., None, :], prior_variance.to(dtype)[..., None, :]
    if mask is None:
        mask = torch.ones_like(log_alpha, dtype=torch.bool)
    ratio = variance / prior_variance
    each = (mean - prior_mean).square() / prior_variance + (ratio - 1 - ratio.log())
    nats = 0.5 * torch.where(mask, each.sum(-1) if reduction == "sum" else each.mean(-1), 0.0)
    share = torch.where(mask, log_alpha, LOG_ZERO).softmax(-1)
    count = mask.sum(-1) if components is None else components
    return count * (share * nats).sum(-1)
