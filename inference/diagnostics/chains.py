"""Several fits of one model as the chains of one posterior, for r-hat."""

from collections.abc import Sequence
from typing import Any

from ..posterior.arviz_compat import ArviZData, dataset, from_groups, group_names, is_draws, numbered

__all__ = ["as_chains"]

LIKELIHOODS = ("log_likelihood", "conditional_log_likelihood")
SAMPLED = ("posterior", "prior", "posterior_predictive", "generated", *LIKELIHOODS, "sample_stats")
FIXED = ("observed_data", "constant_data")


def as_chains(fits: Sequence[ArviZData]) -> ArviZData:
    r"""Combine posteriors of the same texts under fits with different seeds, each fit as one chain.

    Draws of one guide are independent, so that r-hat is meaningless for a single fit. Between fits, ``arviz.rhat`` near
    1 means that they agree on the posterior, and well above 1.01 that the result depends on the seed, as for a Markov
    chain that is stuck. It compares coordinates, and the latents of two networks can be equivalent up to a rotation:
    for an autoencoder, use quantities with the same meaning in every fit, such as ``conditional_log_likelihood``,
    ``log_p`` and ``log_q`` in ``sample_stats``, a concentration, or the weight of a text's token. The group
    ``training`` is left out.

    Arguments:
        fits: Results of :func:`~pyroformer.to_arviz`, ``run.posterior`` or
            :func:`~pyroformer.inference.posterior.global_latents.global_posterior` for the same texts, with the same
            number of draws.

    Raises:
        ValueError: If there are fewer than two fits, or their groups, variables, sizes or texts differ.

    References:
        Rank-Normalization, Folding, and Localization: An Improved R-hat (Vehtari et al., 2021),
        https://arxiv.org/abs/1903.08008

    Examples:
        >>> from pyroformer.models.transformer.config import TransformerConfig
        >>> fits = []
        >>> for seed in range(3):
        ...     model = pf.VAE(TransformerConfig(vocabulary=20, max_length=8, width=16, layers=1, heads=2))
        ...     fits.append(pf.to_arviz(model, pf.VAEGuide(model), pf.Batch.pad([[5, 6, 2], [7, 2]]), draws=10))
        >>> dict(as_chains(fits).sample_stats["log_p"].sizes)
        {'chain': 3, 'draw': 10, 'text': 2}
    """
    import xarray

    if is_draws(fits):
        raise ValueError("fits is the result of one fit: give a list of at least 2, which r-hat compares.")
    if len(fits) < 2:
        raise ValueError(f"there are {len(fits)} fits: r-hat compares at least 2.")
    first = fits[0]
    names = [name for name in (*SAMPLED, *FIXED) if name in group_names(first)]
    for number, fit in enumerate(fits[1:], 2):
        _check_alike(first, fit, number, names)
    groups = {name: dataset(first, name) for name in names if name in FIXED}
    for name in names:
        if name in SAMPLED:
            chains = [dataset(fit, name).drop_vars("chain", errors="ignore") for fit in fits]
            groups[name] = xarray.concat(chains, dim="chain")
    return from_groups(groups, {"chains_are": "fits"})


def _check_alike(first: ArviZData, other: ArviZData, number: int, names: Sequence[str]) -> None:
    for name in names:
        if name not in group_names(other):
            raise ValueError(
                f"fit {number} has no group {name!r}, but the first has: export all with the same options."
            )
        one, two = dataset(first, name), dataset(other, name)
        if name in FIXED:
            if not numbered(one).equals(numbered(two)):  # files of before had no such coordinates
                raise ValueError(f"fit {number} is of other texts than the first: export the same texts from each fit.")
        elif unlike := [key for key in {**one, **two} if _shape(one, key) != _shape(two, key)]:
            raise ValueError(
                f"fit {number} has other variables or sizes in {name!r} than the first, such as {unlike[0]!r}: export "
                "all with the same options, and add variables of your own to all."
            )


def _shape(group: Any, name: str) -> tuple[int, ...] | None:
    return group[name].shape if name in group else None
