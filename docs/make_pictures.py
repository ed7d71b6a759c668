"""Makes the pictures of docs/plots.md: ``python docs/make_pictures.py --runs runs/pictures``.

It fits small models to the built-in corpus, which takes some minutes on two cores; runs that already exist in the
folder are loaded. All random numbers are seeded: the same versions of the libraries make the same pictures.
"""

import argparse
import tempfile
from collections.abc import Callable, Mapping
from functools import cache
from io import BytesIO
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
from pyroformer.models.attention.m_step import ConjugatePriors
from pyroformer.models.priors.components import DirichletProcess

PICTURES = Path(__file__).resolve().parent / "pictures"
BETAS = (0.01, 0.3)  # of the KL term of an NVAE
NETWORK = {"width": 64, "layers": 2, "heads": 4}
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
    """Save with a palette of 128 colors, for small files."""
    file = BytesIO()
    ax.figure.savefig(file, dpi=100, bbox_inches="tight", pad_inches=0.1)
    Image.open(file).convert("P", palette=Image.Palette.ADAPTIVE, colors=128).save(path, optimize=True)
    plt.close(ax.figure)


# Pictures that need no training


def key_paths(_: Path) -> Any:
    torch.manual_seed(0)
    centers = torch.tensor([[-2.0, 0.0], [1.5, 1.5], [1.0, -1.8]])
    queries = (centers[:, None] + 0.5 * torch.randn(3, 40, 2)).flatten(0, 1)
    start = pf.Mixture(
        torch.zeros(3).log_softmax(-1), torch.tensor([[0.0, 0.1], [0.1, 0.0], [0.1, -0.1]]), noise_variance=1.0
    )
    return pf.plots.key_paths(queries, start, steps=12, priors=ConjugatePriors(means=1.0))[0]


def query_paths(_: Path) -> Any:
    torch.manual_seed(1)
    keys = torch.tensor([[-2.0, 0.0], [-1.4, 0.5], [1.5, 1.5], [1.8, 0.9], [1.0, -1.8]])
    mixture = pf.Mixture(torch.tensor([0.3, 0.1, 0.2, 0.2, 0.2]).log(), keys, noise_variance=0.5)
    return pf.plots.query_paths(torch.tensor([[-0.4, -1.5], [0.1, 1.9], [2.4, -0.6], [-0.3, 0.2]]), mixture)[0]


def prior_posterior(_: Path) -> Any:
    """The concentration of a Dirichlet process over the weights of twelve components, three of which have queries."""
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
    data = global_posterior(model, guide, queries, plate="tokens", draws=300)
    return pf.plots.prior_posterior(data, "weight_prior.concentration")


def ranks(_: Path) -> Any:
    """A Gaussian model whose posterior is known, with it and with a guide of half its width."""
    guides = {"the posterior": 1.0, "half as wide": 0.5}
    collected = {}
    for name, width in guides.items():
        calibration = pf.diagnostics.calibrate(
            NoisyMean(), Guess(width), simulations=10, draws=39, args=(), observe=observation
        )
        collected |= {f"{name}: {quantity}": values for quantity, values in calibration.ranks.items()}
    return pf.plots.ranks(pf.diagnostics.Calibration(collected, 39))[0]


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
    return fitted(folder / "della", "DELLA", 250, {"latent_size": 8, "layers": 3}, free_bits=3.0)


def nvae(folder: Path, beta: float) -> pf.Run:
    return fitted(folder / f"nvae-{beta:g}", "NVAE", 200, {}, beta=beta, objective="elbo")


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


def khats(folder: Path) -> Any:
    run = della(folder)
    return pf.plots.khats(run.posterior(run.corpus.test[:15], draws=200, prior=False))


def predictive(folder: Path) -> Any:
    return pf.plots.predictive(pf.diagnostics.check_texts(della(folder), limit=50))


def weights(folder: Path) -> Any:
    run = nvae(folder, BETAS[-1])
    return pf.plots.weights(run, run.corpus.test[0])


MAKERS: dict[str, Callable[[Path], Any]] = {
    make.__name__: make
    for make in (
        key_paths, query_paths, prior_posterior, ranks, components_kept, layer_curves, layer_kl, active_units,
        traversal, khats, predictive, weights,
    )
}  # fmt: skip


def fitted(folder: Path, kind: str, steps: int, options: Mapping[str, Any], **training: Any) -> pf.Run:
    """The run in a folder; fitted first if there is none."""
    if (folder / "checkpoints" / "best.ckpt").exists():
        return pf.load(folder)
    texts = pf.Corpus.builtin(vocabulary=1000, max_length=24)
    torch.manual_seed(0)
    model = getattr(pf, kind).for_corpus(texts, **NETWORK | options)
    guide = getattr(pf, f"{kind}Guide")(model)
    return pf.fit(model, guide, texts, steps=steps, out=folder, **TRAINING | training)


if __name__ == "__main__":
    main()
