"""A codebook of Gaussians: densities against those of a mixture, draws against densities, and a start at vectors."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pyro import distributions as dist
from sklearn.cluster import KMeans
from torch import Tensor

from pyroformer.guides.nvae import NVAEGuide
from pyroformer.inference.objectives.elbo import ELBO
from pyroformer.models.batch import EOS, Batch
from pyroformer.models.nvae import NVAE
from pyroformer.models.priors.sequence.codebook import Codebook, CodebookVectorPrior
from pyroformer.models.priors.vectors import GaussianVectorPrior
from pyroformer.models.transformer.config import TransformerConfig
from pyroformer.models.utils.k_means import k_means

CONFIG = TransformerConfig(vocabulary=30, max_length=12, width=4, layers=1, heads=2)
MASK = torch.tensor([[True, True, True, True], [True, True, False, False]])


def trained(width: int = 4, scale: float = 0.5, **options: Any) -> CodebookVectorPrior:
    """A prior away from its start."""
    prior = CodebookVectorPrior(width, **{"entries": 7, "model_width": 8, "heads": 2, "layers": 1} | options)
    for parameter in prior.parameters():
        parameter.data.add_(scale * torch.randn_like(parameter))
    return prior.eval()


def as_mixture(codebook: Codebook) -> dist.MixtureSameFamily:
    """The same distribution, each draw with Gaussians of its own."""
    width = codebook.event_shape[0]
    means = F.pad(codebook.means, (0, width - codebook.means.shape[-1])) + torch.zeros(*codebook.batch_shape, 1, width)
    means = means if codebook.shift is None else means + codebook.shift[..., None, :]
    gaussians = dist.Normal(means, codebook.stds.expand(means.shape)).to_event(1)
    return dist.MixtureSameFamily(dist.Categorical(logits=codebook.logits), gaussians)


def some_codebook(
    width: int = 3, entries: int = 5, *, far: float = 0.0, std: float = 1.0, rows: int | None = None,
    nonzero: int | None = None, shifted: bool = False,
) -> Codebook:  # fmt: skip
    logits, mean = torch.randn(4, entries), far + torch.randn(entries, nonzero or width)
    shift = torch.randn(4, width) if shifted else None
    return Codebook(logits, mean, std * (0.5 + torch.rand(rows or entries, width)), shift)


KINDS: list[dict[str, Any]] = [{}, {"rows": 1}, {"nonzero": 2}, {"rows": 1, "nonzero": 2, "shifted": True}]


class TestCodebook:
    @pytest.mark.parametrize("kind", KINDS, ids=str)
    def test_density_and_moments_are_those_of_a_mixture(self, kind: dict[str, Any]) -> None:
        codebook, z = some_codebook(**kind), torch.randn(6, 4, 3)
        expected = as_mixture(codebook)
        torch.testing.assert_close(codebook.log_prob(z), expected.log_prob(z))
        torch.testing.assert_close(codebook.mean, expected.mean)
        torch.testing.assert_close(codebook.variance, expected.variance)
        assert torch.equal(codebook.expand((6, 4)).log_prob(z), codebook.log_prob(z))

    def test_a_change_in_place_is_seen(self) -> None:
        codebook, z = some_codebook(), torch.randn(4, 3)
        codebook.responsibilities(z)
        codebook.means.mul_(2)
        fresh = Codebook(codebook.logits, codebook.means, codebook.stds)
        assert torch.equal(codebook.responsibilities(z), fresh.responsibilities(z))

    def test_its_gradients_are_those_of_a_mixture(self) -> None:
        results = []
        for make in (lambda codebook: codebook, as_mixture):
            torch.manual_seed(0)
            leaves = [torch.randn(4, 5), torch.randn(5, 3), 0.5 + torch.rand(5, 3), torch.randn(4, 3)]
            logits, mean, std, z = (leaf.requires_grad_() for leaf in leaves)
            make(Codebook(logits, mean, std)).log_prob(z).sum().backward()
            results.append([leaf.grad for leaf in leaves])
        torch.testing.assert_close(*results)

    def test_draws_near_one_gaussian_have_the_gradients_of_a_mixture(self) -> None:
        """The posterior probability of one is left out where it is 1: for the first draws, not for the last ones."""
        results = []
        for make in (lambda codebook: codebook, as_mixture):
            torch.manual_seed(0)
            mean = 10 * torch.randn(5, 3, dtype=torch.double)
            z = mean + torch.tensor([0.0, 0.1, 0.4, 0.45, 0.5], dtype=torch.double)[:, None] * (mean.roll(1, 0) - mean)
            leaves = [torch.randn(5, 5, dtype=torch.double), mean, torch.ones_like(mean), z]
            logits, mean, std, z = (leaf.requires_grad_() for leaf in leaves)
            density = make(Codebook(logits, mean, std)).log_prob(z)
            results.append([density, *torch.autograd.grad(density.sum(), (logits, mean, std, z))])
        certain = Codebook(logits, mean, std).responsibilities(z).amax(-1) == 1
        assert certain[0] and not certain[-1]
        torch.testing.assert_close(*results)

    def test_float32_is_enough_for_narrow_gaussians_far_from_zero(self) -> None:
        """The expanded square cancels: without the center taken first, the error here is several nats."""
        codebook = some_codebook(width=64, entries=50, far=20.0, std=0.1)
        z = codebook.sample()
        exact = Codebook(codebook.logits.double(), codebook.means.double(), codebook.stds.double())
        error = (codebook.log_prob(z).double() - as_mixture(exact).log_prob(z.double())).abs().max()
        assert error < 0.05

    @pytest.mark.parametrize("kind", KINDS, ids=str)
    def test_draws_have_its_moments(self, kind: dict[str, Any]) -> None:
        codebook = some_codebook(**kind)
        draws = codebook.sample((20_000,))
        error = (draws.mean(0) - codebook.mean).abs() / codebook.variance.sqrt()
        assert error.max() < 5 / math.sqrt(20_000)
        torch.testing.assert_close(draws.var(0), codebook.variance, rtol=0.1, atol=0.0)

    def test_autocast_does_not_round_its_densities(self) -> None:
        codebook, z = some_codebook(std=0.1), torch.randn(4, 3)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rounded = codebook.log_prob(z)
        assert torch.equal(rounded, Codebook(codebook.logits, codebook.means, codebook.stds).log_prob(z))


class TestCodebookVectorPrior:
    @torch.no_grad()
    def test_a_cached_draw_reads_what_a_density_reads(self) -> None:
        """With one narrow Gaussian of almost all weight at each place, a draw is near the mean of that place."""
        prior = CodebookVectorPrior(4, entries=40, model_width=8, heads=2, samples_per_component=0).eval()
        prior.before.weight.normal_(std=3)
        prior.head.weight.normal_(std=100)
        prior.log_variance.fill_(-100)
        z = prior(torch.ones(6, dtype=torch.bool)).sample()
        mean = prior.conditional(z, torch.tensor(6)).mean
        assert (z - mean).abs().max() < 0.4 < (z - mean.roll(1, 0)).abs().max()

    def test_the_estimated_divergence_is_the_exact_one_up_to_its_error(self) -> None:
        """With one entry, a standard Gaussian, there is a closed form."""
        prior = CodebookVectorPrior(4, entries=1, heads=2, first=GaussianVectorPrior(4, mean=2.0))
        prior.mean.data.zero_()
        prior.log_variance.data.zero_()
        model = NVAE(CONFIG, base_measure=prior)
        guide, many = NVAEGuide(model), Batch.pad([[5, 6, 7, EOS]] * 2000)  # a draw for each
        estimates = ELBO().terms(model, guide, many).kl["vectors"].detach()
        posterior = guide.encode(many)
        q = dist.Normal(posterior.mean[0], posterior.variance[0].sqrt())
        mean = torch.cat([torch.full((1, 4), 2.0), torch.zeros(4, 4)])
        exact = torch.distributions.kl_divergence(q, torch.distributions.Normal(mean, 1.0)).sum()
        assert estimates.std() > 0.1, "with no closed form it is an estimate"
        assert (estimates.mean() - exact).abs() < 4 * estimates.std() / math.sqrt(2000)

    def test_learns_which_word_follows_which(self) -> None:
        """Vectors of eight words, each followed by one of two: a language model's loss, and the overlap of codes."""
        torch.manual_seed(0)
        words, codes = torch.zeros(128, 6, dtype=torch.long), 3 * torch.randn(8, 4)
        words[:, 0] = torch.randint(8, (128,))
        for i in range(1, 6):
            words[:, i] = (2 * words[:, i - 1] + torch.randint(2, (128,))) % 8
        z = codes[words] + 0.1 * torch.randn(128, 6, 4)
        mask = torch.ones(128, 6, dtype=torch.bool)
        prior = CodebookVectorPrior(4, entries=8, model_width=16, heads=2, layers=1, samples_per_component=0)
        prior.start_at(z.flatten(0, 1), torch.zeros(768, 4))
        narrow = dist.Normal(codes, 0.1).to_event(1)
        known = narrow.log_prob(z[..., None, :]).gather(-1, words[..., None]).sum((-2, -1)).mean()
        best = known - math.log(8) - 5 * math.log(2)  # the density of the truth
        without_order = known - 6 * math.log(8)
        optimizer = torch.optim.Adam(prior.parameters(), lr=1e-2)
        for _ in range(150):
            optimizer.zero_grad()
            loss = -prior(mask).log_prob(z).mean()
            loss.backward()
            optimizer.step()
        assert without_order + 4 < -loss < best + 1  # of the 6.9 nats between them; z are training data

    def test_is_float32_at_least(self) -> None:
        assert trained().bfloat16()(MASK).sample().dtype == torch.float32
        assert trained().double()(MASK).sample().dtype == torch.float64

    def test_starts_at_vectors(self) -> None:
        centers = 5 * torch.randn(6, 4)
        points = centers[torch.randint(6, (900,))] + 0.2 * torch.randn(900, 4)
        prior = CodebookVectorPrior(4, entries=6, heads=2, samples_per_component=0)
        vectors, mask = points[:2][None], torch.ones(1, 2, dtype=torch.bool)
        before = prior(mask).log_prob(vectors)
        assert prior.wants_start
        prior.start_at(points, torch.full_like(points, 0.01))
        assert not prior.wants_start
        distance = torch.cdist(prior.mean.detach(), centers)
        assert distance.min(0).values.max() < 0.1 and distance.min(1).values.max() < 0.1
        distribution: Any = prior.conditional(points[:1], torch.tensor(1))
        torch.testing.assert_close(distribution.stds.square().mean(), torch.tensor(0.05), atol=0.01, rtol=0.0)
        assert prior(mask).log_prob(vectors) > before + 5
        again = CodebookVectorPrior(4, entries=6, heads=2, samples_per_component=0)
        again.load_state_dict(prior.state_dict())
        assert not again.wants_start, "what was trained is not started again"

    def test_a_gaussian_that_no_vector_is_near_keeps_a_weight(self) -> None:
        prior = trained(2, entries=7)
        prior.start_at(torch.tensor([[0.0, 0.0], [2.0, 2.0]]).repeat(8, 1), torch.full((16, 2), 0.1))
        shares = prior.head.bias.softmax(-1)
        torch.testing.assert_close(shares.sort().values, torch.tensor([1.0] * 5 + [9.0] * 2) / 23)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"width": 0}, "width is 0: give a whole number of at least 1"),
            ({"entries": 0}, "entries is 0: give a whole number of at least 1"),
            ({"model_width": 6}, "model_width is 6: give an even multiple of heads, which is 4"),
            ({"samples_per_component": -1}, "samples_per_component is -1: give a whole number of at least 0"),
            ({"first": GaussianVectorPrior(3)}, r"first GaussianVectorPrior gave event shape \(3,\), expected \(8,\)"),
        ],
    )
    def test_refuses(self, arguments: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            CodebookVectorPrior(**{"width": 8} | arguments)


class TestKMeans:
    def points(self) -> Tensor:
        return 4 * torch.randn(12, 3)[torch.randint(12, (600,))] + torch.randn(600, 3)

    def test_is_about_as_good_as_scikit_learns(self) -> None:
        points = self.points()
        centers, nearest = k_means(points, 12, steps=30)
        inertia = (points - centers[nearest]).square().sum()
        best = KMeans(12, n_init=10, random_state=0).fit(points.numpy()).inertia_
        one = (points - points.mean(0)).square().sum()
        assert best <= inertia * 1.0001 and inertia < best + 0.1 * (one - best)

    def test_each_point_belongs_to_its_nearest_center(self) -> None:
        points = self.points()
        centers, nearest = k_means(points, 5)
        assert torch.equal(nearest, torch.cdist(points, centers).argmin(-1))

    def test_more_clusters_than_different_points(self) -> None:
        centers, nearest = k_means(torch.tensor([[0.0], [2.0], [0.0]]), 5)
        assert centers.isfinite().all() and torch.equal(centers[nearest].flatten(), torch.tensor([0.0, 2.0, 0.0]))

    def test_refuses_nothing_to_cluster(self) -> None:
        with pytest.raises(ValueError, match="3 clusters of 0 points: give at least one of each"):
            k_means(torch.zeros(0, 2), 3)
