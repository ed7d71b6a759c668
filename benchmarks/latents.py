r"""Do latents pay? Models with a prior of Gaussian tokens against a language model of as many steps; resumable.

    python benchmarks/latents.py --data FOLDER --out benchmarks/results/latents [--runs FOLDER] [--seeds 0 1 2]

lm           a language model with the same trunk
lm 4 layers  one with twice the layers, as many as the decoder and the prior of a VAE have together
vae tokens   a vector for each token; the prior is a language model of Gaussian tokens, trained with the model at
             beta = 1 from the first step
nvae tokens  the same in a mixture whose weights are latent
vae from lm, nvae from lm   half of the steps train a language model alone, from which the prior and the decoder then
             start; the other half trains everything
vae codebook, vae gaussian   the same model with other priors, at beta = 1; codebook on the ladder to it

All have GPT-2's blocks, the default when this was measured. Each result is a JSON file; existing results are kept.
Samples are judged by the loss on them of a language model with another seed, so that none is judged by itself.
"""

import argparse
import math
from functools import partial
from pathlib import Path
from typing import Any

import torch
from reporting import cell, markdown
from resumable import (
    FORMER,
    FORMER_NVAE,
    Result,
    corpus_in,
    error,
    experiment_parser,
    file_name,
    grouped,
    make_missing,
    metric,
    parameters,
    read,
    same_settings,
    trained,
)
from torch import nn

import pyroformer as pf
from pyroformer.inference.run import Run
from pyroformer.models.base import Model

COMPARED = ("lm", "vae tokens", "nvae tokens", "vae from lm", "nvae from lm", "lm 4 layers")
OTHERS = ("vae codebook", "vae gaussian")  # far off: one seed shows it
FAMILIES = COMPARED + OTHERS
LADDER = (0.01, 0.1, 0.5, 1.0)


def made(
    family: str, corpus: pf.Corpus, width: int, backbone: pf.Pretrained | None = None
) -> tuple[Model, nn.Module | None]:
    """A new model of a family, and its guide."""
    sizes: dict[str, Any] = {"layers": 2} if backbone else {"width": width, "layers": 2, "heads": 4}
    if backbone is None:
        sizes |= FORMER if family.startswith("lm") else FORMER_NVAE
    if family.startswith("lm"):
        if family == "lm 4 layers":
            sizes["layers"] = 4
        return pf.LanguageModel.for_corpus(corpus, **sizes), None
    kind, _, prior = family.partition(" ")
    prior = "language_model" if backbone else prior
    if kind == "vae":
        model = pf.VAE.for_corpus(corpus, base_measure=prior, backbone=backbone, **sizes)
        return model, pf.VAEGuide(model)
    mixture = pf.NVAE.for_corpus(corpus, base_measure=prior, backbone=backbone, **sizes)
    return mixture, pf.NVAEGuide(mixture)


def main() -> None:
    options = parsed()
    same_settings(options.out, options, free=("runs",))
    corpus = corpus_in(options.runs / "corpus", options, vocabulary=options.vocabulary)
    tasks = [(run_name(*point), partial(one, *point, corpus, options)) for point in points(options.seeds)]
    make_missing(options.out, tasks, options.shard)
    print(table(read(options.out)))


def points(seeds: list[int]) -> list[tuple[str, int]]:
    """All models with their seeds, the most informative first."""
    return [(family, seed) for seed in seeds for family in COMPARED] + [(family, seeds[0]) for family in OTHERS]


def run_name(family: str, seed: int) -> str:
    return file_name(family, f"seed{seed}")


def one(family: str, seed: int, corpus: pf.Corpus, options: argparse.Namespace) -> Result:
    """A model trained and evaluated, with samples and what another language model thinks of them."""
    run, seconds = fitted(family, seed, corpus, options)
    evaluation = run.evaluate(limit=options.texts, num_particles=8, progress=False)
    samples = run.sample(options.texts, seed=0)
    judge = fitted("lm", options.seeds[(options.seeds.index(seed) + 1) % len(options.seeds)], corpus, options)[0]
    return {
        "family": family,
        "seed": seed,
        "seconds": round(seconds),
        "evaluation": evaluation.as_dict(),
        "judged": judged(judge, samples),
        "samples": samples[:10],
        "parameters": parameters(run.model),
        "reconstructions": []
        if family.startswith("lm")
        else [[r.original, r.text] for r in run.reconstruct(corpus.test[:5])],
    }


def fitted(family: str, seed: int, corpus: pf.Corpus, options: argparse.Namespace) -> tuple[Run, float]:
    """The run of a family, trained if it is not there yet."""
    rungs = {"kl_schedule": "ladder", "ladder": list(LADDER)} if family == "vae codebook" else {}
    budget = {"batch_size": options.batch_size, "validation_texts": 512, "progress": False}
    steps, before, backbone = options.steps, 0.0, None
    if family.endswith("from lm"):
        steps //= 2
        start = options.runs / run_name("lm-half", seed)
        half, before = trained(start, seed, lambda: made("lm", corpus, options.width), corpus, steps=steps, **budget)
        backbone = half.backbone
    run, seconds = trained(
        options.runs / run_name(family, seed),
        seed,
        lambda: made(family, corpus, options.width, backbone),
        corpus,
        steps=steps,
        **budget,
        **rungs,
    )
    return run, before + seconds


@torch.no_grad()
def judged(judge: Run, samples: list[str]) -> dict[str, float]:
    """The mean loss of a language model on texts, in nats a token, and its standard error over texts.

    Empty samples are left out, and those that are longer in tokens than when they were drawn.
    """
    sizes = {text: len(judge.corpus.tokenizer.encode(text)) + 1 for text in samples}
    kept = [text for text in samples if text.strip() and sizes[text] <= judge.corpus.max_length]
    losses = torch.as_tensor(judge.bound(kept, progress=False)).neg()
    lengths = torch.tensor([sizes[text] for text in kept])
    each = losses.sum() / lengths.sum()
    spread = (losses - each * lengths).std() / lengths.double().mean() / math.sqrt(len(kept))
    return {"nats/token": float(each), "error": float(spread), "left_out": len(samples) - len(kept)}


def table(results: list[Result]) -> str:
    """The results by family: means and standard errors over seeds."""
    head = ["model", "rate", "distortion", "bound", "/ LM", "IW bound", "accuracy, sampled", "BLEU", "samples, judged"]
    groups, rows = grouped(results, lambda result: result["family"]), []
    baseline = mean([metric(r, "bound", "nats/token") for r in groups.get("lm", [])])
    for family in filter(groups.get, FAMILIES):
        of = groups[family]
        bound = [metric(r, "bound", "nats/token") for r in of]
        rows.append(
            [
                f"{family} ({len(of)})",
                cell([metric(r, "rate", "nats/token") for r in of], 2),
                cell([metric(r, "reconstruction", "nats/token") for r in of], 3),
                cell(bound, 2, error(of[0], "bound", "nats/token")),
                f"{mean(bound) / baseline:.2f}" if baseline else "",
                cell([metric(r, "importance_weighted", "nats/token") for r in of], 2),
                cell([metric(r, "accuracy_sampled", "share") for r in of], 3),
                cell([metric(r, "bleu", "of 100") for r in of], 1),
                cell([r["judged"]["nats/token"] for r in of], 2, of[0]["judged"]["error"]),
                cell([r["seconds"] for r in of], 0),
            ]
        )
    return markdown([*head, "s"], rows)


def mean(values: list[float | None]) -> float:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else 0.0


def parsed() -> argparse.Namespace:
    parser = experiment_parser(
        __doc__, runs=Path("runs/latents"), seeds=[0, 1, 2], steps=1600, batch_size=32, width=64, vocabulary=1000,
        max_length=24, texts=256,
    )  # fmt: skip
    return parser.parse_args()


if __name__ == "__main__":
    main()
