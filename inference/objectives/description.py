"""The description of an objective: its options as plain data, which a run records, and as words, which it prints."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, TypeVar

from ...models.base import Model
from ..options import TrainingOptions
from ..utils.counts import counted

__all__ = ["Described", "check_no_kl_options", "check_particles", "keep_bound", "weighting_options"]

D = TypeVar("D", bound="Described")


class Described:
    """The class methods of an objective that make it from training options and describe it.

    :class:`~pyroformer.ELBO` has them, so an objective of your own inherits them. Override ``check`` to refuse options
    or models, ``full_kl_weights`` and ``remarks`` if the KL terms are weighted in another way.

    Attributes:
        name: The name in options, logs and reports; the name of the class by default.
        is_bound: Whether minus the loss is a lower bound of log p(x) if every KL weight is at least 1 and there are no
            free bits. A subclass is not called a bound unless it sets this to True itself.
        own_options: The training options, None by default, that this objective reads and others need not, such as
            ``keep``. One that belongs to an objective that ships is refused for another that does not read it.
    """

    name: str = "objective"
    is_bound: bool = False
    own_options: tuple[str, ...] = ()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.name = cls.__dict__.get("name", cls.__name__)
        cls.is_bound = cls.__dict__.get("is_bound", False)

    @classmethod
    def check(cls, options: TrainingOptions, model: Model) -> None:
        """Checks that this objective can be trained with these options on this model.

        Raises:
            ValueError: If an option controls latents that the model does not have.
        """
        check_particles(options, model)
        for option, value in (_kl_options(options) | weighting_options(options)).items():
            if not model.latents:
                raise ValueError(
                    f"{option} is {value}, which is about the KL of latents, and {type(model).__name__} has none: "
                    "leave it out."
                )

    @classmethod
    def full_kl_weights(cls, options: TrainingOptions, model: Model) -> dict[str, float]:
        """The weight of each KL term at the end of its schedule, by site."""
        sites = len(model.latents) if options.kl_reduction == "mean" else 1
        return dict.fromkeys(model.latents, options.beta / sites)

    @classmethod
    def describe(cls, options: TrainingOptions, model: Model) -> dict[str, Any]:
        """The objective with these options on this model, as plain data.

        Raises:
            ValueError: If :meth:`check` does.
        """
        cls.check(options, model)
        kl_options = _kl_options(options)
        weights = cls.full_kl_weights(options, model)
        exact = cls.is_bound and not {"free_bits", "target_kl"} & set(kl_options)
        is_bound = exact and keep_bound(weights)
        particles = {"num_particles": options.num_particles} if options.num_particles > 1 else {}
        return {"name": cls.name, "is_bound": is_bound, "kl_weights": weights} | kl_options | particles

    @classmethod
    def from_options(cls: type[D], options: TrainingOptions, model: Model, data_size: int) -> D:
        """The objective with these options on this model.

        Raises:
            ValueError: If :meth:`check` does.
        """
        return cls.from_description(cls.describe(options, model), options.num_particles, data_size)

    @classmethod
    @abstractmethod
    def from_description(cls: type[D], described: Mapping[str, Any], num_particles: int, data_size: int) -> D:
        """The objective that :meth:`describe` described."""

    @classmethod
    def remarks(cls, described: Mapping[str, Any]) -> list[str]:
        """The differences from the ELBO with every KL weight 1, in words and without the objective's name."""
        weights = described["kl_weights"]
        beta = " and ".join(f"{weight:.3g}" for weight in sorted(set(weights.values())))
        words = []
        if described.get("kl_reduction") == "mean" and len(weights) > 1:
            words.append(f"KL averaged over {len(weights)} latents: effective beta = {beta}")
        elif any(weight != 1 for weight in weights.values()):
            words.append(f"beta = {beta}")
        if "free_bits" in described:
            group = {"total": "in total"}.get(described["free_bits_per"], f"a {described['free_bits_per']}")
            words.append(f"free bits: {counted(described['free_bits'], 'nat')} {group}")
        if "target_kl" in described:
            words.append(f"KL held at {counted(described['target_kl'], 'nat')} a text")
        return words


def keep_bound(kl_weights: Mapping[str, float]) -> bool:
    """Whether a bound of log p(x) with every KL weight 1 remains one with these weights.

    A KL is never negative, so that a weight above 1 only lowers the bound.

    Examples:
        >>> keep_bound({"z_1": 1.0, "z_2": 4.0}), keep_bound({"z_1": 1.0, "z_2": 0.5})
        (True, False)
    """
    return all(weight >= 1 for weight in kl_weights.values())


def check_particles(options: TrainingOptions, model: Model) -> None:
    """Raises a ValueError if several draws are asked of a model without latents."""
    if options.num_particles > 1 and not model.latents:
        raise ValueError(
            f"num_particles is {options.num_particles}, a number of draws of latents, and {type(model).__name__} has "
            "none: leave it out."
        )


def weighting_options(options: TrainingOptions) -> dict[str, Any]:
    """The options in use that weigh the KL terms as a whole.

    Examples:
        >>> weighting_options(TrainingOptions(beta=0.5))
        {'beta': 0.5}
    """
    off = {"beta": 1.0, "kl_schedule": "constant"}
    return {name: value for name, default in off.items() if (value := getattr(options, name)) != default}


def check_no_kl_options(options: TrainingOptions, name: str) -> None:
    """Raises a ValueError if an option controls the KL, for an objective that has none."""
    for option, value in _kl_options(options).items():
        raise ValueError(
            f"{option} is {value}, which is about the KL, and the objective {name} has none: leave it out, or choose "
            "the objective elbo."
        )


def _kl_options(options: TrainingOptions) -> dict[str, Any]:
    """The options in use that change the KL terms in another way than by ``beta``."""
    in_use: dict[str, Any] = {}
    if options.kl_reduction == "mean":
        in_use["kl_reduction"] = options.kl_reduction
    if options.free_bits > 0:
        in_use |= {"free_bits": options.free_bits, "free_bits_per": options.free_bits_per}
    if options.target_kl is not None:
        in_use["target_kl"] = options.target_kl
    return in_use
