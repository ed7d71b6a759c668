"""Latents on a frozen pretrained language model, against its adapters; resumable.

    python benchmarks/pretrained.py --model FOLDER --data FOLDER --out benchmarks/results/pretrained [--encoder FOLDER]

zero-shot          the pretrained model as it is
lm lora            the model alone with low-rank adapters
lm lora wide       with as many trained weights as "della lora"
della lora         the same adapters, and a latent for each layer, fused by the true product
one latent lora    the same adapters, and one latent, an additional key and value of each layer
della, one latent  without adapters
vae, nvae          lm lora as the start of a VAE or NVAE whose prior and decoder are that language model; not trained
                   further

The posterior reads texts by the frozen blocks of the language model, or by a frozen pretrained encoder. All are trained
for the same steps on the same batches; models with latents have 4 nats of a text's KL free, and all are evaluated at
beta = 1. "Less the LM's" is the difference of importance-weighted losses of the same texts, with more draws. Each
result is a JSON file; existing results are kept. Samples are judged by the model with adapters alone,
which is the best judge of such texts that there is.
"""

import argparse
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from reporting import cell, markdown
from resumable import (
    Result,
    corpus_in,
    error,
    experiment_parser,
    file_name,
    make_missing,
    metric,
    read,
    same_settings,
    trained,
)
from torch import nn

import pyroformer as pf
from pyroformer.inference.run import Run
from pyroformer.models.base import Model

FREE_NATS: dict[str, Any] = {"free_bits": 4.0, "free_bits_per": "total"}
FAMILIES = (
    "zero-shot",
    "lm lora",
    "lm lora wide",
    "della lora",
    "one latent lora",
    "vae",
    "nvae",
    "della",
    "one latent",
)
UNTRAINED = ("zero-shot", "vae", "nvae")
UNITS, BOUNDS = "nats/text", "bounds"
WIDE = 19  # the rank of adapters with as many weights as those of rank 1 and the latents of DELLA
MEASURED = {
    "bound": (UNITS, 1),
    "importance_weighted": (UNITS, 1),
    "reconstruction": (UNITS, 2),
    "rate": (UNITS, 1),
    "mutual_information": (UNITS, 1),
    "accuracy_sampled": ("share", 3),
    "bleu": ("of 100", 1),
}


def main() -> None:
    options = parsed()
    same_settings(options.out, options, free=("runs", "only", "bounds", "bound_particles"))
    backbone = pf.Pretrained.from_pretrained(options.model)
    corpus = corpus_in(options.runs / "corpus", options, tokenizer=backbone.tokenizer)
    tasks = [(file_name(family), partial(one, family, corpus, backbone, options)) for family in options.only]
    if options.bounds:
        tasks += [
            (file_name(BOUNDS, family), partial(bounds, family, corpus, backbone, options)) for family in options.only
        ]
    make_missing(options.out, tasks, options.shard)
    print(table(read(options.out)))


def made(
    family: str, corpus: pf.Corpus, backbone: pf.Pretrained, encoder: str | None
) -> tuple[Model, nn.Module | None]:
    """A new model of a family, and its guide."""
    start: dict[str, Any]
    if family in ("vae", "nvae"):
        start = {"backbone": backbone, "train": "latents"}
        if family == "vae":
            vae = pf.VAE.for_corpus(corpus, **start)
            return vae, pf.VAEGuide(vae)
        nvae = pf.NVAE.for_corpus(corpus, **start)
        return nvae, pf.NVAEGuide(nvae)
    start = {"backbone": backbone, "train": "latents"}
    if family == "zero-shot" or "lora" in family:
        start |= {"train": "lora", "adapter_rank": 1}  # adapters start as zero
    if family == "lm lora wide":
        start["adapter_rank"] = WIDE
    if family in ("zero-shot", "lm lora", "lm lora wide"):
        return pf.LanguageModel.for_corpus(corpus, **start), None
    reader = None if encoder is None else pf.TextEncoder.from_pretrained(encoder)
    shape: dict[str, Any] = {"latent_size": 8}
    if family.startswith("one latent"):
        shape = {"latent_size": 2, "structure": "single", "fusion": "memory"}  # 2 dimensions for each layer
    model = pf.DELLA.for_corpus(corpus, **shape, **start)
    return model, pf.DELLAGuide(model, "shared" if reader is None else reader)


def fitted(family: str, corpus: pf.Corpus, backbone: pf.Pretrained, options: argparse.Namespace) -> tuple[Run, float]:
    """The run of a family, trained if it is not there yet."""
    budget: dict[str, Any] = {"steps": options.steps, "learning_rate": options.learning_rate}
    if family in UNTRAINED:
        budget = {"steps": 1, "learning_rate": 1e-12}
    if family in ("vae", "nvae"):
        backbone = fitted("lm lora", corpus, backbone, options)[0].backbone
    if family.startswith(("della", "one latent")):
        budget |= FREE_NATS
    return trained(
        options.runs / file_name(family),
        options.seed,
        lambda: made(family, corpus, backbone, options.encoder),
        corpus,
        batch_size=options.batch_size,
        validation_texts=64,
        validations=4,
        progress=False,
        **budget,
    )


def one(family: str, corpus: pf.Corpus, backbone: pf.Pretrained, options: argparse.Namespace) -> Result:
    """A model trained and evaluated, with samples, reconstructions and an interpolation."""
    run, seconds = fitted(family, corpus, backbone, options)
    evaluation = run.evaluate(
        limit=options.texts, num_particles=options.num_particles, metrics=list(MEASURED), progress=False
    )
    samples = run.sample(options.samples, seed=0)
    judge = fitted("lm lora", corpus, backbone, options)[0]
    kept = [text for text in samples if 0 < len(corpus.tokenizer.encode(text)) < corpus.max_length]
    loss = -torch.as_tensor(judge.bound(kept, progress=False)).mean()
    latent = run.guide is not None
    model = nn.ModuleList(part for part in made(family, corpus, backbone, options.encoder) if part is not None)
    return {
        "family": family,
        "seconds": round(seconds),
        "trained": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "evaluation": evaluation.as_dict(),
        "judged": {UNITS: float(loss), "texts": len(kept)},
        "samples": samples[:12],
        "reconstructions": [[r.original, r.text] for r in run.reconstruct(corpus.test[:8])] if latent else [],
        "interpolation": [str(step) for step in run.interpolate(*corpus.test[:2], steps=6)] if latent else [],
    }


def bounds(family: str, corpus: pf.Corpus, backbone: pf.Pretrained, options: argparse.Namespace) -> Result:
    """The importance-weighted bound of each text, for comparisons text by text."""
    run, _ = fitted(family, corpus, backbone, options)
    found = run.bound(corpus.test[: options.bounds], options.bound_particles, progress=False)
    return {BOUNDS: family, "num_particles": options.bound_particles, "nats": [round(float(x), 4) for x in found]}


def table(results: list[Result]) -> str:
    """One row for each model, with standard errors over texts."""
    nats = {result[BOUNDS]: np.array(result["nats"]) for result in results if BOUNDS in result}
    rows = []
    for result in sorted((one for one in results if BOUNDS not in one), key=lambda one: FAMILIES.index(one["family"])):
        family = result["family"]
        columns = [
            cell([metric(result, name, unit)], digits, error(result, name, unit))
            for name, (unit, digits) in MEASURED.items()
        ]
        columns.insert(2, compared(nats.get(family), nats.get("lm lora")))
        trained = "0" if family in UNTRAINED else f"{result['trained']:,}"
        rows.append([family, trained, *columns, f"{result['judged'][UNITS]:.1f}", result["seconds"]])
    head = ["model", "trained", "bound", "IW bound", "less the LM's", "reconstruction", "KL", "information"]
    return markdown([*head, "accuracy, sampled", "BLEU", "samples, judged", "s"], rows)


def compared(nats: "np.ndarray | None", base: "np.ndarray | None") -> str:
    """The mean difference of losses, and its standard error over texts."""
    if nats is None or base is None:
        return ""
    difference = base - nats
    return f"{difference.mean():.2f} ± {difference.std(ddof=1) / len(difference) ** 0.5:.2f}"


def parsed() -> argparse.Namespace:
    parser = experiment_parser(
        __doc__, runs=Path("runs/pretrained"), seed=0, steps=200, batch_size=16, learning_rate=1e-3, max_length=24,
        texts=64, num_particles=8, samples=64, bound_particles=64,
    )  # fmt: skip
    parser.add_argument("--model", required=True, help="a folder in Hugging Face format, or a name on its hub")
    parser.add_argument("--encoder", help="a pretrained encoder for the posterior to read with, such as MiniLM")
    parser.add_argument("--only", nargs="+", choices=FAMILIES, default=list(FAMILIES), metavar="NAME")
    parser.add_argument(
        "--bounds", type=int, default=0, help="texts whose bounds are compared with the language model's"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
