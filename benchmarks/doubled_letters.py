r"""Which vectors go where half of them are known to be unneeded: letters that are written twice.

    python benchmarks/doubled_letters.py [--steps 1000] [--seed 0] [--points relu:0.15 presence:0.5 ...]

A text is five random letters of ten, each written twice, as in `ccaajjaaff`. One vector of each pair says everything,
so half of a text's vectors and the one of its end can go without a loss. A point is a head of alpha with a delta of the
prior, `relu:0.15`, or a prior probability that a vector is present, `presence:0.5`; all else is the same: the published
penalties, whose weight grows over the first quarter. What is "kept" are the vectors that texts are decoded from.
"""

import random

import torch
from reporting import argument_parser

import pyroformer as pf

LETTERS, PAIRS, TEXTS = "abcdefghij", 5, 4000


def texts(seed: int) -> list[str]:
    """Different random texts, the same and in the same order in every process."""
    draw = random.Random(seed)
    return list(dict.fromkeys("".join(2 * draw.choice(LETTERS) for _ in range(PAIRS)) for _ in range(TEXTS)))


def trained(point: str, corpus: pf.Corpus, steps: int, seed: int) -> pf.Run:
    """A fitted model of a point."""
    family, _, value = point.partition(":")
    torch.manual_seed(seed)
    dial = {"presence": float(value)} if family == "presence" else {"delta": float(value)}
    model = pf.NVAE.for_corpus(corpus, base_measure="gaussian", width=32, layers=1, heads=2, **dial)
    guide = pf.NVAEGuide(model, alpha="relu" if family == "relu" else "linear")
    options = {"objective": "nvib", "kl_schedule": "linear", "learning_rate": 4e-3, "validations": 4}
    return pf.fit(model, guide, corpus, steps=steps, batch_size=32, seed=seed, **options)


def main() -> None:
    points = ["relu:0.15", "presence:0.5", "presence:0.3", "presence:0.1"]
    options = argument_parser(__doc__, steps=1000, seed=0, points=points).parse_args()
    corpus = pf.Corpus.from_texts(texts(options.seed), max_length=2 * PAIRS + 1, tokenizer="characters")
    print("| point | accuracy | exact match | kept of 11 | share kept |\n|---|---:|---:|---:|---:|", flush=True)
    for point in options.points:
        run = trained(point, corpus, options.steps, options.seed)
        found = run.evaluate(
            limit=200, reconstructions=200, num_particles=1, metrics=["accuracy", "exact_match", "kept"]
        )
        share = found["kept"]["of the text's"] or 0.0
        cells = [f"{found['accuracy'].value:.3f}", f"{found['exact_match'].value:.3f}"]
        cells += [f"{found['kept']['vectors']:.2f}", f"{100 * share:.1f} %"]
        print(f"| {point} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
