"""Are samples worth reading: forward and reverse perplexity of what several runs make up, beside real texts.

    python benchmarks/samples.py --judge runs/lm --runs runs/nvae runs/nvae-refitted [--n 2000]

forward   perplexity of the samples under the judge, a language model trained on real texts
reverse   perplexity of real held-out texts under a language model trained on the samples, the same steps for each

The rows "real texts" are held-out texts in place of samples (forward) and as many training texts (reverse): what the
best generator would reach. The judge's own samples are a row too. Perplexities are per token of the judge's tokenizer.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from pyroformer.inference.judging import forward_perplexity, reverse_perplexity
from pyroformer.inference.run import Run, load
from pyroformer.inference.text_metrics import diversity

Row = dict[str, float | None]


def judge_texts(texts: Sequence[str], judge: Run, real: Sequence[str], **fit: object) -> Row:
    """Everything that is said of one generator's texts."""
    if sum(bool(text.strip()) for text in texts) < 20:
        return {"blank": float(sum(not text.strip() for text in texts)) / len(texts)}
    found = diversity(texts, real, seed=3)
    return {
        "forward": forward_perplexity(judge, texts)["perplexity"],
        "reverse": reverse_perplexity(texts, judge.corpus, **fit)["perplexity"],
        "self-BLEU": found["self_bleu"].units["of 100"].value,
        "distinct-2": found["distinct_2"].units["share"].value,
        "blank": sum(not text.strip() for text in texts) / len(texts),
    }


def table(rows: Mapping[str, Row]) -> str:
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    lines = [f"| texts of | {' | '.join(columns)} |", f"|---|{'---:|' * len(columns)}"]
    for name, row in rows.items():
        cells = ["" if row.get(column) is None else f"{row[column]:.4g}" for column in columns]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--judge", type=Path, required=True, help="a run of lm on real texts")
    parser.add_argument("--runs", type=Path, nargs="+", required=True, help="runs that are sampled")
    parser.add_argument("--n", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=300, help="of the language models that learn from samples")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    judge = load(options.judge)
    network = {name: getattr(judge.model.config, name) for name in ("width", "layers", "heads")}
    fit = {"steps": options.steps, "seed": options.seed, "network": network, "validation_texts": 256}
    real = judge.corpus.test[: options.n]
    forward = forward_perplexity(judge, real)["perplexity"]
    reverse = reverse_perplexity(judge.corpus.train[: options.n], judge.corpus, **dict(fit))["perplexity"]
    rows: dict[str, Row] = {"real texts": {"forward": forward, "reverse": reverse}}
    for folder in [options.judge, *options.runs]:
        texts = load(folder).sample(options.n, seed=options.seed)
        rows[folder.name] = judge_texts(texts, judge, real, **dict(fit))
        print(f"\n{folder.name}", *texts[:5], sep="\n  ")
    print(table(rows))


if __name__ == "__main__":
    main()
