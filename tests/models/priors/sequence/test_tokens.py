"""A Gaussian for each token: densities, the loss of a language model as the rate, and guides that start there."""

import math
from typing import Any

import pyro
import pytest
import torch
from pyro import distributions as dist
from pyro import poutine

import pyroformer as pf
from pyroformer.inference.objectives.elbo import ELBO
from pyroformer.models.batch import EOS, Batch
from pyroformer.models.priors.sequence.gaussian_tokens import ends
from pyroformer.models.priors.sequence.tokens import TokenVectorPrior
from pyroformer.models.priors.vectors import GaussianVectorPrior
from pyroformer.models.transformer.config import TransformerConfig
from pyroformer.models.transformer.embedding import sinusoids
from pyroformer.models.utils.weight_tables import weight_tables_kept

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
        expected = (distribution.logits.log_softmax(-1) + gaussians.log_prob(z[..., None, :])).logsumexp(-1)
        torch.testing.assert_close(distribution.log_prob(z), expected)
        torch.testing.assert_close(distribution.mean, (distribution.logits.softmax(-1)[..., None] * means).sum(-2))

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
        prior.head.weight.normal_(std=1000)
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

    @pytest.mark.parametrize("pair", [tuple, lambda pair: pf.priors.TokenGaussians(*pair)])
    def test_of_a_prior_of_your_own_starts_where_it_says(self, pair: Any) -> None:
        class Placed(pf.priors.VectorPrior):
            starts_posteriors = True

            def gaussians(self, tokens: Any) -> Any:
                return pair((tokens[..., None].expand(*tokens.shape, 16).float(), torch.full((16,), -2.0)))

            def forward(self) -> Any:
                return dist.Normal(torch.zeros(16), 1.0).to_event(1)

        posterior = pf.VAEGuide(pf.VAE(CONFIG, base_measure=Placed())).encode(TEXTS)
        assert TEXTS.tokens is not None and torch.equal(posterior.mean[..., 0], TEXTS.tokens.float())
        torch.testing.assert_close(posterior.variance.log(), torch.full_like(posterior.variance, -2.0))

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
        svi = pf.SVI(model, guide, lambda p: torch.optim.Adam(p, lr=2e-2), pf.ELBO())
        for _ in range(150):
            svi.step(batch)
        terms = ELBO(num_particles=16).terms(model, guide, batch)
        rate, distortion = terms.kl["vectors"].mean(), -terms.log_likelihood.mean()
        assert distortion < 0.8, "of the 16 nats of seven tokens that nothing says"
        assert rate < math.log(8) + 5 * math.log(2) + 1.2


class TestEnd:
    def test_is_at_the_first_token_that_ends_a_text(self) -> None:
        log_end = torch.cat([torch.rand(3, 4), torch.tensor([[0.9999, 0.5, 0.9999, 0.2]])]).log()
        stop = torch.cartesian_prod(*[torch.tensor([0, 1])] * 4).bool()  # all ways to end or not at four tokens
        for row in log_end.exp():
            probability = torch.where(stop, row, 1 - row).prod(-1)
            first = torch.where(stop.any(-1), stop.float().argmax(-1), 4)
            expected = torch.stack([probability[first == n].sum() for n in range(5)])
            torch.testing.assert_close(ends(row.log(), max_length=9).probs, expected)
            must = torch.cat([expected[:3], expected[3:].sum()[None]])
            torch.testing.assert_close(ends(row.log(), max_length=4).probs, must)

    @torch.no_grad()
    def test_the_last_vector_of_a_token_says_whether_it_ends(self) -> None:
        prior = TokenVectorPrior(8, vocabulary=12, heads=2, variance=1.0, samples_per_component=2, eos=2)
        distribution, z = prior(torch.ones(1, 8, dtype=torch.bool)), torch.randn(1, 8, 8)
        before = prior.length(distribution, z, max_length=3).probs
        z[:, 3] += 1  # of the first token, after the two components of the prior
        after = prior.length(distribution, z, max_length=3).probs
        assert not torch.equal(before[:, 0], after[:, 0])

    def test_gradients_are_finite_where_an_earlier_token_ends_the_text_for_sure(self) -> None:
        log_end = torch.tensor([0.0, -200.0, 0.0], requires_grad=True)
        log_prob = ends(log_end, max_length=8).log_prob(torch.tensor(3))
        log_prob.backward()
        assert log_prob.isfinite() and log_end.grad is not None and log_end.grad.isfinite().all()

    @torch.no_grad()
    @pytest.mark.parametrize("kind", ["vae", "nvae"])
    def test_the_joint_density_is_that_of_a_sequence_of_choices(self, kind: str) -> None:
        """Each vector but the last from the mixture without the end of text, the last one from the end of text."""
        own = int(kind == "nvae")
        prior = some_prior(scale=0.3, samples_per_component=own, eos=EOS)
        model = pf.NVAE(CONFIG, base_measure=prior) if own else pf.VAE(CONFIG, base_measure=prior)
        prior.embedding.normal_()  # some overlap
        vectors = torch.randn(2, 4 + own, 16)
        trace = poutine.trace(poutine.condition(model, {"vectors": vectors})).get_trace(TEXTS)
        z = vectors[:, own:]
        codebook: Any = prior.conditional(z, TEXTS.lengths)
        each = codebook.logits.log_softmax(-1) + dist.Normal(
            codebook.means + codebook.shift[:, None], codebook.stds
        ).to_event(1).log_prob(z[..., None, :])
        end = each[..., EOS]
        on = each[..., torch.arange(12) != EOS].logsumexp(-1)
        expected = torch.stack([on[0, :3].sum() + end[0, 3], on[1, :1].sum() + end[1, 1]])
        if own:
            expected = expected + prior.first().log_prob(vectors[:, 0])
        sites = trace.nodes
        actual = sum(sites[name]["fn"].log_prob(sites[name]["value"]) for name in ("vectors", "length"))
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-3)

    @torch.no_grad()
    @pytest.mark.parametrize("kind", ["vae", "nvae"])
    def test_lengths_of_draws_are_those_of_a_language_model(self, kind: str) -> None:
        """With the same weights everywhere, of which the end of a text has 0.3, lengths are geometric."""
        model = (pf.NVAE if kind == "nvae" else pf.VAE)(CONFIG, base_measure="tokens").eval()
        prior: Any = model.base_measure
        prior.log_variance.fill_(-100)  # Gaussians that do not overlap
        prior.embedding.normal_()
        prior.head.weight.zero_()
        prior.head.bias.zero_()
        prior.bias.fill_(math.log(0.7 / 11))
        prior.bias[EOS] = math.log(0.3)
        trace = poutine.trace(model).get_trace(Batch.unobserved(2000))
        lengths = trace.nodes["length"]["value"]
        shares = torch.bincount(lengths, minlength=9)[1:] / 2000
        expected = torch.tensor([0.3 * 0.7**n for n in range(7)] + [0.7**7])
        assert (shares - expected).abs().max() < 4 * math.sqrt(0.25 / 2000)

    def test_an_objective_asks_for_each_density_once(self) -> None:
        model = pf.NVAE(CONFIG, base_measure="tokens")
        guide, prior, calls = pf.NVAEGuide(model), model.base_measure, []
        conditional = prior.conditional
        prior.conditional = lambda *a: calls.append(a) or conditional(*a)  # type: ignore[assignment, operator]
        ELBO().terms(model, guide, TEXTS)
        assert len(calls) == 1

    def test_gradients_are_those_of_pyro(self) -> None:
        model = pf.VAE(CONFIG, base_measure="tokens")
        guide, gradients = pf.VAEGuide(model), []
        for elbo in (ELBO(), pyro.infer.Trace_ELBO()):
            torch.manual_seed(0)
            loss: Any = elbo.differentiable_loss(model, guide, TEXTS)
            weight = model.base_measure.embedding
            gradients.append(torch.autograd.grad(loss * (2 if elbo.__class__ is ELBO else 1), weight)[0])
        torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-4)

    def test_a_prior_of_the_length_leaves_the_end_to_it(self) -> None:
        model = pf.VAE(CONFIG, base_measure="tokens", length_prior=pf.priors.LengthPrior(8))
        assert model.length_prior is not None and not model.base_measure.ends_texts
        with pytest.raises(ValueError, match="there is a length_prior, but the vectors of the base_measure Token"):
            pf.VAE(CONFIG, some_prior(samples_per_component=0, eos=EOS), pf.priors.LengthPrior(8))

    def test_a_model_of_a_corpus_has_a_prior_of_the_length_only_where_it_needs_one(self) -> None:
        corpus = pf.Corpus.from_texts([f"text {n}" for n in range(30)], vocabulary=300, max_length=16)
        sizes: dict[str, Any] = {"width": 16, "layers": 1, "heads": 2}
        assert pf.VAE.for_corpus(corpus, base_measure="tokens", **sizes).length_prior is None
        assert pf.VAE.for_corpus(corpus, base_measure="gaussian", **sizes).length_prior is not None


def test_the_objective_of_an_nvae_follows_its_prior() -> None:
    assert pf.NVAE(CONFIG).objective == "nvib"
    assert pf.NVAE(CONFIG, base_measure="tokens").objective == "elbo"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"width": 7, "model_width": 8}, "width is 7: give an even number, for the sinusoids of places"),
        ({"eos": 12}, "eos is 12: give a token, from 0 to 11, or None"),
        ({"vocabulary": 0}, "vocabulary is 0: give a whole number of at least 1"),
        ({"variance": 0.0}, "variance is 0.0: give a number from"),
        ({"variance": math.inf}, "variance is inf: give a number from"),
        ({"model_width": 6}, "model_width is 6: give an even multiple of heads, which is 4"),
        ({"first": GaussianVectorPrior(3)}, r"first GaussianVectorPrior gave event shape \(3,\), expected \(8,\)"),
    ],
)
def test_refuses(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TokenVectorPrior(**{"width": 8, "vocabulary": 12} | arguments)


@torch.no_grad()
def test_at_the_start_it_reads_means_at_no_place_scaled_to_variance_one() -> None:
    prior, tokens, embedding = (
        TokenVectorPrior(16, 12, heads=2, eos=EOS),
        torch.tensor([[5, 6, 7]]),
        torch.randn(12, 16),
    )
    prior.start_at_embedding(embedding)
    torch.testing.assert_close(prior.means(), embedding / embedding.square().mean().sqrt())
    place = torch.arange(1, 4)
    read = prior._read(prior.gaussians(tokens).mean, place, torch.tensor([4]))
    torch.testing.assert_close(read, prior.means()[tokens] + sinusoids(place, 16))


@torch.no_grad()
def test_tables_that_are_kept_follow_the_embedding() -> None:
    mask, z = torch.ones(1, 4, dtype=torch.bool), torch.randn(1, 4, 8)
    prior, other = (TokenVectorPrior(8, vocabulary=12, heads=2) for _ in range(2))
    with weight_tables_kept():
        before = prior(mask).log_prob(z)
        prior.embedding.add_(1.0)
        after = prior(mask).log_prob(z)
    other.load_state_dict(prior.state_dict())
    torch.testing.assert_close(after, other(mask).log_prob(z))
    assert not torch.allclose(before, after)


def test_a_prior_of_other_tokens_than_the_model_is_refused() -> None:
    with pytest.raises(
        ValueError, match="has vectors of width 16 for 5 tokens, and the model has 12 tokens of width 16"
    ):
        pf.VAE(CONFIG, base_measure=TokenVectorPrior(16, 5, heads=2))


def test_an_unknown_name_of_a_prior_is_refused() -> None:
    with pytest.raises(ValueError, match=r"base_measure is 'a prior': choose one of "):
        pf.NVAE(CONFIG, base_measure="a prior")
    with pytest.raises(ValueError, match=r"base_measure is 'token': choose one of .* \(did you mean tokens\?\)"):
        pf.VAE(CONFIG, base_measure="token")
