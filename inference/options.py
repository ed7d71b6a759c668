"""Training options: the defaults and the valid values of every option of ``fit``."""

from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from ..models.utils.choices import check_choice
from ..models.utils.numbers import declared_number
from .schedules import SCHEDULES

__all__ = [
    "Compile",
    "FreeBitsPer",
    "KLReduction",
    "LayerWeights",
    "Objectives",
    "Precision",
    "Strategy",
    "TrainingOptions",
]

Objectives = Literal["elbo", "iw", "nvib"]
FreeBitsPer = Literal["dimension", "layer", "total"]
KLReduction = Literal["sum", "mean"]
LayerWeights = Literal["linear", "equal"]
Compile = Literal["auto", "off", "blocks", "full"]
Precision = Literal["32", "bf16"]
Strategy = Literal["ddp", "fsdp"]
POSITIVE_INTEGERS = (
    "steps",
    "batch_size",
    "accumulate_grad_batches",
    "num_particles",
    "devices",
    "validations",
    "validation_texts",
)
NON_NEGATIVE = (
    "weight_decay",
    "gradient_clip_val",
    "beta",
    "free_bits",
    "lambda_d",
    "lambda_g",
    "patience",
    "seed",
)


@dataclass(frozen=True)
class TrainingOptions:
    """The options of :func:`~pyroformer.fit`.

    Arguments:
        steps: Number of optimizer steps; the same seed then gives the same weights, interrupted and resumed or not.
        minutes: Wall-clock minutes of training, instead of or besides ``steps``; 3 if neither is set.
        batch_size: Texts per batch on each device.
        learning_rate: Peak learning rate, after a linear warm-up and before a cosine decay. By default 2e-3, and for a
            model that starts from pretrained weights 1e-4, or 1e-3 where these are frozen.
        weight_decay: Decoupled weight decay of AdamW.
        gradient_clip_val: Largest norm of the gradient of the mean loss per token; larger gradients are scaled down. 0
            turns clipping off.
        accumulate_grad_batches: Batches whose gradients are accumulated before each step.
        objective: ``elbo`` for the exact bound, ``iw`` for the tighter importance-weighted bound of several draws,
            ``nvib`` for the published regularizer of the NVAE (not a bound), or the import path of your own, as in
            my_module.MyObjective; by default ``elbo``, or ``nvib`` for an NVAE whose vectors are independent
            in the prior.
        num_particles: Draws of each text's latents in a step: averaged by ``elbo`` and ``nvib``, 1 by default, and
            weighted by ``iw``, 8 by default.
        kl_schedule: Schedule of the weight of the KL terms over the run: ``constant``, ``linear``, ``geometric``,
            ``cyclical`` or ``ladder``.
        ladder: The rungs of a ladder, weights of the KL terms for equal shares of the run, which end at 1; 0.001 0.01
            0.1 0.5 1 by default.
        beta: Weight of the KL terms, on top of the schedule; the objective is no bound of log p(x) below 1.
        free_bits: Free bits, in nats: the KL of a group of latents, averaged over one batch of one device, is not
            reduced below this. Not a bound. 0 turns them off.
        free_bits_per: The groups of free bits: each ``dimension`` of a latent site, each site (``layer``), or the
            ``total``.
        target_kl: Target of the total KL of all latents, in nats per text: the weight of the KL terms moves until the
            KL reaches it. Not a bound. Held-out texts are charged at least the target.
        lambda_d: Weight of the penalty on the weights of a mixture, for the objective ``nvib``; 1 by default.
        lambda_g: Weight of the penalty on its vectors, likewise; 1e-3 by default. ``beta`` multiplies both.
        layer_weights: How the penalties of layers that attend to mixtures weigh, likewise: ``linear``, in proportion to
            their places, which is the default, or ``equal``.
        keep: Share of a text's vectors to keep, above 0 and at most 1, for the objective ``nvib`` and a guide whose
            ``alpha`` is ``relu``: the ``delta`` of the weight prior moves until the others are switched off.
        kl_reduction: ``sum`` over the latent sites, or ``mean``, which weights each KL with beta / number of sites, as
            some published code does. Not a bound if there are several.
        seed: Random seed.
        devices: Number of processes that train together, each on its own device.
        strategy: How they share the weights: ``ddp``, each has all of them, or ``fsdp``, each has a share of the
            weights, gradients and optimizer state, for models that one device does not hold.
        precision: ``32``, or ``bf16`` for the networks, with distributions kept in float32.
        compile: ``off``, ``blocks`` (each Transformer block), ``full`` (the whole objective as one graph), or ``auto``:
            blocks on a GPU, off elsewhere. Where the objective cannot be captured, ``full`` goes on with blocks; where
            torch.compile fails, as without a C compiler, ``auto`` goes on without it. Both warn.
        activation_checkpointing: Whether the backward pass computes the activations of each Transformer block again, in
            place of keeping them: less memory, for one more pass.
        validations: Number of validations over the run.
        validation_texts: Largest number of held-out texts in a validation: the same ones each time, evenly spaced.
        patience: Stop after this many validations without improvement; 0 never stops early.

    Examples:
        >>> options = TrainingOptions(steps=100, precision="bf16")
        >>> options.batch_size, options.minutes
        (32, None)
        >>> TrainingOptions().minutes
        3.0
    """

    steps: int | None = None
    minutes: float | None = None
    batch_size: int = 32
    learning_rate: float = 2e-3
    weight_decay: float = 0.01
    gradient_clip_val: float = 1.0
    accumulate_grad_batches: int = 1
    objective: Objectives | str | None = None
    num_particles: int = 1
    kl_schedule: Literal["constant", "linear", "geometric", "cyclical", "ladder"] = "constant"
    ladder: list[float] | None = None
    beta: float = 1.0
    free_bits: float = 0.0
    free_bits_per: FreeBitsPer = "layer"
    target_kl: float | None = None
    lambda_d: float | None = None
    lambda_g: float | None = None
    layer_weights: LayerWeights | None = None
    keep: float | None = None
    kl_reduction: KLReduction = "sum"
    seed: int = 0
    devices: int = 1
    strategy: Strategy = "ddp"
    precision: Precision = "32"
    compile: Compile = "auto"
    activation_checkpointing: bool = False
    validations: int = 10
    validation_texts: int = 1024
    patience: int = 0

    def __post_init__(self) -> None:
        for field in fields(self):
            object.__setattr__(self, field.name, declared_number(field.name, getattr(self, field.name), field.type))
        if self.steps is None and self.minutes is None:
            object.__setattr__(self, "minutes", 3.0)
        self._check_ranges()
        if not isinstance(self.objective, str | None):
            kind = type(self.objective).__name__
            raise ValueError(f"objective is an instance of {kind}: give fit the class, or its import path.")
        if self.objective is not None and "." not in self.objective:
            check_choice("objective", self.objective, (*get_args(Objectives), "an import path"))
        check_choice("kl_schedule", self.kl_schedule, SCHEDULES)
        self._check_ladder()
        check_choice("free_bits_per", self.free_bits_per, get_args(FreeBitsPer))
        self._check_free_bits()
        check_choice("kl_reduction", self.kl_reduction, get_args(KLReduction))
        if self.layer_weights is not None:
            check_choice("layer_weights", self.layer_weights, get_args(LayerWeights))
        check_choice("precision", self.precision, get_args(Precision))
        check_choice("compile", self.compile, get_args(Compile))
        check_choice("strategy", self.strategy, get_args(Strategy))
        self._check_full_alone()
        if self.target_kl is not None:
            self._check_target_alone()

    def progress(self, step: int, seconds: float) -> float:
        """The fraction of a run that is done after some steps and seconds, the larger one where both are limited.

        Examples:
            >>> TrainingOptions(steps=100, minutes=10.0).progress(step=20, seconds=300.0)
            0.5
        """
        by_steps = step / self.steps if self.steps else 0.0
        by_clock = seconds / (60 * self.minutes) if self.minutes else 0.0
        return max(by_steps, by_clock)

    def _check_ranges(self) -> None:
        for name in POSITIVE_INTEGERS:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}: give a positive whole number.")
        for name in ("minutes", "learning_rate", "target_kl"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise ValueError(f"{name} is {value}: give a positive number.")
        for name in NON_NEGATIVE:
            value = getattr(self, name)
            if value is not None and not 0 <= value < float("inf"):
                raise ValueError(f"{name} is {value}: give zero or a positive number.")
        if self.keep is not None and not 0 < self.keep <= 1:
            raise ValueError(f"keep is {self.keep}: give a share of the vectors, above 0 and at most 1.")

    def _check_ladder(self) -> None:
        if self.ladder is None:
            return
        rungs = [declared_number("a rung of ladder", rung, float) for rung in self.ladder]
        object.__setattr__(self, "ladder", rungs)
        if not rungs or not all(0 <= rung < float("inf") for rung in rungs):
            raise ValueError(f"ladder is {rungs}: give zero or positive numbers, such as 0.001 0.01 0.1 1.")
        if self.kl_schedule != "ladder":
            raise ValueError(
                f"ladder is {rungs}, but kl_schedule is {self.kl_schedule}: choose the kl_schedule ladder, or leave "
                "ladder out."
            )
        if rungs[-1] != 1:
            raise ValueError(
                f"ladder is {rungs}, which ends at {rungs[-1]:g}: let it end at 1, as every schedule does, and give "
                "the weight at the end as beta."
            )

    def _check_free_bits(self) -> None:
        if self.free_bits_per != "layer" and not self.free_bits:
            raise ValueError(
                f"free_bits_per is {self.free_bits_per}, and there are no free_bits: give some, or leave free_bits_per "
                "out."
            )

    def _check_full_alone(self) -> None:
        """A graph of the whole objective has the activations that it keeps chosen for it, and all weights in it."""
        if not isinstance(self.activation_checkpointing, bool):
            raise ValueError(f"activation_checkpointing is {self.activation_checkpointing!r}: give True or False.")
        if self.compile == "full" and self.activation_checkpointing:
            raise ValueError(
                "activation_checkpointing is True, but compile=full chooses itself what to compute again: leave "
                "activation_checkpointing out, or choose compile=blocks."
            )
        if self.compile == "full" and self.strategy == "fsdp":
            raise ValueError(
                "compile is full, but with the strategy fsdp no process has all weights for one graph: choose "
                "compile=blocks."
            )

    def _check_target_alone(self) -> None:
        """A target decides the weight of the KL, so that no other option may."""
        defaults: dict[str, Any] = {"kl_schedule": "constant", "beta": 1.0, "kl_reduction": "sum", "free_bits": 0.0}
        for name, default in defaults.items():
            if getattr(self, name) != default:
                raise ValueError(
                    f"{name} is {getattr(self, name)}, but target_kl alone decides the weight of the KL terms: "
                    f"leave {name} at {default}, or leave target_kl out."
                )
