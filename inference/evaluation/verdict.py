"""A verdict on the latents of a run: what they cost, and what to change where that is nothing."""

import math

from ..runs.fitted import FittedModel

__all__ = ["LEAST_RATE", "latent_cost", "latent_verdict", "validation_rate", "validation_rate_per_text"]

LEAST_RATE = 0.1  # nats a text; latents that cost less have collapsed to their prior
CURES = "train anew with free_bits, target_kl or another kl_schedule"


def latent_verdict(rate: float) -> str:
    """A line that says how many nats a text the latents cost, and what to change where that is nothing.

    The cost is their divergence from the prior. What they tell about the text, their mutual information with it, is at
    most that, in the mean over all texts.

    Arguments:
        rate: The divergence of all latents from their prior, in nats per text.

    Examples:
        >>> latent_verdict(41.7)
        'the latents cost 41.7 nats a text (their KL)'
        >>> latent_verdict(0.04).partition(": ")[0]
        'the latents cost 0.04 nats a text (their KL), which is nothing'
    """
    return f"the latents cost {latent_cost(rate)}"


def latent_cost(rate: float) -> str:
    """The rate in words, and what to change where it is nothing, as in :func:`latent_verdict`."""
    amount = f"{rate:,.{1 if rate >= 1 else 2}f} nats a text (their KL)"
    return amount if rate >= LEAST_RATE else f"{amount}, which is nothing: {CURES}"


def validation_rate_per_text(run: FittedModel) -> float | None:
    """The divergence of all latents on validation texts at the step of the run, in nats per text; None if unknown."""
    rate = validation_rate(run)
    return None if rate is None else rate * float(run.corpus.valid.lengths.mean())


def validation_rate(run: FittedModel) -> float | None:
    """The divergence of all latents on validation texts at the step of the run, in nats per token.

    It is None without latents, where the run has no validation at that step, and where it is infinite, as vectors are
    switched off.
    """
    try:
        metrics = run.folder.read_metrics()
    except (OSError, ValueError):
        return None
    names = [name for name in metrics if name.startswith("kl_") and name != "kl_length"]
    rows = zip(metrics.get("step", []), metrics.get("split", []), strict=True)
    at = [index for index, row in enumerate(rows) if row == (run.step, "valid")]
    values = [metrics[name][at[-1]] for name in names] if at else []
    numbers = [value for value in values if isinstance(value, float)]
    if not numbers or len(numbers) < len(values) or not math.isfinite(sum(numbers)):
        return None
    return sum(numbers)
