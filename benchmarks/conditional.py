"""Conditional generation with DELLA: utterances for intents, evaluated by a classifier of real utterances.

    python benchmarks/conditional.py --data FOLDER [--steps 2000] [--out FILE]

The folder holds train.tsv, valid.tsv and test.tsv with an intent and an utterance per line; where they come as two
files each, `paste train.label train.txt > train.tsv`. The classifier, a logistic regression on words and pairs of
words, is trained on the training utterances alone; the metric is the share of generated utterances that it assigns to
their intent, compared with that of real held-out ones.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from reporting import argument_parser
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

import pyroformer as pf
from pyroformer.inference.evaluation.bleu import self_bleu
from pyroformer.inference.evaluation.ngram_metrics import distinct
from pyroformer.inference.utils.seeds import derived_seed

LATENT = 16


def accuracy(classifier: object, labels: Sequence[str], texts: Sequence[str]) -> float:
    return float(classifier.score(list(texts), list(labels)))  # type: ignore[attr-defined]


def report(
    data: Path,
    steps: int = 2000,
    each: int = 10,
    width: int = 128,
    layers: int = 4,
    vocabulary: int = 2000,
    seed: int = 0,
) -> str:
    """The table as markdown, and some generated utterances."""
    corpus = pf.Corpus.from_file(data, condition=0, vocabulary=vocabulary, max_length=32, overlong="drop")
    read = [corpus.entries("train"), corpus.entries("test")]
    (known, seen), (intents, unseen) = (zip(*pairs, strict=True) for pairs in read)
    classifier = make_pipeline(TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), LogisticRegression(C=10.0))
    classifier.fit(list(seen), list(known))

    torch.manual_seed(seed)
    model = pf.DELLA.for_corpus(corpus, width=width, layers=layers, heads=4, latent_size=LATENT)
    run = pf.fit(model, pf.DELLAGuide(model), corpus, steps=steps, seed=seed)
    intended = [label for label in corpus.labels for _ in range(each)]
    written = {
        name: [
            text
            for number, label in enumerate(corpus.labels)  # the noise of a text is a function of seed and place
            for text in run.sample(each, seed=derived_seed(seed, number, "label"), condition=label, **decoding)
        ]
        for name, decoding in {"drawn": {}, "temperature 0.7": {"temperature": 0.7}}.items()
    }
    lines = [
        f"torch {torch.__version__}; {corpus.summary()}; width {width}, {layers} layers, {steps} steps of 32, seed "
        f"{seed}; {each} utterances for each intent",
        "",
        "| utterances | classified as their intent | Self-BLEU-4 | distinct 2-grams | found in the training texts |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, labels, texts in [("real, held out", intents, unseen), *((n, intended, t) for n, t in written.items())]:
        copied = sum(text in set(seen) for text in texts) / len(texts)
        share = distinct(texts, 2, ngrams=5_000).share.value
        lines.append(
            f"| {name} | {accuracy(classifier, labels, texts):.3f} | {self_bleu(texts).value:.1f} | {share:.3f} "
            f"| {copied:.3f} |"
        )
    bound = run.evaluate(limit=512, num_particles=16, reconstructions=64)
    lines += [
        "",
        f"perplexity {bound['importance_weighted']['perplexity']:.2f}, KL {bound['rate']['nats/text']:.2f}",
        "",
    ]
    shown = list(zip(intended, written["temperature 0.7"], strict=True))[:: max(1, len(intended) // 12)]
    return "\n".join([*lines, *(f"    {label}: {text}" for label, text in shown)]) + "\n"


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--each", type=int, default=10, help="utterances for each intent")
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--vocabulary", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    options = vars(parser.parse_args())
    out = options.pop("out")
    text = report(**options)
    print(text)
    if out is not None:
        out.write_text(text)


if __name__ == "__main__":
    main()
