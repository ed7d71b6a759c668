"""Makes the pictures of docs/plots.md and docs/gallery.md: ``python docs/make_pictures.py --runs runs/pictures``.

It fits small models to the built-in corpus, which takes some minutes on two cores; runs that already exist in the
folder are loaded. All random numbers are seeded: the same versions of the libraries make the same pictures.
"""

import argparse
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from functools import cache
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import pyro
import torch
from PIL import Image
from pyro.distributions import Gamma, Normal
from pyro.infer import TraceEnum_ELBO
from pyro.infer.autoguide import AutoNormal

import pyroformer as pf
from pyroformer.guides.automatic import Automatic
from pyroformer.inference.posterior.global_latents import global_posterior
from pyroformer.models.attention.em.conjugate_priors import ConjugatePriors
from pyroformer.models.priors.components import DirichletProcess

PICTURES = Path(__file__).resolve().parent / "pictures"
BETAS = (0.01, 0.3)  # of the KL term of an NVAE
NETWORK = {"width": 64, "layers": 2, "heads": 4}
GAUSSIAN = {"base_measure": "gaussian"}  # the published prior of the vectors
TRAINING = {"learning_rate": 4e-3, "validation_texts": 128, "validations": 8}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, help="folder of the runs; a temporary one by default")
    parser.add_argument("--only", nargs="*", help="names of the pictures; all by default")
    arguments = parser.parse_args()
    matplotlib.use("Agg")
    PICTURES.mkdir(exist_ok=True)
    folder = arguments.runs or Path(tempfile.mkdtemp(prefix="pictures-"))
    for name, make in MAKERS.items():
        if arguments.only is None or name in arguments.only:
            save(make(folder), PICTURES / f"{name}.png")


def save(ax: Any, path: Path) -> None:
    """Save in all colors: a palette would draw steps into shades, and weak ones white."""
    file = BytesIO()
    ax.figure.savefig(file, dpi=150, bbox_inches="tight", pad_inches=0.1)
    Image.open(file).convert("RGB").save(path, optimize=True)
    plt.close(ax.figure)


# Pictures that need no training


def key_paths(_: Path) -> Any:
    torch.manual_seed(0)
    centers = torch.tensor([[-2.0, 0.0], [1.5, 1.5], [1.0, -1.8]])
    queries = (centers[:, None] + 0.5 * torch.randn(3, 40, 2)).flatten(0, 1)
    start = pf.Mixture(
        torch.zeros(3).log_softmax(-1), torch.tensor([[0.0, 0.1], [0.1, 0.0], [0.1, -0.1]]), noise_variance=1.0
    )
    return pf.plots.key_paths(queries, start, steps=12, priors=ConjugatePriors(pseudo_counts=1.0))[0]


def query_paths(_: Path) -> Any:
    torch.manual_seed(1)
    keys = torch.tensor([[-2.0, 0.0], [-1.4, 0.5], [1.5, 1.5], [1.8, 0.9], [1.0, -1.8]])
    mixture = pf.Mixture(torch.tensor([0.3, 0.1, 0.2, 0.2, 0.2]).log(), keys, noise_variance=0.5)
    return pf.plots.query_paths(torch.tensor([[-0.4, -1.5], [0.1, 1.9], [2.4, -0.6], [-0.3, 0.2]]), mixture)[0]


def posterior_means(_: Path) -> Any:
    across, up = torch.linspace(-3.6, 3.6, 13), torch.linspace(-2.3, 2.6, 8)
    left, right = plt.subplots(1, 2, figsize=(9.6, 3.8), layout="constrained")[1]
    pf.plots.posterior_means(torch.tensor([[0.85, 0.35]]), four_components(), ax=left)
    return pf.plots.posterior_means(torch.cartesian_prod(across, up), four_components(), ax=right)


def mixture_map(_: Path) -> Any:
    left, right = plt.subplots(1, 2, figsize=(9.6, 3.8), layout="constrained")[1]
    points = {"a": torch.tensor([2.9, -0.2]), "b": torch.tensor([-5.2, 4.2])}
    pf.plots.mixture_map(four_components(), points=points, within=(-6.0, 6.0, -5.0, 5.0), ax=left)
    return pf.plots.mixture_map(
        four_components(), "largest weight", points=points, within=(-6.0, 6.0, -5.0, 5.0), ax=right
    )


def four_components() -> pf.Mixture:
    return pf.Mixture(
        log_weights=torch.tensor([0.30, 0.15, 0.40, 0.15]).log(),
        means=torch.tensor([[-2.3, 0.8], [-0.1, 1.7], [2.2, 0.7], [-0.3, -1.2]]),
        variances=torch.tensor([[0.30, 0.16], [0.22, 0.14], [0.30, 0.22], [0.34, 0.14]]),
        noise_variance=0.7,
    )


def vectors_kept(_: Path) -> Any:
    """Of a Transformer with random weights, which keeps its vectors in some layers longer than in others."""
    torch.manual_seed(0)
    layer = torch.nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True, norm_first=True)
    encoder = torch.nn.TransformerEncoder(layer, 4, enable_nested_tensor=False)
    with torch.no_grad():
        for index, each in enumerate(encoder.layers):
            each.self_attn.in_proj_weight[:64] *= 1.0 + index  # of queries and keys: higher layers attend more sharply
    model = pf.nvib.wrap(encoder.eval())
    batches = list(torch.randn(4, 16, 12, 32))
    pf.nvib.fit_priors(model, batches)
    taus = torch.linspace(6.0, -6.0, 13).tolist()
    return pf.plots.vectors_kept(taus, [kept_at(model, tau, batches) for tau in taus])


@torch.no_grad()
def kept_at(model: torch.nn.Module, tau: float, batches: list[torch.Tensor]) -> dict[str, Any]:
    pf.nvib.regularize(model, tau_alpha=0.0, tau_nats=tau)
    return pf.nvib.kept(model, batches, above=0.05)


def vector_groups(_: Path) -> Any:
    """Words of the built-in corpus by what stands before and after them, in the groups of a mixture of Gaussians."""
    torch.manual_seed(0)
    texts = [re.findall(r"\w+|[.,]", text) for text in words().train]
    frequent = [word for word, _ in Counter(word for text in texts for word in text).most_common(300)]
    place = {word: index for index, word in enumerate(frequent)}
    before, after = torch.zeros(2, len(frequent), len(frequent))
    for first, second in (pair for text in texts for pair in pairwise(text)):
        if first in place and second in place:
            before[place[second], place[first]] += 1
            after[place[first], place[second]] += 1
    counts = torch.nn.functional.normalize(torch.cat([before, after], 1).sqrt())
    vectors = 10 * torch.pca_lowrank(counts, 8)[0]
    groups = pf.GaussianMixture(6, random_state=0).fit_predict(vectors)
    return pf.plots.vector_groups(vectors, torch.as_tensor(groups), frequent)


def prior_posterior(_: Path) -> Any:
    return pf.plots.prior_posterior(process_draws(), "weight_prior.concentration")


def intervals(_: Path) -> Any:
    return pf.plots.intervals(process_draws(), "weights", ordered=True)


@cache
def process_draws() -> Any:
    """Draws of a Dirichlet process over the weights of twelve components, three of which have queries."""
    torch.manual_seed(0)
    centers = torch.tensor([[-3.0, 0.0], [2.0, 2.0], [1.5, -2.5]])
    queries = (centers[:, None] + 0.5 * torch.randn(3, 40, 2)).flatten(0, 1)
    means = torch.cat([centers, 3 * torch.randn(9, 2)])
    mixture = pf.Mixture(torch.zeros(12).log_softmax(-1), means, noise_variance=0.3)
    model = pf.MixtureAttention(mixture, weights=DirichletProcess(Gamma(1.0, 0.5)))
    guide = Automatic(model, AutoNormal)
    svi = pf.SVI(model, guide, torch.optim.Adam, loss=TraceEnum_ELBO(max_plate_nesting=1), lr=0.1)
    for _step in range(200):
        svi.step(queries)
    return global_posterior(model, guide, queries, plate="tokens", draws=300)


def ranks(_: Path) -> Any:
    return pf.plots.ranks(calibrated("the posterior", "half as wide"))[0]


def coverage(_: Path) -> Any:
    return pf.plots.coverage(calibrated("the posterior", "half as wide", "twice as wide"), [
        "the posterior: z", "half as wide: z", "twice as wide: z"
    ])  # fmt: skip


def calibrated(*names: str) -> pf.diagnostics.Calibration:
    """A Gaussian model whose posterior is known, with it and with guides of other widths."""
    collected = {}
    for name in names:
        calibration = pf.diagnostics.calibrate(
            NoisyMean(), Guess(WIDTHS[name]), simulations=10, draws=39, args=(), observe=observation
        )
        collected |= {f"{name}: {quantity}": values for quantity, values in calibration.ranks.items()}
    return pf.diagnostics.Calibration(collected, 39)


def khats_by_guide(_: Path) -> Any:
    """Texts that are numbers, and their posterior under guides of other widths."""
    torch.manual_seed(0)
    batch = pf.Batch.pad([[2]] * 50)
    observed = 2**0.5 * torch.randn(50)
    draws = {
        name: pf.to_arviz(Given(NoisyMean(), observed), Given(Guess(width), observed), batch, 500, include_prior=False)
        for name, width in WIDTHS.items()
    }
    return pf.plots.khats_by_guide(draws)


WIDTHS = {"the posterior": 1.0, "half as wide": 0.5, "twice as wide": 2.0}


class Given(torch.nn.Module):
    """A model or guide of numbers, called with a batch that says only how many there are."""

    def __init__(self, inner: torch.nn.Module, observed: torch.Tensor) -> None:
        super().__init__()
        self.inner, self.observed = inner, observed

    def forward(self, _: pf.Batch) -> None:
        self.inner(self.observed)


def observation(trace: Any) -> Any:
    return trace.nodes["text"]["value"]


class NoisyMean(torch.nn.Module):
    """z ~ N(0, 1) is observed with unit noise, for 50 texts."""

    def forward(self, observed: torch.Tensor | None = None) -> None:
        with pyro.plate("texts", 50, dim=-1):
            z = pyro.sample("z", Normal(torch.zeros(50), 1.0))
            pyro.sample("text", Normal(z, 1.0), obs=observed)


class Guess(torch.nn.Module):
    """Its posterior N(x / 2, 1 / 2), or one of another width."""

    def __init__(self, width: float) -> None:
        super().__init__()
        self.width = width

    def forward(self, observed: torch.Tensor) -> None:
        with pyro.plate("texts", 50, dim=-1):
            pyro.sample("z", Normal(observed / 2, self.width * 0.5**0.5))


# Pictures of runs


def della(folder: Path) -> pf.Run:
    """On the sentences that begin with "Return", which are few enough to be learned in a minute."""
    sizes = {"width": 96, "layers": 3, "latent_size": 16, "dropout": 0.1, "word_dropout": 0.2}
    training = {"target_kl": 12.0, "batch_size": 16, "learning_rate": 2e-3}
    return fitted(folder / "della", "DELLA", 800, sizes, returns(), **training)


def nvae(folder: Path, beta: float) -> pf.Run:
    return fitted(folder / f"nvae-{beta:g}", "NVAE", 200, GAUSSIAN, words(), beta=beta, objective="elbo")


def nvib(folder: Path) -> pf.Run:
    """With the objective of the paper."""
    return fitted(folder / "nvib", "NVAE", 200, GAUSSIAN, words())


def copier(folder: Path) -> pf.Run:
    """With a Gaussian for each token of the vocabulary as prior of the vectors."""
    return fitted(folder / "tokens", "NVAE", 200, {"base_measure": "tokens"}, words())


@cache
def words() -> pf.Corpus:
    return pf.Corpus.builtin(vocabulary=1000, max_length=24)


@cache
def returns() -> pf.Corpus:
    every = words()
    texts = [text for split in (every.train, every.valid, every.test) for text in split if text.startswith("Return")]
    return pf.Corpus.from_texts(texts, max_length=16, vocabulary=1000, overlong="drop")


def components_kept(folder: Path) -> Any:
    runs = {beta: nvae(folder, beta) for beta in BETAS}
    options = {"limit": 100, "num_particles": 1, "reconstructions": 1}
    return pf.plots.components_kept({beta: run.evaluate(**options) for beta, run in runs.items()})


def layer_curves(folder: Path) -> Any:
    return pf.plots.layer_curves(della(folder))


def layer_kl(folder: Path) -> Any:
    return pf.plots.layer_kl(evaluated(folder))


def active_units(folder: Path) -> Any:
    return pf.plots.active_units(evaluated(folder))


@cache
def evaluated(folder: Path) -> Any:
    return della(folder).evaluate(limit=200, num_particles=1, reconstructions=1, compared=200)


def traversal(folder: Path) -> Any:
    run = della(folder)
    return pf.plots.traversal(run, run.corpus.test[0], values=(-4.0, -2.0, 0.0, 2.0, 4.0))


def curves(folder: Path) -> Any:
    return pf.plots.curves(copier(folder))[0]


def attention(folder: Path) -> Any:
    run = copier(folder)
    return pf.plots.attention(run, run.corpus.test[0])


def swap_table(folder: Path) -> Any:
    run = della(folder)
    return pf.plots.swap_table(run, run.corpus.test[0], run.corpus.test[3])


def khats(folder: Path) -> Any:
    run = della(folder)
    return pf.plots.khats(run.posterior(run.corpus.test[:15], draws=200, include_prior=False))


def predictive(folder: Path) -> Any:
    return pf.plots.predictive(pf.diagnostics.check_texts(della(folder), limit=50))


def token_values(folder: Path) -> Any:
    """The divergence of each token's vector from the prior, by two objectives."""
    runs = {"nvib": nvib(folder), f"elbo, beta {BETAS[0]:g}": nvae(folder, BETAS[0])}
    text = runs["nvib"].corpus.test[0]
    rows = {name: information(run, text) for name, run in runs.items()}
    return pf.plots.token_values(runs["nvib"].tokenizer.pieces(text), rows)


@torch.no_grad()
def information(run: pf.Run, text: str) -> torch.Tensor:
    posterior = run.encode([text])
    own = torch.distributions.Normal(posterior.mean, posterior.variance.sqrt())
    return torch.distributions.kl_divergence(own, torch.distributions.Normal(0.0, 1.0)).sum(-1)[0, 1:]


def weights(folder: Path) -> Any:
    run = nvib(folder)
    return pf.plots.weights(run, run.corpus.test[0])


MAKERS: dict[str, Callable[[Path], Any]] = {
    make.__name__: make
    for make in (
        posterior_means, mixture_map, key_paths, query_paths, prior_posterior, intervals, ranks, coverage,
        khats_by_guide, components_kept, layer_curves, layer_kl, active_units, traversal, khats, predictive, weights,
        token_values, curves, attention, swap_table, vectors_kept, vector_groups,
    )
}  # fmt: skip


def fitted(
    folder: Path,
    kind: str,
    steps: int,
    options: Mapping[str, Any],
    texts: pf.Corpus,
    **training: Any,
) -> pf.Run:
    """The run in a folder; fitted first if there is none."""
    if (folder / "checkpoints" / "best.ckpt").exists():
        return pf.load(folder)
    torch.manual_seed(0)
    model = getattr(pf, kind).for_corpus(texts, **NETWORK | options)
    guide = getattr(pf, f"{kind}Guide")(model)
    return pf.fit(model, guide, texts, steps=steps, out=folder, **TRAINING | training)


if __name__ == "__main__":
    main()
