"""How a run trains: every option with its default and its rule."""

from dataclasses import dataclass
from typing import Literal, get_args

from .schedules import SCHEDULES

__all__ = ["Compile", "FreeBitsPer", "Precision", "TrainingOptions"]

FreeBitsPer = Literal["dimension", "layer", "total"]
Compile = Literal["auto", "off", "blocks", "full"]
Precision = Literal["32", "bf16"]


@dataclass(frozen=True)
class TrainingOptions:
    """What :func:`~pyroformer.fit` may be told.

    Arguments:
        steps: Optimizer steps to take; the same seed then gives the same weights, killed and resumed or not.
        minutes: Wall-clock minutes to train for, in place of or beside ``steps``; 3 if neither is given.
        batch_size: Texts in a batch of each device.
        learning_rate: Peak of the learning rate, reached after a warm-up and left along half a cosine.
        weight_decay: Decoupled weight decay of AdamW.
        gradient_clip_val: Largest norm of the gradient of one token's mean loss; larger ones are scaled down. 0 turns it off.
        accumulate_grad_batches: Batches whose gradients are added up before a step.
        objective: ``elbo`` for the exact bound, ``iw`` for the tighter one of several draws weighed against each
            other, ``nvib`` for the published regularizer of the NVAE (not a bound); by default what the model was
            published with.
        num_particles: Draws of the latents of each text in a step: averaged by ``elbo`` and ``nvib``, weighed by ``iw``.
        kl_schedule: How the weight of the KL terms moves over the run: ``constant``, ``linear``, ``geometric`` or
            ``cyclical``.
        beta: What the KL terms are weighted with on top; a bound of log p(x) is trained only at 1.
        free_bits: Nats below which the KL of a group of latents is not reduced any further; it is averaged over one
            batch of one device, see :class:`~pyroformer.inference.objectives.kl_control.FreeBits`. Not a bound. 0 turns it off.
        free_bits_per: What a group is: each ``dimension`` of a latent site, each site (``layer``), or the ``total``.
        target_kl: Nats per text that the KLs of all latents are to add up to: their weight moves until they do, see
            :class:`~pyroformer.inference.objectives.kl_control.KLController`. Not a bound. Held-out texts are charged at least the target.
        kl_reduction: ``sum`` over the latent sites, or ``mean``, which weights each KL with beta / number of sites, as
            some published code does. Not a bound if there are several.
        seed: Of weights, batches and noise.
        devices: Processes that train together, each on a device of its own.
        precision: ``32``, or ``bf16`` for the networks with distributions kept in float32.
        compile: ``off``, ``blocks`` (each Transformer block), ``full`` (the whole objective as one graph), or ``auto``:
            blocks on a GPU, off elsewhere.
        validations: How often the run looks at held-out texts.
        validation_texts: How many of them it looks at.
        patience: Stop after so many looks without improvement; 0 never stops early.
    """

    steps: int | None = None
    minutes: float | None = None
    batch_size: int = 32
    learning_rate: float = 2e-3
    weight_decay: float = 0.01
    gradient_clip_val: float = 1.0
    accumulate_grad_batches: int = 1
    objective: Literal["elbo", "iw", "nvib"] | None = None
    num_particles: int = 1
    kl_schedule: Literal["constant", "linear", "geometric", "cyclical"] = "constant"
    beta: float = 1.0
    free_bits: float = 0.0
    free_bits_per: FreeBitsPer = "layer"
    target_kl: float | None = None
    kl_reduction: Literal["sum", "mean"] = "sum"
    seed: int = 0
    devices: int = 1
    precision: Precision = "32"
    compile: Compile = "auto"
    validations: int = 10
    validation_texts: int = 1024
    patience: int = 0

    def __post_init__(self) -> None:
        if self.steps is None and self.minutes is None:
            object.__setattr__(self, "minutes", 3.0)
        for name in (
            "steps",
            "batch_size",
            "accumulate_grad_batches",
            "num_particles",
            "devices",
            "validations",
            "validation_texts",
        ):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}: give a positive whole number.")
        for name in ("minutes", "learning_rate", "target_kl"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise ValueError(f"{name} is {value}: give a positive number.")
        for name in ("weight_decay", "gradient_clip_val", "beta", "free_bits", "patience", "seed"):
            value = getattr(self, name)
            if not 0 <= value < float("inf"):
                raise ValueError(f"{name} is {value}: give zero or a positive number.")
        choices = {
            "objective": ("elbo", "iw", "nvib", None),
            "kl_schedule": tuple(SCHEDULES),
            "free_bits_per": get_args(FreeBitsPer),
            "kl_reduction": ("sum", "mean"),
            "precision": get_args(Precision),
            "compile": get_args(Compile),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                names = ", ".join(choice for choice in allowed if choice)
                raise ValueError(f"{name} is {getattr(self, name)!r}: choose one of {names}.")
        if self.target_kl is not None:
            for name, alone in {
                "kl_schedule": "constant",
                "beta": 1.0,
                "kl_reduction": "sum",
                "free_bits": 0.0,
            }.items():
                if getattr(self, name) != alone:
                    raise ValueError(
                        f"{name} is {getattr(self, name)}, but target_kl decides alone how the KL terms are weighted: "
                        f"leave {name} at {alone}, or leave target_kl out."
                    )
