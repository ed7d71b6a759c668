"""Interpolation between texts: quality of the texts between two others, for several runs.

    python benchmarks/interpolation.py --judge runs/lm --runs runs/nvae runs/vae [--pairs 100]

For each weight tau of the second text: BLEU to both ends, the shares of blank texts and of new texts (neither blank nor
the reconstruction of an end), and the perplexity of the texts that are not blank under the judge, a language model
trained on real texts. Pairs are distant held-out texts, the same for every run.
"""

from collections.abc import Mapping
from pathlib import Path

from reporting import argument_parser, evenly, markdown, show

from pyroformer.inference.diagnostics.lm_perplexity import forward_perplexity
from pyroformer.inference.evaluation.bleu import bleu
from pyroformer.inference.run import Run, load

STEPS = 5  # tau = 0, 1/4, 1/2, 3/4, 1
COLUMNS = ("tau", "BLEU to first", "BLEU to second", "blank", "new", "forward perplexity")


def report(judge: Run, runs: Mapping[str, Run], n: int = 100) -> str:
    """The table as markdown, and each run's interpolation of the first pair."""
    texts = evenly(judge.corpus.test, 2 * n)
    pairs = list(zip(texts[:n], texts[n:], strict=True))
    table, shown = [], []
    for name, run in runs.items():
        written = [run.interpolate(first, second, STEPS) for first, second in pairs]
        for row in rows(written, judge, pairs):
            table.append([name, *("" if cell is None else f"{cell:.3g}" for cell in row)])
        shown += ["", f"{name}:", "", *(f"    {text}" for text in written[0])]
    return "\n".join([markdown(["run", *COLUMNS], table).rstrip(), *shown]) + "\n"


def rows(written: list[list[str]], judge: Run, pairs: list[tuple[str, str]]) -> list[list[float | None]]:
    """For each tau: BLEU to the first and second text, shares of blank and new texts, forward perplexity."""
    rows_: list[list[float | None]] = []
    for step in range(STEPS):
        texts = [way[step] for way in written]
        ends = [[way[0], way[-1]] for way in written]
        blank = [not text.strip() for text in texts]
        new = [text not in end and not no for text, end, no in zip(texts, ends, blank, strict=True)]
        rows_.append(
            [
                step / (STEPS - 1),
                bleu(texts, [first for first, _ in pairs]),
                bleu(texts, [second for _, second in pairs]),
                sum(blank) / len(texts),
                sum(new) / len(texts),
                None if all(blank) else forward_perplexity(judge, texts)["perplexity"],
            ]
        )
    return rows_


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--judge", type=Path, required=True, help="a run of lm on real texts")
    parser.add_argument("--runs", type=Path, nargs="+", required=True)
    parser.add_argument("--pairs", type=int, default=100)
    parser.add_argument("--out", type=Path, help="file to write the table to as well")
    options = parser.parse_args()
    runs = {str(folder): load(folder) for folder in options.runs}
    show(report(load(options.judge), runs, options.pairs), options.out)


if __name__ == "__main__":
    main()
