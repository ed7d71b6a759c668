"""Rate against distortion of several latent-variable models of text; resumable.

    python benchmarks/curve.py --data FOLDER --out results/curve [--steps 800] [--plot curve.png]

nvae             a Dirichlet process over one vector per token, and the vector of the prior
nvib             the same, trained with the published objective; its beta is the equivalent weight on the exact KL of
                 the vectors, 1e-3 / width at the published strength, the default of `--objective nvib`
nvib relu        the same with pseudo-counts that can be zero, as in the published experiments
vae              a Gaussian vector for each token, under softmax attention
one vector       a single Gaussian vector, a part of which is one more key and value in each layer; as in Optimus, the
                 encoder is a network of its own
autoencoder      vae with a weight of zero on the KL: one end of the curve
language model   no latents: the other end; "shallow" has the layers of one decoder, as those that others start from

Each point trains on reconstruction + beta * KL with the exact KL summed over all latents; the weight grows over the
first quarter of the run unless its name says otherwise. "ladder" continues from the weights of the next smaller beta,
so that a model learns to copy before it learns to compress; each rung takes the same number of steps, and some points
without a ladder have as many steps in total for comparison. All have the same width, layers, batches and learning rate,
and are evaluated on the same held-out texts; +- is the standard error over seeds, or over these texts if there is one
seed. A second stage, of half as many
steps, freezes the model and fits a better prior to the posterior of a point. Other points train a prior with the model,
at beta = 1 from the first step: "tokens", a language model of Gaussian tokens, or "language_model": a language model
takes half of the steps, and the prior and the decoder start from it. That of one vector can be a mixture of ten
Gaussians or a flow, trained with it on a ladder. The bound, rate + distortion + length, is one of
log p(x) at every beta. Blocks are GPT-2's, the default when this was begun. Each result is a JSON file; existing
results are kept.
"""

import argparse
from collections.abc import Sequence
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Any

from curve_drawing import plot
from curve_points import FAMILIES, JOINT, LANGUAGE_MODELS, POINTS, Point
from reporting import cell, markdown
from resumable import (
    FORMER,
    FORMER_NVAE,
    Result,
    error,
    experiment_parser,
    finished,
    grouped,
    make_missing,
    measured,
    metric,
    read,
    same_settings,
    trained,
)
from torch import nn

from pyroformer.guides.della import DELLAGuide
from pyroformer.guides.nvae import NVAEGuide
from pyroformer.guides.vae import VAEGuide
from pyroformer.inference.data.corpus import Corpus
from pyroformer.inference.pretrained.pretrained import Pretrained
from pyroformer.inference.run import Run
from pyroformer.inference.training.fit_prior import fit_prior
from pyroformer.models.base import Model
from pyroformer.models.della import DELLA
from pyroformer.models.language_model import LanguageModel
from pyroformer.models.nvae import NVAE
from pyroformer.models.priors.latent_flow import LinearFlow
from pyroformer.models.priors.latent_mixture import LinearMixture
from pyroformer.models.vae import VAE

LATENT_PRIORS = {"mixture": LinearMixture, "flow": LinearFlow}  # of one vector, trained with the model


def make(
    point: Point, corpus: Corpus, width: int, layers: int, backbone: Pretrained | None = None
) -> tuple[Model, nn.Module | None]:
    """A model and its guide; all have the same total number of layers, besides those of a prior."""
    if point.family in LANGUAGE_MODELS:
        depth = layers if point.family.startswith("shallow") else 2 * layers
        return LanguageModel.for_corpus(corpus, width=width, layers=depth, **FORMER), None
    sizes: dict[str, Any] = {"layers": layers} if backbone else {"width": width, "layers": layers, **FORMER_NVAE}
    prior = {"base_measure": point.joint or "gaussian", "backbone": backbone}
    if point.family in ("nvae", "nvib", "nvib relu"):
        nvae = NVAE.for_corpus(corpus, **prior, **sizes)
        return nvae, NVAEGuide(nvae, alpha="relu" if point.family == "nvib relu" else "linear")
    if point.family == "one vector":
        sizes |= FORMER | {"structure": "single", "fusion": "memory", "latent_size": width}
        della = DELLA.for_corpus(corpus, **sizes)
        if point.joint:
            latent_prior = LATENT_PRIORS[point.joint](**della.prior_sizes)
            della = DELLA.for_corpus(corpus, latent_prior=latent_prior, **sizes)
        return della, DELLAGuide(della, encoder="separate")
    vae = VAE.for_corpus(corpus, **prior, **sizes)
    return vae, VAEGuide(vae)


def measure(point: Point, corpus: Corpus, options: argparse.Namespace) -> Result:
    """Train one model, or load it if it is trained, and evaluate it."""
    run, seconds = second_stage(point, corpus, options) if point.prior else first_stage(point, corpus, options)
    return {"point": point._asdict(), "seed": options.seed, **measured(run, seconds, options)}


def first_stage(point: Point, corpus: Corpus, options: argparse.Namespace) -> tuple[Run, float]:
    """A model with its default prior."""
    extra = {"free_bits": point.free_bits, "free_bits_per": "total"} if point.free_bits else {}
    if point.family not in LANGUAGE_MODELS:
        objective = "nvib" if point.family.startswith("nvib") else "elbo"
        extra |= {"objective": objective, "beta": point.beta, "kl_schedule": point.schedule}
    return trained(
        folder(point, options),
        options.seed,
        lambda: start(point, corpus, options),
        corpus,
        steps=point.times * options.steps // (2 if point.joint == "language_model" else 1),
        **budget(options),
        **extra,
    )


def budget(options: argparse.Namespace) -> dict[str, Any]:
    return {"batch_size": options.batch_size, "learning_rate": options.learning_rate, "validation_texts": 512}


def folder(point: Point, options: argparse.Namespace) -> Path:
    path: Path = options.out / "runs" / (point.name + (f".seed{options.seed}" if options.seed else ""))
    return path


def half_language_model(corpus: Corpus, options: argparse.Namespace) -> Run:
    """A language model with the layers of one decoder, trained for half of the steps."""
    return trained(
        folder(Point("half language model"), options),
        options.seed,
        lambda: make(Point("shallow language model"), corpus, options.width, options.layers),
        corpus,
        steps=options.steps // 2,
        **budget(options),
    )[0]


def start(point: Point, corpus: Corpus, options: argparse.Namespace) -> tuple[Model, nn.Module | None]:
    """The initial weights: new ones, or those of the previous point or of a language model."""
    if point.joint == "language_model":
        return make(point, corpus, options.width, options.layers, half_language_model(corpus, options).backbone)
    if point.start is None:
        return make(point, corpus, options.width, options.layers)
    before, _ = first_stage(point.start, corpus, options)
    return before.model, before.guide


def second_stage(point: Point, corpus: Corpus, options: argparse.Namespace) -> tuple[Run, float]:
    """The run of a first stage with a better prior."""
    before, _ = first_stage(point._replace(prior=""), corpus, options)
    return finished(
        folder(point, options),
        lambda out, resume: fit_prior(
            before,
            point.prior,
            out=out,
            resume=resume,
            steps=max(1, options.steps // 2),
            seed=options.seed,
            **budget(options),
        ),
    )


COLUMNS = {
    "rate, nats/token": ("rate", "nats/token", 2),
    "distortion, nats/token": ("reconstruction", "nats/token", 2),
    "bound": ("bound", "nats/token", 2),
    "IW bound": ("importance_weighted", "nats/token", 2),
    "accuracy": ("accuracy", "share", 3),
    "BLEU": ("bleu", "of 100", 1),
    "alpha > 0.1": ("kept_alpha", "of the text's", 2),
    "exp entropy": ("kept_entropy", "of the text's", 2),
    "99 % of attention": ("kept_attention", "of the text's", 2),
}


def table(results: Sequence[Result], options: argparse.Namespace) -> str:
    """One row a point: means over seeds with their standard errors, or one seed with that over texts."""
    seeds, rows = grouped(results, Point.of), []
    for point in sorted(seeds, key=lambda point: (FAMILIES.index(point.family), point.beta)):
        group = seeds[point]
        beta = "" if point.family in LANGUAGE_MODELS else f"{point.weight(options.width):.2g}"
        row = [", ".join([point.family, *variant(point)]), beta, f"{point.steps(options.steps):,}", len(group)]
        for *at, digits in COLUMNS.values():
            alone = error(group[0], *at) if len(group) == 1 else None
            row.append(cell([metric(result, *at) for result in group], digits, alone))
        rows.append(row)
    return markdown(["model", "beta", "steps", "seeds", *COLUMNS], rows)


def variant(point: Point) -> list[str]:
    """What a point has besides its family and its beta."""
    words = [point.schedule] if point.schedule in ("cyclical", "geometric") else []
    words += [f"{point.free_bits:g} nats free"] if point.free_bits else []
    words += [f"{point.prior} prior"] if point.prior else []
    words += [JOINT[point.joint]] if point.joint else []
    return words + (["ladder"] if point.ladder else [])


def main() -> None:
    parser = experiment_parser(
        __doc__, width=96, steps=800, batch_size=32, learning_rate=2e-3, vocabulary=2000, max_length=64, seeds=[0],
        num_particles=16, samples=200,
    )  # fmt: skip
    parser.add_argument("--families", nargs="+", help="only these (default: all)")
    parser.add_argument("--layers", type=int, default=2, help="of each encoder and each decoder")
    parser.add_argument("--only", nargs="+", default=["*"], help="patterns of the names of points to measure")
    parser.add_argument("--texts", type=int, default=512, help="held-out texts that are measured")
    parser.add_argument("--plot", type=Path, help="file to draw the curve to")
    options = parser.parse_args()
    same_settings(options.out, options, free=["families", "only", "seeds", "plot"])
    corpus = Corpus.from_file(options.data, vocabulary=options.vocabulary, max_length=options.max_length)
    points = [point for point in POINTS if not options.families or point.family in options.families]
    chosen = [point for point in points if any(fnmatch(point.name, pattern) for pattern in options.only)]
    each = [argparse.Namespace(**vars(options), seed=seed) for seed in options.seeds]
    work = [(folder(point, own).name, partial(measure, point, corpus, own)) for own in each for point in chosen]
    make_missing(options.out, work, options.shard)
    print(table(read(options.out), options))
    if options.plot is not None:
        plot(read(options.out), options.plot, options.width)


if __name__ == "__main__":
    main()
