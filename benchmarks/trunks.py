r"""Which options of a Transformer are best from scratch: language model, NVAE and DELLA of equal size; resumable.

    python benchmarks/trunks.py --data FOLDER --out FOLDER [--runs FOLDER] [--seeds 0 1 2] [--only lm della nvae]
                                [--trunks former llama ...]

former        the default before these results: layer norm, GELU, biases; language model and DELLA have learned
              positions and initial weights of standard deviation 0.02, as GPT-2; the NVAE fixed, sinusoidal ones and
              1 / sqrt(width)
sinusoidal, learned, rotary    other positions
rms           RMSNorm in place of layer norm
swiglu        SwiGLU with as many weights
no biases     neither in linear layers nor in norms
query norms   each head norms its queries and keys, as in Qwen 3
llama         rotary, rms, swiglu, no biases: the blocks of Llama, the default of language model and DELLA; or with
              learned positions, that of VAE and NVAE
start 0.02, start 1/sqrt(P)    other initial weights

All are trained for the same steps on the same batches; learned positions and biases add 1 or 2 % of weights. Language
models have all of the options, the two with latents the larger changes: NVAE with a prior of Gaussian tokens, whose
blocks are alike, and DELLA with 4 free nats. Each result is a JSON file; existing results are kept.
``--times`` measures a step of language models instead, in turns.
"""

import argparse
import time
from collections.abc import Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from reporting import cell, markdown
from resumable import (
    FORMER,
    FORMER_NVAE,
    Result,
    corpus_in,
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
from pyroformer.inference.data.loaders import TrainingStream
from pyroformer.models.base import Model
from pyroformer.models.priors.weights import BoundedDirichletProcess

LLAMA: dict[str, Any] = {"positions": "rotary", "norm": "rms", "activation": "swiglu", "bias": False}
TRUNKS: dict[str, dict[str, Any]] = {
    "former": {},
    "sinusoidal": {"positions": "sinusoidal"},
    "learned": {"positions": "learned"},
    "rotary": {"positions": "rotary"},
    "rms": {"norm": "rms"},
    "swiglu": {"activation": "swiglu"},
    "no biases": {"bias": False},
    "query norms": {"query_key_norm": True},
    "start 0.02": {"init_std": 0.02},
    "start 1/sqrt(P)": {"init_std": None},
    "llama": LLAMA,
    "llama, learned": LLAMA | {"positions": "learned"},
    "llama, start 1/sqrt(P)": LLAMA | {"init_std": None},
}
FAMILIES = {
    "lm": tuple(trunk for trunk in TRUNKS if trunk not in ("learned", "start 0.02")),
    "della": ("former", "rotary", "llama", "llama, learned"),
    "nvae": ("former", "learned", "rotary", "start 0.02", "llama", "llama, learned"),
}
FREE_NATS: dict[str, Any] = {"free_bits": 4.0, "free_bits_per": "total"}
UNIT = "nats/token"


def made(family: str, trunk: str, corpus: pf.Corpus, width: int) -> tuple[Model, nn.Module | None]:
    """A new model of a family, and its guide."""
    former = FORMER_NVAE if family == "nvae" else FORMER
    sizes: dict[str, Any] = {"width": width, "layers": 2, "heads": 4, **former, **TRUNKS[trunk]}
    if family == "lm":
        return pf.LanguageModel.for_corpus(corpus, **sizes), None
    if family == "della":
        della = pf.DELLA.for_corpus(corpus, latent_size=8, **sizes)
        return della, pf.DELLAGuide(della)
    weights = BoundedDirichletProcess(delta=3.0)  # the default of these results
    nvae = pf.NVAE.for_corpus(corpus, base_measure="tokens", weight_prior=weights, **sizes)
    return nvae, pf.NVAEGuide(nvae)


def one(family: str, trunk: str, seed: int, corpus: pf.Corpus, options: argparse.Namespace) -> Result:
    """A model trained and evaluated."""
    run, seconds = trained(
        options.runs / run_name(family, trunk, seed),
        seed,
        lambda: made(family, trunk, corpus, options.width),
        corpus,
        steps=options.steps,
        batch_size=options.batch_size,
        validation_texts=512,
        validations=4,
        progress=False,
        **(FREE_NATS if family == "della" else {}),
    )
    evaluation = run.evaluate(
        limit=options.texts, num_particles=16, metrics=["bound", "importance_weighted", "rate"], progress=False
    )
    return {
        "family": family,
        "trunk": trunk,
        "seed": seed,
        "seconds": round(seconds),
        "parameters": parameters(run.model, run.guide),
        "evaluation": evaluation.as_dict(),
    }


def step_times(corpus: pf.Corpus, widths: Sequence[int] = (64, 128, 256), rounds: int = 60) -> str:
    """CPU time of a step of a language model, relative to the former default's: fastest tenth of the rounds."""
    rows = []
    for width in widths:
        steppers, seconds = {}, {}
        for trunk in ("former", "llama", "llama, learned"):
            model, _ = made("lm", trunk, corpus, width)
            steppers[trunk], seconds[trunk] = pf.SVI(model, None, torch.optim.AdamW, lr=1e-3), []
        for batch in islice(iter(TrainingStream(corpus.train, 32, seed=0)), rounds):
            for trunk, svi in steppers.items():
                start = time.process_time()
                svi.step(batch)
                seconds[trunk].append(time.process_time() - start)
        base, *others = (sorted(each)[rounds // 10] for each in seconds.values())
        rows.append([width, *(f"{other / base:.2f}" for other in others), f"{1000 * base:.1f}"])
    return markdown(["width", "llama", "llama, learned", "former, ms"], rows, left=0)


def table(results: list[Result]) -> str:
    """One row for each model: the loss, or the importance-weighted bound of it, and its difference to the default's."""
    groups, rows = grouped(results, lambda result: (result["family"], result["trunk"])), []
    for family, trunks in FAMILIES.items():
        base = losses(groups.get((family, "former"), []))
        for trunk in trunks:
            if own := losses(some := groups.get((family, trunk), [])):
                paired = [own[seed] - base[seed] for seed in own if seed in base]
                size = f"{some[0]['parameters']:,}"
                rows.append([family, trunk, size, cell(list(own.values()), 3), cell(paired, 3), len(own)])
    return markdown(["model", "blocks", "parameters", "nats/token", "less former's", "seeds"], rows, left=2)


def run_name(family: str, trunk: str, seed: int) -> str:
    return file_name(family, trunk.replace("1/sqrt(P)", "wide"), f"seed{seed}")


def losses(results: list[Result]) -> dict[int, float]:
    """The importance-weighted losses by seed; those of language models are exact."""
    found = {result["seed"]: metric(result, "importance_weighted", UNIT) for result in results}
    return {seed: value for seed, value in found.items() if value is not None}


def main() -> None:
    options = parsed()
    same_settings(options.out, options, free=("runs", "seeds", "only", "trunks", "times"))
    corpus = corpus_in(options.runs / "corpus", options, vocabulary=options.vocabulary)
    if options.times:
        print(step_times(corpus))
        return
    points = [
        (family, trunk, seed)
        for seed in options.seeds
        for family in options.only
        for trunk in FAMILIES[family]
        if trunk in options.trunks
    ]
    tasks = [(run_name(*point), partial(one, *point, corpus, options)) for point in points]
    make_missing(options.out, tasks, options.shard)
    print(table(read(options.out)))


def parsed() -> argparse.Namespace:
    parser = experiment_parser(
        __doc__, runs=Path("runs/trunks"), seeds=[0, 1, 2], steps=1000, batch_size=32, vocabulary=1000, max_length=24,
        width=64, texts=1000,
    )  # fmt: skip
    parser.add_argument("--only", nargs="+", choices=list(FAMILIES), default=list(FAMILIES), metavar="MODEL")
    parser.add_argument("--trunks", nargs="+", choices=list(TRUNKS), default=list(TRUNKS), metavar="TRUNK")
    parser.add_argument("--times", action="store_true", help="measure the time of a step only")
    return parser.parse_args()


if __name__ == "__main__":
    main()
