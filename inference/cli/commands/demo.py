"""The command that shows the library at work: train, evaluate, reconstruct, sample, interpolate and plot."""

from itertools import count
from pathlib import Path

from ..output import print_line
from ..progress import Progress

__all__ = ["demo"]


def demo(*, minutes: float = 3.8, out: str | None = None, seed: int = 0) -> None:
    """Train a small NVAE on Python's own documentation, then show what it learned.

    Example:
      pyroformer demo --minutes 10

    Arguments:
        minutes: Minutes of training.
        out: The folder of the run; runs/demo, or runs/demo-2 and so on if that exists, by default.
        seed: Random seed.
    """
    import torch

    from ....guides.nvae import NVAEGuide
    from ....models.nvae import NVAE
    from ...data.corpus import Corpus
    from ...options import TrainingOptions
    from ...plots import save_all
    from ...training.fit import fit

    TrainingOptions(minutes=minutes, seed=seed)  # validates them before anything is read
    torch.manual_seed(seed)
    folder = out or _free_name("runs/demo")
    corpus = Corpus.builtin()
    print_line(f"reading {corpus.summary()}")

    model = NVAE.for_corpus(corpus, size="tiny", base_measure="tokens")  # what is assumed
    guide = NVAEGuide(model)  # what is learned
    progress = Progress()
    run = fit(
        model,
        guide,
        corpus,
        minutes=minutes,
        validation_texts=256,
        seed=seed,
        out=folder,
        callback=progress,
        progress=False,
    )
    progress.close()
    print_line(f"best at step {run.step:,}; run saved in {folder}")

    evaluation = run.evaluate(limit=256, num_particles=16)
    print_line(f"\n256 held-out texts:\n{evaluation.table()}")

    print_line("\ntexts and their reconstructions from the posterior mean:")
    for text in run.reconstruct(corpus.test[:5]):
        print_line(f"  {_in_one_line(text.original)}\n  {_in_one_line(text.text)}\n")

    print_line("samples from the prior:")
    for sample in run.sample(5, seed=seed):
        print_line(f"  {_in_one_line(sample)}")

    first, second = sorted(corpus.test[:20], key=len)[:2]  # short ones, so that each step fits a line
    print_line("\nfrom one text to another, by interpolation of their posteriors:")
    for between in run.interpolate(first, second):
        print_line(f"  {_in_one_line(between)}")

    print_line("\nplots:")
    for picture in save_all(run):
        print_line(f"  {picture}")
    rate, bound = (evaluation[name]["nats/token"] for name in ("rate", "bound"))
    print_line(
        f"\naccuracy {evaluation['accuracy'].value:.3f}; rate (exact KL of all latents) {rate:,.1f} nats/token; "
        f"-log p(x) is at most {bound:,.1f} nats/token"
    )


def _in_one_line(text: str) -> str:
    """A text without the line breaks that bytes of a hardly trained model can be."""
    return " ".join(text.split())


def _free_name(name: str) -> str:
    """The first of name, name-2, name-3, ... that does not exist."""
    names = (name if number == 1 else f"{name}-{number}" for number in count(1))
    return next(name for name in names if not Path(name).exists())
