"""The way from one text to another: what is written between the two, for runs that interpolate in their own fashion.

    python benchmarks/interpolation.py --judge runs/lm --runs runs/nvae runs/vae [--pairs 100]

For each share tau of the second text: BLEU to both ends, the share of texts that are neither end, and their perplexity
under the judge, a language model trained on real texts. Pairs are of held-out texts, the same for every run.
"""

import argparse
from pathlib import Path

from pyroformer.inference.judging import forward_perplexity
from pyroformer.inference.metrics import bleu
from pyroformer.inference.run import Run, load

STEPS = 5  # tau = 0, 1/4, 1/2, 3/4, 1


def rows(run: Run, judge: Run, pairs: list[tuple[str, str]]) -> list[list[float | None]]:
    """For each tau: BLEU to the first and second text, share of new texts, forward perplexity."""
    written = [run.interpolate(first, second, STEPS) for first, second in pairs]
    found: list[list[float | None]] = []
    for step in range(STEPS):
        texts = [way[step] for way in written]
        ends = [[way[0], way[-1]] for way in written]
        new = sum(text not in end for text, end in zip(texts, ends, strict=True)) / len(texts)
        readable = any(text.strip() for text in texts)
        found.append(
            [
                step / (STEPS - 1),
                bleu(texts, [first for first, _ in pairs]),
                bleu(texts, [second for _, second in pairs]),
                new,
                forward_perplexity(judge, texts)["perplexity"] if readable else None,
            ]
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--judge", type=Path, required=True, help="a run of lm on real texts")
    parser.add_argument("--runs", type=Path, nargs="+", required=True)
    parser.add_argument("--pairs", type=int, default=100)
    options = parser.parse_args()
    judge = load(options.judge)
    texts = judge.corpus.test[: 2 * options.pairs]
    pairs = list(zip(texts[::2], texts[1::2], strict=True))
    print(f"| run | tau | BLEU to first | BLEU to second | new | forward perplexity |\n|---|{'---:|' * 5}")
    for folder in options.runs:
        run = load(folder)
        for row in rows(run, judge, pairs):
            print(f"| {folder.name} | {' | '.join('' if cell is None else f'{cell:.3g}' for cell in row)} |")
        print("\n".join(f"<!-- {text} -->" for text in run.interpolate(*pairs[0], STEPS)))


if __name__ == "__main__":
    main()
