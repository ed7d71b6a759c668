"""Base measures that are made of vectors, such as those that an earlier run's posterior found."""

import torch
from jaxtyping import Float
from pyro import distributions as dist
from torch import Tensor
from torch.distributions import Distribution

from .precision import at_least_float32
from .priors import VectorPrior, moments

__all__ = ["KernelBase"]


class KernelBase(VectorPrior):
    r"""A Gaussian kernel at each of some vectors.

    .. math:: p(z) = \frac1K \sum_{k=1}^K \mathcal N(z; v_k, h^2 \operatorname{diag} s^2)

    with the variances :math:`s^2` of the vectors and Scott's bandwidth :math:`h = K^{-1/(P + 4)}`. Nothing of it is
    learnt. For one Gaussian with their moments take :meth:`~pyroformer.models.priors.GaussianBase.fit`. Divergences of
    a Gaussian guide are estimated at its draws.

    Until it is fitted or its weights are loaded, all vectors are zero and it is a standard Gaussian.

    Arguments:
        width: :math:`P`.
        points: :math:`K`.

    Raises:
        ValueError: If either is not positive.

    References:
        | Multivariate Density Estimation (Scott, 1992), for the bandwidth
        | VAE with a VampPrior (Tomczak & Welling, 2018), https://arxiv.org/abs/1705.07120, for priors of posteriors

    Examples:
        >>> KernelBase.fit(torch.randn(50, 4))().event_shape
        torch.Size([4])
    """

    vectors: Tensor
    log_variance: Tensor

    def __init__(self, width: int, points: int) -> None:
        super().__init__()
        for name, size in {"width": width, "points": points}.items():
            if size < 1:
                raise ValueError(f"{name} {size}: must be at least 1")
        self.register_buffer("vectors", torch.zeros(points, width))
        self.register_buffer("log_variance", torch.zeros(width))

    @classmethod
    def fit(cls, vectors: Float[Tensor, "n width"]) -> "KernelBase":
        """Kernels at these vectors.

        Raises:
            ValueError: If there are fewer than two, or a dimension in which they do not differ.
        """
        points, width = vectors.shape
        prior = cls(width, points)
        _, variance = moments(vectors)
        prior.vectors.copy_(vectors.detach())
        prior.log_variance.copy_((variance * points ** (-2 / (width + 4))).log())
        return prior

    def forward(self) -> Distribution:
        vectors, log_variance = (at_least_float32(x) for x in (self.vectors, self.log_variance))
        kernels = dist.Normal(vectors, (log_variance / 2).exp()).to_event(1)
        law: Distribution = dist.MixtureSameFamily(dist.Categorical(logits=torch.zeros_like(vectors[:, 0])), kernels)
        return law

    def extra_repr(self) -> str:
        return f"width={self.vectors.shape[1]}, points={self.vectors.shape[0]}"
