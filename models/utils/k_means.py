"""Clusters of vectors, at which a codebook starts."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["k_means"]


@torch.no_grad()
def k_means(
    points: Float[Tensor, "n p"], clusters: int, steps: int = 10
) -> tuple[Float[Tensor, "k p"], Int[Tensor, " n"]]:
    r"""Centers of clusters, and the cluster of each point.

    Seeds are drawn one after the other, each point with a probability proportional to its squared distance from the
    nearest seed so far. Then points join the nearest center and centers move to the mean of their points, ``steps``
    times; a center that has lost all points stays where it is.

    Arguments:
        points: The points.
        clusters: The number of clusters :math:`K`; with fewer points, some centers coincide.
        steps: The number of times that the centers move.

    Raises:
        ValueError: If there is no point, or ``clusters`` is not positive.

    References:
        k-means++: The Advantages of Careful Seeding (Arthur & Vassilvitskii, 2007)

    Examples:
        >>> centers, nearest = k_means(torch.tensor([[0.0], [1.0], [10.0], [11.0]]), clusters=2)
        >>> sorted(centers.flatten().tolist())
        [0.5, 10.5]
        >>> (nearest[0] == nearest[1]).item(), (nearest[0] == nearest[2]).item()
        (True, False)
    """
    if not len(points) or clusters < 1:
        raise ValueError(f"{clusters} clusters of {len(points)} points: give at least one of each.")
    centers = _seeds(points, clusters)
    for _ in range(steps):
        nearest = _nearest(points, centers)
        count = torch.zeros_like(centers[:, :1]).index_add_(0, nearest, torch.ones_like(points[:, :1]))
        total = torch.zeros_like(centers).index_add_(0, nearest, points)
        centers = torch.where(count > 0, total / count.clamp(min=1), centers)
    return centers, _nearest(points, centers)


def _seeds(points: Float[Tensor, "n p"], clusters: int) -> Float[Tensor, "k p"]:
    centers = [points[torch.randint(len(points), (), device=points.device)]]
    distance = (points - centers[0]).square().sum(-1)
    for _ in range(clusters - 1):
        # where every point is a seed already, any will do
        share = torch.where(distance.sum() > 0, distance, torch.ones_like(distance))
        centers.append(points[torch.multinomial(share, 1)[0]])
        distance = torch.minimum(distance, (points - centers[-1]).square().sum(-1))
    return torch.stack(centers)


def _nearest(points: Float[Tensor, "n p"], centers: Float[Tensor, "k p"]) -> Int[Tensor, " n"]:
    # |x - c|^2 without |x|^2, which is the same for all centers
    return torch.addmm(centers.square().sum(-1), points, centers.mT, alpha=-2).argmin(-1)
