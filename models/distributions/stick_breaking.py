"""A stick-breaking distribution over log weights: GEM and Pitman-Yor weights, truncated at the last component."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.distributions import constraints, register_kl
from torch.nn.functional import pad

from ..utils.tensor_checks import check_entries
from .expandable import Expandable
from .log_dirichlet import LogDirichlet, where_same_components
from .log_dirichlet_math import LOG_ZERO, dirichlet_kl, dirichlet_log_prob, dirichlet_mean_log, sample_log_dirichlet
from .log_simplex import LogSimplex, breaking

__all__ = ["LogStickBreaking"]


class LogStickBreaking(Expandable):
    r"""The distribution of :math:`\log \pi` where each component takes a share of what earlier ones have left.

    .. math::
        \pi_n = b_n \prod_{m < n} (1 - b_m), \qquad b_n \sim \mathrm{Beta}(1 - d, a + n d), \qquad
        \log p(\log \pi) = \sum_{n < N} \log \frac{b_n^{1 - d} (1 - b_n)^{a + n d}}{B(1 - d, a + n d)}

    The last component takes the rest. Components break the stick in order, so that earlier ones tend to weigh more;
    masked ones are skipped. The reference measure is that of :class:`~.log_dirichlet.LogDirichlet`: densities, draws
    (with pathwise gradients) and KL divergences are finite where weights underflow. The KL divergence of a Dirichlet
    from it is exact too, as a Dirichlet breaks its stick into independent Betas.

    Arguments:
        concentration: :math:`a > -d`, with shape :math:`(*)`.
        mask: True where a component exists, with shape :math:`(*, N)`.
        discount: :math:`0 \le d < 1`; 0 is the Dirichlet process, more gives weights a power-law tail.

    Raises:
        ValueError: If an argument is out of its range.

    References:
        Gibbs Sampling Methods for Stick-Breaking Priors (Ishwaran & James, 2001).

    Examples:
        >>> distribution = LogStickBreaking(torch.tensor(3.0), torch.tensor([True, True, False]))
        >>> distribution.sample().exp().sum().round(decimals=5)
        tensor(1.)
        >>> dirichlet = LogDirichlet(torch.tensor([1.0, 3.0, 9.0]).log(), distribution.present)
        >>> torch.distributions.kl_divergence(dirichlet, distribution)
        tensor(0.)
    """

    arg_constraints = {"concentration": constraints.real, "discount": constraints.half_open_interval(0, 1)}
    parameter_dims = {"concentration": 0, "discount": 0, "present": 1}
    has_rsample = True

    def __init__(
        self,
        concentration: Float[Tensor, "*#batch"],
        mask: Bool[Tensor, "*#batch n"],
        discount: Float[Tensor, "*#batch"] | None = None,
        validate_args: bool | None = None,
    ) -> None:
        discount = torch.zeros_like(concentration) if discount is None else discount
        batch = torch.broadcast_shapes(concentration.shape, discount.shape, mask.shape[:-1])
        self.concentration, self.discount = concentration.expand(batch), discount.expand(batch)
        self.present = mask.expand(*batch, mask.shape[-1])
        super().__init__(batch, mask.shape[-1:], validate_args)
        if self._validate_args:
            fine = self.concentration + self.discount > 0
            check_entries(
                "concentration", self.concentration, fine, "give a number above 0, or above minus the discount"
            )

    @constraints.dependent_property(is_discrete=False, event_dim=1)
    def support(self) -> constraints.Constraint:
        return LogSimplex(self.present)

    @property
    def log_shares(self) -> Float[Tensor, "*batch n 2"]:
        r"""Log parameters :math:`(1 - d, a + n d)` of the Beta of each :math:`b_n`."""
        order = self.present.cumsum(-1)
        kept = (1 - self.discount)[..., None].expand(order.shape)
        return torch.stack([kept, self.concentration[..., None] + order * self.discount[..., None]], -1).log()

    @property
    def breaking(self) -> Bool[Tensor, "*batch n"]:
        """The components that break the stick: all but the last."""
        return breaking(self.present)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Float[Tensor, "*shape n"]:
        shares = self.log_shares
        return self._from_parts(sample_log_dirichlet(shares.expand(*sample_shape, *shares.shape)))

    def log_prob(self, value: Float[Tensor, "*shape n"]) -> Float[Tensor, "*shape"]:
        if self._validate_args:
            self._validate_sample(value)
        # in float64: a gradient is a small difference of shares, and counts as often as the log weight is large
        each = dirichlet_log_prob(self.log_shares, _split(value.double(), self.present).log_softmax(-1))
        return torch.where(self.breaking, each, 0.0).sum(-1).to(value.dtype)

    @property
    def mean(self) -> Float[Tensor, "*batch n"]:
        r"""The mean of the log weights."""
        return self._from_parts(dirichlet_mean_log(self.log_shares))

    def _from_parts(self, log_parts: Float[Tensor, "*shape n 2"]) -> Float[Tensor, "*shape n"]:
        """Log weights from :math:`(\\log b_n, \\log (1 - b_n))`."""
        taken, left = torch.where(self.breaking[..., None], log_parts, 0.0).unbind(-1)
        before = pad(left.cumsum(-1)[..., :-1], (1, 0))  # not cumsum - left, where digits cancel
        return torch.where(self.present, taken + before, LOG_ZERO)


def _split(log_weights: Float[Tensor, "*shape n"], present: Bool[Tensor, "*batch n"]) -> Float[Tensor, "*shape n 2"]:
    """Each component's log weight and that of all after it; 0 and 0 of the last, so that these have no gradient."""
    kept = torch.where(present, log_weights, LOG_ZERO)
    rest = kept.flip(-1).logcumsumexp(-1).flip(-1)[..., 1:]
    parts = torch.stack([kept, pad(rest, (0, 1), value=LOG_ZERO)], -1)
    return torch.where(breaking(present)[..., None], parts, 0.0)


@register_kl(LogStickBreaking, LogStickBreaking)  # type: ignore[untyped-decorator]
def _kl_of_two(p: Any, q: Any) -> Tensor:
    each = dirichlet_kl(p.log_shares, q.log_shares)
    return where_same_components(p, q, torch.where(p.breaking, each, 0.0).sum(-1))


@register_kl(LogDirichlet, LogStickBreaking)  # type: ignore[untyped-decorator]
def _kl_from_dirichlet(p: Any, q: Any) -> Tensor:
    shares = _split(p.log_concentration, q.present)
    each = dirichlet_kl(shares, q.log_shares.to(shares.dtype))
    return where_same_components(p, q, torch.where(q.breaking, each, 0.0).sum(-1))
