"""Is the guide near the posterior? The tail of its importance weights tells."""

from typing import Any

import numpy as np

from ..posterior.arviz_compat import dataset, pareto_smoothed

__all__ = ["LEAST_DRAWS", "khat"]

LEAST_DRAWS = 25  # with fewer there is no tail to speak of


def khat(data: Any, site: str | None = None) -> Any:
    r"""Pareto k-hat of the importance weights :math:`\log p(x, z) - \log q(z \mid x)`, for each text.

    Below 0.5 the guide is close to the posterior, up to 0.7 its errors can be corrected by weights, above it is off. It
    grows with the number of dimensions. That of a single site compares its distribution in the guide with its prior, the text
    left out: it says how far the text moves a site, not how good the guide is.

    Arguments:
        data: What :func:`~pyroformer.inference.posterior.export.posterior`, :func:`~pyroformer.to_arviz` or
            :func:`~pyroformer.inference.posterior.global_latents.global_posterior` made.
        site: A latent site, or None for all of them with the text.

    Returns:
        An :class:`xarray.DataArray` over texts; of a single number where all texts share all latents.

    Raises:
        ValueError: If the data has no densities, no such site or one that all texts share, or fewer than 25 draws.

    References:
        Yes, but Did It Work? Evaluating Variational Inference (Yao et al., 2018), https://arxiv.org/abs/1802.02538
    """
    import xarray

    stats = dataset(data, "sample_stats")
    suffix = "" if site is None else f"_{site}"
    if f"log_q{suffix}" not in stats:
        known = sorted(name.removeprefix("log_q_") for name in stats if str(name).startswith("log_q_"))
        raise ValueError(f"there is no latent site {site!r}: choose among {', '.join(known) or 'none'}.")
    if "text" in stats.dims and "text" not in stats[f"log_q{suffix}"].dims:
        raise ValueError(f"the site {site!r} belongs to all texts: k-hat is one of a text's own latents, or of all.")
    weights = (stats[f"log_p{suffix}"] - stats[f"log_q{suffix}"]).stack(one=("chain", "draw"))
    if weights.sizes["one"] < LEAST_DRAWS:
        raise ValueError(
            f"there are {weights.sizes['one']} draws: k-hat needs at least {LEAST_DRAWS}, better some hundred."
        )
    if "text" not in weights.dims:
        return xarray.DataArray(pareto_smoothed(weights.values)[1], name="khat")
    shapes = [pareto_smoothed(row)[1] for row in weights.transpose("text", "one").values]
    return xarray.DataArray(np.array(shapes), dims=("text",), coords={"text": stats["text"]}, name="khat")
