"""Several fits of one model as the chains of one posterior."""

from collections.abc import Sequence
from typing import Any

from ..posterior.arviz_compat import dataset, from_groups, group_names

__all__ = ["as_chains"]

DRAWN = ("posterior", "prior", "posterior_predictive", "log_likelihood", "sample_stats")
GIVEN = ("observed_data", "constant_data")


def as_chains(fits: Sequence[Any]) -> Any:
    r"""Posteriors of the same texts under fits that differ in their seed, each as one chain.

    Draws of one guide are independent, so that r-hat says nothing about one fit. Between fits it does: ``arviz.rhat``
    near 1 means that all found the same posterior, and well above 1.01 that the fit depends on its seed, as a Markov
    chain that is stuck would. It asks that of coordinates: two networks may say the same in latents that are turned
    against each other. Of an autoencoder, look at what means the same in every fit: ``log_likelihood``, ``log_p`` and
    ``log_q`` in ``sample_stats``, a concentration, the weight of a text's token. The groups ``training`` stay with the
    single fits.

    Arguments:
        fits: What :func:`~pyroformer.to_arviz` or its relatives made of the same texts, as many draws of each.

    Raises:
        ValueError: If there are fewer than two, or their groups, variables, sizes or texts differ.

    References:
        Rank-Normalization, Folding, and Localization: An Improved R-hat (Vehtari et al., 2021),
        https://arxiv.org/abs/1903.08008

    Examples:
        >>> from pyroformer.models.transformer.stacks import TransformerConfig
        >>> fits = []
        >>> for seed in range(3):
        ...     model = pf.VAE(TransformerConfig(vocabulary=20, max_length=8, width=16, layers=1, heads=2))
        ...     fits.append(pf.to_arviz(model, pf.VAEGuide(model), pf.Batch.pad([[5, 6, 2], [7, 2]]), draws=10))
        >>> dict(as_chains(fits).sample_stats["log_p"].sizes)
        {'chain': 3, 'draw': 10, 'text': 2}
    """
    import xarray

    if len(fits) < 2:
        raise ValueError(f"there are {len(fits)} fits: chains that agree or not need at least 2.")
    first = fits[0]
    names = [name for name in (*DRAWN, *GIVEN) if name in group_names(first)]
    for number, fit in enumerate(fits[1:], 2):
        _check_alike(first, fit, number, names)
    groups = {name: dataset(first, name) for name in names if name in GIVEN}
    for name in names:
        if name in DRAWN:
            chains = [dataset(fit, name).drop_vars("chain", errors="ignore") for fit in fits]
            joined = xarray.concat(chains, dim="chain")
            groups[name] = joined.assign_coords(chain=range(joined.sizes["chain"]))
    return from_groups(groups, {"chains_are": "fits"})


def _check_alike(first: Any, other: Any, number: int, names: Sequence[str]) -> None:
    for name in names:
        if name not in group_names(other):
            raise ValueError(f"fit {number} has no group {name!r} and the first has: make all in the same way.")
        one, two = dataset(first, name), dataset(other, name)
        if name in GIVEN:
            if not one.equals(two):
                raise ValueError(f"fit {number} is of other texts than the first: give each the same.")
        elif {key: value.shape for key, value in one.items()} != {key: value.shape for key, value in two.items()}:
            raise ValueError(f"fit {number} has other variables or sizes in {name!r} than the first: make all alike.")
