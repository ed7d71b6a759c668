"""What every shipped prior promises, run over all of them: as a density, and inside a model."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyro
import pytest
import torch
from pyro import distributions as dist
from pyro.nn import PyroSample
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.distributions import Distribution, kl_divergence

from pyroformer.guides.della import DELLAGuide
from pyroformer.guides.nvae import NVAEGuide
from pyroformer.guides.vae import VAEGuide
from pyroformer.inference.cli.main import main
from pyroformer.inference.objectives.elbo import ELBO
from pyroformer.inference.objectives.registry import describe_objective
from pyroformer.inference.options import TrainingOptions
from pyroformer.inference.svi import SVI
from pyroformer.inference.training.compiled import CompiledObjective
from pyroformer.models.batch import EOS, Batch
from pyroformer.models.della import DELLA
from pyroformer.models.distributions.log_dirichlet import LogDirichlet
from pyroformer.models.nvae import NVAE
from pyroformer.models.priors.heavy_tails import LaplaceVectorPrior, LinearLaplace, LinearStudentT, StudentTVectorPrior
from pyroformer.models.priors.hyperpriors import Hierarchical
from pyroformer.models.priors.latent_flow import LinearFlow
from pyroformer.models.priors.latent_mixture import LinearMixture
from pyroformer.models.priors.latents import LinearGaussian, StandardGaussian
from pyroformer.models.priors.roles import VectorPrior
from pyroformer.models.priors.sequence.autoregressive import AutoregressiveVectorPrior
from pyroformer.models.priors.sequence.codebook import CodebookVectorPrior
from pyroformer.models.priors.sequence.language_model import LanguageModelVectorPrior
from pyroformer.models.priors.sequence.tokens import TokenVectorPrior
from pyroformer.models.priors.vamp import VampPrior
from pyroformer.models.priors.vectors import GaussianVectorPrior, KernelVectorPrior, MixtureVectorPrior
from pyroformer.models.priors.weights import (
    GEM,
    BoundedDirichletProcess,
    GammaDirichletProcess,
    PitmanYor,
    SymmetricDirichlet,
)
from pyroformer.models.serialization import from_config, to_config
from pyroformer.models.transformer.config import TransformerConfig
from pyroformer.models.vae import VAE

CONFIG = TransformerConfig(vocabulary=30, max_length=12, width=4, layers=1, heads=2, dropout=0.0)
DEEP = TransformerConfig(vocabulary=30, max_length=12, width=4, layers=2, heads=2, dropout=0.0)
BATCH = Batch.pad([[5, 6, 7, EOS], [9, EOS]])
MASK = torch.tensor([True, True, True, False])


class Scaled(VectorPrior, Hierarchical):
    """As a user would write it, with a hyper-prior."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = PyroSample(dist.Gamma(4.0, 4.0))
        self.register_buffer("zeros", torch.zeros(width))

    def forward(self) -> Distribution:
        distribution: Distribution = dist.Normal(self.zeros, self.scale).to_event(1)
        return distribution


WEIGHTS: dict[str, Callable[[], Any]] = {
    "bounded": BoundedDirichletProcess,
    "symmetric": lambda: SymmetricDirichlet(0.7),
    "gem": lambda: GEM(2.0),
    "pitman-yor": lambda: PitmanYor(1.0, 0.4),
    "gamma": lambda: GammaDirichletProcess(4.0, 4.0),
}
BASES: dict[str, Callable[[int], Any]] = {
    "gaussian": lambda width: GaussianVectorPrior(width, 0.5, 2.0),
    "learned": lambda width: GaussianVectorPrior(width, 0.5, 2.0, learnable=True),
    "moments": lambda width: GaussianVectorPrior.fit(1 + 2 * torch.randn(20, width)),
    "kernel": lambda width: KernelVectorPrior.fit(torch.randn(20, width)),
    "mixture": lambda width: MixtureVectorPrior(width, components=3),
    "student": lambda width: StudentTVectorPrior(width, df=5.0, learnable=True),
    "laplace": lambda width: LaplaceVectorPrior(width, std=0.5, learnable=True),
    "hierarchical": Scaled,
}
SEQUENCES: dict[str, Callable[[int, int], Any]] = {
    "autoregressive": lambda width, own: AutoregressiveVectorPrior(
        width, model_width=8, heads=2, samples_per_component=own
    ),
    "codebook": lambda width, own: CodebookVectorPrior(
        width, entries=5, model_width=8, heads=2, samples_per_component=own
    ),
    "tokens": lambda width, own: TokenVectorPrior(width, 30, heads=2, samples_per_component=own),
    "language-model": lambda width, own: LanguageModelVectorPrior(replace(CONFIG, width=width), 0.015, own),
}
LATENTS: dict[str, Callable[[int, int, int], Any]] = {
    "standard": lambda size, summary, layers: StandardGaussian(size),
    "gaussian": lambda size, summary, layers: LinearGaussian(size, summary, layers, "learned"),
    "student": lambda size, summary, layers: LinearStudentT(size, summary, layers, "learned", df=5.0),
    "laplace": lambda size, summary, layers: LinearLaplace(size, summary, layers, "learned"),
    "latent-mixture": lambda size, summary, layers: LinearMixture(size, summary, layers, "learned", components=3),
}
FLOWS: dict[str, Callable[[int, int, int], Any]] = {  # of two numbers at least, without moments
    "flow": lambda size, summary, layers: LinearFlow(size, summary, layers, "learned", couplings=3, hidden=5),
}
OF_POSTERIORS: dict[str, Callable[[], Any]] = {"vamp": lambda: VampPrior(4, components=3, length=2)}  # see the guide
ESTIMATED = {"kernel", "mixture", "student", "latent-mixture"}  # no divergence from a Gaussian in closed form


def moved(module: Any) -> Any:
    """Away from special values such as zero weights."""
    for parameter in module.parameters():
        parameter.data.add_(0.2 * torch.randn_like(parameter))
    return module


def scalar_distributions() -> dict[str, Any]:
    """Every prior of a vector as a distribution of one number."""
    torch.manual_seed(0)
    distributions = {f"base-{name}": moved(make(1).double())() for name, make in BASES.items()}
    summary = torch.randn(3).double()
    return distributions | {
        f"latent-{name}": moved(make(1, 3, 2).double())(summary, 1) for name, make in LATENTS.items()
    }


SCALARS = scalar_distributions()


class TestDensitiesOfNumbers:
    grid = 0.03 * torch.linspace(-10, 10, 20_001).double().sinh()[:, None]  # to +-330, and fine around zero

    @pytest.fixture(params=SCALARS)
    def distribution(self, request: pytest.FixtureRequest) -> Any:
        return SCALARS[request.param]

    def test_integrate_to_one(self, distribution: Any) -> None:
        total = torch.trapezoid(distribution.log_prob(self.grid).exp(), self.grid[:, 0])
        assert total.item() == pytest.approx(1, abs=1e-4)  # of Student's t, 2e-8 lies beyond the grid

    def test_are_those_of_the_draws(self, distribution: Any) -> None:
        """The Kolmogorov-Smirnov distance of 20,000 draws, which is below 1.95 / sqrt(n) in 999 cases of 1000."""
        cdf = torch.cumulative_trapezoid(distribution.log_prob(self.grid).exp(), self.grid[:, 0])
        draws = distribution.sample((20_000,))[:, 0].detach().sort().values
        expected = cdf[torch.searchsorted(self.grid[1:, 0].contiguous(), draws).clamp(max=len(cdf) - 1)]
        observed = (torch.arange(len(draws)) + 0.5) / len(draws)
        assert (expected - observed).abs().max() < 1.95 / math.sqrt(len(draws))

    def test_moments_are_those_of_the_density(self, distribution: Any) -> None:
        density, x = distribution.log_prob(self.grid).exp(), self.grid[:, 0]
        mean = torch.trapezoid(x * density, x)
        torch.testing.assert_close(distribution.mean[0], mean, atol=1e-4, rtol=1e-4)
        second = torch.trapezoid((x - mean).square() * density, x)
        torch.testing.assert_close(distribution.variance[0], second, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("name", [*BASES, *(f"latent-{name}" for name in LATENTS)])
def test_divergence_from_a_gaussian_is_the_mean_of_its_draws(name: str) -> None:
    latent = name.removeprefix("latent-")
    prior: Any = moved(BASES[name](3) if name in BASES else LATENTS[latent](3, 4, 2)).double()
    distribution = prior() if name in BASES else prior(torch.randn(4).double(), 1)
    posterior = dist.Normal(torch.randn(3).double(), torch.rand(3).double() + 0.1).to_event(1)
    if latent in ESTIMATED:
        with pytest.raises(NotImplementedError):
            kl_divergence(posterior, distribution)
        return
    draws = posterior.sample((40_000,))
    each = (posterior.log_prob(draws) - distribution.log_prob(draws)).detach()
    assert (kl_divergence(posterior, distribution) - each.mean()).abs() < 4 * each.std() / 200


@pytest.mark.parametrize("name", WEIGHTS)
class TestDensitiesOfWeights:
    """On three of four components, in the measure of their log ratios."""

    def grid(self, distribution: Any) -> tuple[Tensor, Tensor]:
        u = torch.linspace(-60, 60, 301).double()
        ratios = torch.stack([*torch.meshgrid(u, u, indexing="ij"), torch.zeros(301, 301).double()], -1)
        value = torch.nn.functional.pad(ratios.log_softmax(-1), (0, 1), value=-1e30)
        return distribution.log_prob(value), u

    def test_integrate_to_one_with_the_entropy_of_the_draws(self, name: str) -> None:
        distribution = WEIGHTS[name]().double()(MASK)
        log_density, u = self.grid(distribution)
        density = log_density.exp()
        assert torch.trapezoid(torch.trapezoid(density, u), u).item() == pytest.approx(1, abs=1e-4)
        entropy = -torch.trapezoid(torch.trapezoid(density * log_density, u), u)
        surprise = -distribution.log_prob(distribution.sample((20_000,)))
        assert (surprise.mean() - entropy).abs() < 4 * surprise.std() / math.sqrt(20_000)

    def test_means_are_those_of_the_draws(self, name: str) -> None:
        distribution = WEIGHTS[name]().double()(MASK)
        draws = distribution.sample((20_000,))[:, :3]
        assert ((distribution.mean[:3] - draws.mean(0)).abs() < 4 * draws.std(0) / math.sqrt(20_000)).all()

    def test_divergence_from_a_dirichlet_is_the_mean_of_its_draws(self, name: str) -> None:
        distribution = WEIGHTS[name]().double()(MASK)
        posterior = LogDirichlet(torch.tensor([0.5, -1.0, 2.0, 7.0]).double(), MASK)
        draws = posterior.sample((40_000,))
        each = posterior.log_prob(draws) - distribution.log_prob(draws)
        assert (kl_divergence(posterior, distribution) - each.mean()).abs() < 4 * each.std() / 200
        assert kl_divergence(distribution, distribution).abs() < 1e-9


@pytest.mark.parametrize("name", SEQUENCES)
class TestDensitiesOfSequences:
    PADDED = torch.arange(5) < torch.tensor([[5], [3]])

    def prior(self, name: str) -> Any:
        return moved(SEQUENCES[name](4, 1)).eval()

    @torch.no_grad()
    def test_are_the_chain_rules(self, name: str) -> None:
        prior, z, n = self.prior(name), torch.randn(6, 4), torch.tensor(4)
        first = prior.conditional(z[1:3], n).log_prob(z[1:3])
        others = [prior.conditional(z[1 : i + 1], n).log_prob(z[1 : i + 1])[-1] for i in range(3, 5)]
        expected = prior.component().log_prob(z[0]) + first.sum() + sum(others)
        torch.testing.assert_close(prior(torch.arange(6) < 5).log_prob(z), expected)

    @torch.no_grad()
    def test_one_vector_alone_is_the_first_of_a_longer_text_with_padding(self, name: str) -> None:
        prior, z = moved(SEQUENCES[name](4, 0)).eval(), torch.randn(2, 3, 4)
        padded = prior(torch.arange(3).expand(2, 3) < 1).log_prob(z)
        torch.testing.assert_close(prior(torch.ones(2, 1, dtype=torch.bool)).log_prob(z[:, :1]), padded)

    @torch.no_grad()
    def test_no_vector_depends_on_a_later_one(self, name: str) -> None:
        prior, z, n = self.prior(name), torch.randn(5, 4), torch.tensor(5)
        before, after = (prior.conditional(x, n) for x in (z, torch.cat([z[:2], torch.randn(3, 4)])))
        torch.testing.assert_close(after.mean[:3], before.mean[:3])
        assert not torch.allclose(after.mean[3:], before.mean[3:])

    @torch.no_grad()
    def test_padding_has_none_and_is_drawn_as_zero(self, name: str) -> None:
        prior, z, mask = self.prior(name), torch.randn(2, 5, 4), self.PADDED
        scribbled = torch.where(mask[..., None], z, 1e6)
        torch.testing.assert_close(prior(mask).log_prob(scribbled), prior(mask).log_prob(z))
        torch.testing.assert_close(prior(mask[1:, :3]).log_prob(z[1:, :3]), prior(mask).log_prob(z)[1:])
        drawn = prior(mask).sample((3,))
        assert drawn.shape == (3, 2, 5, 4) and (drawn[:, 1, 3:] == 0).all() and (drawn[:, 0, 1:] != 0).all()


@pytest.mark.parametrize("name", ["autoregressive", "codebook"])  # the others have no vectors of one number
@torch.no_grad()
def test_densities_of_sequences_integrate_to_one_and_draws_follow_them(name: str) -> None:
    prior, grid = moved(SEQUENCES[name](1, 0)).eval(), torch.linspace(-12, 12, 481)
    distribution = prior(torch.tensor([True, True]))
    pairs = torch.cartesian_prod(grid, grid)[..., None]
    density = distribution.log_prob(pairs).exp() * float(grid[1] - grid[0]) ** 2
    torch.testing.assert_close(density.sum(), torch.tensor(1.0), atol=1e-3, rtol=0.0)
    draws = distribution.sample((20_000,))
    assert (draws[:, 0] * draws[:, 1]).std() > 0.1
    for function in (lambda z: z[:, 0, 0], lambda z: z[:, 1, 0], lambda z: z[:, 0, 0] * z[:, 1, 0]):
        values, exact = function(draws), (density * function(pairs)).sum()
        assert abs(values.mean() - exact) < 4 * values.std() / math.sqrt(20_000)


def nvae_weights(name: str) -> Any:
    model = NVAE(CONFIG, weight_prior=WEIGHTS[name]())
    return model, NVAEGuide(model)


def nvae_base(name: str) -> Any:
    model = NVAE(CONFIG, base_measure=BASES[name](4))
    return model, NVAEGuide(model)


def vae_base(name: str) -> Any:
    model = VAE(CONFIG, base_measure=BASES[name](4))
    return model, VAEGuide(model)


def nvae_sequence(name: str) -> Any:
    model = NVAE(CONFIG, base_measure=SEQUENCES[name](4, 1))
    return model, NVAEGuide(model)


def vae_sequence(name: str) -> Any:
    model = VAE(CONFIG, base_measure=SEQUENCES[name](4, 0))
    return model, VAEGuide(model)


def della_latent(name: str) -> Any:
    prior = OF_POSTERIORS[name]() if name in OF_POSTERIORS else (LATENTS | FLOWS)[name](3, 3, 2)
    model = DELLA(DEEP, latent_size=3, latent_prior=prior)
    return model, DELLAGuide(model)


PAIRS = {f"nvae-weights-{name}": (nvae_weights, name) for name in WEIGHTS}
PAIRS |= {f"nvae-{name}": (nvae_base, name) for name in BASES} | {f"vae-{name}": (vae_base, name) for name in BASES}
PAIRS |= {f"nvae-{name}": (nvae_sequence, name) for name in SEQUENCES}
PAIRS |= {f"vae-{name}": (vae_sequence, name) for name in SEQUENCES}
PAIRS |= {f"della-{name}": (della_latent, name) for name in [*LATENTS, *FLOWS, *OF_POSTERIORS]}


EACH = [name for name in PAIRS if not name.startswith("vae-")]  # the NVAE has the same base measures


def made(name: str) -> Any:
    torch.manual_seed(0)
    make, key = PAIRS[name]
    return [moved(module).eval() for module in make(key)]


@pytest.mark.parametrize("name", PAIRS)
class TestInAModel:
    def test_a_gradient_reaches_every_parameter(self, name: str) -> None:
        objective = ELBO(data_size=10)(*made(name))
        loss = objective(BATCH)
        loss.backward()
        dead = [n for n, p in objective.named_parameters() if p.grad is None or not p.grad.any()]
        assert loss.isfinite() and not dead

    def test_survives_saving_in_double_precision(self, name: str) -> None:
        model, guide = (module.double() for module in made(name))
        batch = BATCH._replace(weight=BATCH.weight.double())
        if "hierarchical" in name:
            pytest.skip("a class of a test file has no import path: tests/test_docs.py saves and loads one that has")
        fresh = from_config(to_config(model))
        again = ELBO(data_size=10)(fresh, from_config(to_config(guide, leave_out=["model"]), model=fresh)).double()
        again.load_state_dict(ELBO(data_size=10)(model, guide).state_dict())
        again.eval()
        terms = []
        for each in (ELBO(data_size=10)(model, guide), again):
            torch.manual_seed(1)
            terms.append(each.terms(batch).bound)
        assert terms[0].dtype == torch.float64 and torch.equal(*terms)


@pytest.mark.parametrize("name", EACH)
def test_a_few_steps_of_training_help(name: str) -> None:
    model, guide = made(name)
    svi = SVI(model, guide, torch.optim.Adam, ELBO(data_size=10), lr=3e-2)
    losses = [svi.step(BATCH) for _ in range(7)]
    assert all(map(math.isfinite, losses)) and sum(losses[-3:]) < sum(losses[:3])
    assert len(pyro.get_param_store()) == 0


@pytest.mark.parametrize("name", EACH)
def test_no_value_decides_what_is_computed(name: str) -> None:
    """Tensors without values go through a step, so that it can be captured, and waits for no device."""
    validated = torch.distributions.Distribution._validate_args
    pyro.enable_validation(False)  # as in training
    try:
        objective = ELBO(data_size=10)(*made(name))
        with FakeTensorMode(allow_non_fake_inputs=True):
            loss = objective.losses(BATCH)["objective"]
            loss.backward()
        assert isinstance(loss, FakeTensor) and loss.shape == ()
    finally:
        pyro.enable_validation(True)
        torch.distributions.Distribution.set_default_validate_args(validated)


@pytest.mark.compile
@pytest.mark.parametrize("name", ["nvae-weights-gem", "nvae-mixture", "nvae-tokens"])
def test_captured_equals_eager(name: str) -> None:
    results = []
    for compiled in (False, True):
        objective = ELBO(data_size=10)(*made(name))
        losses = CompiledObjective(objective, backend="aot_eager").losses if compiled else objective.losses
        torch.manual_seed(7)
        loss = losses(BATCH)["objective"]
        loss.backward()
        results.append((loss.detach(), {n: p.grad for n, p in objective.named_parameters()}))
    (loss, gradients), (other, others) = results
    assert torch.allclose(loss, other, rtol=1e-4)
    for n, gradient in gradients.items():
        assert torch.allclose(gradient, others[n], atol=1e-4 * float(gradient.abs().max()) + 1e-6), n


@pytest.mark.parametrize("name", ["nvae-weights-gem", "nvae-weights-pitman-yor"])
def test_the_published_objective_is_one_of_dirichlets(name: str) -> None:
    model, _ = made(name)
    with pytest.raises(ValueError, match="the objective nvib is about Dirichlet weights, and .* choose the objective"):
        describe_objective(model, TrainingOptions())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("nvae", "--objective elbo --model.weight_prior pyroformer.models.priors.weights.PitmanYor"),
        (
            "vae",
            "--model.base_measure pyroformer.priors.StudentTVectorPrior --model.base_measure.df 3",
        ),
        ("della", "--model.latent_prior pyroformer.priors.LinearStudentT --model.structure single"),
        ("della", "--model.latent_prior pyroformer.priors.VampPrior --model.latent_prior.components 3"),
        ("vae", ""),
        ("nvae", ""),
        ("vae", "--prior codebook"),
        ("nvae", "--objective elbo --prior codebook --kl_schedule ladder --ladder 0.1 1"),
    ],
)
def test_from_the_command_line(model: str, options: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out = tmp_path / "texts.txt", tmp_path / "run"
    data.write_text("\n".join(f"Number {n} is {'even' if n % 2 == 0 else 'odd'}." for n in range(60)))
    tiny = "--model.width 8 --model.layers 2 --model.heads 2 --vocabulary 270 --max_length 32 --batch_size 8 --steps 2"
    assert main(f"fit {model} --data {data} --out {out} {tiny} {options}".split()) == 0, capsys.readouterr().err
    assert main(f"evaluate {out} --limit 4 --num_particles 2".split()) == 0, capsys.readouterr().err
    assert main(f"sample {out} -n 2".split()) == 0, capsys.readouterr().err
    assert main(f"posterior {out} --out {tmp_path}/p.nc --draws 3 -n 2".split()) == 0, capsys.readouterr().err
