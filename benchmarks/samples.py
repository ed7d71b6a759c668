"""Forward and reverse perplexity of samples from several runs, compared with real texts.

    python benchmarks/samples.py --judge runs/lm --runs runs/nvae runs/nvae-better-prior [--n 2000] [--pretrained DIR]

forward   perplexity of the samples under the judge, a language model trained on real texts
educated  the same under a pretrained language model, a folder in Hugging Face format, if one is given; per its tokens
reverse   perplexity of real held-out texts under a language model trained on the samples, the same steps for each

The rows "real texts" are held-out texts in place of samples (forward) and as many training texts (reverse): the values
of an ideal generator. Real texts are spaced evenly over their split, because neighbors are pieces of one article.
The judge's own samples are a row too. Perplexities are per token of the judge's tokenizer; +- is their standard error
over texts.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reporting import argument_parser, evenly, markdown, show

from pyroformer.inference.diagnostics.lm_perplexity import forward_perplexity, reverse_perplexity
from pyroformer.inference.evaluation.estimates import Estimate, perplexity, ratio
from pyroformer.inference.evaluation.judge import Judge
from pyroformer.inference.evaluation.metrics.diversity import diversity
from pyroformer.inference.pretrained.pretrained import Pretrained
from pyroformer.inference.run import Run, load

LEAST = 20  # texts that are not blank, for a language model to learn from
COLUMNS = ("forward", "educated", "reverse", "Self-BLEU", "distinct-2", "blank")


def report(
    judge: Run, runs: Mapping[str, Run], n: int = 1000, seed: int = 0, educated: Judge | None = None, **fit: Any
) -> str:
    """The table as markdown, and the first texts of each run; ``fit`` trains a language model on texts."""
    real, fit = evenly(judge.corpus.test, n), {"seed": seed, **fit}
    rows = {"real texts": row(real, evenly(judge.corpus.train, n), judge, educated, **fit)}
    shown = []
    for name, run in {"the judge": judge, **runs}.items():
        texts = run.sample(n, seed=seed)
        rows[name] = row(texts, texts, judge, educated, **fit)
        shown += ["", f"{name}:", "", *(f"    {text}" for text in texts[:8])]
    table = markdown(["texts of", *COLUMNS], [[name, *cells] for name, cells in rows.items()])
    return "\n".join([table.rstrip(), *shown]) + "\n"


def row(texts: Sequence[str], lesson: Sequence[str], judge: Run, educated: Judge | None, **fit: Any) -> list[str]:
    """The metrics of a generator's texts, and of a language model trained on ``lesson``."""
    blank = sum(not text.strip() for text in texts) / len(texts)
    if blank * len(texts) > len(texts) - LEAST:
        return [*[""] * (len(COLUMNS) - 1), f"{blank:.3f}"]
    variety = diversity(texts, evenly(judge.corpus.test, 2 * len(texts)), seed=3)
    measures = [
        forward_perplexity(judge, texts).units["perplexity"],
        educated_perplexity(educated, texts),
        reverse_perplexity(lesson, judge.corpus, **fit).units["perplexity"],
        variety["self_bleu"].units["of 100"],
        variety["distinct_2"].units["share"],
    ]
    return [
        *(written(measure, digits) for measure, digits in zip(measures, (1, 1, 1, 1, 3), strict=True)),
        f"{blank:.3f}",
    ]


def educated_perplexity(educated: Judge | None, texts: Sequence[str]) -> Estimate | None:
    if educated is None:
        return None
    loss = educated.loss([text for text in texts if text.strip()])
    return perplexity(ratio(loss.nats, loss.tokens))


def written(measure: Estimate | None, digits: int) -> str:
    if measure is None:
        return ""
    error = "" if measure.error is None else f" ± {measure.error:.{digits}f}"
    return f"{measure.value:.{digits}f}{error}"


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--judge", type=Path, required=True, help="a run of lm on real texts")
    parser.add_argument("--runs", type=Path, nargs="+", required=True, help="runs that are sampled")
    parser.add_argument("--pretrained", type=Path, help="a pretrained language model that judges samples too")
    parser.add_argument("--n", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=300, help="of the language models that learn from samples")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="file to write the table to as well")
    options = parser.parse_args()
    judge = load(options.judge)
    network = {name: getattr(judge.model.config, name) for name in ("width", "layers", "heads")}
    fit = {"steps": options.steps, "network": network, "validation_texts": 256}
    educated = None if options.pretrained is None else Judge(Pretrained.from_pretrained(options.pretrained))
    runs = {str(folder): load(folder) for folder in options.runs}
    show(report(judge, runs, options.n, options.seed, educated, **fit), options.out)


if __name__ == "__main__":
    main()
