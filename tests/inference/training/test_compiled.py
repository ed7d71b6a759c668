"""Compiled steps are eager ones: each way of compiling, each system; how often something is compiled anew."""

import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

import pyroformer as pf
from pyroformer.inference.data.loaders import TrainingStream
from pyroformer.inference.objectives.elbo import ELBO, Objective
from pyroformer.inference.options import TrainingOptions
from pyroformer.inference.training import compiled as compiled_module
from pyroformer.inference.training import lightning_module
from pyroformer.inference.training.compiled import CompiledObjective, captured_losses, compiled_losses
from pyroformer.models.base import LocalModule
from pyroformer.models.batch import Batch
from pyroformer.models.transformer.blocks import compile_blocks

TEXTS = [" ".join(str(7 * n * k % 997) for k in range(1 + n % 12)) for n in range(1, 61)]
SIZE = {"width": 16, "layers": 1, "heads": 2, "dropout": 0.0}
MODERN = {
    **{"norm": "rms", "positions": "rotary", "activation": "swiglu", "bias": False},
    **{"key_value_heads": 1, "query_key_norm": True},
}
pytestmark = pytest.mark.compile


@pytest.fixture(scope="module")
def corpus() -> pf.Corpus:
    return pf.Corpus.from_texts(TEXTS, vocabulary=280, max_length=64)


def objective_of(corpus: pf.Corpus, name: str) -> Objective:
    torch.manual_seed(0)
    if name == "lm":
        return ELBO()(pf.LanguageModel.for_corpus(corpus, **SIZE, **MODERN), None)
    if name == "vae":
        vae = pf.VAE.for_corpus(corpus, **SIZE, base_measure="tokens")
        return ELBO()(vae, pf.VAEGuide(vae))
    chain = pf.DELLA.for_corpus(corpus, **SIZE, **MODERN, latent_size=4)
    return ELBO()(chain, pf.DELLAGuide(chain))


def step(losses: Callable[[Batch], dict[str, Tensor]], objective: Objective, batch: Batch) -> dict[str, Tensor]:
    """The losses and the gradients of a batch."""
    torch.manual_seed(7)
    values = losses(batch)
    parameters = dict(objective.named_parameters())
    gradients = torch.autograd.grad(values["objective"], list(parameters.values()), allow_unused=True)
    zero = {name: torch.zeros(()) for name, gradient in zip(parameters, gradients, strict=True) if gradient is None}
    found = {name: gradient for name, gradient in zip(parameters, gradients, strict=True) if gradient is not None}
    return {name: value.detach() for name, value in values.items()} | found | zero


@pytest.mark.parametrize("name, way", [("lm", "blocks"), ("vae", "full"), ("della", "full")])
def test_compiled_steps_are_eager_ones(corpus: pf.Corpus, name: str, way: str) -> None:
    """test_fit.py has an NVAE in both ways, test_options.py blocks with latents."""
    objective, batch = objective_of(corpus, name), next(corpus.batches("train", batch_size=8))
    eager = step(objective.losses, objective, batch)
    losses = objective.losses
    if way == "full":
        losses = CompiledObjective(objective, backend="aot_eager").losses
    else:
        compile_blocks(objective, backend="aot_eager")
    compiled = step(losses, objective, batch)
    assert compiled.keys() == eager.keys()
    for key, value in eager.items():
        torch.testing.assert_close(compiled[key], value, rtol=1e-4, atol=1e-4 * float(value.abs().max()) + 1e-6)


@pytest.mark.parametrize("mode", ["blocks", "full"])
def test_nothing_is_compiled_after_the_first_epoch(
    corpus: pf.Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    graphs: list[str] = []
    compiled: list[int] = []

    def backend(graph: torch.fx.GraphModule, _: list[Tensor]) -> Callable[..., Any]:
        graphs.append(graph.code)
        return graph.forward

    begin = lightning_module.Training.on_train_batch_start

    def count(self: Any, batch: Batch, batch_idx: int) -> None:
        compiled.append(len(graphs))
        begin(self, batch, batch_idx)

    monkeypatch.setattr(compiled_module, "compile_blocks", partial(compile_blocks, backend=backend))
    monkeypatch.setattr(compiled_module, "captured_losses", partial(captured_losses, backend=backend))
    monkeypatch.setattr(lightning_module.Training, "on_train_batch_start", count)
    torch.manual_seed(0)
    model = pf.LanguageModel.for_corpus(corpus, **SIZE, **MODERN)
    stream = TrainingStream(corpus.train, 8)
    epoch, batches = stream.steps_per_epoch, [stream.micro_batch(step) for step in range(20)]
    lengths = {batch.tokens.shape[1] for batch in batches if batch.tokens is not None}
    assert len(lengths) >= 3
    options = {"steps": 2 * epoch, "batch_size": 8, "validations": 2, "compile": mode}
    pf.fit(model, None, corpus, out=tmp_path / "run", **options)
    assert 1 <= compiled[epoch] <= (len(lengths) if mode == "full" else 4)
    assert compiled[-1] == compiled[epoch]


class Peeking(LocalModule):
    """A guide whose graph would depend on a value."""

    def __init__(self, model: pf.DELLA) -> None:
        super().__init__()
        self.site = model.latents[0]
        self.loc = nn.Parameter(torch.zeros(4))

    def forward(self, batch: Batch) -> None:
        scale = 1.0 if float(self.loc.detach().sum()) < 1 else 2.0
        with pyro.plate("texts", len(batch.weight), dim=-1):
            pyro.sample(self.site, dist.Normal(self.loc, scale).to_event(1))


def without_a_compiler(graph: torch.fx.GraphModule, _: list[Tensor]) -> Any:
    raise RuntimeError("no working compiler found\nhere or there")


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, function in {"compile_blocks": compile_blocks, "captured_losses": captured_losses}.items():
        monkeypatch.setattr(compiled_module, name, partial(function, backend=without_a_compiler))


@pytest.mark.usefixtures("no_compiler")
@pytest.mark.parametrize("split", [0, 1])
def test_auto_goes_on_where_torch_cannot_compile(corpus: pf.Corpus, split: int) -> None:
    objective, batch = objective_of(corpus, "vae"), next(corpus.batches("train", batch_size=8))
    eager = step(objective.losses, objective, batch)
    losses = compiled_losses(objective, "auto", torch.device("cuda"))[split]
    with pytest.warns(UserWarning, match=r"^torch.compile failed \(RuntimeError: no working compiler found\): "):
        found = step(losses, objective, batch)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = step(losses, objective, batch)
    assert all(torch.equal(eager[key], found[key]) and torch.equal(eager[key], again[key]) for key in eager)


@pytest.mark.usefixtures("no_compiler")
@pytest.mark.filterwarnings("ignore:compile is full, but this objective cannot be captured")
@pytest.mark.parametrize("mode", ["blocks", "full"])
def test_torch_cannot_compile_what_was_asked_for(corpus: pf.Corpus, tmp_path: Path, mode: str) -> None:
    model = pf.LanguageModel.for_corpus(corpus, **SIZE, **MODERN)
    with pytest.raises(ValueError, match=rf"^compile is {mode}, but torch.compile failed .*: choose compile=off.$"):
        pf.fit(model, None, corpus, out=tmp_path / "run", steps=2, batch_size=8, compile=mode)


def test_full_goes_on_with_blocks_where_nothing_can_be_captured(corpus: pf.Corpus) -> None:
    torch.manual_seed(0)
    model = pf.DELLA.for_corpus(corpus, **SIZE, latent_size=4)
    objective, batch = ELBO()(model, Peeking(model)), next(corpus.batches("train", batch_size=8))
    eager = step(objective.losses, objective, batch)
    losses = captured_losses(objective, backend="eager")
    with pytest.warns(
        UserWarning, match="compile is full, but this objective cannot be captured .*: its Transformer b"
    ):
        fallen = step(losses, objective, batch)
    again = step(losses, objective, batch)  # without a second warning
    for key, value in eager.items():
        torch.testing.assert_close(fallen[key], value, rtol=1e-4, atol=1e-5)
        assert torch.equal(fallen[key], again[key])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"activation_checkpointing": 2}, "activation_checkpointing is 2: give True or False"),
        ({"strategy": "zero"}, "strategy is 'zero': choose one of ddp, fsdp"),
    ],
)
def test_values_of_other_types_are_refused(options: dict[str, Any], message: str) -> None:
    """Here, where no type is checked before."""
    with pytest.raises(ValueError, match=message):
        TrainingOptions(**options)
