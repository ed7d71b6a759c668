"""Rate against distortion of several latent-variable models of text; resumable.

    python benchmarks/curve.py --data FOLDER --out results/curve [--steps 800] [--plot curve.png]

nvae             a Dirichlet process over one vector per token, and the vector of the prior
nvib             the same, trained with the published objective; its beta is the equivalent weight on the exact KL of
                 the vectors, 1e-3 / width at the published strength, which is the default of `fit nvae`
nvib relu        the same with pseudo-counts that can be zero, as in the published experiments
vae              a Gaussian vector for each token, under softmax attention
one vector       a single Gaussian vector of the same width, as one more key and value in each layer; as in Optimus, the
                 encoder is a network of its own
autoencoder      vae with a weight of zero on the KL: one end of the curve
language model   no latents: the other end; "shallow" has the layers of one decoder, as those that others start from

Each point trains on reconstruction + beta * KL with the exact KL summed over all latents; the weight grows over the
first quarter of the run unless its name says otherwise. "ladder" continues from the weights of the next smaller beta,
so that a model learns to copy before it learns to compress; each rung takes the same number of steps, and some points
without a ladder have as many steps in total for comparison. All have the same width, layers, batches and learning rate,
and are evaluated on the same held-out texts; +- is the standard error over these. A second stage, of half as many
steps, freezes the model and fits a better prior to the posterior of a point. Other points train a prior with the model,
at beta = 1 from the first step: "tokens", a language model of Gaussian tokens, or "language_model": a language model
takes half of the steps, and the prior and the decoder start from it. The bound, rate + distortion + length, is one of
log p(x) at every beta. Blocks are GPT-2's, the default when this was begun. Each result is a JSON file; existing
results are kept.
"""

import argparse
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NamedTuple

from reporting import argument_parser
from resumable import (
    FORMER,
    FORMER_NVAE,
    Result,
    cell,
    error,
    finished,
    make_missing,
    metric,
    parameters,
    read,
    same_settings,
    trained,
)
from torch import nn

from pyroformer.guides.della import DELLAGuide
from pyroformer.guides.nvae import NVAEGuide
from pyroformer.guides.vae import VAEGuide
from pyroformer.inference.data.corpus import Corpus
from pyroformer.inference.evaluation.metrics.diversity import diversity
from pyroformer.inference.plots.style import COLORS
from pyroformer.inference.pretrained.pretrained import Pretrained
from pyroformer.inference.run import Run
from pyroformer.inference.training.fit_prior import fit_prior
from pyroformer.models.base import Model
from pyroformer.models.della import DELLA
from pyroformer.models.language_model import LanguageModel
from pyroformer.models.nvae import NVAE
from pyroformer.models.vae import VAE


class Point(NamedTuple):
    """One model to train and evaluate."""

    family: str
    beta: float = 1.0
    ladder: tuple[float, ...] = ()  # the betas of earlier training, each for as many steps
    schedule: str = "linear"
    free_bits: float = 0.0  # nats per text, in total
    prior: str = ""  # of a second stage, fitted to the posterior of the same point without one
    times: int = 1  # factor on the number of steps
    joint: str = ""  # a prior that is trained with the model

    @property
    def name(self) -> str:
        """The name of its files."""
        parts = [self.family.replace(" ", "-"), *(f"{beta:g}" for beta in (*self.ladder, self.beta))]
        parts += [self.schedule] if self.schedule != "linear" else []
        parts += [f"free{self.free_bits:g}"] if self.free_bits else []
        parts += [f"x{self.times}"] if self.times > 1 else []
        parts += [self.prior] if self.prior else []
        parts += [self.joint] if self.joint else []
        return ".".join(parts)

    @property
    def start(self) -> "Point | None":
        """The point whose weights this one continues from."""
        return self._replace(beta=self.ladder[-1], ladder=self.ladder[:-1]) if self.ladder else None

    def steps(self, each: int) -> int:
        """The total number of training steps, with ``each`` on each rung."""
        return each * (len(self.ladder) + self.times) + (max(1, each // 2) if self.prior else 0)


LANGUAGE_MODELS = ("language model", "shallow language model")
FAMILIES = (*LANGUAGE_MODELS, "nvae", "nvib", "nvib relu", "vae", "one vector", "autoencoder")
POINTS = [  # the most informative first
    Point("language model"),
    Point("shallow language model"),
    Point("vae", schedule="constant", joint="tokens"),
    Point("nvae", schedule="constant", joint="tokens"),
    Point("vae", schedule="constant", joint="language_model"),
    Point("nvae", schedule="constant", joint="language_model"),
    Point("nvae", 1e-3),
    Point("nvae", 1e-2, (1e-3,)),
    Point("nvae", 1e-1, (1e-3, 1e-2)),
    Point("nvae", 1e-2, (1e-3,), prior="autoregressive"),
    Point("nvae", 1.0, (1e-3, 1e-2, 1e-1)),
    Point("nvae", 0.3, (1e-3, 1e-2, 1e-1)),
    Point("nvae", 1e-2),
    Point("nvae", 1e-2, prior="autoregressive"),
    Point("nvib", 1.0, schedule="constant"),
    Point("nvib", 1e2, (1.0,), schedule="constant"),
    Point("nvib", 1e3, (1.0, 1e2), schedule="constant"),
    Point("nvib relu", 1.0, schedule="constant"),
    Point("nvib relu", 1e2, (1.0,), schedule="constant"),
    Point("nvib relu", 1e3, (1.0, 1e2), schedule="constant"),
    Point("nvae", 1e-5),
    Point("vae", 1e-3),
    Point("vae", 1e-2, (1e-3,)),
    Point("vae", 1e-1, (1e-3, 1e-2)),
    Point("one vector", 1e-2),
    Point("one vector", 1e-1, (1e-2,)),
    Point("one vector", 1.0, (1e-2, 1e-1)),
    Point("autoencoder", 0.0),
    Point("vae", 1e-2, (1e-3,), prior="autoregressive"),
    Point("nvae", 1e-1, (1e-3, 1e-2), prior="autoregressive"),
    Point("nvae", 1e-2, (1e-3,), prior="mixture"),
    Point("language model", times=4),
    Point("nvae", 1e-1, schedule="geometric"),
    Point("nvae", 1e-1, schedule="cyclical"),
    Point("nvae", 1e-2, times=2),
    Point("nvae", 1.0, free_bits=30.0),
]


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
        sizes |= FORMER
        della = DELLA.for_corpus(corpus, structure="single", fusion="memory", latent_size=width, **sizes)
        return della, DELLAGuide(della, encoder="separate")
    vae = VAE.for_corpus(corpus, **prior, **sizes)
    return vae, VAEGuide(vae)


def measure(point: Point, corpus: Corpus, options: argparse.Namespace) -> dict[str, Any]:
    """Train one model, or load it if it is trained, and evaluate it."""
    run, seconds = second_stage(point, corpus, options) if point.prior else first_stage(point, corpus, options)
    samples = run.sample(options.samples, seed=2)
    measured = diversity(samples, corpus.test[: 10 * options.samples], seed=3)
    reconstructions = [] if run.guide is None else run.reconstruct(corpus.test[:10])
    return {
        "point": point._asdict(),
        "seed": options.seed,
        "parameters": parameters(run.model, run.guide),
        "seconds": seconds,
        "step": run.step,
        "evaluation": run.evaluate(limit=options.texts, num_particles=options.num_particles, seed=1).as_dict(),
        "diversity": {key: value.as_dict() for key, value in measured.items()},
        "samples": samples[:10],
        "reconstructions": [(each.original, each.text) for each in reconstructions],
    }


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


def table(results: Sequence[Mapping[str, Any]], options: argparse.Namespace) -> str:
    """One row a point: means over seeds with their standard errors, or one seed with that over texts."""
    lines = [
        f"| model | beta | steps | seeds | {' | '.join(COLUMNS)} |",
        f"|---|---:|---:|---:|{'---:|' * len(COLUMNS)}",
    ]
    seeds: dict[Point, list[Result]] = {}
    for result in results:
        seeds.setdefault(point_of(result), []).append(dict(result))
    for point, group in sorted(seeds.items(), key=lambda each: (FAMILIES.index(each[0].family), each[0].beta)):
        beta = "" if point.family in LANGUAGE_MODELS else f"{effective(point, options.width):.2g}"
        cells = [beta, f"{point.steps(options.steps):,}", str(len(group))]
        for *at, digits in COLUMNS.values():
            alone = error(group[0], *at) if len(group) == 1 else None
            cells.append(cell([metric(result, *at) for result in group], digits, alone))
        lines.append(f"| {', '.join([point.family, *variant(point)])} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def variant(point: Point) -> list[str]:
    """What a point has besides its family and its beta."""
    words = [point.schedule] if point.schedule in ("cyclical", "geometric") else []
    words += [f"{point.free_bits:g} nats free"] if point.free_bits else []
    words += [f"{point.prior} prior"] if point.prior else []
    words += {"tokens": ["prior of tokens"], "language_model": ["from a language model"]}.get(point.joint, [])
    return words + (["ladder"] if point.ladder else [])


def point_of(result: Mapping[str, Any]) -> Point:
    point = Point(**result["point"])
    return point._replace(ladder=tuple(point.ladder))


def effective(point: Point, width: int) -> float:
    """The weight on the KL of the vectors."""
    return point.beta * 1e-3 / width if point.family.startswith("nvib") else point.beta


def plot(results: Sequence[Mapping[str, Any]], path: Path, width: int = 96) -> None:
    """Rate against distortion, and what copying costs; gray lines are the losses of language models.

    On the left, a line joins the points of a family, labeled with their betas; hollow markers are variants (from
    scratch, or with free bits), squares have a second stage, and stars and crosses a prior that was trained with the
    model. Rates of thousands of nats are left out. On the right is the sum of rate and distortion of those that copy.
    """
    import matplotlib.pyplot as plt
    import numpy as np

    first = {point_of(one): place(one) for one in reversed(results)}  # of several seeds
    figure_, (plane, costs) = plt.subplots(1, 2, figsize=(12, 4.8), layout="constrained", width_ratios=(1.4, 1))
    models = [(point_of(one), metric(one, "bound", "nats/token") or 1.0) for one in results]
    for point, loss in dict(reversed([each for each in models if each[0].family == "language model"])).items():
        rates, style = np.geomspace(1e-3, loss, 200), "--" if point.times == 1 else ":"
        label = "language model" + (f", {point.times}× the steps" if point.times > 1 else "")
        plane.plot(rates, loss - rates, color="0.6", linestyle=style, label=label)
        costs.axvline(loss, color="0.6", linestyle=style)
    draw(plane, {point: at for point, at in first.items() if at[0] < LARGEST}, width, labeled=lambda at: at[1] > COPIES)
    plane.set(
        ylabel="distortion: -log p(x | z), nats per token", title="rate and distortion, by beta, the weight of the KL"
    )
    plane.margins(y=0.1)
    if plane.get_legend_handles_labels()[0]:
        plane.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(0, 0.31))
    draw_costs(costs, {point: at for point, at in first.items() if at[1] < COPIES and point.family in FAMILIES[2:]})
    figure_.savefig(path, dpi=150)


COPIES = 0.5  # the greatest distortion of a model that copies, in nats per token
LARGEST = 1500.0  # rate that is drawn: larger ones would compress the axis


def draw_costs(axes: Any, points: Mapping[Point, tuple[float, float]]) -> None:
    """The sum of rate and distortion, of the cheapest point of each family and prior."""
    best: dict[tuple[str, str], tuple[float, Point]] = {}
    for point, at in points.items():
        kind = point.family, "as published" if as_published(point) else point.prior or point.joint
        best[kind] = min(best.get(kind, (math.inf, point)), (sum(at), point))
    rows = sorted(best.values(), reverse=True)
    colors = dict(zip(FAMILIES[len(LANGUAGE_MODELS) :], COLORS, strict=False))
    for height, (cost, point) in enumerate(rows):
        mark = STARS.get(point.joint, "s" if point.prior else "o")
        axes.plot(cost, height, mark, color=colors[point.family], markersize=11 if point.joint else 6)
        axes.annotate(
            f"{cost:#.3g}".rstrip("."), (cost, height), fontsize=8, xytext=(9, -3), textcoords="offset points"
        )
    axes.set_yticks(range(len(rows)), [described(point) for _, point in rows], fontsize=8)
    axes.set(xscale="log", xlabel="rate + distortion, nats per token", title="what copying a text costs")
    axes.margins(x=0.15, y=0.06)
    axes.grid(axis="y", alpha=0.3)


def as_published(point: Point) -> bool:
    """Whether the regularizers have the published strength."""
    return point.family == "nvib" and point.beta == 1.0


def described(point: Point) -> str:
    """The family of a point, and its prior."""
    if point.family.startswith("nvib"):
        if as_published(point):
            return "NVAE, as published"
        weights = ", weights can be zero" if point.family == "nvib relu" else ""
        return f"NVAE, published objective × {point.beta:g}{weights}"
    name = NAMES.get(point.family, point.family).removesuffix(", exact KL")
    if point.joint:
        return f"{name}, {'prior of tokens' if point.joint == 'tokens' else 'from a language model'}"
    name += f", beta {point.beta:g}" if point.beta else ""
    return f"{name}, then a prior ({point.prior})" if point.prior else name


SIDES = ((-5, 7, "right"), (5, -11, "left"), (7, 13, "left"), (-5, -11, "right"), (7, -10, "left"))  # of labels


STARS = {"tokens": "*", "language_model": "P"}  # markers of priors that are trained with the model

NAMES = {
    "nvae": "NVAE, exact KL",
    "nvib": "NVAE, published objective",
    "nvib relu": "the same, weights can be zero",
    "vae": "VAE",
}


def draw(axes: Any, points: Mapping[Point, tuple[float, float]], width: int, labeled: Callable[[Any], bool]) -> None:
    """All points and arrows on one pair of axes, with betas where there is room for them."""
    from matplotlib.patheffects import withStroke

    halo = [withStroke(linewidth=2, foreground="white")]  # so that labels are legible on lines
    for number, (family, color) in enumerate(zip(FAMILIES[len(LANGUAGE_MODELS) :], COLORS, strict=False)):
        rows = [(point, at) for point, at in points.items() if point.family == family]
        best = {point.beta: point for point, _ in sorted(rows, key=lambda row: len(row[0].ladder)) if plain(point)}
        joined = sorted((effective(point, width), at) for point, at in rows if best.get(point.beta) == point)
        if joined:
            axes.plot(*zip(*(at for _, at in joined), strict=True), "o:", color=color, label=NAMES.get(family, family))
        for beta, at in joined:
            name = f"{float(f'{beta:.1g}'):g}"
            if family != "autoencoder" and labeled(at):
                x, y, align = SIDES[number % len(SIDES)]
                side = {"xytext": (x, y), "textcoords": "offset points", "ha": align}
                axes.annotate(name, at, fontsize=7, color=color, annotation_clip=True, path_effects=halo, **side)
        for point, at in rows:
            before = points.get(point._replace(prior=""))
            if point.prior and before:
                axes.annotate("", at, before, arrowprops={"arrowstyle": "->", "color": color, "linewidth": 0.8})
            if point.joint:
                look = {"markersize": 15 - 2 * number, "markeredgecolor": "white", "markeredgewidth": 0.5}
                axes.plot(*at, STARS[point.joint], color=color, zorder=3, **look)  # one is seen behind another
            elif point.prior:
                axes.plot(*at, "s", color=color, markersize=5)
            elif best.get(point.beta) != point:
                axes.plot(*at, "o", markerfacecolor="white", color=color, markersize=5)
    axes.set(xscale="log", xlabel="rate: KL of all latents, nats per token")
    axes.margins(x=0.08)


def place(result: Mapping[str, Any]) -> tuple[float, float]:
    """Rate, bounded away from zero for the logarithmic axis, and distortion."""
    rate, distortion = (metric(result, name, "nats/token") or 0.0 for name in ("rate", "reconstruction"))
    return max(rate, 1e-3), distortion


def plain(point: Point) -> bool:
    return (
        not (point.prior or point.joint or point.free_bits)
        and point.times == 1
        and point.schedule in ("linear", "constant")
    )


def tasks(
    points: Sequence[Point], corpus: Corpus, options: argparse.Namespace
) -> Iterator[tuple[str, Callable[[], Result]]]:
    """The measurements of all points, seed by seed."""
    for seed in options.seeds:
        own = argparse.Namespace(**vars(options), seed=seed)
        for point in points:
            yield folder(point, own).name, lambda point=point, own=own: measure(point, corpus, own)  # type: ignore[misc]


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--families", nargs="+", help="only these (default: all)")
    parser.add_argument("--width", type=int, default=96)
    parser.add_argument("--layers", type=int, default=2, help="of each encoder and each decoder")
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--learning_rate", type=float, default=2e-3)
    parser.add_argument("--vocabulary", type=int, default=2000)
    parser.add_argument("--max_length", type=int, default=64)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--only", nargs="+", default=["*"], help="patterns of the names of points to measure")
    parser.add_argument("--texts", type=int, default=512, help="held-out texts that are measured")
    parser.add_argument("--num_particles", type=int, default=16)
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--plot", type=Path, help="file to draw the curve to")
    parser.add_argument("--shard", default="0/1", help="part I of N of the work, as 0/2, for several processes")
    options = parser.parse_args()
    same_settings(options.out, options, free=["families", "only", "seeds", "plot"])
    corpus = Corpus.from_file(options.data, vocabulary=options.vocabulary, max_length=options.max_length)
    points = [point for point in POINTS if not options.families or point.family in options.families]
    chosen = [point for point in points if any(fnmatch(point.name, pattern) for pattern in options.only)]
    make_missing(options.out, tasks(chosen, corpus, options), options.shard)
    print(table(read(options.out), options))
    if options.plot is not None:
        plot(read(options.out), options.plot, options.width)


if __name__ == "__main__":
    main()
