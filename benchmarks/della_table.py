"""DELLA compared with its rivals on equal terms: one backbone, one budget, one evaluation; resumable.

    python benchmarks/della_table.py --data SNLI_FOLDER --out results/snli [--seeds 3] [--steps 1500]

language model   the backbone alone, nothing latent
embedding        one latent of the total size, added to the token embeddings
memory           the same latent as one more key and value in each layer
softmax          the same latent added to the hidden states before the readout
independent      one latent per layer, independent of each other; true product
residual         the chain; the posterior is a residual of the prior; true product
collapsed        the chain; the product as published
product          the chain; the true product of rank r
mixture prior    the same, where the prior of each latent is a mixture of 10 Gaussians, linear in the latents below
flow prior       the same, where it is a flow of 4 affine couplings

All have the same layers and width, and the same number of parameters: smaller models get a wider MLP; the last two
priors come on top. Each is trained with and without cyclical annealing of the KL and otherwise at beta = 1 on summed
KLs, on the same batches and with the same learning rate, and evaluated on the same held-out texts. Some have other
help, with no more steps: "free nats" (the first 4 nats of a text's KL are not charged), "free nats a layer" (one nat
in each), "target" (the weight of the KL moves until there are 4 nats) and "ladder" (half of the steps at
beta = 0.05, the rest at 1);
"ladder, iw" trains on the importance-weighted bound of 4 draws in the second half, which takes four times the passes;
"from the LM" trains the language model alone in the first half, and the latents are then added as the identity or,
"published start", with weights that destroy its function. All are evaluated at beta = 1. Each result is a JSON file;
existing results are kept.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import torch
from reporting import cell, markdown
from resumable import (
    Result,
    experiment_parser,
    file_name,
    grouped,
    make_missing,
    measured,
    metric,
    parameters,
    read,
    same_settings,
    trained,
)
from torch import nn

from pyroformer.guides.della import DELLAGuide
from pyroformer.inference.data.corpus import Corpus
from pyroformer.inference.run import Run
from pyroformer.models.base import Model
from pyroformer.models.della import DELLA
from pyroformer.models.language_model import LanguageModel
from pyroformer.models.priors.latent_flow import LinearFlow
from pyroformer.models.priors.latent_mixture import LinearMixture
from pyroformer.models.transformer.config import TransformerConfig
from pyroformer.models.transformer.fusion import LowRankProduct

LATENT, RANK = 8, 4

VARIANTS: dict[str, dict[str, Any] | None] = {
    "language model": None,
    "embedding": {"structure": "single", "fusion": "embedding"},
    "memory": {"structure": "single", "fusion": "memory"},
    "softmax": {"structure": "single", "fusion": "softmax"},
    "independent": {"structure": "independent"},
    "residual": {"guide": {"posterior": "residual"}},
    "collapsed": {"fusion": "collapsed"},
    "product": {},
    "mixture prior": {"latent_prior": LinearMixture},
    "flow prior": {"latent_prior": LinearFlow},
}
HELP: dict[str, dict[str, Any]] = {
    "none": {},
    "cyclical": {"kl_schedule": "cyclical"},
    "free nats": {"free_bits": 4.0, "free_bits_per": "total"},
    "free nats a layer": {"free_bits": 1.0, "free_bits_per": "layer"},
    "target": {"target_kl": 4.0},
    "ladder": {},
    "ladder, iw": {"objective": "iw", "num_particles": 4},
    "from the LM": {},
    "from the LM, published start": {},
}
PUBLISHED = [name for name, options in VARIANTS.items() if "latent_prior" not in (options or {})]  # with their priors
HELPED = {
    "none": list(VARIANTS),
    "cyclical": PUBLISHED[1:],
    "free nats": ["memory", "product", "mixture prior", "flow prior"],
    "free nats a layer": ["product"],
    "target": ["memory", "product"],
    "ladder": ["memory", "product"],
    "ladder, iw": ["memory", "product"],
    "from the LM": ["product"],
    "from the LM, published start": ["product"],
}


class Task(NamedTuple):
    """One model to train and measure."""

    name: str
    help: str
    seed: int

    @property
    def file(self) -> str:
        return file_name(self.name, self.help, self.seed)


def tasks(seeds: int, names: Sequence[str], kinds: Sequence[str]) -> Iterator[Task]:
    """Seed by seed, so that partial results are comparable."""
    for seed in range(seeds):
        for kind in kinds:
            for name in names:
                if name in HELPED[kind]:
                    yield Task(name, kind, seed)


def make(name: str, config: TransformerConfig) -> tuple[Model, nn.Module | None]:
    """A model of the table and its guide."""
    options = VARIANTS[name]
    if options is None:
        return LanguageModel(config), None
    chosen: dict[str, Any] = {"rank": RANK} | {key: value for key, value in options.items() if key != "guide"}
    if "latent_prior" in options:
        chosen["latent_prior"] = options["latent_prior"](**DELLA(config, LATENT).prior_sizes)
    model = DELLA(config, LATENT, **chosen)
    return model, DELLAGuide(model, **options.get("guide", {}))


def equal(name: str, config: TransformerConfig) -> TransformerConfig:
    """The configuration with an MLP wide enough that the model has as many parameters as the largest of the table."""
    largest = parameters(*make("product", config))
    missing = largest - parameters(*make(name, config))
    more = round(missing / (config.layers * (2 * config.width + 1)))
    return replace(config, hidden=config.feed_forward + max(0, more))


def measure(task: Task, corpus: Corpus, config: TransformerConfig, options: argparse.Namespace) -> Result:
    """Train one model, or load it if it is trained, and evaluate it."""
    run, seconds = fitted(task, corpus, config, options)
    return {"task": task._asdict(), "hidden": run.model.config.feed_forward, **measured(run, seconds, options)}


def fitted(task: Task, corpus: Corpus, config: TransformerConfig, options: argparse.Namespace) -> tuple[Run, float]:
    """The run of a task, and its training time in seconds."""
    folder = options.out / "runs" / task.file
    budget = {
        "batch_size": options.batch_size,
        "learning_rate": options.learning_rate,
        "patience": options.patience,
        "validation_texts": 512,
    }

    def new() -> tuple[Model, nn.Module | None]:
        return make(task.name, equal(task.name, config))

    if not task.help.startswith(("ladder", "from the LM")):
        return trained(folder, task.seed, new, corpus, steps=options.steps, **HELP[task.help], **budget)
    half, stage = options.steps // 2, "low" if task.help.startswith("ladder") else "lm"
    first_half = folder.with_name(file_name(task.name, stage, task.seed))  # which several kinds of help may share
    if stage == "low":
        before, first = trained(first_half, task.seed, new, corpus, steps=half, beta=0.05, **budget)
        start = lambda: (before.model, before.guide)  # noqa: E731
    else:
        lm = lambda: (LanguageModel(equal(task.name, config)), None)  # noqa: E731
        before, first = trained(first_half, task.seed, lm, corpus, steps=half, **budget)
        start = lambda: grown(before.model, *new(), identity="published" not in task.help)  # noqa: E731
    run, second = trained(folder, task.seed, start, corpus, steps=half, **HELP[task.help], **budget)
    return run, first + second


@torch.no_grad()
def grown(before: Model, model: Model, guide: nn.Module | None, identity: bool) -> tuple[Model, nn.Module | None]:
    """The model with the weights of a language model, and products that start as the identity or as published."""
    weights: Any = before
    decoder: Any = model
    own = dict(decoder.decoder.named_parameters())
    for name, value in weights.decoder.named_parameters():
        own[name].copy_(value)
    for module in decoder.decoder.modules():
        if isinstance(module, LowRankProduct) and not identity:
            for parameter in module.parameters():
                parameter.normal_(std=0.02)
    return model, guide


COLUMNS = {
    "bound, nats/text": ("bound", "nats/text", 2),
    "IW perplexity": ("importance_weighted", "perplexity", 2),
    "KL": ("rate", "nats/text", 2),
    "MI": ("mutual_information", "nats/text", 2),
    "AU > 0.01": ("active", "above 0.01", 0),
    "BLEU": ("bleu", "of 100", 1),
    "Self-BLEU": ("self_bleu", "of 100", 1),
    "distinct-2": ("distinct_2", "share", 3),
}


def table(results: Sequence[Result]) -> str:
    """Means over seeds, with standard errors where there are several."""
    groups = grouped(results, lambda result: (result["task"]["name"], result["task"]["help"]))
    rows = [
        [name, kind, len(some), *(cell([metric(result, *at) for result in some], n) for *at, n in COLUMNS.values())]
        for name in VARIANTS
        for kind in HELP
        if (some := groups.get((name, kind)))
    ]
    return markdown(["model", "help", "seeds", *COLUMNS], rows, left=2)


def main() -> None:
    parser = experiment_parser(
        __doc__, seeds=3, steps=1500, batch_size=32, learning_rate=2e-3, vocabulary=4000, max_length=48, width=128,
        layers=4, heads=4, dropout=0.0, word_dropout=0.0, num_particles=64, samples=500,
    )  # fmt: skip
    parser.add_argument("--models", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--kinds", nargs="+", choices=list(HELP), default=list(HELP), help="kinds of help")
    parser.add_argument("--patience", type=int, default=0, help="validations without improvement before a run ends")
    parser.add_argument("--texts", type=int, default=512, help="held-out texts that are measured")
    options = parser.parse_args()
    same_settings(options.out, options, free=["models", "kinds", "seeds"])
    corpus = Corpus.from_file(options.data, vocabulary=options.vocabulary, max_length=options.max_length)
    config = TransformerConfig(
        corpus.vocabulary,
        corpus.max_length,
        width=options.width,
        layers=options.layers,
        heads=options.heads,
        positions="learned",
        init_std=0.02,
        dropout=options.dropout,
        word_dropout=options.word_dropout,
    )
    chosen = tasks(options.seeds, options.models, options.kinds)
    work = [(task.file, partial(measure, task, corpus, config, options)) for task in chosen]
    make_missing(options.out, work, options.shard)
    print(table(read(options.out)))


if __name__ == "__main__":
    main()
