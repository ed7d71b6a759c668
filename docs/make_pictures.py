"""Makes the pictures of docs/plots.md: ``python docs/make_pictures.py --runs runs/pictures``.

It fits small models to the built-in corpus, some minutes on two cores; runs that are in the folder already are taken
from there. All noise has a seed, so that the same versions of the libraries give the same pictures.
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
    parser.add_argument("--runs", type=Path, help="where runs are kept; a temporary folder by default")
    parser.add_argument("--only", nargs="*", help="names of pictures to make; all by default")
    arguments = parser.parse_args()
    matplotlib.use("Agg")
    PICTURES.mkdir(exist_ok=True)
    folder = arguments.runs or Path(tempfile.mkdtemp(prefix="pictures-"))
    for name, make in DRAWN.items():
        if arguments.only is None or name in arguments.only:
            save(make(folder), PICTURES / f"{name}.png")


def save(ax: Any, path: Path) -> None:
    """Few colors are enough for drawings, and make small files."""
    written = BytesIO()
    ax.figure.savefig(written, dpi=100, bbox_inches="tight", pad_inches=0.1)
    Image.open(written).convert("P", palette=Image.Palette.ADAPTIVE, colors=128).save(path, optimize=True)
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
    """The concentration of a Dirichlet process over the weights of twelve units, of which the queries need three."""
    torch.manual_seed(0)
    centers = torch.tensor([[-3.0, 0.0], [2.0, 2.0], [1.5, -2.5]])
    queries = (centers[:, None] + 0.5 * torch.randn(3, 40, 2)).flatten(0, 1)
    units = torch.cat([centers, 3 * torch.randn(9, 2)])
    mixture = pf.Mixture(torch.zeros(12).log_softmax(-1), units, noise_variance=0.3)
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
    found = {}
    for name, width in guides.items():
        calibration = pf.diagnostics.calibrate(
            Sight(), Guess(width), simulations=10, draws=39, args=(), observe=lambda trace: trace.nodes["text"]["value"]
        )
        found |= {f"{name}: {quantity}": one for quantity, one in calibration.ranks.items()}
    return pf.plots.ranks(pf.diagnostics.Calibration(found, 39))[0]


class Sight(torch.nn.Module):
    """z ~ N(0, 1) is seen with unit noise, 50 times over."""

    def forward(self, seen: torch.Tensor | None = None) -> None:
        with pyro.plate("texts", 50, dim=-1):
            z = pyro.sample("z", Normal(torch.zeros(50), 1.0))
            pyro.sample("text", Normal(z, 1.0), obs=seen)


class Guess(torch.nn.Module):
    """Its posterior N(x / 2, 1 / 2), or one of another width."""

    def __init__(self, width: float) -> None:
        super().__init__()
        self.width = width

    def forward(self, seen: torch.Tensor) -> None:
        with pyro.plate("texts", 50, dim=-1):
            pyro.sample("z", Normal(seen / 2, self.width * 0.5**0.5))


# Pictures of runs


def della(folder: Path) -> pf.Run:
    return fitted(folder / "della", "DELLA", 250, {"latent_size": 8, "layers": 3}, free_bits=3.0)


def nvae(folder: Path, beta: float) -> pf.Run:
    return fitted(folder / f"nvae-{beta:g}", "NVAE", 200, {}, beta=beta, objective="elbo")


def components_kept(folder: Path) -> Any:
    runs = {beta: nvae(folder, beta) for beta in BETAS}
    found = {beta: run.evaluate(limit=100, num_particles=1, reconstructions=1) for beta, run in runs.items()}
    return pf.plots.components_kept(found)


def layer_curves(folder: Path) -> Any:
    return pf.plots.layer_curves(della(folder))


def layer_kl(folder: Path) -> Any:
    return pf.plots.layer_kl(measured(folder))


def active_units(folder: Path) -> Any:
    return pf.plots.active_units(measured(folder))


@cache
def measured(folder: Path) -> Any:
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


DRAWN: dict[str, Callable[[Path], Any]] = {
    make.__name__: make
    for make in (
        key_paths, query_paths, prior_posterior, ranks, components_kept, layer_curves, layer_kl, active_units,
        traversal, khats, predictive, weights,
    )
}  # fmt: skip


def fitted(folder: Path, kind: str, steps: int, options: Mapping[str, Any], **training: Any) -> pf.Run:
    """A run from its folder, or fitted into it if there is none."""
    if (folder / "checkpoints" / "best.ckpt").exists():
        return pf.load(folder)
    texts = pf.Corpus.builtin(vocabulary=1000, max_length=24)
    torch.manual_seed(0)
    model = getattr(pf, kind).for_corpus(texts, **NETWORK | options)
    guide = getattr(pf, f"{kind}Guide")(model)
    return pf.fit(model, guide, texts, steps=steps, out=folder, **TRAINING | training)


if __name__ == "__main__":
    main()
