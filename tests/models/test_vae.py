"""The Gaussian autoencoder: its memory is softmax attention, its divergence that of Gaussians."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.distributions import Normal, kl_divergence

from pyroformer.guides.vae import VAEGuide
from pyroformer.inference.objectives.elbo import ELBO
from pyroformer.models.attention.layers.denoising import DenoisingAttention
from pyroformer.models.attention.mixture import Mixture
from pyroformer.models.batch import EOS, Batch
from pyroformer.models.priors.vectors import GaussianVectorPrior
from pyroformer.models.transformer.config import TransformerConfig
from pyroformer.models.transformer.memory import Context, Memory
from pyroformer.models.vae import VAE, length_mask

CONFIG = TransformerConfig(vocabulary=30, max_length=12, width=16, layers=1, heads=2, dropout=0.0)
TEXTS = [[5, 6, 7, 8, EOS], [9, EOS], [10, 11, 12, EOS]]


def test_attention_to_its_memory_is_softmax_attention() -> None:
    torch.manual_seed(0)
    layer = DenoisingAttention(16, 2).double()
    vectors, x = 3 * torch.randn(3, 5, 16).double(), torch.randn(3, 4, 16).double()
    mask = length_mask(torch.tensor([5, 2, 4]), 5)
    queries, keys, values = (
        head.unflatten(-1, (2, 8)).transpose(1, 2)
        for head in (layer.query(x), layer.key(vectors), layer.value(vectors))
    )
    softmax = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask[:, None, None])
    expected = layer.out(softmax.transpose(1, 2).flatten(-2))
    torch.testing.assert_close(layer(x, VAE(CONFIG).memory(vectors, mask)), expected, atol=1e-10, rtol=0)


def test_its_divergence_is_that_of_gaussians() -> None:
    torch.manual_seed(0)
    model = VAE(CONFIG, base_measure=GaussianVectorPrior(16, mean=0.3, variance=2.0))
    guide, batch = VAEGuide(model), Batch.pad(TEXTS)
    posterior = guide.encode(batch)
    each = kl_divergence(Normal(posterior.mean, posterior.variance.sqrt()), Normal(0.3, 2.0**0.5)).sum(-1)
    expected = torch.where(posterior.mask, each, 0).sum(-1)
    torch.testing.assert_close(ELBO().terms(model, guide, batch).kl["vectors"], expected, rtol=1e-4, atol=1e-4)


def test_a_text_has_as_many_vectors_as_tokens() -> None:
    model = VAE(CONFIG)
    assert VAEGuide(model).encode(Batch.pad(TEXTS)).mask.sum(-1).tolist() == [5, 2, 4]


def test_a_guide_without_texts_is_refused() -> None:
    with pytest.raises(ValueError, match="the batch is unobserved: a guide needs texts"):
        VAEGuide(VAE(CONFIG)).encode(Batch.unobserved(2))


def test_a_prior_of_another_width_is_refused() -> None:
    with pytest.raises(ValueError, match="base_measure"):
        VAE(CONFIG, base_measure=GaussianVectorPrior(8))


def test_between_two_texts_vectors_are_averaged_position_by_position() -> None:
    torch.manual_seed(0)
    model = VAE(CONFIG)
    posterior = VAEGuide(model).encode(Batch.pad(TEXTS))
    short, long = (
        model.memory(posterior.mean[i : i + 1, :n], posterior.mask[i : i + 1, :n]) for i, n in ((1, 2), (0, 5))
    )
    half = model.interpolate(short, long, 0.25)
    torch.testing.assert_close(half.means[:, :2], 0.75 * short.means + 0.25 * long.means[:, :2])
    torch.testing.assert_close(half.means[:, 2:], long.means[:, 2:])
    odds = half.log_weights[0, 4] - half.log_weights[0, 0]
    lengths = half.means.square().sum(-1)[0] / (2 * 8**0.5)
    torch.testing.assert_close(odds, math.log(0.25) + lengths[4] - lengths[0])


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_at_either_end_the_decoder_says_what_it_says_of_one_text(share: float) -> None:
    torch.manual_seed(0)
    model, batch = VAE(CONFIG).eval(), Batch.pad(TEXTS)
    posterior = VAEGuide(model).encode(batch)
    each = [model.memory(posterior.mean[i : i + 1, :n], posterior.mask[i : i + 1, :n]) for i, n in ((1, 2), (0, 5))]
    tokens = batch.tokens[2:3]
    found = model.decoder(tokens, model.interpolate(*each, share))
    torch.testing.assert_close(found, model.decoder(tokens, each[int(share)]), atol=1e-5, rtol=0)


def test_a_share_beyond_the_ends_is_refused() -> None:
    memory = VAE(CONFIG).memory(torch.zeros(1, 2, 16), torch.ones(1, 2, dtype=torch.bool))
    with pytest.raises(ValueError, match="t is 1.5: give a number from 0"):
        VAE(CONFIG).interpolate(memory, memory, 1.5)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (Mixture(torch.zeros(1, 2), torch.zeros(1, 2, 1)), "vectors of 1 dimensions, the model of 16: give vectors of"),
        (Mixture(torch.zeros(2, 2), torch.zeros(2, 2, 16)), r"batch shapes \(1,\) and \(2,\): give as many texts of"),
        (Context(torch.zeros(1, 1, 16)), "the memory is a Context, but the decoder attends to a Mixture: give one"),
    ],
)
def test_what_does_not_fit_has_nothing_between(other: Memory, message: str) -> None:
    memory = VAE(CONFIG).memory(torch.zeros(1, 2, 16), torch.ones(1, 2, dtype=torch.bool))
    with pytest.raises(ValueError, match=message):
        VAE(CONFIG).interpolate(memory, other, 0.5)
