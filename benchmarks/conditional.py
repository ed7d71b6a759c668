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
from reporting import argument_parser, markdown, show
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

import pyroformer as pf
from pyroformer.inference.evaluation.bleu import self_bleu
from pyroformer.inference.evaluation.ngram_metrics import distinct
from pyroformer.inference.utils.seeds import derived_seed

LATENT = 16


def accuracy(classifier: object, labels: Sequence[str], texts: Sequence[str]) -> float:
    return float(classifier.score(list(texts), list(labels)))


def report(data: Path, steps: int, each: int, width: int, layers: int, vocabulary: int, seed: int) -> str:
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
    rows = []
    for name, labels, texts in [("real, held out", intents, unseen), *((n, intended, t) for n, t in written.items())]:
        copied = sum(text in set(seen) for text in texts) / len(texts)
        share = distinct(texts, 2, ngrams=5_000).share.value
        right = accuracy(classifier, labels, texts)
        rows.append([name, f"{right:.3f}", f"{self_bleu(texts).value:.1f}", f"{share:.3f}", f"{copied:.3f}"])
    head = [
        "utterances",
        "classified as their intent",
        "Self-BLEU-4",
        "distinct 2-grams",
        "found in the training texts",
    ]
    bound = run.evaluate(limit=512, num_particles=16, reconstructions=64)
    shown = list(zip(intended, written["temperature 0.7"], strict=True))[:: max(1, len(intended) // 12)]
    parts = [
        f"torch {torch.__version__}; {corpus.summary()}; width {width}, {layers} layers, {steps} steps of 32, seed "
        f"{seed}; {each} utterances for each intent\n",
        markdown(head, rows),
        f"perplexity {bound['importance_weighted']['perplexity']:.2f}, KL {bound['rate']['nats/text']:.2f}\n",
    ]
    return "\n".join([*parts, *(f"    {label}: {text}" for label, text in shown)]) + "\n"


def main() -> None:
    parser = argument_parser(__doc__, steps=2000, width=128, layers=4, vocabulary=2000, seed=0)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--each", type=int, default=10, help="utterances for each intent")
    parser.add_argument("--out", type=Path)
    options = vars(parser.parse_args())
    out = options.pop("out")
    show(report(**options), out)


if __name__ == "__main__":
    main()
