"""Options of the layer that need all weights: softmax attention at the start, causal, cached, and as their formulas."""

from itertools import product
from typing import Any

import jaxtyping
import pytest
import torch
from cached_reading import in_parts_and_at_once
from causal_keys import causal_responsibilities
from probabilistic_layer import HEADS, TOKENS, WIDTH, check_gradients, draw, padding
from torch import Tensor, nn

import pyroformer as pf
from pyroformer.models.attention.bayes_rule import evidence
from pyroformer.models.attention.blockwise import problem as blocks_of
from pyroformer.models.attention.layers.learned import ProbabilisticMemory, ProbabilisticPooling
from pyroformer.models.attention.layers.probabilistic import ProbabilisticAttention
from pyroformer.models.attention.mixture import Mixture
from pyroformer.models.attention.variances import Covariances
from pyroformer.models.transformer.self_attention import SelfAttention

EACH: list[dict[str, Any]] = [
    {"precision": "full"},
    {"precision": "full", "prior": "learned", "components": 2},
    {"density": "student"},
    {"density": "student", "precision": "diagonal", "components": 2},
    {"assignment": "hard", "components": 2},
    {"assignment": "hard", "components": 3, "precision": "full", "prior": "magnitude"},
    {"positions": 2},
    {
        "positions": 3, "density": "student", "precision": "full", "prior": "learned", "assignment": "hard",
        "components": 2,
    },
]  # fmt: skip
MORE: list[dict[str, Any]] = [
    {"null_component": True, "positions": 2, "density": "student", "precision": "full"},
    {"steps": 2, "tolerance": 1e-2},
    {"steps": 2, "density": "student", "precision": "diagonal"},
    {"steps": 2, "assignment": "hard", "components": 2, "positions": 2, "null_component": True},
]
EVERY = [pytest.param(options, id=" ".join(f"{n}={x}" for n, x in options.items())) for options in [*EACH, *MORE]]


def close(actual: Tensor, expected: Tensor, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("options", EVERY[: len(EACH)])
def test_it_starts_as_softmax_attention(options: dict[str, Any]) -> None:
    layer, softmax, x = draw(options, moved=False)
    for mask, causal in product((None, padding()), (False, True)):
        close(layer(x, mask, causal), softmax(x, mask, causal))
    close(pf.ProbabilisticAttention.from_multihead_attention(_torch(softmax), **options).double()(x), softmax(x))


def _torch(softmax: SelfAttention) -> nn.MultiheadAttention:
    layer = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True).double()
    weights = (softmax.qkv.weight, softmax.qkv.bias, softmax.out.weight, softmax.out.bias)
    for own, other in zip(
        (layer.in_proj_weight, layer.in_proj_bias, layer.out_proj.weight, layer.out_proj.bias), weights, strict=True
    ):
        own.data.copy_(other)
    return layer


@pytest.mark.parametrize("options", EVERY)
def test_masks_and_caches_agree(options: dict[str, Any]) -> None:
    """Padding changes nothing, a later token not one bit, and reading on from a cache nothing, texts padded or not."""
    layer, _, x = draw(options)
    edited = x.clone()
    edited[1, 4:] = torch.nan
    for causal in (False, True):
        close(layer(x, padding(), causal)[1:2, :4], layer(x[1:2, :4], None, causal))
    close(layer(x, padding(), True)[1, :4], layer(edited.nan_to_num(7.0), padding(), True)[1, :4])
    whole = layer(x, causal=True)
    edited = x.clone()
    edited[:, 4] += 1
    after = layer(edited, causal=True)
    assert torch.equal(whole[:, :4], after[:, :4]) and not torch.equal(whole, after)
    for padded in (False, True):
        close(*in_parts_and_at_once(layer, x, padded))


@pytest.mark.parametrize("options", EVERY)
def test_gradients_reach_every_parameter(options: dict[str, Any]) -> None:
    check_gradients(*draw(options)[::2])


@pytest.mark.parametrize("options", [EACH[1], EACH[3], EACH[6], EACH[7]], ids=str)
def test_at_the_start_every_departure_has_a_gradient(options: dict[str, Any]) -> None:
    layer, softmax, x = draw(options, moved=True)
    started = {id(parameter) for parameter in layer.reset_to_softmax()}
    layer.load_state_dict(softmax.state_dict(), strict=False)
    close(layer(x), softmax(x))
    loss = (layer(x) * torch.randn_like(x)).sum()
    for name, parameter in layer.named_parameters():
        if id(parameter) in started:
            (gradient,) = torch.autograd.grad(loss, parameter, retain_graph=True)
            assert (gradient != 0).any(), name


def test_degrees_of_freedom_return_from_the_wrong_side() -> None:
    """Below 0 they are the Gaussian, and their gradient is that at 0."""
    layer, softmax, x = draw({"density": "student"}, moved=False)
    assert layer.inverse_degrees is not None
    at_zero = torch.autograd.grad(layer(x).square().sum(), layer.inverse_degrees)[0]
    layer.inverse_degrees.data.fill_(-0.5)
    close(layer(x), softmax(x))
    close(torch.autograd.grad(layer(x).square().sum(), layer.inverse_degrees)[0], at_zero)
    assert (at_zero != 0).all()


def test_a_full_precision_is_that_of_every_key() -> None:
    layer, _, x = draw({"precision": "full", "prior": "magnitude"})
    assert isinstance(layer.log_precision, Tensor)
    width = WIDTH // HEADS
    queries, keys, _ = layer.qkv(x).unflatten(-1, (3, HEADS, width)).permute(2, 0, 3, 1, 4)
    factor = layer.log_precision.tril(-1) + (0.5 * layer.log_precision.diagonal(dim1=-2, dim2=-1)).exp().diag_embed()
    precision = factor.mT @ factor / width**0.5
    covariances = precision.inverse()[:, None].expand(HEADS, TOKENS, width, width)
    log_weights = 0.5 * torch.einsum("bhne,hef,bhnf->bhn", keys, precision, keys)
    mixture = Mixture(log_weights.log_softmax(-1), keys, Covariances(covariances), noise_variance=0.0)
    close(layer.posterior(x).evidence, evidence(queries, mixture), 1e-8)


@pytest.mark.parametrize("precision", ["shared", "key", "diagonal"])
def test_keys_that_adapt_causally_are_those_of_the_matrix(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In blocks of two queries, outputs and the gradients of all parameters."""
    layer, _, x = draw({"precision": precision, "steps": 2})
    queries, mixture, _ = layer._project(x, None, None)
    weights = causal_responsibilities(queries, mixture, steps=2)
    assert mixture.values is not None
    expected = layer.out((weights @ mixture.values).transpose(1, 2).flatten(-2))
    monkeypatch.setattr(blocks_of, "ROWS", (2, 2))
    monkeypatch.setattr(blocks_of, "ROWS_DIAGONAL", 2)
    monkeypatch.setattr(blocks_of, "ENTRIES", {"cpu": 1})
    actual, upstream = layer(x, causal=True), torch.randn_like(x)
    close(actual, expected)
    for one, other in zip(
        *(torch.autograd.grad(y, layer.parameters(), upstream) for y in (actual, expected)), strict=True
    ):
        close(one, other, 1e-8)


@pytest.mark.parametrize("options", EVERY)
def test_a_posteriors_mean_is_the_output(options: dict[str, Any]) -> None:
    layer, _, x = draw(options)
    for causal in (False, True):
        posterior = layer.posterior(x, padding(), causal)
        close(layer.out(posterior.mean.transpose(1, 2).flatten(-2)), layer(x, padding(), causal))
        assert (posterior.variance >= 0).all() and posterior.evidence.shape == (3, HEADS, TOKENS)
    if not layer.steps:  # of keys that have not adapted, a query's evidence is that under the keys it may attend to
        close(layer.posterior(x, causal=True).evidence[..., 3], layer.posterior(x[:, :4]).evidence[..., 3])


DENSITIES = [o for o in [{}, {"null_component": True}, *EACH, *MORE] if not {"positions", "assignment", "steps"} & {*o}]


@pytest.mark.parametrize("options", DENSITIES, ids=str)
def test_the_evidence_is_a_log_density(options: dict[str, Any]) -> None:
    """Its exponential integrates to one over the plane."""
    layer, memory = pf.ProbabilisticCrossAttention(2, 1, **options), torch.randn(1, 3, 2)
    for parameter in layer.parameters():
        parameter.data.add_(0.3 * torch.randn_like(parameter))
    layer.qkv.weight.data[:2], layer.qkv.bias.data[:2] = torch.eye(2), 0
    grid = torch.linspace(-18, 18, 61)
    x, visible = torch.cartesian_prod(grid, grid)[None], torch.tensor([True, True, False]).expand(61**2, 3)
    for attn_mask in (None, visible):
        total = layer.posterior(x, memory, attn_mask=attn_mask).evidence.exp().sum() * 0.36
        torch.testing.assert_close(total, torch.tensor(1.0), rtol=0, atol=0.02)  # beyond the plane are heavy tails


@pytest.mark.parametrize("options", [o for o in [*EACH, *MORE] if "positions" not in o], ids=str)
def test_other_layers_take_the_options(options: dict[str, Any]) -> None:
    alone = draw(options)[0]
    cross = pf.ProbabilisticCrossAttention(WIDTH, HEADS, **options).double()
    cross.load_state_dict(alone.state_dict())
    x, window = torch.randn(3, TOKENS, WIDTH).double(), torch.ones(TOKENS, TOKENS, dtype=torch.bool).tril()
    close(cross(x, x), alone(x))
    close(cross.posterior(x, x).evidence, alone.posterior(x).evidence)
    if not options.get("steps"):
        close(cross(x, x, attn_mask=window), alone(x, causal=True))
    assert ProbabilisticPooling(WIDTH, HEADS, **options)(x.float()).shape == (3, 1, WIDTH)
    assert ProbabilisticMemory(WIDTH, HEADS, 4, **options)(x.float()).shape == x.shape


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"density": "cauchy"}, "density is 'cauchy': choose one of gaussian, student"),
        ({"assignment": "nearest"}, "assignment is 'nearest': choose one of soft, hard"),
        ({"precision": "matrix"}, "precision is 'matrix': choose one of shared, full, key, diagonal"),
        ({"positions": 0}, "positions is 0: give at least 1, or None for no positions"),
        ({"positions": 2.5}, "positions is 2.5: give a whole number"),
        ({"positions": "8"}, "positions is '8', a str: give a number"),
        ({"positions": True}, "positions is True, a bool: give a number"),
        ({"tolerance": -0.1}, "tolerance is -0.1: give a positive, finite number, or None for all of the steps"),
        ({"tolerance": float("nan")}, "tolerance is nan: give a positive, finite number"),
        ({"steps": 2.5}, "steps is 2.5: give a whole number, such as 2"),
        ({"steps": "2"}, "steps is '2', a str: give a number"),
        ({"components": 1.5}, "components is 1.5: give a whole number"),
        ({"gradient": "exact"}, "gradient is 'exact': choose one of unrolled, implicit"),
        (
            {"steps": 2, "gradient": "implicit", "density": "student"},
            "gradient is 'implicit', which is not supported with density, assignment or positions",
        ),
        ({"steps": 2, "tolerance": "1e-3"}, "tolerance is '1e-3', a str: give a number"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users have it
    with pytest.raises(ValueError, match=message):
        ProbabilisticAttention(**{"width": WIDTH, "heads": HEADS} | options)
    softmax = nn.MultiheadAttention(WIDTH, HEADS)
    with pytest.raises(ValueError, match=message):
        ProbabilisticAttention.from_multihead_attention(softmax, **options)


def test_gradients_of_a_layer_at_its_fixed_point() -> None:
    """As those of as many unrolled steps, and refused where keys adapt causally."""
    x = torch.randn(2, 9, WIDTH, dtype=torch.double)
    found = []
    for gradient in ("unrolled", "implicit"):
        torch.manual_seed(1)
        layer = ProbabilisticAttention(WIDTH, HEADS, steps=300, gradient=gradient).double()  # type: ignore[arg-type]
        layer(x).square().sum().backward()
        found.append([parameter.grad for parameter in layer.parameters()])
    for unrolled, implicit in zip(*found, strict=True):
        assert unrolled is not None and implicit is not None
        close(implicit, unrolled, 1e-7)
    with pytest.raises(ValueError, match="gradient is 'implicit', which is not supported where keys adapt causally"):
        layer(x, causal=True)


def test_two_sequences_have_no_common_positions() -> None:
    with pytest.raises(ValueError, match="positions is 4, and two sequences have no positions in common: leave it out"):
        pf.ProbabilisticCrossAttention(WIDTH, HEADS, positions=4)


@pytest.mark.compile
@pytest.mark.parametrize("options", [EACH[7], MORE[1]], ids=str)
def test_it_compiles_in_one_graph(options: dict[str, Any]) -> None:
    layer, x = ProbabilisticAttention(WIDTH, HEADS, **options), torch.randn(2, TOKENS, WIDTH)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    for causal in (False, True):
        torch.testing.assert_close(compiled(x, causal=causal), layer(x, causal=causal))
