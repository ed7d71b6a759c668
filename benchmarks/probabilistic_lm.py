"""Language models with softmax and with probabilistic self-attention, at equal size and budget; resumable.

    python benchmarks/probabilistic_lm.py --data FOLDER_OR_FILE --out FOLDER [--other FOLDER_OR_FILE]

softmax        softmax attention
gated          one precision and one gate of the prior for long keys in each head
key            a precision for each key as well
full           a matrix of precisions for each head, and the gate
2 keys, H / 2  two Gaussians in each key and half the heads; a narrower MLP makes up for the second projection
null           gated, and a null component

Shared parameters have the same initial values. All are trained on the batches of one training stream, step by step in
turn, and are evaluated on the same held-out texts, for each seed and after each sixth of the steps, whose curve shows
whether more steps would help. Blocks are GPT-2's, the default when this was begun. Each seed is a JSON file; existing
results are kept.

With ``--other``, every text is scored by its likelihood, a token; ROC is the area under the curve for telling held-out
texts from those of the other corpus.
"""

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from learner import Learner, learn_in_turn
from reporting import cell, markdown
from resumable import FORMER, Result, experiment_parser, make_missing, parameters, read, same_settings
from sklearn.metrics import roc_auc_score

from pyroformer.inference.data.corpus import Corpus
from pyroformer.inference.data.loaders import sequential_batches
from pyroformer.inference.data.sources.readers import read_texts
from pyroformer.inference.data.texts import Texts
from pyroformer.inference.objectives.elbo import ELBO
from pyroformer.models.language_model import LanguageModel

LOOKS, HELD_OUT = 6, 3000  # looks at so many held-out texts over a training; as many of the other corpus
VARIANTS: dict[str, dict[str, Any]] = {
    "softmax": {},
    "gated": {"attention": "probabilistic", "key_precision": "shared"},
    "key": {"attention": "probabilistic", "key_precision": "key"},
    "full": {"attention": "probabilistic", "key_precision": "full"},
    "2 keys, H / 2": {"attention": "probabilistic", "key_precision": "shared", "key_components": 2},
    "null": {"attention": "probabilistic", "key_precision": "shared", "null_component": True},
}


def make(corpus: Corpus, name: str, arguments: argparse.Namespace) -> LanguageModel:
    width, heads = arguments.width, arguments.heads
    options: dict[str, Any] = {"width": width, "layers": arguments.layers, "heads": heads, **FORMER, **VARIANTS[name]}
    if options.get("key_components", 1) > 1:
        options |= {"heads": heads // 2, "hidden": 4 * width - width // 2}  # P^2 of a projection is P/2 hidden units
    return LanguageModel.for_corpus(corpus, **options)


@torch.no_grad()
def area(model: LanguageModel, inside: Texts, outside: Texts) -> float:
    """The area under the ROC curve of the likelihood of texts, a token."""
    labels, scores = [], []
    for label, texts in ((1, inside), (0, outside)):
        for indices, batch in sequential_batches(texts, 64):
            assert batch.mask is not None and batch.tokens is not None
            log_likelihood = model.likelihood(mask=batch.mask).log_prob(batch.tokens)
            scores.append((log_likelihood / batch.mask.sum(-1))[: len(indices)])
            labels += [label] * len(indices)
    return float(roc_auc_score(labels, torch.cat(scores)))


def main() -> None:
    arguments = parsed()
    same_settings(arguments.out, arguments, free=("seeds",))
    corpus = Corpus.from_file(
        arguments.data, vocabulary=arguments.vocabulary, max_length=arguments.max_length, overlong="drop"
    )
    tasks = [(f"seed{seed}", partial(run, corpus, seed, arguments)) for seed in arguments.seeds]
    make_missing(arguments.out, tasks, arguments.shard)
    results = read(arguments.out)
    print(table(results, arguments), leads(results, arguments.steps), sep="\n\n")


def run(corpus: Corpus, seed: int, arguments: argparse.Namespace) -> Result:
    """All variants from one seed."""
    models, learners = {}, {}
    for name in VARIANTS:
        torch.manual_seed(seed)
        models[name] = make(corpus, name, arguments)
        objective = ELBO()(models[name], None)
        learners[name] = Learner(objective, objective, arguments.learning_rate)
    curves: dict[str, list[float]] = {name: [] for name in VARIANTS}
    inside = held_out(corpus.valid, corpus)

    def look() -> None:
        for name, learner in learners.items():
            curves[name].append(learner.held_out(inside))
            learner.network.train()

    learn_in_turn(learners, corpus, arguments.batch_size, arguments.steps, seed, look, looks=LOOKS)
    results: dict[str, dict[str, Any]] = {}
    for name, model in models.items():
        model.eval()
        results[name] = {
            "parameters": parameters(model),
            "losses": curves[name],
            "seconds": min(learners[name].seconds),
        }
        if arguments.other is not None:
            outside = held_out(read_texts(arguments.other)[0]["valid"], corpus)
            results[name]["likelihood"] = area(model, inside, outside)
    return {"corpus": corpus.summary(), "models": results}


def held_out(texts: Sequence[str], corpus: Corpus) -> Texts:
    """The first of some texts, in the tokens of a corpus."""
    return Texts.encode(texts[:HELD_OUT], corpus.tokenizer, corpus.max_length)


def table(results: list[Result], arguments: argparse.Namespace) -> str:
    """Means over seeds with their standard errors; differences to softmax are of the same seed."""
    rows, base = [], [result["models"]["softmax"] for result in results]
    for name in VARIANTS:
        seeds = [result["models"][name] for result in results]
        difference = [a["losses"][-1] - b["losses"][-1] for a, b in zip(seeds, base, strict=True)]
        pace = min(x["seconds"] for x in seeds) / min(x["seconds"] for x in base)
        cells = [
            name,
            f"{seeds[0]['parameters']:,}",
            cell([x["losses"][-1] for x in seeds], 4),
            cell(difference, 4),
            cell([x["losses"][-1] - x["losses"][-2] for x in seeds], 4),
            f"{pace:.2f}",
            cell([x.get("likelihood") for x in seeds], 3),
        ]
        rows.append(cells)
    since = f"since step {arguments.steps * (LOOKS - 1) // LOOKS:,}"
    head = ["attention", "parameters", "nats/token", "less softmax's", since, "time", "ROC"]
    return (
        f"torch {torch.__version__}; {results[0]['corpus']}; width {arguments.width}, {arguments.layers} layers, "
        f"{arguments.steps} steps of {arguments.batch_size} texts, {len(results)} seeds\n\n{markdown(head, rows)}"
    )


def leads(results: list[Result], steps: int) -> str:
    """Losses less softmax's after each sixth of the steps: means over seeds with their standard errors."""
    models = [result["models"] for result in results]
    looks = range(len(models[0]["softmax"]["losses"]))
    rows = [
        [name, *(cell([each[name]["losses"][i] - each["softmax"]["losses"][i] for each in models], 3) for i in looks)]
        for name in VARIANTS
        if name != "softmax"
    ]
    return markdown(["attention", *(f"{steps * (i + 1) // len(looks):,}" for i in looks)], rows)


def parsed() -> argparse.Namespace:
    parser = experiment_parser(
        __doc__, steps=6000, seeds=[0, 1, 2], batch_size=32, learning_rate=2e-3, vocabulary=1000, max_length=24,
        width=64, layers=2, heads=4,
    )  # fmt: skip
    parser.add_argument("--other", type=Path, help="a corpus to tell from the first one")
    return parser.parse_args()


if __name__ == "__main__":
    main()
