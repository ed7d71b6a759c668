"""Encoders read copies of one text once."""

import pytest
import torch
from torch import Tensor

import pyroformer as pf
from pyroformer.inference.evaluation.text_draws import copies
from pyroformer.models.batch import EOS, Batch
from pyroformer.models.transformer.blocks import Block
from pyroformer.models.transformer.config import TransformerConfig

CONFIG = TransformerConfig(vocabulary=30, max_length=12, width=16, layers=2, heads=2, dropout=0.1)


def guide_of(name: str) -> pf.NVAEGuide | pf.VAEGuide | pf.DELLAGuide:
    torch.manual_seed(0)
    if name == "della":
        return pf.DELLAGuide(pf.DELLA(CONFIG, latent_size=4))
    return pf.NVAEGuide(pf.NVAE(CONFIG)) if name == "nvae" else pf.VAEGuide(pf.VAE(CONFIG))


def rows_read(guide: pf.NVAEGuide | pf.VAEGuide | pf.DELLAGuide, batch: Batch) -> tuple[int, Tensor]:
    """The rows that the first block of the encoder reads, and the posterior's mean."""
    rows: list[int] = []
    block = next(part for part in guide.encoder.modules() if isinstance(part, Block))
    hook = block.register_forward_hook(lambda block, inputs, output: rows.append(len(output)))
    mean: Tensor = guide.encode(batch).mean
    hook.remove()
    return rows[0], mean


@pytest.mark.parametrize("name", ["nvae", "vae", "della"])
def test_copies_of_a_text_are_read_once(name: str) -> None:
    guide = guide_of(name).eval()
    batch = copies(Batch.pad([[5, 6, 7, EOS], [8, EOS]]), 0, 5)
    assert batch.tokens is not None and batch.mask is not None
    apart = batch._replace(tokens=batch.tokens.clone(), mask=batch.mask.clone())
    (once, shared), (five, each) = rows_read(guide, batch), rows_read(guide, apart)
    assert (once, five) == (1, 5)
    assert shared.shape == each.shape
    torch.testing.assert_close(shared, each, atol=1e-6, rtol=1e-5)
    shared.sum().backward()  # every row counts
    gradient = next(guide.encoder.parameters()).grad
    guide.zero_grad()
    each.sum().backward()
    torch.testing.assert_close(gradient, next(guide.encoder.parameters()).grad, atol=1e-4, rtol=1e-4)


def test_in_training_each_copy_has_its_own_dropout() -> None:
    assert rows_read(guide_of("vae").train(), copies(Batch.pad([[5, 6, EOS]]), 0, 5))[0] == 5
