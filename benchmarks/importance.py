"""Cost of importance-weighted bounds: all draws of a text as rows of one batch, against K passes of the whole model.

K passes         model and guide read a batch of texts once for each draw
rows of a batch  ``run.bound`` and ``evaluate``: the encoder reads a text once, and its draws are rows, without padding

The bounds differ by the draws alone; the difference is printed in standard errors over texts.

    python benchmarks/importance.py --threads 1 2 --out table.md
"""

import argparse
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from measuring import seconds
from reporting import argument_parser, markdown, show
from torch import Tensor, nn

import pyroformer as pf
from pyroformer.inference.objectives.bounds import importance_weighted
from pyroformer.inference.run import Run
from pyroformer.inference.utils.seeded_eval import seeded_eval
from pyroformer.models.transformer.blocks import Block

WORDS, VOCABULARY = 3000, 8000
SYSTEMS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "VAE": (pf.VAE, pf.VAEGuide, {"base_measure": "gaussian"}),
    "NVAE": (pf.NVAE, pf.NVAEGuide, {"base_measure": "gaussian"}),
    "DELLA": (pf.DELLA, pf.DELLAGuide, {"latent_size": 16}),
}


def corpus_of(texts: int, seed: int = 0) -> pf.Corpus:
    """Texts of 8 to 24 made-up words, of as many lengths as real ones have."""
    generator = random.Random(seed)
    words = ["".join(generator.choices("abcdefghijklmnopqrstuvwxyz", k=generator.randint(2, 8))) for _ in range(WORDS)]
    each = [" ".join(generator.choices(words, k=generator.randint(8, 24))) for _ in range(max(100, 2 * texts))]
    return pf.Corpus.from_texts(each, vocabulary=VOCABULARY, max_length=64)


def made(name: str, corpus: pf.Corpus, options: argparse.Namespace) -> Run:
    """A system with random weights, as a run."""
    model_class, guide_class, further = SYSTEMS[name]
    torch.manual_seed(0)
    model = model_class.for_corpus(corpus, width=options.width, layers=options.layers, heads=4, **further)
    guide = guide_class(model)
    return pf.fit(model, guide, corpus, steps=1, learning_rate=1e-9, batch_size=8, validation_texts=8, progress=False)


def in_passes(run: Run, texts: list[str], particles: int) -> Tensor:
    """The bounds by K passes of model and guide over the batch."""
    batch = run.batch(texts)
    with seeded_eval(run.model, run.guide, seed=0):
        return importance_weighted(run.model, run.guide, batch, particles, len(run.corpus.train))


def rows_encoded(run: Run, call: Callable[[], object]) -> int:
    """The number of texts that the guide's first block reads during a call."""
    assert run.guide is not None
    rows: list[int] = []
    block: nn.Module = next(part for part in run.guide.modules() if isinstance(part, Block))
    hook = block.register_forward_hook(lambda block, inputs, output: rows.append(len(output)))
    call()
    hook.remove()
    return sum(rows)


def row(name: str, corpus: pf.Corpus, options: argparse.Namespace) -> list[str]:
    """Both ways on the same texts, in turn."""
    run, texts, particles = made(name, corpus, options), corpus.train[: options.texts], options.num_particles
    ways: list[Callable[[], Tensor]] = [
        lambda: in_passes(run, texts, particles),
        lambda: run.bound(texts, particles, progress=False),
    ]
    naive, own = (way() for way in ways)
    error = float((naive - own).double().std() / len(texts) ** 0.5)
    encoded = [rows_encoded(run, way) for way in ways]
    cells = [name, f"{encoded[0]:,} / {encoded[1]:,}", f"{float((naive - own).mean()) / max(error, 1e-9):.1f}"]
    for threads in options.threads:
        torch.set_num_threads(threads)
        once, other = seconds(dict(enumerate(ways)), options.repeats, warm_ups=0).values()
        cells += [f"{once:.2f}", f"{other:.2f}", f"{once / other:.2f}"]
    return cells


def main() -> None:
    parser = argument_parser(__doc__, width=256, layers=4, texts=8, num_particles=64, repeats=3)
    parser.add_argument("--threads", type=int, nargs="+", default=[torch.get_num_threads()])
    parser.add_argument("--only", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    corpus = corpus_of(options.texts)
    head = ["model", "texts encoded", "difference, standard errors"]
    for threads in options.threads:
        head += [f"K passes, s, {threads} threads", "rows, s", "times as fast"]
    rows = [row(name, corpus, options) for name in options.only]
    about = f"K = {options.num_particles}, {options.texts} texts, width {options.width}, {options.layers} layers"
    show(f"{about}\n\n{markdown(head, rows)}", options.out)


if __name__ == "__main__":
    main()
