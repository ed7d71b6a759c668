"""A language model that reads and writes vectors: densities, draws, and models that start where one ended."""

import math
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pyro import distributions as dist
from torch import Tensor

import pyroformer as pf
from pyroformer.inference.cli.main import main
from pyroformer.inference.evaluation.cross_attention import cross_attention
from pyroformer.inference.objectives.elbo import ELBO
from pyroformer.models.batch import EOS, Batch
from pyroformer.models.priors.sequence import language_model
from pyroformer.models.priors.sequence.language_model import LanguageModelVectorPrior
from pyroformer.models.priors.vectors import GaussianVectorPrior
from pyroformer.models.transformer.backbone import Backbone
from pyroformer.models.transformer.config import TransformerConfig
from pyroformer.models.transformer.stacks import Decoder
from pyroformer.models.transformer.text_distribution import AutoregressiveText

SIZES: dict[str, Any] = {"vocabulary": 12, "max_length": 8, "width": 32, "layers": 1, "heads": 2, "init_std": 0.3}
CONFIG = TransformerConfig(**SIZES)
NETWORKS: dict[str, TransformerConfig] = {
    "sinusoidal": CONFIG,
    "learned": TransformerConfig(**SIZES, positions="learned"),
    "rotary": TransformerConfig(
        **SIZES, positions="rotary", norm="rms", activation="swiglu", bias=False, key_value_heads=1, tied=False
    ),
}
TEXTS = Batch.pad([[5, 6, 7, EOS], [9, EOS]])


def prior_from(decoder: Decoder, **options: Any) -> LanguageModelVectorPrior:
    """A prior with the weights of a decoder and narrow Gaussians."""
    prior = LanguageModelVectorPrior(decoder.config, **{"samples_per_component": 0, "variance": 0.01} | options)
    Backbone("decoder", decoder.config, decoder.state_dict()).load_into(prior)
    return prior.eval()


def corpus_of(texts: int = 60) -> pf.Corpus:
    return pf.Corpus.from_texts([f"{n} and then {n + 1}" for n in range(texts)], vocabulary=280, max_length=24)


class TestDensity:
    @torch.no_grad()
    @pytest.mark.parametrize("network", NETWORKS)
    def test_is_a_mixture_with_the_probabilities_of_the_next_token(self, network: str) -> None:
        """Brute force: every token's Gaussian at every place, weighted by the decoder that reads tokens."""
        decoder = Decoder(NETWORKS[network]).eval()
        prior, tokens = prior_from(decoder), torch.tensor([[5, 6, 7, 4], [9, 3, 3, EOS]])
        z = prior.gaussians(tokens).mean + 0.1 * torch.randn(2, 4, 32)
        weight, bias = decoder.readout
        logits = decoder(tokens) @ weight.T + (0 if bias is None else bias)
        means = prior.means() + prior.places(torch.arange(4))[:, None]
        each = logits.log_softmax(-1) + dist.Normal(means, prior.std()).to_event(1).log_prob(z[..., None, :])
        actual = prior(torch.ones(2, 4, dtype=torch.bool)).log_prob(z)
        torch.testing.assert_close(actual, each.logsumexp(-1).sum(-1), rtol=1e-4, atol=1e-3)

    @torch.no_grad()
    def test_reads_a_vector_as_the_posterior_mean_of_its_token(self) -> None:
        """By Bayes' rule, here where Gaussians overlap."""
        prior = prior_from(Decoder(CONFIG), variance=9.0)
        z = torch.randn(3, 5, 32)
        density = dist.Normal(prior.means() + prior.places(torch.arange(5))[:, None], prior.std()).to_event(1)
        expected = density.log_prob(z[..., None, :]).softmax(-1) @ prior.decoder.embedding.tokens.weight
        torch.testing.assert_close(prior.read(z, torch.arange(5)), expected, rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("trained", [True, False])
    def test_texts_that_are_certain_are_read_once_with_the_same_density_and_gradients(
        self, trained: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Against the mean embedding of every vector, however certain its token is."""
        config = replace(CONFIG, width=128)  # far apart
        prior, tokens = prior_from(Decoder(config)), torch.tensor([[5, 6, 7, 4], [5, 6, 7, 0], [9, EOS, 0, 0]])
        prior.decoder.requires_grad_(trained)
        mask = torch.tensor([[True] * 4, [True] * 4, [True, True, False, False]])
        z = prior.gaussians(tokens[[0, 0, 1, 2]]).mean.detach() + 0.1 * torch.randn(4, 4, 128)
        mask, z = mask[[0, 0, 1, 2]], z.requires_grad_()
        rows: list[int] = []
        hook = prior.decoder.blocks[0].register_forward_hook(lambda block, inputs, output: rows.append(len(output)))

        def measured() -> tuple[Tensor, dict[str, Tensor | None], Tensor | None]:
            prior.zero_grad()
            z.grad = None
            density = prior(mask).log_prob(z)
            (density * torch.arange(1, 5)).sum().backward()
            return density, {name: p.grad for name, p in prior.named_parameters()}, z.grad

        density, gradients, of_vectors = measured()
        monkeypatch.setattr(f"{LanguageModelVectorPrior.__module__}._are_certain", lambda read, matters: False)
        expected, others, other = measured()
        hook.remove()
        # two draws of one text, and one that differs in its last token alone, which nothing follows
        assert rows == [2, 4]
        torch.testing.assert_close(density, expected, rtol=1e-5, atol=1e-4)
        torch.testing.assert_close(of_vectors, other, rtol=1e-4, atol=1e-4)
        for name, gradient in gradients.items():
            torch.testing.assert_close(gradient, others[name], rtol=1e-4, atol=1e-3, msg=name)

    @torch.no_grad()
    def test_texts_are_certain_up_to_their_ends_only_where_gaussians_are_far_apart(self) -> None:
        matters = torch.tensor([[True, True, False]])
        single, other = torch.eye(3)[None], torch.full((1, 3, 3), 1 / 3)
        assert language_model._are_certain(single, matters)
        assert language_model._are_certain(torch.where(matters[..., None], single, other), matters)
        assert not language_model._are_certain(torch.where(matters[..., None], other, single), matters)
        assert not language_model._are_certain(single + 1e-30, matters)
        assert not language_model._are_certain(single * torch.nan, matters)

    @torch.no_grad()
    @pytest.mark.parametrize("network", NETWORKS)
    def test_draws_are_texts_of_the_language_model(self, network: str) -> None:
        """Frequencies of the first two tokens, drawn with the cache, against the decoder's own probabilities."""
        decoder = Decoder(NETWORKS[network]).eval()
        prior, count = prior_from(decoder), 4000
        z = prior(torch.ones(count, 2, dtype=torch.bool)).sample()
        nearest = prior.of_logits(torch.zeros(2, 12), torch.arange(2)).responsibilities(z).argmax(-1)
        pairs = torch.bincount(12 * nearest[:, 0] + nearest[:, 1], minlength=144) / count
        first, second = torch.cartesian_prod(torch.arange(12), torch.arange(12)).T
        texts = torch.stack([first, second], -1)
        weight, bias = decoder.readout
        logits = decoder(texts) @ weight.T + (0 if bias is None else bias)
        expected = logits.log_softmax(-1).gather(-1, texts[..., None])[..., 0].sum(-1).exp()
        torch.testing.assert_close(expected.sum(), torch.tensor(1.0))
        error = (pairs - expected).abs() / (expected * (1 - expected) / count).sqrt().clamp(min=1 / count)
        assert error.max() < 5, "standard errors"

    def test_the_length_does_not_matter_and_padding_neither(self) -> None:
        prior, z = LanguageModelVectorPrior(CONFIG, samples_per_component=0).eval(), torch.randn(2, 4, 32)
        mask = torch.tensor([[True] * 4, [True, True, False, False]])
        short = prior(mask[1:, :2]).log_prob(z[1:, :2])
        torch.testing.assert_close(prior(mask).log_prob(z)[1:], short)


class TestStart:
    @torch.no_grad()
    @pytest.mark.parametrize("network", NETWORKS)
    @pytest.mark.parametrize("kind", ["vae", "nvae"])
    def test_the_rate_is_the_loss_of_the_language_model(self, kind: str, network: str) -> None:
        """Within 0.02 nats a token, as promised; at the start the guide's vectors are at the tokens' Gaussians."""
        decoder = Decoder(NETWORKS[network]).eval()
        backbone = Backbone("decoder", decoder.config, decoder.state_dict())
        cls, guide_class = {"vae": (pf.VAE, pf.VAEGuide), "nvae": (pf.NVAE, pf.NVAEGuide)}[kind]
        model: Any = cls(decoder.config, base_measure="language_model")  # type: ignore[operator]
        model.start_from(backbone)
        guide: Any = guide_class(model)  # type: ignore[operator]
        loss = -AutoregressiveText(decoder, mask=TEXTS.mask).log_prob(TEXTS.tokens)
        terms = ELBO(num_particles=8).terms(model.eval(), guide.eval(), TEXTS)
        rate = terms.kl["vectors"]
        rate = rate.mean(0) if rate.ndim == 2 else rate
        assert ((rate - loss).abs() / TEXTS.lengths < 0.02).all(), f"{rate} for {loss}"

    @torch.no_grad()
    @pytest.mark.parametrize("network", NETWORKS)
    @pytest.mark.parametrize("kind", ["vae", "nvae"])
    @pytest.mark.parametrize("width", [16, 64])
    def test_texts_are_copied_before_any_training(self, width: int, kind: str, network: str) -> None:
        """From vectors that are drawn: the decoder finds each by its place and reads it by Bayes' rule."""
        config = replace(NETWORKS[network], width=width, max_length=128)
        decoder = Decoder(config).eval()
        cls, guide_class = {"vae": (pf.VAE, pf.VAEGuide), "nvae": (pf.NVAE, pf.NVAEGuide)}[kind]
        model: Any = cls(config, base_measure="language_model")  # type: ignore[operator]
        model.start_from(Backbone("decoder", config, decoder.state_dict()))
        terms = ELBO(num_particles=8).terms(model.eval(), guide_class(model).eval(), TEXTS)  # type: ignore[operator]
        assert -terms.log_likelihood.mean() / TEXTS.lengths.sum() < 0.01
        weights = terms.kl.get("weights", torch.zeros(()))
        assert weights.abs().max() < 1e-5, "nats a text"
        memory = guide_class(model).eval().encode(TEXTS).memory()  # type: ignore[operator]
        read = cross_attention(model.decoder, TEXTS.tokens, memory)[0, :, 0]
        own = memory.components - 4  # the component of the prior
        assert (read.argmax(-1) == torch.arange(4) + own)[TEXTS.mask].all()

    @torch.no_grad()
    def test_heads_of_means_count_in_standard_deviations(self) -> None:
        model = pf.VAE(CONFIG, base_measure="language_model")
        guide, prior = pf.VAEGuide(model), model.base_measure
        assert isinstance(prior, LanguageModelVectorPrior)
        guide.mean.bias.fill_(2.0)
        expected = prior.gaussians(TEXTS.tokens).mean + 2.0 * prior.std()  # type: ignore[arg-type]
        torch.testing.assert_close(guide.encode(TEXTS).mean, expected)

    def test_frozen_the_weights_of_the_backbone_are_frozen_twice(self) -> None:
        corpus = corpus_of()
        network = {"width": 16, "layers": 1, "heads": 2}
        lm = pf.LanguageModel.for_corpus(corpus, **network).decoder
        backbone = Backbone("lm", lm.config, lm.state_dict())
        for train, adapters in (("latents", False), ("lora", True)):
            model = pf.VAE.for_corpus(corpus, backbone=backbone, train=train, base_measure="language_model")  # type: ignore[arg-type]
            trained = {name for name, value in model.base_measure.named_parameters() if value.requires_grad}
            assert {"mean", "log_variance"} <= trained
            assert any("adapter" in name for name in trained) == adapters
            own: Any = model.base_measure
            assert not own.decoder.embedding.tokens.weight.requires_grad
            assert model.decoder.reader is not None and not model.decoder.reader.codebook.requires_grad
            torch.testing.assert_close(own.decoder.embedding.tokens.weight, lm.embedding.tokens.weight)

    def test_means_start_at_the_embedding_of_the_backbone(self) -> None:
        decoder = Decoder(CONFIG)
        for name in ("tokens", "language_model"):
            model: Any = pf.VAE(CONFIG, base_measure=name)
            model.start_from(Backbone("decoder", CONFIG, decoder.state_dict()))
            embedding: Tensor = decoder.embedding.tokens.weight
            expected = embedding / embedding.square().mean().sqrt()
            if name == "language_model":
                expected = F.pad(expected[:, :-8], (0, 8))  # where codes of places are
            torch.testing.assert_close(model.base_measure.means(), expected)

    def test_a_run_of_a_language_model_starts_a_vae_on_the_command_line(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        texts = tmp_path / "texts.txt"
        texts.write_text("\n".join(f"{n} and then {n + 1}" for n in range(60)))
        fit = "--steps 2 --batch_size 4 --validation_texts 4"
        sizes = "--model.width 16 --model.layers 1 --model.heads 2 --vocabulary 280 --max_length 24"
        assert main(shlex.split(f"fit lm --data {texts} --out {tmp_path}/lm {sizes} {fit}")) == 0
        start = f"--init_from {tmp_path}/lm --prior language_model --train latents"
        assert main(shlex.split(f"fit vae --data {texts} --out {tmp_path}/vae {start} {fit}")) == 0
        assert f"starting from {tmp_path}/lm: width 16, 1 layers" in capsys.readouterr().out
        lm, vae = pf.load(tmp_path / "lm"), pf.load(tmp_path / "vae")
        prior: Any = vae.model.base_measure
        torch.testing.assert_close(prior.decoder.norm.weight, lm.model.decoder.norm.weight)  # type: ignore[union-attr, operator]
        assert vae.tokenizer.encode_batch(["3 and"]) == lm.tokenizer.encode_batch(["3 and"])
        assert len(vae.sample(2, seed=0)) == 2
        assert (
            main(shlex.split(f"fit nvae --data {texts} --out {tmp_path}/other --init_from {tmp_path}/vae {fit}")) == 1
        )
        error = capsys.readouterr().err
        assert "is a run of the model VAE, and a LanguageModel is needed here" in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"eos": 12}, "eos is 12: give a token, from 0 to 11, or None"),
        ({"variance": 0.0}, "variance is 0.0: give a number from"),
        ({"variance": math.nan}, "variance is nan: give a number from"),
        ({"samples_per_component": 2}, "samples_per_component 2: a language model has one vector for each token"),
        ({"first": GaussianVectorPrior(3)}, r"first GaussianVectorPrior gave event shape \(3,\), expected \(32,\)"),
    ],
)
def test_refuses(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LanguageModelVectorPrior(**{"config": CONFIG} | arguments)
