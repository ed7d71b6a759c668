"""The layer: softmax attention at its start, whatever its options; causal to the last bit; a cache that agrees."""

from collections.abc import Iterator
from itertools import product
from typing import Any

import jaxtyping
import pytest
import torch
from cached_reading import in_parts_and_at_once
from probabilistic_layer import HEADS, TOKENS, WIDTH, check_gradients, draw, padding
from torch import Tensor

from pyroformer.models.attention.bayes_rule import evidence, posterior_variance
from pyroformer.models.attention.layers.probabilistic import ProbabilisticAttention
from pyroformer.models.attention.mixture import Mixture
from pyroformer.models.transformer.config import TransformerConfig
from pyroformer.models.transformer.stacks import Decoder


def every_option() -> Iterator[dict[str, Any]]:
    for precision, prior, components, null_component, steps in product(
        ("shared", "key", "diagonal"), ("magnitude", "gated", "learned"), (1, 2), (False, True), (0, 2)
    ):
        yield {
            "precision": precision, "prior": prior, "components": components, "null_component": null_component,
            "steps": steps,
        }  # fmt: skip


OPTIONS = [pytest.param(options, id=" ".join(map(str, options.values()))) for options in every_option()]
SOME = [OPTIONS[i] for i in (0, 3, 7, 13, 22, 31, 40, 47, 53, 59, 65, 71)]


def close(actual: Tensor, expected: Tensor, tolerance: float = 1e-11) -> None:
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("options", [p for p in OPTIONS if not (p.values[0]["steps"] or p.values[0]["null_component"])])
def test_it_starts_as_softmax_attention(options: dict[str, Any]) -> None:
    layer, softmax, x = draw(options, moved=False)
    for mask, causal in product((None, padding()), (False, True)):
        close(layer(x, mask, causal), softmax(x, mask, causal))


@pytest.mark.parametrize("options", SOME)
def test_padding_changes_nothing(options: dict[str, Any]) -> None:
    layer, _, x = draw(options)
    for causal in (False, True):
        edited = x.clone()
        edited[1, 4:] = 7.0
        close(layer(x, padding(), causal)[1, :4], layer(edited, padding(), causal)[1, :4])
        close(layer(x, padding(), causal)[1:2, :4], layer(x[1:2, :4], None, causal))


@pytest.mark.parametrize("options", OPTIONS)
def test_a_later_token_changes_nothing_at_all(options: dict[str, Any]) -> None:
    layer, _, x = draw(options)
    edited = x.clone()
    edited[:, 4] += 1
    before, after = layer(x, causal=True), layer(edited, causal=True)
    assert torch.equal(before[:, :4], after[:, :4]) and not torch.equal(before, after)


@pytest.mark.parametrize("options", SOME)
def test_cache_reads_on(options: dict[str, Any]) -> None:
    layer, _, x = draw(options)
    for padded in (False, True):
        close(*in_parts_and_at_once(layer, x, padded))


@pytest.mark.parametrize("options", SOME)
def test_gradients_reach_every_parameter(options: dict[str, Any]) -> None:
    check_gradients(*draw(options)[::2])


def test_at_the_start_too_every_departure_has_a_gradient() -> None:
    layer, _, x = draw(
        {"precision": "diagonal", "prior": "learned", "components": 2, "null_component": True}, moved=False
    )
    started = {id(parameter) for parameter in layer.reset_to_softmax()}
    loss = (layer(x, causal=True) * torch.randn_like(x)).sum()
    for name, parameter in layer.named_parameters():
        (gradient,) = torch.autograd.grad(loss, parameter, retain_graph=True)
        if id(parameter) in started:
            assert (gradient != 0).any(), name


@pytest.mark.parametrize("precision", ["shared", "key", "diagonal"])
def test_posterior_is_that_of_the_mixture_it_says(precision: str) -> None:
    layer, _, x = draw({"precision": precision, "prior": "learned"})
    result = layer.posterior(x)
    width = WIDTH // HEADS
    queries, keys, values = layer.qkv(x).unflatten(-1, (3, HEADS, width)).permute(2, 0, 3, 1, 4)
    if precision == "shared":
        read = layer.log_precision[:, None, None]  # type: ignore[index]
    else:
        read = layer.log_precision(x)  # type: ignore[operator]
    a = read.exp() / width**0.5
    assert layer.gamma is not None and layer.log_prior is not None
    log_weights = layer.gamma[:, None] * 0.5 * (a * keys.square()).sum(-1) + layer.log_prior(x)[..., 0]
    mixture = Mixture(log_weights.log_softmax(-1), keys, 1 / a, values=values, noise_variance=0.0)
    close(result.evidence, evidence(queries, mixture))
    close(result.variance, posterior_variance(queries, mixture))
    close(layer.out(result.mean.transpose(1, 2).flatten(-2)), layer(x))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"key_precision": "diagonal", "key_prior": "learned"},
        {"key_precision": "full", "key_density": "student", "key_distance": 2},
    ],
    ids=str,
)
def test_a_seed_gives_the_network_of_softmax_attention(options: dict[str, Any]) -> None:
    sizes: dict[str, Any] = {"vocabulary": 50, "max_length": 12, "width": 32, "heads": 2}
    texts, hidden = torch.randint(3, 50, (4, 12)), []
    for config in (TransformerConfig(**sizes), TransformerConfig(**sizes, attention="probabilistic", **options)):
        torch.manual_seed(0)
        hidden.append(Decoder(config).double()(texts))
    close(hidden[1], hidden[0])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"key_components": 2, "null_component": True},
        {"key_steps": 1},
        {"key_precision": "full", "key_distance": 3},
        {"key_components": 2, "key_assignment": "hard", "key_density": "student"},
        {"key_steps": 3, "key_tolerance": 0.5, "key_pseudo_counts": 2.0},
    ],
    ids=str,
)
def test_a_decoder_writes_as_it_reads(options: dict[str, Any]) -> None:
    config = TransformerConfig(vocabulary=50, max_length=12, width=16, heads=2, attention="probabilistic", **options)
    decoder = Decoder(config).double()
    for parameter in decoder.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    texts = torch.randint(3, 50, (4, 12))
    cache = decoder.cache([4], capacity=12)
    before = torch.cat([torch.full((4, 1), config.bos), texts[:, :-1]], 1)
    parts = [decoder.step(before[:, :5], cache)] + [decoder.step(before[:, i : i + 1], cache) for i in range(5, 12)]
    close(torch.cat(parts, 1), decoder(texts))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 15}, "width is 15, which is no multiple of heads = 2"),
        ({"precision": "free"}, "precision is 'free': choose one of shared, full, key, diagonal"),
        ({"prior": "flat"}, "prior is 'flat': choose one of magnitude, gated, learned"),
        ({"components": 0}, "components is 0: give a whole number of at least 1"),
        ({"steps": -1}, "steps is -1: give a whole number of at least 0"),
        ({"pseudo_counts": 0.0}, "pseudo_counts is 0.0: give (a )?positive"),
        ({"dropout": 1.0}, "dropout is 1.0: give a number of at least 0 and below 1"),
        ({"steps": 1, "dropout": 0.1}, "give keys that adapt dropout=0"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users have it
    with pytest.raises(ValueError, match=message):
        ProbabilisticAttention(**{"width": WIDTH, "heads": HEADS} | options)


def test_dropout_acts_in_training_only() -> None:
    layer = ProbabilisticAttention(WIDTH, HEADS, dropout=0.5)
    x = torch.randn(2, TOKENS, WIDTH)
    assert not torch.equal(layer(x), layer(x))
    layer.eval()
    assert torch.equal(layer(x), layer(x))


@pytest.mark.compile
@pytest.mark.parametrize(
    "options", [{}, {"precision": "shared"}, {"precision": "diagonal", "components": 2}, {"steps": 1}]
)
def test_it_compiles_in_one_graph(options: dict[str, Any]) -> None:
    layer = ProbabilisticAttention(WIDTH, HEADS, **options)
    x = torch.randn(2, TOKENS, WIDTH)
    expected = layer(x, causal=True)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, causal=True), expected)
