"""A mixture of Gaussians as the prior of a latent of a layer."""

from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution

from ..utils.numbers import check_at_least
from .latents import First, LinearPrior
from .vectors import SPREAD, gaussian_mixture, mixture_scores

__all__ = ["LinearMixture"]


class LinearMixture(LinearPrior):
    r"""A mixture of Gaussians whose weights, means and log variances are linear in the summary.

    .. math:: p(z_l \mid s_l) = \sum_{k=1}^K w_{lk} \, \mathcal N(z_l; \mu_{lk}, \operatorname{diag} \sigma_{lk}^2),
        \qquad (\log w_l, \mu_l, \log \sigma_l^2) = W_l s_l + b_l

    up to the normalization of the weights. At the start it is near standard normal for every latent, with means that
    differ, so that the components can separate; a latent without a bias, the first of ``"standard"``, stays standard.

    Arguments:
        latent_size: :math:`p`.
        summary_size: :math:`S`; 0 where the latents are independent.
        layers: Number of latents.
        first: Prior of the first latent: ``"standard"`` normal, a ``"learned"`` mixture that does not depend on
            anything, or ``"linear"`` like the others, where there is a condition.
        components: :math:`K`.

    Raises:
        ValueError: If a number is out of its range.

    Examples:
        >>> prior = LinearMixture(latent_size=4, summary_size=6, layers=3, components=5)
        >>> prior(torch.randn(7, 6), index=2).batch_shape
        torch.Size([7])
    """

    def __init__(
        self, latent_size: int, summary_size: int, layers: int, first: First = "learned", components: int = 10
    ) -> None:
        check_at_least(1, components=components)
        super().__init__(latent_size, summary_size, layers, first, components * (1 + 2 * latent_size))
        self.components = components
        for bias in self.biases.values():
            nn.init.normal_(mixture_scores(bias.data, components, latent_size)[1], std=SPREAD)

    def of_scores(self, scores: Float[Tensor, "*batch s"]) -> Distribution:
        return gaussian_mixture(*mixture_scores(scores, self.components, self.latent_size))
