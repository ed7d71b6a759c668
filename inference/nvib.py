"""The objective that the NVAE paper trains on, which is a regulariser and not a bound."""

import torch
from torch import Tensor

from ..models.distributions.log_dirichlet import LogDirichlet
from ..models.nvib import vector_regulariser, weight_regulariser
from .elbo import ELBO, Site

__all__ = ["NVIB"]


class NVIB(ELBO):
    r"""Reconstruction plus the paper's regularisers of weights and vectors, in its own scaling.

    .. math::

        \mathcal{L} = -\log p(x \mid z, \pi) + \frac{n}{n+1} \left( \lambda_D L_D + \lambda_G L_G / P \right)

    **This is not a bound of log p(x)**: :math:`L_D, L_G` bound the divergence of another posterior than the one that is
    sampled, so that minus the loss can exceed log p(x); see :mod:`pyroformer.models.nvib`. One nat of the vectors'
    exact KL costs about :math:`\lambda_G / P`, the effective beta. ``terms`` still holds the exact divergences, and
    ``evaluate`` reports the exact bound whatever was trained.

    Arguments:
        num_particles: Draws from the guide that are averaged.
        weights: :math:`\lambda_D`.
        vectors: :math:`\lambda_G`.
        beta: Multiplies both.
        data_size: Number of texts that share the hyper-priors, whose exact divergences are added.

    References:
        A Variational AutoEncoder for Transformers with Nonparametric Variational Information Bottleneck (Henderson &
        Fehr, 2023), https://arxiv.org/abs/2207.13529
    """

    name = "nvib"
    is_bound = False

    def __init__(
        self,
        num_particles: int = 1,
        weights: float = 1.0,
        vectors: float = 1e-3,
        beta: float = 1.0,
        data_size: int | None = None,
    ) -> None:
        super().__init__(num_particles, {"weights": beta * weights, "vectors": beta * vectors}, data_size)

    def _penalties(
        self, kl: dict[str, Tensor], sites: dict[str, Site], posterior: dict[str, Site]
    ) -> dict[str, Tensor]:
        missing = {"length", "weights", "vectors"} - set(sites)
        if missing:
            raise ValueError(f"the nvib objective needs an NVAE: the model has no site {sorted(missing)[0]!r}.")
        q, p = posterior["weights"]["fn"], sites["weights"]["fn"]
        if not isinstance(p, LogDirichlet):
            raise ValueError(f"the nvib objective needs Dirichlet weights, not {type(p).__name__}: take the ELBO.")
        log_alpha, mask = q.log_concentration, q.present
        components = mask.sum(-1)
        per_token = (sites["length"]["value"] / (sites["length"]["value"] + 1)).to(kl["vectors"].dtype)
        prior_alpha0 = torch.logsumexp(p.log_concentration.masked_fill(~mask, -torch.inf), -1).exp()
        alpha0 = torch.logsumexp(log_alpha.masked_fill(~mask, -torch.inf), -1)
        gaussian, base = posterior["vectors"]["fn"], sites["vectors"]["fn"]
        weight_term = weight_regulariser(alpha0, prior_alpha0, components)
        vector_term = vector_regulariser(
            log_alpha,
            gaussian.mean,
            gaussian.variance,
            base.mean[..., 0, :],  # the same for every component
            base.variance[..., 0, :],
            mask,
            reduction="mean",
        )
        shared = {name: value for name, value in kl.items() if name not in ("length", "weights", "vectors")}
        weights = per_token * weight_term.to(per_token.dtype)
        return {"weights": weights, "vectors": per_token * vector_term} | shared
