"""A step of training: in bfloat16, with activations computed again, and without waiting for the device."""

from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from other_device import NAME, other_device
from torch import Tensor, nn
from training_there import train_there

import pyroformer as pf
from pyroformer.inference.objectives.elbo import ELBO
from pyroformer.inference.objectives.nvib import NVIB
from pyroformer.inference.options import TrainingOptions
from pyroformer.inference.runs.folder import RunFolder
from pyroformer.inference.training.lightning_module import Training
from pyroformer.models.base import Model
from pyroformer.models.transformer.blocks import PreNormBlock, recompute_blocks

TEXTS = [f"The number {n} follows {n - 1} and comes before {n + 1}." for n in range(1, 61)]
SYSTEMS = ("lm", "nvae", "nvib", "vae", "della")


@pytest.fixture(scope="module")
def corpus() -> pf.Corpus:
    return pf.Corpus.from_texts(TEXTS, vocabulary=280, max_length=64)


def pair(corpus: pf.Corpus, name: str, **options: Any) -> tuple[Model, nn.Module | None]:
    torch.manual_seed(0)
    size = {"width": 16, "layers": 1, "heads": 2, "dropout": 0.0} | options
    if name == "lm":
        return pf.LanguageModel.for_corpus(corpus, **size), None
    if name == "della":
        chain = pf.DELLA.for_corpus(corpus, **size, latent_size=4)
        return chain, pf.DELLAGuide(chain)
    if name == "vae":
        vae = pf.VAE.for_corpus(corpus, **size, base_measure="tokens")
        return vae, pf.VAEGuide(vae)
    mixtures = size["layers"] if name == "nvib_layers" else 0
    nvae = pf.NVAE.for_corpus(
        corpus, base_measure="gaussian", **size, nvib_layers=mixtures, nvib_decoder_layers=mixtures
    )
    return nvae, pf.NVAEGuide(nvae)


def fitted(corpus: pf.Corpus, name: str, out: Path, steps: int, **options: Any) -> pf.Run:
    size = {"dropout": options.pop("dropout", 0.0)}
    objective = "nvib" if name == "nvib" else "elbo"
    options = {"batch_size": 8, "validations": 1, "objective": objective, **options}
    return pf.fit(*pair(corpus, name, **size), corpus, out=out, steps=steps, **options)


@pytest.mark.parametrize("name", SYSTEMS)
def test_bfloat16_has_the_loss_of_float32(corpus: pf.Corpus, name: str) -> None:
    """At the same weights and noise, to the rounding of 8 bits; distributions are float32 in both."""
    objective = (NVIB() if name == "nvib" else ELBO())(*pair(corpus, name))
    optimizer = torch.optim.Adam(objective.parameters(), lr=2e-3)
    for number, batch in enumerate(islice(corpus.batches("train", batch_size=8), 6)):
        losses = []
        for precise in (True, False):
            torch.manual_seed(number)
            with torch.autocast("cpu", torch.bfloat16, enabled=not precise):
                losses.append(objective(batch))
        assert losses[1].dtype == torch.float32
        assert float(losses[1].detach()) == pytest.approx(float(losses[0].detach()), rel=2**-8)
        assert not torch.equal(losses[0], losses[1])
        optimizer.zero_grad()
        losses[1].backward()
        optimizer.step()


@pytest.mark.parametrize("name", SYSTEMS)
def test_training_on_another_device_is_that_of_the_cpu_and_no_step_waits(
    corpus: pf.Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """From the noise to the new weights; the first step checks what distributions are given, and waits."""
    expected = fitted(corpus, name, tmp_path / "cpu", 3)
    train_there(monkeypatch)
    begin, end = Training.on_train_batch_start, Training.on_train_batch_end
    waits: dict[int, list[str]] = {}
    with other_device() as device:

        def start(self: Training, *arguments: Any) -> None:
            device.waits = []
            begin(self, *arguments)

        def stop(self: Training, *arguments: Any) -> None:
            waits[self.trainer.global_step] = [*device.waits]
            end(self, *arguments)

        monkeypatch.setattr(Training, "on_train_batch_start", start)
        monkeypatch.setattr(Training, "on_train_batch_end", stop)
        run = fitted(corpus, name, tmp_path / "there", 3)
        assert waits[1] and waits == {1: waits[1], 2: [], 3: []}
        assert {parameter.device.type for parameter in run.model.parameters()} == {NAME}
        weights = {key: value.cpu() for key, value in run.model.state_dict().items()}
    torch.testing.assert_close(weights, expected.model.state_dict(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["vae", "della", "nvib_layers"])
def test_activations_that_are_computed_again_change_nothing(corpus: pf.Corpus, tmp_path: Path, name: str) -> None:
    kept = fitted(corpus, name, tmp_path / "kept", 2, dropout=0.2)
    again = fitted(corpus, name, tmp_path / "again", 2, dropout=0.2, activation_checkpointing=True)
    for a, b in zip(kept.model.parameters(), again.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=0)
    assert not any(part.recomputed for part in again.model.modules() if isinstance(part, PreNormBlock))


@pytest.mark.parametrize("name", ["lm", "nvib_layers"])
def test_activations_that_are_computed_again_take_less_memory(corpus: pf.Corpus, name: str) -> None:
    objective, batch = ELBO()(*pair(corpus, name, layers=8)), next(corpus.batches("train", batch_size=8))
    sizes = {}
    for again in (False, True):
        recompute_blocks(objective, again)
        saved: dict[int, int] = {}

        def pack(x: Tensor, saved: dict[int, int] = saved) -> Tensor:
            saved[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
            return x

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            loss = objective(batch)
        sizes[again] = sum(saved.values())
        assert loss.isfinite()
    assert sizes[True] < 0.4 * sizes[False]


def test_a_graph_of_everything_decides_itself_what_to_compute_again() -> None:
    with pytest.raises(ValueError, match="activation_checkpointing is True, but compile=full chooses itself"):
        TrainingOptions(compile="full", activation_checkpointing=True)


@pytest.mark.parametrize("precision", ["32", "bf16"])
def test_the_optimizer_is_fused(corpus: pf.Corpus, tmp_path: Path, precision: Any) -> None:
    model, _ = pair(corpus, "lm")
    training = Training(ELBO()(model, None), corpus, TrainingOptions(precision=precision), RunFolder(tmp_path))
    assert training.configure_optimizers().param_groups[0]["fused"] is True
