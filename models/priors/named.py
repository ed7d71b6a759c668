"""Priors of the vectors of a text by their short names."""

from collections.abc import Callable, Mapping
from inspect import signature
from typing import Any

from torch.distributions import Distribution

from ..utils.choices import check_choice
from .roles import BaseMeasure
from .sequence.autoregressive import AutoregressiveVectorPrior
from .sequence.codebook import CodebookVectorPrior
from .sequence.language_model import LanguageModelVectorPrior
from .sequence.tokens import TokenVectorPrior
from .vectors import GaussianVectorPrior, MixtureVectorPrior

__all__ = ["NAMED", "named_prior"]

NAMED: dict[str, type[BaseMeasure]] = {
    "tokens": TokenVectorPrior,
    "language_model": LanguageModelVectorPrior,
    "codebook": CodebookVectorPrior,
    "autoregressive": AutoregressiveVectorPrior,
    "mixture": MixtureVectorPrior,
    "gaussian": GaussianVectorPrior,
}


def named_prior(
    base_measure: BaseMeasure | Distribution | Callable[..., Distribution] | str | None,
    config: Any,
    samples_per_component: int,
    ends_texts: bool = False,
    arguments: Mapping[str, Any] | None = None,
) -> BaseMeasure | Distribution | Callable[..., Distribution]:
    """A prior of the vectors: the one that a name stands for, with the sizes of a network, or else the one given.

    Arguments:
        base_measure: A name in ``NAMED``, a prior, or None for a standard Gaussian.
        config: The network, a :class:`~..transformer.config.TransformerConfig`, whose fields fill arguments of the
            prior of the same name; or itself the argument ``config``.
        samples_per_component: Number of the prior's own components.
        ends_texts: Whether its vectors tell where a text ends, if the prior can.
        arguments: Arguments of the prior of that name, which take precedence over the sizes of the network.

    Raises:
        ValueError: If no prior has that name, or the sizes do not fit it.

    Examples:
        >>> from pyroformer.models.transformer.config import TransformerConfig
        >>> named_prior("tokens", TransformerConfig(vocabulary=30, max_length=8, width=16, heads=2), 0)
        TokenVectorPrior(...width=16, vocabulary=30, samples_per_component=0...)
    """
    if base_measure is not None and not isinstance(base_measure, str):
        return base_measure
    name = "gaussian" if base_measure is None else base_measure
    check_choice("base_measure", name, NAMED)
    cls = NAMED[name]
    accepted = signature(cls).parameters
    sizes = {field: getattr(config, field) for field in accepted if hasattr(config, field)}
    if "config" in accepted:
        sizes["config"] = config
    if not ends_texts:
        sizes.pop("eos", None)
    if "samples_per_component" in accepted:
        sizes["samples_per_component"] = samples_per_component
    return cls(**{**sizes, **(arguments or {})})
