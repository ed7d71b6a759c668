"""Encoder and decoder: GPT-2 as the oracle, what may not depend on what, the cache, and compilation."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyroformer.models.attention.mixture import Mixture
from pyroformer.models.batch import PAD
from pyroformer.models.transformer import blocks
from pyroformer.models.transformer.blocks import Block, compile_blocks
from pyroformer.models.transformer.config import TransformerConfig
from pyroformer.models.transformer.gpt2 import gpt2_weights
from pyroformer.models.transformer.stacks import Decoder, Encoder

CONFIG = TransformerConfig(vocabulary=40, max_length=12, width=32, layers=2, heads=4, positions="learned", init_std=0.2)
STYLES = {
    "gpt2": CONFIG,
    "sinusoidal": replace(CONFIG, positions="sinusoidal", activation="relu"),
    "plain": replace(CONFIG, bias=False, tied=False, activation="gelu", hidden=48),
}


@pytest.fixture(params=STYLES)
def config(request: pytest.FixtureRequest) -> TransformerConfig:
    return STYLES[request.param]


def mixture(*batch: int, components: int = 5, **options: Any) -> Mixture:
    return Mixture(torch.randn(*batch, components), torch.randn(*batch, components, CONFIG.width), **options)


def tokens_like(batch: int, length: int) -> Tensor:
    return torch.randint(3, CONFIG.vocabulary, (batch, length))


def test_equals_gpt2() -> None:
    transformers = pytest.importorskip("transformers", reason="GPT-2 of transformers is the oracle")
    theirs = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=40, n_positions=12, n_embd=32, n_layer=2, n_head=4, initializer_range=0.3)
    ).eval()
    ours = Decoder(CONFIG).eval()
    ours.load_state_dict(gpt2_weights(theirs.state_dict()))
    tokens = tokens_like(3, 12)
    begun = F.pad(tokens[:, :-1], (1, 0), value=CONFIG.bos)
    logits = F.linear(ours(tokens), *ours.readout)
    assert logits.std() > 0.5
    torch.testing.assert_close(logits, theirs(begun).logits, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("init_std", "std"), [(0.02, 0.02), (None, 128**-0.5)])
def test_initial_weights_are_narrower_into_the_residual_stream(init_std: float | None, std: float) -> None:
    options = {"width": 128, "layers": 8, "heads": 4, "positions": "learned", "init_std": init_std}
    config = TransformerConfig(vocabulary=1000, max_length=100, **options)  # type: ignore[arg-type]
    decoder = Decoder(config, cross_attention=True)
    for name, parameter in decoder.named_parameters():
        if "norm" in name or name.endswith("bias"):
            assert parameter.eq(float(name.endswith("weight"))).all(), name
        else:
            expected = std / 4 if name.endswith(("out.weight", "down.weight")) else std
            assert abs(parameter.std().item() / expected - 1) < 0.05, name


def test_decoder_sees_only_the_past(config: TransformerConfig) -> None:
    decoder = Decoder(config, cross_attention=True).eval()
    tokens, memory = tokens_like(2, 8), mixture(2)
    before = decoder(tokens, memory)
    changed = tokens.clone()
    changed[:, 4] += 1 - 2 * (changed[:, 4] == CONFIG.vocabulary - 1).long()
    after = decoder(changed, memory)
    torch.testing.assert_close(after[:, :5], before[:, :5], atol=1e-6, rtol=0)
    assert ((after - before)[:, 5:].abs().amax(-1) > 1e-5).all()


def test_encoder_ignores_padding(config: TransformerConfig) -> None:
    encoder = Encoder(config).eval()
    tokens = tokens_like(3, 9)
    mask = torch.arange(9) < torch.tensor([9, 4, 1])[:, None]
    together = encoder(torch.where(mask, tokens, PAD), mask)
    junk = encoder(torch.where(mask, tokens, 7), mask)
    for i, length in enumerate((9, 4, 1)):
        alone = encoder(tokens[i : i + 1, :length])[0]
        torch.testing.assert_close(together[i, :length], alone, atol=1e-5, rtol=0)
        torch.testing.assert_close(junk[i, :length], alone, atol=1e-5, rtol=0)
        copies = encoder(*(part[i : i + 1].expand(2, -1) for part in (tokens, mask)))
        torch.testing.assert_close(copies[:, :length], alone.expand(2, -1, -1), atol=1e-5, rtol=0)


def test_encoder_sees_both_sides() -> None:
    encoder = Encoder(CONFIG).eval()
    tokens = tokens_like(1, 6).requires_grad_(False)
    embedded = encoder.embedding(tokens).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(encoder.blocks[0](embedded)[0, 2].sum(), embedded)
    assert (gradient[0].abs().sum(-1) > 0).all()


@pytest.mark.parametrize("cross", [False, True])
def test_steps_equal_teacher_forcing(config: TransformerConfig, cross: bool) -> None:
    decoder = Decoder(config, cross).eval()
    memory = mixture(3, mask=torch.rand(3, 5) < 0.7) if cross else None
    tokens = tokens_like(3, 10)
    expected = decoder(tokens, memory)
    begun = F.pad(tokens[:, :-1], (1, 0), value=CONFIG.bos)
    cache = decoder.cache((3,), 10, memory)
    actual = torch.cat([decoder.step(part, cache) for part in begun.split([4, 1, 1, 3, 1], dim=1)], dim=1)
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0)
    assert cache.position.tolist() == [10] * 3


def test_steps_with_padding_on_the_left(config: TransformerConfig) -> None:
    decoder = Decoder(config).eval()
    tokens = tokens_like(2, 6)
    begun = F.pad(tokens[:, :-1], (1, 0), value=CONFIG.bos)
    padded = torch.stack([begun[0], F.pad(begun[1, :4], (2, 0))])
    mask = torch.arange(6) >= torch.tensor([[0], [2]])
    cache = decoder.cache((2,), 8)
    actual = decoder.step(padded, cache, mask)
    expected = decoder(tokens)
    torch.testing.assert_close(actual[0], expected[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(actual[1, 2:], expected[1, :4], atol=1e-5, rtol=0)
    following = decoder.step(torch.stack([tokens[0, -1:], begun[1, 4:5]]), cache)
    torch.testing.assert_close(following[1, 0], expected[1, 4], atol=1e-5, rtol=0)


def test_full_cache_is_refused() -> None:
    decoder = Decoder(CONFIG).eval()
    with pytest.raises(ValueError, match="do not fit a cache of 2"):
        decoder.step(tokens_like(1, 3), decoder.cache((1,), 2))


@pytest.mark.parametrize("form", ["exact", "published"])
def test_memory_with_particles(form: Any) -> None:
    decoder = Decoder(CONFIG, cross_attention=True).eval()
    tokens = tokens_like(3, 6)
    memory = mixture(4, 3, variances=torch.rand(4, 3, 5, 1), mask=torch.rand(4, 3, 5) < 0.7)
    together = decoder(tokens, memory, form)
    assert together.shape == (4, 3, 6, 32)
    other = decoder(tokens, memory, {"exact": "published", "published": "exact"}[form])
    assert not torch.allclose(together, other, atol=1e-4)
    assert memory.mask is not None and isinstance(memory.variances, Tensor)
    for s in range(4):
        one = Mixture(memory.log_weights[s], memory.means[s], memory.variances[s], memory.mask[s])
        torch.testing.assert_close(together[s], decoder(tokens, one, form), atol=1e-5, rtol=0)


def test_one_memory_for_all_texts() -> None:
    decoder = Decoder(CONFIG, cross_attention=True).eval()
    tokens, memory = tokens_like(3, 6), mixture()
    expected = decoder(tokens, Mixture(memory.log_weights.expand(3, -1), memory.means.expand(3, -1, -1)))
    torch.testing.assert_close(decoder(tokens, memory), expected)


@pytest.mark.parametrize("network", [Encoder, Decoder, lambda config: Decoder(config, cross_attention=True)])
def test_gradient_reaches_every_parameter(network: Callable[[TransformerConfig], nn.Module]) -> None:
    for config in STYLES.values():
        module = network(config)
        memory = (mixture(2),) if isinstance(module, Decoder) and module.blocks[0].cross is not None else ()
        hidden = module(tokens_like(2, 12), *memory)
        if isinstance(module, Decoder):
            hidden = F.linear(hidden, *module.readout)
        hidden.square().sum().backward()
        for name, parameter in module.named_parameters():
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_dropout_only_in_training() -> None:
    encoder = Encoder(replace(CONFIG, dropout=0.5))
    tokens = tokens_like(2, 5)
    assert not torch.equal(encoder(tokens), encoder(tokens))
    encoder.eval()
    assert torch.equal(encoder(tokens), encoder(tokens))


def test_blocks_can_be_shared() -> None:
    """An encoder and a decoder may hold the same blocks: whether attention is causal is said at each call."""
    encoder, decoder = Encoder(CONFIG), Decoder(CONFIG)
    decoder.blocks = encoder.blocks
    assert decoder(tokens_like(2, 5)).shape == encoder(tokens_like(2, 5)).shape


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype: torch.dtype) -> None:
    decoder = Decoder(CONFIG, cross_attention=True).eval()
    tokens, memory = tokens_like(2, 6), mixture(2)
    with torch.autocast("cpu", dtype=dtype):
        hidden = decoder(tokens, memory)
    torch.testing.assert_close(hidden.float(), decoder(tokens, memory), atol=0.1, rtol=0.1)


def test_too_long_texts_are_refused() -> None:
    for network in (Encoder(CONFIG), Decoder(CONFIG)):
        with pytest.raises(ValueError, match="a text of 13 tokens does not fit max_length = 12"):
            network(tokens_like(1, 13))


def test_memory_without_cross_attention_is_refused() -> None:
    decoder = Decoder(CONFIG)
    with pytest.raises(ValueError, match="has no cross-attention: build it with cross_attention=True"):
        decoder(tokens_like(1, 3), mixture(1))
    with pytest.raises(ValueError, match="has no cross-attention"):
        decoder.cache((1,), 3, mixture(1))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"vocabulary": 0}, "vocabulary is 0: give a whole number of at least 1"),
        ({"max_length": 0}, "max_length is 0: give a whole number of at least 1"),
        ({"layers": -1}, "layers is -1: give a whole number of at least 1"),
        ({"hidden": 0}, "hidden is 0: give a whole number of at least 1"),
        ({"heads": 5}, "width is 32, which is no multiple of heads = 5"),
        ({"dropout": 1.0}, "dropout is 1.0: give a number of at least 0 and below 1"),
        ({"norm_eps": 0.0}, "norm_eps is 0.0: give a positive, finite number"),
        ({"init_std": -1.0}, "init_std is -1.0: give a positive, finite number"),
        ({"activation": "tanh"}, "activation is 'tanh': choose one of gelu_tanh, gelu, relu"),
        ({"positions": "relative"}, "positions is 'relative': choose one of sinusoidal, learned, rotary"),
        ({"attention": "hard"}, "attention is 'hard': choose one of softmax, probabilistic"),
        ({"key_components": 0}, "key_components is 0: give a whole number of at least 1"),
        ({"key_steps": -1}, "key_steps is -1: give a whole number of at least 0"),
        ({"key_pseudo_counts": 0.0}, "key_pseudo_counts is 0.0: give (a )?positive"),
        ({"key_tolerance": -0.1}, "key_tolerance is -0.1: give a positive, finite number"),
        ({"key_density": "cauchy"}, "key_density is 'cauchy': choose one of gaussian, student"),
        ({"key_distance": 0}, "key_distance is 0: give a whole number of at least 1"),
        ({"key_density": "student"}, "key_density is student, which only probabilistic attention has"),
        ({"null_component": True}, "null_component is True, which only probabilistic attention has"),
        ({"positions": "sinusoidal", "width": 3, "heads": 1}, "width is 3: give an even one, for sinusoidal positions"),
        ({"eos": 40}, "eos is 40, outside of a vocabulary of 40"),
        ({"eos": 0}, "pad and eos are both 0"),
    ],
)
def test_configurations_that_cannot_be(changes: dict[str, Any], message: str) -> None:
    config = replace(CONFIG)
    for name, value in changes.items():  # not through the constructor, where beartype would see a wrong choice first
        object.__setattr__(config, name, value)
    with pytest.raises(ValueError, match=message):
        config.__post_init__()


# --- compilation ------------------------------------------------------------------------------------------------------

# Dynamo itself looks at .grad of a block's input, and hides the warning only where warnings are not errors.
dynamo_looks_at_grad = pytest.mark.filterwarnings(
    "ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning"
)

LENGTHS = {2: 24, 4: 12, 6: 8, 8: 6, 10: 5, 12: 4}  # texts of a batch by their length


class Autoencoder(nn.Module):
    """An encoder whose hidden states are the components that a decoder attends to."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.encoder, self.decoder = Encoder(config), Decoder(config, cross_attention=True)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        vectors = self.encoder(tokens, mask)
        return self.decoder(tokens, Mixture(vectors.new_zeros(tokens.shape), vectors, mask=mask))


def batch(length: int) -> tuple[Tensor, Tensor]:
    tokens = tokens_like(LENGTHS[length], length)
    return tokens, torch.arange(length) < torch.randint(1, length + 1, (len(tokens), 1))


@pytest.mark.compile
@dynamo_looks_at_grad
def test_few_graphs_for_all_shapes_and_modes() -> None:
    """One graph for each way a block is used, whatever the length; Dynamo's limit is never met (it would raise)."""
    torch._dynamo.reset()
    graphs: list[str] = []

    def count(graph: torch.fx.GraphModule, _: list[Tensor]) -> Callable[..., Any]:
        graphs.append(graph.code)
        return graph.forward

    network = Autoencoder(replace(CONFIG, layers=2, dropout=0.1))
    names = list(network.state_dict())
    compile_blocks(network, backend=count)
    assert list(network.state_dict()) == names
    for training, gradient, autocast in [(1, 1, 0), (0, 0, 0), (0, 1, 0), (1, 1, 1), (0, 0, 1), (1, 1, 0)]:
        before = len(graphs)
        network.train(bool(training))
        for length in LENGTHS:
            with torch.set_grad_enabled(bool(gradient)), torch.autocast("cpu", enabled=bool(autocast)):
                loss = network(*batch(length)).square().mean()
            if gradient:
                loss.backward()
        assert len(graphs) - before <= 2, "more than one graph for each of encoder and decoder"


@pytest.mark.compile
@dynamo_looks_at_grad
def test_compiled_blocks_equal_eager() -> None:
    torch._dynamo.reset()
    network = Autoencoder(replace(CONFIG, layers=1, dropout=0.0))
    inputs = [batch(length) for length in (4, 10)]

    def run() -> list[Tensor]:
        results = []
        for tokens, mask in inputs:
            hidden = network(tokens, mask)
            results += [hidden[mask], *torch.autograd.grad(hidden[mask].square().mean(), list(network.parameters()))]
        return results

    eager = run()
    compile_blocks(network, backend="aot_eager")
    for actual, expected in zip(run(), eager, strict=True):
        torch.testing.assert_close(actual, expected, atol=1e-4, rtol=1e-4)
    text = network.decoder.cache((2,), 4, mixture(2))
    network.decoder.eval().step(tokens_like(2, 1), text)


@pytest.mark.compile
@dynamo_looks_at_grad
@pytest.mark.parametrize(
    "options",
    [
        {"key_precision": "full"},
        {"key_precision": "full", "key_density": "student", "key_distance": 2},
        {"key_components": 2, "key_assignment": "hard"},
        {"key_steps": 2, "key_tolerance": 0.5},
    ],
    ids=str,
)
def test_compiled_probabilistic_attention_equals_eager(options: dict[str, Any]) -> None:
    torch._dynamo.reset()
    decoder = Decoder(replace(CONFIG, layers=1, attention="probabilistic", **options))
    for parameter in decoder.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    texts = [tokens_like(3, length) for length in (9, 4)]
    eager = [decoder(tokens) for tokens in texts]
    compile_blocks(decoder, backend="eager")
    for tokens, expected in zip(texts, eager, strict=True):
        torch.testing.assert_close(decoder(tokens), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.compile
def test_compiling_leaves_validation_as_it_was() -> None:
    assert torch.distributions.Distribution._validate_args
    compile_blocks(Encoder(CONFIG))
    assert torch.distributions.Distribution._validate_args


def test_compile_options_are_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, Any]] = []
    monkeypatch.setattr(Block, "compile", lambda self, **options: seen.append(options))
    compile_blocks(Encoder(CONFIG), mode="reduce-overhead", dynamic=False)
    assert len(seen) == CONFIG.layers
    assert all(options["mode"] == "reduce-overhead" and options["dynamic"] is False for options in seen)
    assert all(options["fullgraph"] is True for options in seen) and blocks.RECOMPILE_LIMIT > 8
