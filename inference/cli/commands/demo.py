"""The command that shows the library at work: train, evaluate, reconstruct, sample, interpolate and plot."""

from contextlib import closing
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...utils.terminal import output_columns
from ..output import print_line
from ..progress import Progress

if TYPE_CHECKING:
    from ...run import Run

__all__ = ["demo"]

SAMPLES = 200  # of which five are shown
SHARE = 0.85  # of the minutes, for the language model
GENTLE = 1e-4  # learning rate of what starts there: the first steps of a larger one lose what few do not win back


def demo(*, minutes: float = 3.8, out: str | None = None, seed: int = 0) -> None:
    """Train a language model and an NVAE that starts from it, on Python's own documentation, then show what it learned.

    Most of the time trains the language model: it is the prior of the NVAE, which reads a text back from its vectors
    from the start. The rest trains everything together.

    Example:
      pyroformer demo --minutes 10

    Arguments:
        minutes: Minutes of training.
        out: The folder of the run; runs/demo, or runs/demo-2 and so on if that exists, by default.
        seed: Random seed.
    """
    import torch

    from ....guides.nvae import NVAEGuide
    from ....models.language_model import LanguageModel
    from ....models.nvae import NVAE
    from ...data.corpus import Corpus
    from ...options import TrainingOptions
    from ...runs.folder import RunFolder
    from ...training.fit import fit
    from ..prepare import prepare_folder

    TrainingOptions(minutes=minutes, seed=seed)  # validates them before anything is read
    torch.manual_seed(seed)
    folder = RunFolder(out or _free_name("runs/demo"))
    if folder.config_file.exists():
        raise ValueError(f"{folder.path} already holds a run: choose another --out, or leave it out.")
    budget: dict[str, Any] = {"validation_texts": 256, "seed": seed, "progress": False}
    with prepare_folder(folder, resume=False):
        corpus = Corpus.builtin()
        print_line(f"reading {corpus.summary()}")

        print_line("\na language model, on which the prior of the vectors rests:")
        with closing(Progress()) as progress:
            model = LanguageModel.for_corpus(corpus, dropout=0.1)  # the texts come by twenty times
            lm = fit(model, None, corpus, callback=progress, minutes=SHARE * minutes, **budget)

    print_line("\nthe NVAE:")
    nvae = NVAE.for_corpus(corpus, backbone=lm.backbone, dropout=0.0)  # what is assumed
    guide = NVAEGuide(nvae)  # what is learned
    with closing(Progress()) as progress:
        rest: dict[str, Any] = {"minutes": (1 - SHARE) * minutes, "learning_rate": GENTLE}
        run = fit(nvae, guide, corpus, out=folder.path, callback=progress, **rest, **budget)
    print_line(f"best at step {run.step:,}; run saved in {folder.path}")
    _show(run, lm, seed)


def _show(run: "Run", lm: "Run", seed: int) -> None:
    """What the NVAE learned, beside the language model that it started from."""
    from ...plots import save_all

    test = run.corpus.test
    evaluation = run.evaluate(limit=256, num_particles=16)
    print_line(f"\n256 held-out texts:\n{evaluation.table(output_columns())}")

    print_line("\ntexts and their reconstructions from the posterior mean:")
    for text in run.reconstruct(test[:5]):
        print_line(f"  {_in_one_line(text.original)}\n  {_in_one_line(text.text)}\n")

    samples = run.sample(SAMPLES, seed=seed)
    print_line("samples from the prior:")
    for sample in samples[:5]:
        print_line(f"  {_in_one_line(sample)}")

    first, second = sorted(test[:20], key=len)[:2]  # short ones, so that each step fits a line
    print_line("\nfrom one text to another, by interpolation of their posteriors:")
    for between in run.interpolate(first, second):
        print_line(f"  {_in_one_line(between)}")

    print_line("\nplots:")
    for picture in save_all(run):
        print_line(f"  {picture}")
    rate, bound = (evaluation[name]["nats/token"] for name in ("rate", "bound"))
    print_line(
        f"\naccuracy {evaluation['accuracy'].value:.3f}; rate (KL of all latents) {rate:,.1f} nats/token; "
        f"-log p(x) is at most {bound:,.1f} nats/token, and {lm.evaluate(limit=256)['bound'].value:,.1f} by the "
        f"language model, which gives samples of the NVAE {_loss(lm, samples):.1f} and its own "
        f"{_loss(lm, lm.sample(SAMPLES, seed=seed)):.1f} nats/token"
    )


def _loss(lm: "Run", texts: list[str]) -> float:
    """The loss of a language model on texts, in nats per token."""
    from ...evaluation.judge import Judge

    loss = Judge(lm.backbone).loss([text for text in texts if text.strip()])
    return float(loss.nats.sum() / max(1.0, loss.tokens.sum()))


def _in_one_line(text: str) -> str:
    """A text without the line breaks that bytes of a hardly trained model can be."""
    return " ".join(text.split())


def _free_name(name: str) -> str:
    """The first of name, name-2, name-3, ... that does not exist."""
    names = (name if number == 1 else f"{name}-{number}" for number in count(1))
    return next(name for name in names if not Path(name).exists())
