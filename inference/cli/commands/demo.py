"""The library in one go: train on the texts that every Python carries, measure, reconstruct, sample, draw."""

from itertools import count
from pathlib import Path

from ..progress import Progress, say

__all__ = ["demo"]


def demo(*, minutes: float = 3.8, out: str | None = None, seed: int = 0) -> None:
    """Train a small NVAE on Python's own documentation, then show what it learned.

    Example:
      pyroformer demo --minutes 10

    Arguments:
        minutes: How long to train.
        out: The folder of the run; runs/demo, or runs/demo-2 and so on where that is taken, if not given.
        seed: Of weights, batches and noise.
    """
    import torch

    from ....guides.nvae import NVAEGuide
    from ....models.nvae import NVAE
    from ...data.corpus import Corpus
    from ...plots import save_all
    from ...training.fit import fit

    torch.manual_seed(seed)
    folder = out or _free("runs/demo")
    corpus = Corpus.builtin()
    say(f"reading {corpus.describe()}")

    model = NVAE.for_corpus(corpus, size="tiny")  # what is assumed
    guide = NVAEGuide(model)  # what is learned
    progress = Progress("objective (nvib, not a bound)")
    run = fit(model, guide, corpus, minutes=minutes, validation_texts=256, seed=seed, out=folder, callback=progress)
    progress.close()
    say(f"best at step {run.step:,}; run saved in {folder}")

    evaluation = run.evaluate(limit=256, num_particles=16)
    say(f"\n256 texts that it has not seen:\n{evaluation.table()}")

    say("\noriginals, and what the decoder writes from their posterior's mean:")
    for text in run.reconstruct(corpus.test[:5]):
        say(f"  {text.original}\n  {text.text}\n")

    rate = evaluation["rate"]["nats/token"]
    say(f"samples from the prior, at a rate (exact KL of all latents) of {rate:,.1f} nats/token:")
    for sample in run.sample(5, seed=seed):
        say(f"  {sample}")

    say("\npictures:")
    for picture in save_all(run):
        say(f"  {picture}")
    say(f"\naccuracy {evaluation['accuracy'].value:.3f}")


def _free(name: str) -> str:
    """The first of name, name-2, name-3, ... that does not exist."""
    names = (name if number == 1 else f"{name}-{number}" for number in count(1))
    return next(name for name in names if not Path(name).exists())
