"""The Gaussian autoencoder: its memory is softmax attention, its divergence that of Gaussians."""

import pytest
import torch
import torch.nn.functional as F
from torch.distributions import Normal, kl_divergence

from pyroformer.guides.vae import VAEGuide
from pyroformer.inference.elbo import ELBO
from pyroformer.models.attention import DenoisingAttention
from pyroformer.models.batch import EOS, Batch
from pyroformer.models.priors import GaussianBase
from pyroformer.models.transformer import TransformerConfig
from pyroformer.models.vae import VAE, length_mask

CONFIG = TransformerConfig(vocabulary=30, window=12, width=16, layers=1, heads=2, dropout=0.0)
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
    model = VAE(CONFIG, base_measure=GaussianBase(16, mean=0.3, variance=2.0))
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
        VAE(CONFIG, base_measure=GaussianBase(8))
