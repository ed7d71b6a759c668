"""Attention in the plane: the components of a mixture, queries, and the posterior means they move to."""

from jaxtyping import Float
from matplotlib.axes import Axes
from torch import Tensor

from ....models.attention.bayes_rule import posterior_mean, responsibilities
from ....models.attention.mixture import Mixture
from ..style import COLORS, DEPTHS, FRAME, INK, new_axes
from .arrays import Plane, check_queries, in_plane, numbers
from .gaussian_ellipse import add_ellipse

__all__ = ["posterior_means"]

WIDTH, HEIGHT = 5.0, 3.8  # size of a new figure, in inches
LEAST = 0.01  # responsibility that is written


def posterior_means(queries: Float[Tensor, "m 2"], mixture: Mixture, *, ax: Axes | None = None) -> Axes:
    r"""Draw where attention moves queries: from a noisy observation to the posterior mean of the vector behind it.

    .. math::
        u \;\to\; E[v \mid u] = \sum_n w_n(u) \, \frac{\sigma_n^2 u + s \mu_n}{\sigma_n^2 + s}

    Each component is an ellipse at one and two standard deviations, or a dot if it is a point. With a single query it
    is darker the larger its responsibility :math:`w_n`, which is written in it if it is at least
    0.01; with several, the larger its weight.

    Arguments:
        queries: The queries, in the plane.
        mixture: A mixture of vectors in the plane, without batch dimensions and values.
        ax: Matplotlib axes; by default those of a new figure.

    Raises:
        ValueError: If there is no query, or queries or vectors are not in the plane.

    Examples:
        >>> from matplotlib.figure import Figure
        >>> mixture = pf.Mixture(torch.zeros(2), torch.tensor([[-1.0, 0.0], [1.0, 0.0]]), torch.ones(2, 1))
        >>> ax = posterior_means(torch.tensor([[1.0, 0.0]]), mixture, ax=Figure().subplots())
        >>> [text.get_text() for text in ax.texts][:2]
        ['0.30', '0.70']
    """
    plane = in_plane(mixture)
    check_queries(queries)
    ax = new_axes(WIDTH, HEIGHT)[0] if ax is None else ax
    single = len(queries) == 1
    shares = responsibilities(queries, mixture)[0, mixture.present].tolist() if single else plane.weights.tolist()
    _draw_components(ax, plane, shares, named=single)
    start, end = numbers(queries), numbers(posterior_mean(queries, mixture))
    moved = end - start
    ax.quiver(*start.T, *moved.T, angles="xy", scale_units="xy", scale=1, width=0.003, color=COLORS[0], zorder=3)
    size = 6 if single else 3
    ax.plot(*start.T, "o", color=COLORS[1], markersize=size, label="query $u$" if single else "queries", zorder=4)
    if single:
        ax.plot(*end.T, "*", color=COLORS[0], markersize=12, label=r"attention, $E[v \mid u]$", zorder=5)
    left, right, bottom, top = plane.extent(start)
    ax.set(xlim=(left, right), ylim=(bottom, top), aspect="equal")
    ax.spines[["top", "right"]].set_visible(False)
    if single:
        ax.legend(frameon=False, fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=2)
    return ax


def _draw_components(ax: Axes, plane: Plane, shares: list[float], *, named: bool) -> None:
    for mean, covariance, share in zip(plane.means, plane.covariances, shares, strict=True):
        if not covariance.any():
            ax.plot(*mean, "o", color=DEPTHS(0.1 + 0.6 * share), markeredgecolor=FRAME, markersize=9)
        for deviations in (2.0, 1.0) if covariance.any() else ():
            color = DEPTHS(0.08 + 0.5 * share * (3 - deviations) / 2)
            add_ellipse(ax, mean, covariance, deviations, facecolor=color, edgecolor=FRAME, linewidth=0.8)
        if named and share >= LEAST:
            ax.annotate(f"{share:.2f}", mean, ha="center", va="center", color=INK, fontsize="small")
