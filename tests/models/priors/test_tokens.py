"""A Gaussian for each token: densities, the loss of a language model as the rate, and guides that start there."""

import math
from typing import Any

import pytest
import torch
from pyro import distributions as dist

import pyroformer as pf
from pyroformer.inference.objectives.elbo import ELBO
from pyroformer.models.batch import EOS, Batch
from pyroformer.models.priors.tokens import TokenVectorPrior
from pyroformer.models.priors.vectors import GaussianVectorPrior
from pyroformer.models.transformer.config import TransformerConfig
from pyroformer.models.transformer.embedding import sinusoids

CONFIG = TransformerConfig(vocabulary=12, max_length=8, width=16, layers=1, heads=2)
TEXTS = Batch.pad([[5, 6, 7, EOS], [9, EOS]])


def some_prior(width: int = 16, scale: float = 0.0, **options: Any) -> TokenVectorPrior:
    prior = TokenVectorPrior(width, 12, **{"model_width": 8, "heads": 2, "layers": 1} | options)
    for parameter in prior.parameters():
        parameter.data.add_(scale * torch.randn_like(parameter))
    return prior.eval()


def language_model_loss(prior: TokenVectorPrior, batch: Batch) -> torch.Tensor:
    """The negative log probabilities of the tokens of each text, read from the vectors at their means."""
    assert batch.tokens is not None and batch.mask is not None
    places = torch.arange(batch.tokens.shape[-1])
    means = prior.scale * prior.embedding[batch.tokens] + 3 * sinusoids(places, prior.width)
    weights = prior.conditional(means, batch.lengths).logits.log_softmax(-1)  # type: ignore[attr-defined]
    loss = -weights.gather(-1, batch.tokens[..., None])[..., 0]
    return torch.where(batch.mask, loss, 0).sum(-1)


class TestDensity:
    @torch.no_grad()
    def test_is_that_of_a_mixture_around_each_place(self) -> None:
        prior, z = some_prior(scale=0.3), torch.randn(3, 5, 16)
        distribution: Any = prior.conditional(z, torch.full((3,), 5))
        means = 4 * prior.embedding + 3 * sinusoids(torch.arange(5), 16)[:, None]  # place x token x dimension
        std = prior.gaussians(torch.tensor([0])).log_variance.div(2).exp()
        gaussians = dist.Normal(means, std).to_event(1)
        expected = (distribution.logits + gaussians.log_prob(z[..., None, :])).logsumexp(-1)
        torch.testing.assert_close(distribution.log_prob(z), expected)
        torch.testing.assert_close(distribution.mean, (distribution.logits.exp()[..., None] * means).sum(-2))

    @torch.no_grad()
    def test_integrates_to_one(self) -> None:
        prior, grid = some_prior(width=2, scale=0.3, samples_per_component=0, variance=0.3), torch.linspace(-9, 9, 361)
        z = torch.cartesian_prod(grid, grid)[:, None]
        density = prior(torch.tensor([True])).log_prob(z).exp() * float(grid[1] - grid[0]) ** 2
        torch.testing.assert_close(density.sum(), torch.tensor(1.0), atol=1e-3, rtol=0.0)

    @torch.no_grad()
    @pytest.mark.parametrize("own", [0, 1, 2])
    def test_a_cached_draw_reads_what_a_density_reads(self, own: int) -> None:
        """With narrow Gaussians and almost all weight on one, a draw is near the mean of its place."""
        prior = some_prior(samples_per_component=own, variance=0.01)
        prior.embedding.mul_(3)
        prior.head.weight.normal_(std=100)
        prior.log_variance.fill_(-100)
        each = max(own, 1)
        z = prior(torch.ones(own + 6 * each, dtype=torch.bool)).sample()[own:]
        mean = prior.conditional(z, torch.tensor(6 * each)).mean
        assert (z - mean).abs().max() < 0.5 < (z - mean.roll(each, 0)).abs().max()

    def test_the_repeated_vectors_of_a_token_are_at_one_place(self) -> None:
        once, twice = some_prior(), some_prior(samples_per_component=2)
        scores = torch.zeros(6, 16)
        single: Any = once.next_vector(scores[:3], torch.arange(3))
        double: Any = twice.next_vector(scores, torch.arange(6))
        torch.testing.assert_close(double.shift, single.shift.repeat_interleave(2, 0))


class TestRate:
    @torch.no_grad()
    def test_at_the_start_is_the_loss_of_a_language_model(self) -> None:
        prior = some_prior(samples_per_component=0, variance=0.01, width=64)
        model = pf.VAE(TransformerConfig(12, 8, width=64, layers=1, heads=2), base_measure=prior)
        guide, many = pf.VAEGuide(model), Batch.pad([[5, 6, 7, EOS]] * 400)
        rate = ELBO().terms(model, guide, many).kl["vectors"]
        loss = language_model_loss(prior, many)[0]  # without the noise of the vectors, which the weights read
        assert abs(rate.mean() - loss) < 0.02 + 4 * rate.std() / 20

    @torch.no_grad()
    def test_overlap_lowers_the_rate(self) -> None:
        """Two tokens with one Gaussian are told apart by the decoder, so that their weights add."""
        prior = some_prior(samples_per_component=0)
        tokens = torch.tensor([[5]])
        z = prior.gaussians(tokens).mean
        apart = prior.conditional(z, torch.tensor([1])).log_prob(z)
        prior.embedding[6] = prior.embedding[5]
        prior.bias[6] = prior.bias[5]
        together = prior.conditional(z, torch.tensor([1])).log_prob(z)
        assert together > apart + 0.2


class TestGuides:
    @pytest.mark.parametrize("variance", ["diagonal", "isotropic", "shared"])
    @pytest.mark.parametrize("samples", [1, 2])
    def test_of_an_nvae_starts_at_the_gaussians(self, samples: int, variance: Any) -> None:
        model = pf.NVAE(CONFIG, base_measure="tokens", samples_per_component=samples)
        prior: Any = model.base_measure
        posterior = pf.NVAEGuide(model, variance=variance).encode(TEXTS)
        assert TEXTS.tokens is not None
        expected = prior.gaussians(TEXTS.tokens)
        torch.testing.assert_close(posterior.mean[:, samples:], expected.mean.repeat_interleave(samples, 1))
        torch.testing.assert_close(
            posterior.variance[:, samples:].log(), expected.log_variance.expand(2, 4 * samples, 16)
        )
        if posterior.shared is not None:
            torch.testing.assert_close(posterior.shared.table[1].log(), expected.log_variance)

    def test_of_a_vae_starts_at_the_gaussians_and_learns_to_leave_them(self) -> None:
        model = pf.VAE(CONFIG, base_measure="tokens")
        guide = pf.VAEGuide(model)
        posterior, prior = guide.encode(TEXTS), model.base_measure
        assert TEXTS.tokens is not None
        torch.testing.assert_close(posterior.mean, prior.gaussians(TEXTS.tokens).mean)  # type: ignore[operator]
        posterior.mean.sum().backward()
        assert guide.mean.weight.grad is not None and guide.mean.weight.grad.abs().sum() > 0

    def test_other_priors_leave_the_start_to_the_guide(self) -> None:
        guide = pf.VAEGuide(pf.VAE(CONFIG, base_measure="codebook"), log_variance=-2.0)
        torch.testing.assert_close(guide.mean.weight, torch.eye(16))
        assert (guide.log_variance.bias == -2.0).all()

    def test_a_model_copies_at_the_rate_of_its_texts(self) -> None:
        """Texts of six words, each followed by one of two: log 8 + 5 log 2 nats, from the first step on at beta = 1."""
        words = torch.zeros(64, 6, dtype=torch.long)
        words[:, 0] = torch.randint(8, (64,))
        for i in range(1, 6):
            words[:, i] = (2 * words[:, i - 1] + torch.randint(2, (64,))) % 8
        batch = Batch.pad([[*(row + 4).tolist(), EOS] for row in words])
        model = pf.VAE(TransformerConfig(12, 8, width=16, layers=1, heads=2), base_measure="tokens")
        guide = pf.VAEGuide(model)
        svi = pf.SVI(model, guide, lambda p: torch.optim.Adam(p, lr=1e-2), pf.ELBO())
        for _ in range(250):
            svi.step(batch)
        terms = ELBO(num_particles=16).terms(model, guide, batch)
        rate, distortion = terms.kl["vectors"].mean(), -terms.log_likelihood.mean()
        assert distortion < 0.8, "of the 16 nats of seven tokens that nothing says"
        assert rate < math.log(8) + 5 * math.log(2) + 1.2


def test_the_objective_of_an_nvae_follows_its_prior() -> None:
    assert pf.NVAE(CONFIG).objective == "nvib"
    assert pf.NVAE(CONFIG, base_measure="tokens").objective == "elbo"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"width": 7, "model_width": 8}, "width 7: must be even, for the sinusoids of places"),
        ({"vocabulary": 0}, "vocabulary 0: must be at least 1, the number of tokens"),
        ({"variance": 0.0}, "variance 0.0: must be from"),
        ({"variance": math.inf}, "variance inf: must be from"),
        ({"model_width": 6}, "model_width 6: must be even and a multiple of heads, which is 4"),
        ({"first": GaussianVectorPrior(3)}, r"first GaussianVectorPrior gave event shape \(3,\), expected \(8,\)"),
    ],
)
def test_refuses(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TokenVectorPrior(**{"width": 8, "vocabulary": 12} | arguments)


def test_an_unknown_name_of_a_prior_is_refused() -> None:
    with pytest.raises(ValueError, match=r"base_measure is 'token': choose one of .* \(did you mean tokens\?\)"):
        pf.VAE(CONFIG, base_measure="token")
