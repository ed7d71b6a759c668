"""Pareto k-hat: quality of a guide from the tail of its importance weights."""

from typing import Any

import numpy as np
from jaxtyping import Float

from ..posterior.arviz_compat import ArviZData, dataset, pareto_smoothed
from ..posterior.draws import POINT_SITES

__all__ = ["LEAST_DRAWS", "check_spread", "khat", "khat_verdict"]

LEAST_DRAWS = 25  # the tail of fewer cannot be fitted
USABLE = 0.7  # the largest k-hat at which importance weights are reliable
ATTRIBUTES = {
    "long_name": "Pareto k-hat",
    "reading": "below 0.5 the guide is close to the posterior, up to 0.7 importance weighting can correct it, "
    "above 0.7 it is unreliable",
}
READING_OF_A_SITE = "how much the text changes the site; it does not say how good the guide is"


def khat(data: ArviZData, site: str | None = None) -> Any:
    r"""Pareto k-hat of the importance weights :math:`\log p(x, z) - \log q(z \mid x)`, for each text.

    Below 0.5 the guide is close to the posterior, up to 0.7 importance weighting can correct it, above 0.7 it is
    unreliable. k-hat grows with the number of dimensions. For a single site it compares the guide with the prior,
    without the likelihood: it measures how much the text changes the site, not how good the guide is.

    Latents that all texts share, such as hyper-priors, have importance weights only of all texts together. Draw with
    ``fix_global=True`` for the k-hat of each text's own latents given one draw of theirs.

    Arguments:
        data: Result of :func:`~pyroformer.inference.posterior.export.posterior`, :func:`~pyroformer.to_arviz` or
            :func:`~pyroformer.inference.posterior.global_latents.global_posterior`.
        site: A latent site; None for the joint density of all latents and the text.

    Returns:
        An :class:`xarray.DataArray` over texts; a scalar if all latents are global.

    Raises:
        ValueError: If the data has no log densities, the site does not exist or is global, latents that texts share
            differ between draws, the guide is a point at a latent, or there are fewer than 25 draws.

    References:
        Yes, but Did It Work? Evaluating Variational Inference (Yao et al., 2018), https://arxiv.org/abs/1802.02538

    Examples:
        >>> data = run.posterior("The food was good.", draws=25, include_prior=False)
        >>> khat(data).dims, khat(data, "vectors").attrs["site"]
        (('text',), 'vectors')
    """
    import xarray

    stats = dataset(data, "sample_stats")
    suffix = "" if site is None else f"_{site}"
    if f"log_q{suffix}" not in stats:
        known = sorted(_sites(stats, "log_q"))
        if not known and site is not None:
            raise ValueError(f"site is {site!r}, but these latents have one k-hat, that of all of them: leave it out.")
        raise ValueError(f"there is no latent site {site!r}: choose among {', '.join(known) or 'none'}.")
    if "text" in stats.dims:
        _check_local(stats, site)
    check_spread(stats, site)
    weights = (stats[f"log_p{suffix}"] - stats[f"log_q{suffix}"]).stack(sample=("chain", "draw"))
    if weights.sizes["sample"] < LEAST_DRAWS:
        raise ValueError(
            f"there are {weights.sizes['sample']} draws: k-hat needs at least {LEAST_DRAWS}, better some hundred."
        )
    attributes = ATTRIBUTES | ({} if site is None else {"reading": READING_OF_A_SITE, "site": site})
    if "text" not in weights.dims:
        return xarray.DataArray(pareto_smoothed(weights.values)[1], name="khat", attrs=attributes)
    shapes = [pareto_smoothed(row)[1] for row in weights.transpose("text", "sample").values]
    coords = {"text": stats["text"]}
    return xarray.DataArray(np.array(shapes), dims=("text",), coords=coords, name="khat", attrs=attributes)


def check_spread(stats: Any, site: str | None = None) -> None:
    """Raises a ValueError if the guide is a point at a site, or at any whose density the weights depend on."""
    for point in stats.attrs.get(POINT_SITES, "").split():
        constant = "text" in stats.dims and "text" not in stats[f"log_q_{point}"].dims  # a given of each text
        if site == point or site is None and not constant:
            raise ValueError(
                f"the guide is a point at {point!r}, so that its draws have no importance weights: give a guide with a "
                "spread, such as AutoNormal in place of AutoDelta."
            )


def _check_local(stats: Any, site: str | None) -> None:
    """Raises a ValueError unless a site, or all that differs between draws, is local to texts."""
    if site is not None:
        if "text" not in stats[f"log_q_{site}"].dims:
            raise ValueError(f"the site {site!r} is global: leave it out for the k-hat of all latents.")
        return
    if "text" not in stats["log_q"].dims:
        raise ValueError("no latent is local to a text: take global_posterior(...), whose draws have one k-hat.")
    points = stats.attrs.get(POINT_SITES, "").split()
    latent = [name for name in _sites(stats, "log_p") if f"log_q_{name}" in stats and name not in points]
    shared = [name for name in latent if "text" not in stats[f"log_p_{name}"].dims]
    if shared and stats.attrs.get("global_sites") != "fixed":
        raise ValueError(
            f"all texts share {shared[0]!r}, so that none has importance weights of its own: draw with fix_global=True "
            "for the k-hat of the latents of each text, given one draw of what they share."
        )


def _sites(stats: Any, density: str) -> list[str]:
    """The sites with a density of their own, ``log_p`` or ``log_q``."""
    return [str(name).removeprefix(f"{density}_") for name in stats if str(name).startswith(f"{density}_")]


def khat_verdict(khats: Float[np.ndarray, "*texts"]) -> str:
    """The median of k-hats, and what it means, in a few words.

    Examples:
        >>> khat_verdict(np.array([0.2, 0.4, 0.9]))
        'median 0.40; above 0.7, where importance weighting cannot correct the guide, for 1 of 3 texts'
    """
    count = int((khats > USABLE).sum())
    unreliable = f"above {USABLE}, where importance weighting cannot correct the guide"
    return f"median {float(np.median(khats)):.2f}; {unreliable}, for {count:,} of {khats.size:,} texts"
