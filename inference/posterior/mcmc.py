"""Export of the draws of Markov chains to ArviZ."""

from typing import Any

from pyro.infer import MCMC

from .arviz_compat import ArviZData, from_groups
from .draws import mixture_dataset

__all__ = ["from_mcmc"]


def from_mcmc(chains: MCMC) -> ArviZData:
    """The posterior draws of Pyro's MCMC for ArviZ, with the dimensions of a mixture's parts by name.

    Arguments:
        chains: An ``MCMC`` that has been run.

    Raises:
        ValueError: If it has not been run.

    Examples:
        >>> from pyro.infer import NUTS
        >>> mixture = pf.Mixture(torch.zeros(2).log_softmax(-1), torch.tensor([[-2.0], [2.0]]), noise_variance=1.0)
        >>> model = pf.MixtureAttention.conjugate(mixture)
        >>> chains = MCMC(NUTS(model, max_plate_nesting=1), num_samples=3, warmup_steps=2, disable_progbar=True)
        >>> chains.run(torch.randn(5, 1))
        >>> dict(from_mcmc(chains).posterior["keys"].sizes)
        {'chain': 1, 'draw': 3, 'component': 2, 'dimension': 1}
    """
    draws: dict[str, Any] | None = getattr(chains, "_samples", None)
    if draws is None:
        raise ValueError("the chains have no draws: call run(queries) first")
    arrays = {name: value.detach().cpu().numpy() for name, value in chains.get_samples(group_by_chain=True).items()}
    return from_groups({"posterior": mixture_dataset(arrays)}, {"algorithm": type(chains.kernel).__name__})
