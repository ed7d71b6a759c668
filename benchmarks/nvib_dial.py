r"""How few vectors carry a text: delta of the prior, and heads of alpha, against fixed ways to drop vectors; resumable.

    python benchmarks/nvib_dial.py --data FOLDER --out benchmarks/results/nvib_dial [--runs FOLDER] [--seeds 0 1 2] \
        [--only 'bytes.relu.*' 'bytes.stride*']

relu, linear     an NVAE on the published objective with this head of alpha, by delta: what each token adds to the
                 prior's concentration. `relu` switches vectors off, `linear` leaves each some weight
relu warm-up     a relu head, and the weight of the regularizers grows from 0 over the first quarter
keep P           a relu head whose delta begins at 0.3 and moves until the share P of the vectors is kept
presence P       each vector is present with probability P in the prior, and present or absent in the posterior; the
                 weight of the regularizers grows as well, or no vector outlives the first steps
stride k         the same model and objective, but only every k-th token has a vector, always the same ones
one vector       only the first, which is made from the mean of the encodings of all tokens

A stride tells how many vectors a text needs if none is chosen: only what beats it has learned where to drop. Texts are
short sentences, as bytes and as word pieces; everything else is the same for all points. What is "kept" are the vectors
from which the reconstructions are made; all others are removed before. The first columns have vectors removed that are
switched off, the last ones also those below a mean weight: the largest of a few that costs at most 1 BLEU on the
validation texts. Blocks are GPT-2's, the default when this was begun. Each result is a JSON file; existing results
are kept.
"""

import argparse
import math
from collections.abc import Sequence
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from reporting import cell, markdown
from resumable import FORMER_NVAE, Result, experiment_parser, file_name, grouped, make_missing, read, same_settings
from torch import Tensor, nn

from pyroformer.guides.nvae import NVAEGuide
from pyroformer.inference.data.corpus import Corpus
from pyroformer.inference.data.sources.readers import read_texts
from pyroformer.inference.data.tokenizer import MIN_VOCABULARY, Tokenizer, TokenizerKind
from pyroformer.inference.run import Run
from pyroformer.inference.training.fit import fit
from pyroformer.models.nvae import NVAE
from pyroformer.models.priors.weights import BoundedDirichletProcess
from pyroformer.models.transformer.mixtures.posterior import LEAST_LOG_ALPHA

THRESHOLDS = (0.005, 0.01, 0.02, 0.04)
LOSS = 1.0  # BLEU that a removal may cost


class Texts(NamedTuple):
    """A tokenization, and the lengths in tokens, the end included, of the texts that are taken."""

    kind: TokenizerKind
    vocabulary: int
    shortest: int
    longest: int


TEXTS = {"bytes": Texts("bytes", MIN_VOCABULARY, 10, 22), "pieces": Texts("bpe", 2000, 6, 14)}


class Point(NamedTuple):
    """One model to train and evaluate."""

    texts: str
    family: str
    delta: float = 0.3
    seed: int = 0

    @property
    def name(self) -> str:
        """The name of its file."""
        return file_name(self.texts, self.family, f"{self.delta:g}", f"seed{self.seed}")


FIRST = [("relu", 0.15), ("stride 2", 0.3), ("relu", 0.3), ("relu", 0.05), ("relu", 0.1), ("stride 3", 0.3)]
FIRST += [("one vector", 0.3), ("linear", 0.15), ("relu", 1.0), ("keep 0.5", 0.3)]
FIRST += [("presence 0.3", 0.3), ("presence 0.2", 0.3), ("presence 0.1", 0.3), ("presence 0.05", 0.3)]
LAST = [("linear", 0.3), ("linear", 0.05), ("linear", 1.0), ("linear", 0.1), ("keep 0.33", 0.3)]
LAST += [("relu warm-up", 0.15), ("relu warm-up", 0.05)]


def points(seeds: Sequence[int], only: Sequence[str] = ("*",)) -> list[Point]:
    """The points whose names match a pattern, the most informative first."""
    parts = [(texts, part) for part in (FIRST, LAST) for texts in TEXTS]
    found = [Point(texts, *one, seed) for seed in seeds for texts, part in parts for one in part]
    return [point for point in found if any(fnmatch(point.name, pattern) for pattern in only)]


class Stride(nn.Module):
    """A head of alpha that switches off all tokens but every k-th one, the first included."""

    form = "relu"  # as for objectives: weights of 0 have an infinite divergence

    def __init__(self, head: nn.Module, k: int) -> None:
        super().__init__()
        self.head, self.k = head, k

    def forward(self, h: Tensor) -> Tensor:
        kept = torch.arange(h.shape[-2], device=h.device) % self.k == 0
        return torch.where(kept, self.head(h), LEAST_LOG_ALPHA)


class Pooled(nn.Module):
    """An encoder whose output is the same at every token: the mean over the text."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        h = self.encoder(tokens, mask)
        mean: Tensor = (h * mask[..., None]).sum(-2, keepdim=True) / mask.sum(-1)[..., None, None].clamp(min=1)
        return mean.expand_as(h)


def make(point: Point, corpus: Corpus, options: argparse.Namespace) -> tuple[NVAE, NVAEGuide]:
    prior = BoundedDirichletProcess(delta=point.delta)
    presence = float(point.family.split()[1]) if point.family.startswith("presence") else None
    sizes = {"width": options.width, "layers": options.layers, "heads": 2, "base_measure": "gaussian", **FORMER_NVAE}
    model = NVAE.for_corpus(corpus, weight_prior=prior, presence=presence, **sizes)
    guide = NVAEGuide(model, alpha="relu" if point.family.startswith(("relu", "keep")) else "linear")
    fixed: Any = guide
    if point.family.startswith("stride"):
        fixed.alpha = Stride(guide.alpha, int(point.family.split()[1]))
    if point.family == "one vector":
        fixed.encoder, fixed.alpha = Pooled(guide.encoder), Stride(guide.alpha, corpus.max_length)
    return model, guide


def read_corpus(texts: str, data: Path) -> Corpus:
    """The sentences of the right length; the tokenizer is trained on them and on all others."""
    rule = TEXTS[texts]
    splits: Any = read_texts(data, None, 0)[0]
    tokenizer = Tokenizer.train_kind(rule.kind, splits["train"], rule.vocabulary)
    short = {
        split: [text for text, n in zip(found, lengths(tokenizer, found), strict=True) if n >= rule.shortest]
        for split, found in splits.items()
    }
    return Corpus.from_texts(short, max_length=rule.longest, overlong="drop", tokenizer=tokenizer)


def lengths(tokenizer: Tokenizer, texts: Sequence[str]) -> list[int]:
    return [len(tokens) for tokens in tokenizer.encode_batch(texts)]


def measure(point: Point, corpus: Corpus, options: argparse.Namespace) -> Result:
    """Train one model and evaluate it, with fewer and fewer vectors."""
    torch.manual_seed(point.seed)
    model, guide = make(point, corpus, options)
    run = fit(
        model,
        guide,
        corpus,
        out=None if options.runs is None else options.runs / point.name,
        resume=options.runs is not None and (options.runs / point.name).exists(),
        objective="nvib",
        steps=options.steps,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        validations=5,
        validation_texts=256,
        seed=point.seed,
        **training(point),
    )
    return {
        "point": point._asdict(),
        "step": run.step,
        "delta": float(model.weight_prior.delta),
        "texts": {"train": len(corpus.train), "test": len(corpus.test), "tokens": float(corpus.test.lengths.mean())},
        "whole": summary(run, "test", 0.0, options.texts),
        "valid": {f"{least:g}": summary(run, "valid", least, options.texts) for least in (0.0, *THRESHOLDS)},
        "test": {f"{least:g}": summary(run, "test", least, options.texts) for least in THRESHOLDS},
        "reconstructions": [(each.original, each.text) for each in run.reconstruct(corpus.test[:5])],
    }


def training(point: Point) -> dict[str, Any]:
    """The training options that belong to a family."""
    if point.family.startswith("keep"):
        return {"keep": float(point.family.split()[1])}
    return {"kl_schedule": "linear"} if point.family.startswith(("presence", "relu warm-up")) else {}


def summary(run: Run, split: Any, min_weight: float, texts: int) -> dict[str, float]:
    """Vectors kept, accuracy and BLEU without the others."""
    whole = ["accuracy", "accuracy_sampled", "kept_attention", "reconstruction", "present"]
    names = ["accuracy_kept"] if min_weight else whole
    found = run.evaluate(
        split=split,
        limit=texts,
        reconstructions=texts,
        min_weight=min_weight,
        num_particles=1,
        metrics=["kept", "bleu", "exact_match", *names],
    )
    values = {name: found[name].value for name in found}
    shares = {name: found[name]["of the text's"] for name in ("kept", "kept_attention", "present") if name in found}
    return values | {f"{name}_share": value for name, value in shares.items()}


def table(results: Sequence[Result]) -> str:
    """One row a point, with means and standard errors over seeds."""
    head = ["texts", "model", "delta", "seeds", "accuracy", "BLEU", "kept", "99 % of attention"]
    head += ["kept, removed by weight", "accuracy", "BLEU"]
    groups, rows = grouped(results, lambda result: Point(**result["point"])._replace(seed=0)), []
    for point, group in sorted(groups.items()):
        fewest = [fewer(result) for result in group]
        cells = [
            *(cell([one["whole"][name] for one in group], digits) for name, digits in (("accuracy", 3), ("bleu", 1))),
            *(percent([one["whole"][name] for one in group]) for name in ("kept_share", "kept_attention_share")),
            percent([one["kept_share"] for one in fewest]),
            cell([one.get("accuracy_kept", one.get("accuracy")) for one in fewest], 3),
            cell([one["bleu"] for one in fewest], 1),
        ]
        rows.append([point.texts, point.family, f"{point.delta:g}", len(group), *cells])
    return markdown(head, rows, left=2)


def fewer(result: Result) -> dict[str, float]:
    """The test metrics at the largest threshold that costs at most ``LOSS`` BLEU on the validation texts."""
    valid, chosen = result["valid"], 0.0
    for least in THRESHOLDS:
        if valid["0"]["bleu"] - valid[f"{least:g}"]["bleu"] > LOSS or math.isnan(valid[f"{least:g}"]["bleu"]):
            break
        chosen = least
    test: dict[str, float] = result["test"][f"{chosen:g}"] if chosen else result["whole"]
    return test


def percent(shares: Sequence[float]) -> str:
    return f"{cell([100 * share for share in shares], 1)} %"


def main() -> None:
    parser = experiment_parser(__doc__, seeds=[0], width=64, steps=1100, batch_size=32, learning_rate=2e-3)
    parser.add_argument("--runs", type=Path, help="folder to keep the fitted models in")
    parser.add_argument("--only", nargs="+", default=["*"], help="patterns of the names of results to make")
    parser.add_argument("--layers", type=int, default=2, help="of the encoder, and of the decoder")
    parser.add_argument("--texts", type=int, default=256, help="held-out texts that are measured")
    options = parser.parse_args()
    same_settings(options.out, options, free=["seeds", "runs", "only"])
    corpus = cache(lambda texts: read_corpus(texts, options.data))
    chosen = points(options.seeds, options.only)
    work = [(point.name, lambda point=point: measure(point, corpus(point.texts), options)) for point in chosen]
    make_missing(options.out, work, options.shard)
    print(table(read(options.out)))


if __name__ == "__main__":
    main()
