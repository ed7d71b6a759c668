r"""How many vectors stay in each layer of an NVAE whose encoder and decoder attend to mixtures; resumable.

    python benchmarks/nvib_layers.py --data FOLDER --out benchmarks/results/nvib_layers [--runs FOLDER] [--seeds 0 1 2]

none      only the text's mixture, which the cross-attention of the decoder attends to
encoder   the self-attention of every layer of the encoder is over a mixture too
all       that of every layer of the decoder as well, over the characters before
equal     as all, with regularizers that weigh the same in every layer, where they otherwise grow from layer to layer

All heads of alpha are ``relu``, so that a vector can go; the rest of the options is the same for all. Texts are short
sentences, as characters. "Kept" are vectors that are not switched off, as a share of the text's: evaluation attends to
no others. The decoder's are of the characters before each one. Blocks are GPT-2's, the default when this was begun.
Each result is a JSON file; existing results are kept.
"""

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from reporting import cell, markdown
from resumable import FORMER_NVAE, Result, experiment_parser, grouped, make_missing, read, same_settings

from pyroformer.guides.nvae import NVAEGuide
from pyroformer.inference.data.corpus import Corpus
from pyroformer.inference.data.sources.readers import read_texts
from pyroformer.inference.training.fit import fit
from pyroformer.models.nvae import NVAE
from pyroformer.models.priors.weights import BoundedDirichletProcess

FAMILIES = ("all", "none", "encoder", "equal")


class Point(NamedTuple):
    """One model to train and evaluate."""

    family: str
    seed: int = 0

    @property
    def name(self) -> str:
        """The name of its file."""
        return f"{self.family}.seed{self.seed}"


def read_corpus(data: Path, shortest: int, longest: int) -> Corpus:
    """The sentences of the right number of characters."""
    splits: Any = read_texts(data, None, 0)[0]
    short = {name: [text for text in texts if shortest <= len(text) < longest] for name, texts in splits.items()}
    return Corpus.from_texts(short, tokenizer="characters", max_length=longest, overlong="drop")


def make(point: Point, corpus: Corpus, options: argparse.Namespace) -> tuple[NVAE, NVAEGuide]:
    decoder_layers = 0 if point.family in ("none", "encoder") else options.layers
    model = NVAE.for_corpus(
        corpus,
        width=options.width,
        layers=options.layers,
        heads=2,
        weight_prior=BoundedDirichletProcess(delta=options.delta),
        base_measure="gaussian",
        nvib_layers=0 if point.family == "none" else options.layers,
        nvib_decoder_layers=decoder_layers,
        nvib_decoder_alpha="relu" if decoder_layers else "linear",
        **FORMER_NVAE,
    )
    return model, NVAEGuide(model, alpha="relu")


def measure(point: Point, corpus: Corpus, options: argparse.Namespace) -> Result:
    """Train one model, and count the vectors of each layer on held-out texts."""
    torch.manual_seed(point.seed)
    run = fit(
        *make(point, corpus, options),
        corpus,
        out=None if options.runs is None else options.runs / point.name,
        resume=options.runs is not None and (options.runs / point.name).exists(),
        objective="nvib",
        layer_weights="equal" if point.family == "equal" else None,
        steps=options.steps,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        validations=2,
        validation_texts=128,
        seed=point.seed,
    )
    names = ["accuracy", "kept", "kept_layers", "bleu", "exact_match"]
    found = run.evaluate(limit=options.texts, reconstructions=options.texts, num_particles=1, metrics=names)
    kept = [name for name in found if name.startswith("kept")]
    return {
        "point": point._asdict(),
        "step": run.step,
        "texts": {"train": len(corpus.train), "test": len(corpus.test), "tokens": float(corpus.test.lengths.mean())},
        **{name: found[name].value for name in ("accuracy", "bleu", "exact_match")},
        "kept": {name: found[name]["of the text's"] for name in kept},
        "reconstructions": [(each.original, each.text) for each in run.reconstruct(corpus.test[:5])],
    }


def table(results: Sequence[Result]) -> str:
    """One row a family, with means and standard errors over seeds; vectors kept in percent."""
    names = {name for result in results for name in result["kept"]}
    columns, rows = sorted(names, key=lambda name: ("decoder" in name, name)), []
    for family, group in grouped(results, lambda result: result["point"]["family"]).items():
        cells = [cell([one[name] for one in group], digits) for name, digits in (("accuracy", 3), ("bleu", 1))]
        shares = [[one["kept"].get(column) for one in group] for column in columns]
        cells += [cell([None if share is None else 100 * share for share in each], 1) for each in shares]
        rows.append([family, len(group), *cells])
    return markdown(["mixtures", "seeds", "accuracy", "BLEU", *(name.replace("_", " ") for name in columns)], rows)


def main() -> None:
    parser = experiment_parser(__doc__, seeds=[0], width=64, steps=1000, batch_size=32, learning_rate=2e-3)
    parser.add_argument("--runs", type=Path, help="folder to keep the fitted models in")
    parser.add_argument("--families", nargs="+", default=list(FAMILIES), choices=FAMILIES)
    parser.add_argument("--layers", type=int, default=2, help="of the encoder, and of the decoder")
    parser.add_argument("--delta", type=float, default=0.15, help="of the weights' prior")
    parser.add_argument("--shortest", type=int, default=10, help="characters of a text")
    parser.add_argument("--longest", type=int, default=22, help="characters of a text, the end included")
    parser.add_argument("--texts", type=int, default=256, help="held-out texts that are measured")
    options = parser.parse_args()
    same_settings(options.out, options, free=["seeds", "runs", "families"])
    corpus = read_corpus(options.data, options.shortest, options.longest)
    chosen = [Point(family, seed) for family in options.families for seed in options.seeds]
    tasks = [(point.name, partial(measure, point, corpus, options)) for point in chosen]
    make_missing(options.out, tasks, options.shard)
    print(table(read(options.out)))


if __name__ == "__main__":
    main()
