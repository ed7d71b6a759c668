"""Attention through the fused kernels, against Bayes' rule for a mixture and torch's own attention."""

import math
from collections.abc import Callable
from dataclasses import fields, replace
from itertools import product
from typing import Any

import jaxtyping
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from pyroformer.models.attention.attend import attend
from pyroformer.models.attention.bayes_rule import evidence, posterior_mean, posterior_variance, responsibilities
from pyroformer.models.attention.components import expanded
from pyroformer.models.attention.kernel.head_projection import lifted_forms
from pyroformer.models.attention.kernel.natural_parameters import Basis
from pyroformer.models.attention.kernel.packed import pack_keys, pack_queries, packed_width
from pyroformer.models.attention.layers.denoising import DenoisingAttention, ProjectedMixture
from pyroformer.models.attention.layers.probabilistic import ProbabilisticAttention
from pyroformer.models.attention.mixture import Mixture
from pyroformer.models.attention.variances import Covariances, SharedVariances

BATCH, HEADS, QUERIES, COMPONENTS, WIDTH, VALUES = 2, 3, 5, 7, 6, 4
KINDS = ["point masses", "isotropic", "diagonal", "one for all", "one per text", "shared"]
EXPLICIT = {"mean": posterior_mean, "variance": posterior_variance, "evidence": evidence}


def draw(
    kind: str,
    masked: bool = False,
    values: bool = False,
    width: int = WIDTH,
    components: int = COMPONENTS,
    batch: tuple[int, ...] = (BATCH,),
    dtype: torch.dtype = torch.double,
) -> Mixture:
    groups = torch.tensor([0] + [1] * (components - 1))
    variances: dict[str, Any] = {
        "point masses": None,
        "isotropic": torch.rand(*batch, components, 1, dtype=dtype),
        "diagonal": torch.rand(*batch, components, width, dtype=dtype),
        "one for all": torch.rand(1, width, dtype=dtype),
        "one per text": torch.rand(*batch, 1, width, dtype=dtype),
        "shared": SharedVariances(2 * torch.rand(2, width, dtype=dtype), groups),
    }
    mask = torch.rand(*batch, components) > 0.4
    mask[..., 0] = True
    return Mixture(
        torch.randn(*batch, components, dtype=dtype).log_softmax(-1),
        torch.randn(*batch, components, width, dtype=dtype),
        variances[kind],
        mask if masked else None,
        torch.randn(*batch, components, VALUES, dtype=dtype) if values else None,
    )


def draw_queries(width: int = WIDTH, dtype: torch.dtype = torch.double) -> Tensor:
    return torch.randn(BATCH, QUERIES, width, dtype=dtype)


def tensors(mixture: Mixture) -> dict[str, Tensor]:
    """The tensors with gradients in a mixture, by name."""
    named = {field.name: getattr(mixture, field.name) for field in fields(mixture)}
    if isinstance(mixture.variances, SharedVariances):
        named["variances"] = mixture.variances.table
    return {name: value for name, value in named.items() if isinstance(value, Tensor) and value.is_floating_point()}


def with_gradients(mixture: Mixture) -> Mixture:
    leaves: dict[str, Any] = {name: value.clone().requires_grad_() for name, value in tensors(mixture).items()}
    if isinstance(mixture.variances, SharedVariances):
        leaves["variances"] = mixture.variances._replace(table=leaves["variances"])
    return replace(mixture, **leaves)


def gradients(output: Tensor, inputs: list[Tensor], weight: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad((output * weight).sum(), inputs, allow_unused=True, materialize_grads=True))


def assert_close(actual: Tensor, expected: Tensor, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def triangle(m: int, n: int) -> Tensor:
    return torch.ones(m, n, dtype=torch.bool).tril(n - m)


def parameters(layer: nn.Module) -> list[Tensor]:
    return list(layer.parameters())


def explicit(layer: DenoisingAttention, x: Tensor, mixture: Mixture, attn_mask: Tensor | None = None) -> Tensor:
    """What the layer should do, one head and one P-wide query at a time."""
    width = mixture.width // layer.heads
    variances = mixture.dense_variances()
    answers = []
    for head in range(layer.heads):
        rows = slice(head * width, (head + 1) * width)
        queries = layer.query(x)[..., rows] @ layer.key.weight[rows]
        one = replace(mixture, variances=variances, noise_variance=math.sqrt(width))
        denoised = posterior_mean(queries, one, attn_mask)
        seen = responsibilities(queries, one, attn_mask).sum(-1, keepdim=True)  # 1, or 0 where nothing is there
        answer = denoised @ layer.value.weight[rows].mT
        answers.append(answer if layer.value.bias is None else answer + seen * layer.value.bias[rows])
    result: Tensor = layer.out(torch.cat(answers, -1))
    return result


@pytest.mark.parametrize("returns", ["mean", "variance", "evidence"])
@pytest.mark.parametrize("values", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_attend_is_the_explicit_form(kind: str, masked: bool, values: bool, returns: Any) -> None:
    mixture, queries = with_gradients(draw(kind, masked, values)), draw_queries().requires_grad_()
    causal = QUERIES if masked else 0  # the masked half of the cases is causal too
    attn_mask = triangle(QUERIES, COMPONENTS) if causal else None
    actual = attend(queries, mixture, returns=returns, causal=bool(causal))
    expected = EXPLICIT[returns](queries, mixture, attn_mask)
    assert_close(actual, expected)
    inputs, weight = [queries, *tensors(mixture).values()], torch.randn_like(expected)
    for one, other in zip(gradients(actual, inputs, weight), gradients(expected, inputs, weight), strict=True):
        assert_close(one, other)


@pytest.mark.parametrize("m", [1, 2, COMPONENTS])
def test_the_last_components_belong_to_the_queries(m: int) -> None:
    mixture, queries = draw("diagonal"), torch.randn(BATCH, m, WIDTH, dtype=torch.double)
    expected = posterior_mean(queries, mixture, triangle(m, COMPONENTS))
    assert_close(attend(queries, mixture, causal=True), expected)


@pytest.mark.parametrize("returns", ["mean", "variance", "evidence"])
@pytest.mark.parametrize("values", [False, True])
@pytest.mark.parametrize("components", [1, 3])
def test_of_more_queries_than_components_the_first_see_none(components: int, values: bool, returns: Any) -> None:
    mixture = with_gradients(draw("diagonal", values=values, components=components))
    queries = draw_queries().requires_grad_()
    attn_mask = triangle(QUERIES, components)
    actual = attend(queries, mixture, returns=returns, causal=True)
    expected = EXPLICIT[returns](queries, mixture, attn_mask)
    assert_close(actual, expected)
    assert (actual[:, : QUERIES - components] == (-math.inf if returns == "evidence" else 0)).all()
    inputs, weight = [queries, *tensors(mixture).values()], torch.randn_like(expected)
    finite = (each.where(each.isfinite(), 0) for each in (actual, expected))
    for one, other in zip(*(gradients(each, inputs, weight) for each in finite), strict=True):
        assert_close(one, other)


@pytest.mark.parametrize("noise", [0.3, torch.tensor(0.3, dtype=torch.double)])
def test_any_noise(noise: float | Tensor) -> None:
    mixture, queries = replace(draw("diagonal"), noise_variance=noise), draw_queries()
    for returns, function in EXPLICIT.items():
        assert_close(attend(queries, mixture, returns=returns), function(queries, mixture))  # type: ignore[arg-type]


def test_units_with_precisions() -> None:
    """Without noise the variances are those of the queries themselves: a Gaussian mixture with values."""
    mixture, queries = replace(draw("isotropic", values=True), noise_variance=0.0), draw_queries()
    assert_close(attend(queries, mixture), posterior_mean(queries, mixture))
    assert_close(attend(queries, mixture, returns="evidence"), evidence(queries, mixture))


@pytest.mark.parametrize("causal", [False, True])
def test_softmax_attention_is_the_special_case(causal: bool) -> None:
    q, k, v = torch.randn(3, BATCH, COMPONENTS, 8, dtype=torch.double).unbind(0)
    expected = scaled_dot_product_attention(q, k, v, is_causal=causal)
    assert_close(attend(q, Mixture.from_attention(k, v), causal=causal), expected)
    assert_close(attend(q, Mixture.from_attention(k, v[..., :3]), causal=causal), expected[..., :3])


@pytest.mark.parametrize("kind", KINDS)
def test_published_form(kind: str) -> None:
    """The paper's evaluation: softmax without the query's norm. E[v | u] only if all variances are equal."""
    mixture, queries = draw(kind), draw_queries()
    variances = mixture.dense_variances()
    spread = torch.zeros(1, 1, dtype=torch.double) if variances is None else variances
    total = (spread + math.sqrt(WIDTH)).expand(BATCH, COMPONENTS, WIDTH)
    bias = mixture.log_weights - 0.5 * (mixture.means.square() / total + total.log()).sum(-1)
    weights = (queries @ (mixture.means / total).mT + bias[:, None]).softmax(-1)
    shrinkage = 1 - math.sqrt(WIDTH) / total
    expected = weights @ ((1 - shrinkage) * mixture.means) + (weights @ shrinkage) * queries
    published = attend(queries, mixture, form="published")
    assert_close(published, expected)
    equal = kind in ("point masses", "one for all", "one per text")
    assert torch.allclose(published, posterior_mean(queries, mixture), rtol=0, atol=1e-10) == equal


@settings(deadline=None, max_examples=60)
@given(
    kind=st.sampled_from(KINDS),
    sizes=st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9)),
    log_alpha=st.lists(st.floats(-60, 200), min_size=9, max_size=9),
    present=st.lists(st.booleans(), min_size=9, max_size=9),
    seed=st.integers(0, 1000),
)
def test_any_shape_mask_and_concentration(
    kind: str, sizes: tuple[int, int, int], log_alpha: list[float], present: list[bool], seed: int
) -> None:
    torch.manual_seed(seed)
    m, n, d = sizes
    mixture = draw(kind, components=n, width=d, batch=(1,))
    log_weights = torch.tensor([log_alpha[:n]], dtype=torch.double).log_softmax(-1)
    mixture = with_gradients(replace(mixture, log_weights=log_weights, mask=torch.tensor([present[:n]])))
    queries = torch.randn(1, m, d, dtype=torch.double, requires_grad=True)
    inputs, weight = [queries, *tensors(mixture).values()], torch.randn(1, m, d, dtype=torch.double)
    expected, actual = posterior_mean(queries, mixture), attend(queries, mixture)
    assert_close(actual, expected, 1e-9)
    reference = gradients(expected, inputs, weight)
    for one, other in zip(gradients(actual, inputs, weight), reference, strict=True):
        assert_close(one, other, 1e-9)

    single = with_gradients(to_dtype(mixture, torch.float))
    low = queries.detach().float().requires_grad_()
    actual = attend(low, single)
    torch.testing.assert_close(actual.double(), expected, rtol=1e-3, atol=1e-3)
    for gradient in gradients(actual, [low, *tensors(single).values()], weight.float()):
        assert gradient.isfinite().all()


def to_dtype(mixture: Mixture, dtype: torch.dtype) -> Mixture:
    changed: dict[str, Any] = {name: value.detach().to(dtype) for name, value in tensors(mixture).items()}
    if isinstance(mixture.variances, SharedVariances):
        changed["variances"] = mixture.variances._replace(table=changed["variances"])
    return replace(mixture, **changed)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_layer_is_the_explicit_form(kind: str, bias: bool, causal: bool) -> None:
    layer = DenoisingAttention(HEADS * 4, HEADS, bias=bias).double()
    mixture = with_gradients(draw(kind, masked=True, width=HEADS * 4))
    x = draw_queries(HEADS * 4).requires_grad_()
    actual = layer(x, mixture, causal=causal)
    expected = explicit(layer, x, mixture, triangle(QUERIES, COMPONENTS) if causal else None)
    assert_close(actual, expected)
    assert_close(layer(x, layer.project(mixture), causal=causal), expected)
    inputs, weight = [x, *tensors(mixture).values(), *layer.parameters()], torch.randn_like(x)
    for one, other in zip(gradients(actual, inputs, weight), gradients(expected, inputs, weight), strict=True):
        assert_close(one, other)


def test_layer_with_given_noise_and_values() -> None:
    layer = DenoisingAttention(12, HEADS).double()
    mixture = replace(draw("diagonal", width=12), values=torch.randn(BATCH, COMPONENTS, 12, dtype=torch.double))
    x = draw_queries(12)
    assert_close(layer(x, mixture), explicit(layer, x, mixture))
    assert_close(layer(x, replace(mixture, noise_variance=2.0)), layer(x, mixture))  # a head of width 4 has noise 2
    assert (layer(x, replace(mixture, noise_variance=1.0)) - layer(x, mixture)).abs().max() > 1e-3


def test_layer_is_multi_head_attention_for_the_right_weights() -> None:
    layer = DenoisingAttention(12, HEADS).double()
    z, x = torch.randn(BATCH, COMPONENTS, 12, dtype=torch.double), draw_queries(12)
    oracle = nn.MultiheadAttention(12, HEADS, batch_first=True, dtype=torch.double)
    with torch.no_grad():
        oracle.in_proj_weight.copy_(torch.cat([layer.query.weight, layer.key.weight, layer.value.weight]))
        oracle.in_proj_bias.copy_(torch.cat([layer.query.bias, torch.randn(12), layer.value.bias]))  # any bias of keys
    oracle.out_proj = layer.out  # type: ignore[assignment]
    mixture = Mixture(z.square().sum(-1) / (2 * math.sqrt(4)), z)
    assert_close(layer(x, mixture), oracle(x, z, z)[0])
    assert_close(layer.attention_weights(x, mixture), oracle(x, z, z, average_attn_weights=False)[1])


@pytest.mark.parametrize("kind", KINDS)
def test_attention_weights(kind: str) -> None:
    layer = DenoisingAttention(12, HEADS).double()
    mixture = draw(kind, masked=True, width=12)
    assert mixture.mask is not None
    mixture.mask[0] = False
    x = draw_queries(12)
    weights = layer.attention_weights(x, mixture)
    assert weights.shape == (BATCH, HEADS, QUERIES, COMPONENTS)
    queries = (layer.query(x)[..., 4:8] @ layer.key.weight[4:8]).detach()
    one = replace(mixture, variances=mixture.dense_variances(), noise_variance=2.0)
    assert_close(weights[:, 1], responsibilities(queries, one))
    assert (weights[0] == 0).all()


def test_rank_follows_from_the_shape_of_the_variances() -> None:
    """Few columns where few will do: one for isotropic variances, two for two groups, none for point masses."""
    layer = DenoisingAttention(64, 4)
    widths = {}
    for kind in KINDS:
        memory = layer.project(draw(kind, width=64, dtype=torch.float))
        assert memory.keys.shape == memory.values.shape
        widths[kind] = memory.keys.shape[-1]
    assert widths.pop("diagonal") == 88 and widths.pop("one per text") == 80
    assert set(widths.values()) == {24}


@pytest.mark.parametrize("kind", KINDS)
def test_leading_dimensions_broadcast(kind: str) -> None:
    """A mixture shared by many x, an x by many mixtures, and both with dimensions of their own."""
    layer = DenoisingAttention(12, HEADS).double()
    x = torch.randn(4, BATCH, QUERIES, 12, dtype=torch.double)
    mixture = draw(kind, masked=True, width=12)
    shared = layer(x, mixture)
    for particle in range(4):
        assert_close(shared[particle], layer(x[particle], mixture))
    many = draw(kind, width=12, batch=(4, BATCH))
    assert layer(x, many).shape == x.shape
    variances = many.variances
    if isinstance(variances, Tensor) and variances.ndim > 2:
        variances = variances[1]
    one = replace(many, log_weights=many.log_weights[1], means=many.means[1], variances=variances)
    assert_close(layer(x[0], many)[1], layer(x[0], one))
    assert_close(attend(x, many), posterior_mean(x, many))
    single = replace(one, log_weights=one.log_weights[0], means=one.means[0], variances=None, mask=None)
    assert_close(layer(x[0, 0], single), layer(x[:1, 0], single)[0])
    assert_close(attend(x[0, 0], single), posterior_mean(x[0, 0], single))


@pytest.mark.parametrize("returns", EXPLICIT)
@pytest.mark.parametrize("kind", KINDS)
def test_weights_means_and_variances_may_be_of_all_texts(kind: str, returns: Any) -> None:
    x = torch.randn(4, BATCH, COMPONENTS, WIDTH, dtype=torch.double)
    for few, many in product([(), (BATCH,)], repeat=2):
        weights, means, variances = (draw(kind, batch=batch) for batch in (few, many, (4, 1)))
        for mixture in (replace(means, log_weights=weights.log_weights), replace(variances, means=means.means)):
            whole = expanded(mixture)
            assert_close(attend(x, mixture, returns=returns), EXPLICIT[returns](x, whole))
            causal = attend(x, mixture, returns=returns, causal=True)
            assert_close(causal, attend(x, whole, returns=returns, causal=True))


@pytest.mark.parametrize("kind", KINDS)
def test_padding_and_company_change_nothing(kind: str) -> None:
    layer = DenoisingAttention(12, HEADS)
    mixture, x = draw(kind, width=12, dtype=torch.float), torch.randn(BATCH, QUERIES, 12)
    if kind == "shared":
        assert isinstance(mixture.variances, SharedVariances)
        variances: Any = mixture.variances._replace(group=torch.tensor([0] + [1] * (COMPONENTS + 2)))
    else:
        variances = mixture.variances
        if kind in ("isotropic", "diagonal"):
            assert isinstance(variances, Tensor)
            variances = torch.cat([variances, torch.full_like(variances[:, :3], torch.nan)], 1)
    padded = Mixture(
        torch.cat([mixture.log_weights, torch.full((BATCH, 3), torch.nan)], 1),
        torch.cat([mixture.means, torch.full((BATCH, 3, 12), torch.nan)], 1),
        variances,
        (torch.arange(COMPONENTS + 3) < COMPONENTS).expand(BATCH, -1),
    )
    torch.testing.assert_close(layer(x, padded), layer(x, mixture), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(attend(x, padded), attend(x, mixture), rtol=1e-5, atol=1e-6)
    if kind in ("isotropic", "diagonal"):
        assert isinstance(mixture.variances, Tensor)
        alone = Mixture(mixture.log_weights[:1], mixture.means[:1], mixture.variances[:1])
        torch.testing.assert_close(layer(x[:1], alone), layer(x, mixture)[:1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("how", ["mask", "log weights"])
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_gives_zero(kind: str, how: str) -> None:
    mask = torch.ones(BATCH, COMPONENTS, dtype=torch.bool)
    mask[0] = False
    mixture = draw(kind, width=12, dtype=torch.float)
    if how == "mask":
        mixture = replace(mixture, mask=mask)
    else:
        mixture = replace(mixture, log_weights=torch.where(mask, mixture.log_weights, -torch.inf))
    mixture, x = with_gradients(mixture), torch.randn(BATCH, QUERIES, 12, requires_grad=True)
    layer = DenoisingAttention(12, HEADS)
    output = layer(x, mixture)
    assert torch.equal(output[0], layer.out.bias.expand(QUERIES, -1))
    mean, variance, log_p = (attend(x, mixture, returns=returns) for returns in ("mean", "variance", "evidence"))  # type: ignore[arg-type]
    assert (mean[0] == 0).all() and (variance[0] == 0).all() and (log_p[0] == -torch.inf).all()
    total = output.sum() + mean.sum() + variance.sum() + log_p[1].sum()
    for gradient in torch.autograd.grad(total, [x, *tensors(mixture).values(), *layer.parameters()]):
        assert gradient.isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_changed_in_place(kind: str) -> None:
    mixture, x = draw(kind, masked=True, width=12, dtype=torch.float), torch.randn(BATCH, QUERIES, 12)
    layer = DenoisingAttention(12, HEADS)
    inputs = [x, mixture.mask, *tensors(mixture).values()]
    before = [tensor.clone() for tensor in inputs if tensor is not None]
    layer(x, mixture, causal=True)
    for returns in ("mean", "variance", "evidence"):
        attend(x, mixture, returns=returns, causal=True)  # type: ignore[arg-type]
    assert all(torch.equal(now, then) for now, then in zip(inputs, before, strict=True) if now is not None)


@pytest.mark.parametrize("form", ["exact", "published"])
@pytest.mark.parametrize("kind", KINDS)
def test_never_leaves_the_fast_kernel(kind: str, form: Any) -> None:
    """With gradients and masks, whatever the widths of keys and values."""
    layer = DenoisingAttention(64, 2)
    x = torch.randn(BATCH, COMPONENTS, 64, requires_grad=True)
    mixture = with_gradients(draw(kind, masked=True, values=True, width=64, dtype=torch.float))
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        attend(x, mixture, form=form, causal=True).sum().backward()
        attend(x[:, :5], mixture, form=form, causal=True).sum().backward()
        layer(x, layer.project(replace(mixture, values=None), form)).sum().backward()


@pytest.mark.parametrize(("dtype", "bound"), [(torch.bfloat16, 4e-3), (torch.float16, 5e-4)])
@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_rounds_little_away(kind: str, dtype: torch.dtype, bound: float) -> None:
    """Attention weights (by values that are one-hot) although all vectors are far off in one direction.

    A bias in one bfloat16 column that is not centered is off by 0.04 here.
    """
    queries = torch.randn(BATCH, 64, 64).to(dtype)
    mixture = draw(kind, width=64, components=64, dtype=torch.float)
    vectors = mixture.means + 3
    log_weights = mixture.log_weights + vectors.square().sum(-1) / 16
    one_hot = torch.eye(64).expand(BATCH, -1, -1)
    mixture = replace(mixture, means=vectors, log_weights=log_weights, values=one_hot)
    actual = attend(queries, mixture)
    assert actual.dtype == dtype
    assert variation(actual.double(), posterior_mean(queries.double(), to_dtype(mixture, torch.double))) < bound


def variation(a: Tensor, b: Tensor) -> float:
    """The largest total variation distance of two rows."""
    return 0.5 * (a - b).abs().sum(-1).max().item()


@pytest.mark.parametrize("kind", KINDS)
def test_autocast(kind: str) -> None:
    layer = DenoisingAttention(64, 4)
    mixture = draw(kind, masked=True, width=64, dtype=torch.float)
    x = torch.randn(BATCH, QUERIES, 64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        memory = layer.project(mixture)
        output = layer(x, memory)
    assert output.dtype == memory.keys.dtype == torch.bfloat16
    torch.testing.assert_close(output.float(), layer(x, mixture), rtol=0.02, atol=0.02)
    layer = layer.bfloat16()
    assert layer(x.bfloat16(), mixture).dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_packed_terms_have_the_bits_of_two_numbers(dtype: torch.dtype) -> None:
    bias, squares, curvature = -100 * torch.rand(7), torch.rand(5, 3), torch.rand(7, 3)
    width = packed_width(8, 3, 0, dtype)
    queries = pack_queries(torch.zeros(5, 8, dtype=dtype), squares, width)
    keys = pack_keys(torch.zeros(7, 8, dtype=dtype), bias, curvature, width)
    torch.testing.assert_close(queries.float() @ keys.float().mT, bias + squares @ curvature.mT, rtol=1e-4, atol=1e-3)
    assert pack_keys(queries[..., :8], torch.full((5,), -1e30), None, width).isfinite().all()


def test_squares_and_their_forms_are_in_single_precision_under_autocast() -> None:
    x, basis, key = torch.randn(5, WIDTH).bfloat16(), torch.randn(3, WIDTH), torch.randn(2, 4, WIDTH)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        squares, forms = Basis(basis).squares(x), lifted_forms(key, basis, key)
    torch.testing.assert_close(squares, x.float().square() @ basis.mT)
    torch.testing.assert_close(forms, torch.stack([(key * row) @ key.mT for row in basis], -2))


def test_dropout_is_for_training_only() -> None:
    layer = DenoisingAttention(12, HEADS, dropout=0.5)
    mixture, x = draw("diagonal", width=12, dtype=torch.float), torch.randn(BATCH, QUERIES, 12)
    assert not torch.equal(layer(x, mixture), layer(x, mixture))
    layer.eval()
    assert torch.equal(layer(x, mixture), layer(x, mixture))


@pytest.mark.parametrize("returns", ["variance", "evidence"])
def test_dropout_is_of_a_mean_alone(returns: Any) -> None:
    mixture, u = draw("diagonal"), draw_queries()
    assert not torch.equal(attend(u, mixture, dropout=0.5), attend(u, mixture))
    assert torch.equal(attend(u, mixture, returns=returns, dropout=0.5), attend(u, mixture, returns=returns))


@pytest.mark.compile
@pytest.mark.parametrize("kind", KINDS)
def test_one_graph(kind: str) -> None:
    """No graph breaks, forwards and backwards, under autocast too; the same numbers as without compiling."""
    layer = DenoisingAttention(64, 4)
    mixture, x = draw(kind, masked=True, width=64, dtype=torch.float), torch.randn(BATCH, QUERIES, 64)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, mixture), layer(x, mixture), rtol=1e-6, atol=1e-6)
    for returns in EXPLICIT:
        function = torch.compile(attend, fullgraph=True, backend="eager")
        torch.testing.assert_close(function(x, mixture, returns=returns), attend(x, mixture, returns=returns))  # type: ignore[arg-type]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(compiled(x, mixture), layer(x, mixture), rtol=0.02, atol=0.02)


@pytest.mark.compile
@pytest.mark.slow
def test_compiled_training() -> None:
    """A mixture made inside the compiled function, projected once, by the real compiler; values and gradients."""
    layer = DenoisingAttention(64, 4)

    def loss(x: Tensor, log_weights: Tensor, vectors: Tensor, mask: Tensor) -> tuple[Tensor, ProjectedMixture]:
        memory = layer.project(Mixture(log_weights, vectors, mask=mask))
        return layer(x, memory).square().mean(), memory

    mixture = draw("point masses", masked=True, width=64, dtype=torch.float)
    x = torch.randn(BATCH, QUERIES, 64)
    assert mixture.mask is not None
    results = []
    for function in (loss, torch.compile(loss, fullgraph=True)):
        leaves = [tensor.clone().requires_grad_() for tensor in (x, mixture.log_weights, mixture.means)]
        value, memory = function(*leaves, mixture.mask)
        assert isinstance(memory, ProjectedMixture)
        results.append([value, *torch.autograd.grad(value, [*leaves, *layer.parameters()])])
    for eager, compiled in zip(*results, strict=True):
        torch.testing.assert_close(compiled, eager, rtol=1e-5, atol=1e-6)


def test_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users have it
    mixture, queries = draw("diagonal"), draw_queries()
    with pytest.raises(ValueError, match="width is 10, which is no multiple of heads = 4"):
        DenoisingAttention(10, 4)
    with pytest.raises(ValueError, match="heads is -2: give a whole number of at least 1"):
        DenoisingAttention(10, -2)
    with pytest.raises(ValueError, match="width is '8', a str: give a number"):
        ProbabilisticAttention("8", 2)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="returns is 'median': choose one of mean, variance, evidence"):
        attend(queries, mixture, returns="median")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="form is 'official': choose one of exact, published"):
        attend(queries, mixture, form="official")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="form is 'official': choose one of exact, published"):
        DenoisingAttention(WIDTH, 2).project(mixture, "official")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="form 'published' has no evidence"):
        attend(queries, mixture, returns="evidence", form="published")


@pytest.mark.parametrize(
    ("queries", "options", "message"),
    [
        (torch.zeros(3), {}, r"queries have shape \(3,\): give a row for each of M queries, \(\*, M, 3\)"),
        (torch.zeros(2, 3).int(), {}, "queries has dtype int32: give floating-point numbers, as queries.float"),
        (torch.zeros(2, 3).cfloat(), {}, "queries has dtype complex64: give floating-point numbers"),
        ([[0.0, 0.0, 0.0]], {}, "queries has type list: give a tensor"),
        (None, {}, "queries has type NoneType: give a tensor"),
        (torch.zeros(2, 3), {"attn_mask": torch.ones(2, 4)}, "attn_mask has dtype float32: give booleans, True where"),
        (torch.zeros(2, 3), {"dropout": -0.1}, r"dropout is -0\.1: give a probability from 0 to 1"),
        (torch.zeros(2, 3), {"dropout": None}, "dropout is None: give a probability from 0 to 1"),
        (torch.zeros(2, 3), {"dropout": "0.1"}, r"dropout is '0\.1': give a probability from 0 to 1"),
        (
            torch.zeros(2, 5, 3),
            {"mixture": Mixture(torch.zeros(4), torch.zeros(3, 4, 3))},
            r"the leading dimensions \(2,\) of queries, \(3,\) of means, \(\) of log_weights do not broadcast",
        ),
        (
            torch.zeros(2, 3),
            {"mixture": Mixture(torch.zeros(4), torch.zeros(2, 4, 3)), "attn_mask": torch.ones(3, 2, 4).bool()},
            r"the leading dimensions \(\) of queries, \(3,\) of attn_mask, \(2,\) of means, \(\) of log_weights do not",
        ),
        (torch.zeros(2, 3), {"causal": "yes"}, "causal is 'yes': give True or False"),
        (torch.zeros(2, 3), {"dropout": math.nan}, "dropout is nan: give a probability from 0 to 1"),
        (torch.zeros(2, 3), {"mixture": torch.zeros(4, 3)}, "mixture has type Tensor: give a pf.Mixture"),
    ],
)
def test_other_types_are_refused(
    queries: Any, options: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users have it
    given: dict[str, Any] = {"mixture": Mixture(torch.zeros(4), torch.zeros(4, 3)), **options}
    with pytest.raises(ValueError, match=message):
        attend(queries, **given)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"means": torch.zeros(4, 3).int()}, "means has dtype int32: give floating-point numbers, as means.float"),
        ({"means": torch.zeros(3)}, r"means have shape \(3,\): give a row for each of N components"),
        ({"log_weights": [0.0] * 4}, "log_weights has type list: give a tensor"),
        ({"means": None}, "means has type NoneType: give a tensor"),
        ({"mask": torch.ones(4)}, "mask has dtype float32: give booleans"),
        ({"variances": 0.5}, "variances has type float: give a tensor"),
        ({"variances": SharedVariances(0.5, torch.zeros(4).int())}, "table has type float: give a tensor"),
        (
            {"variances": SharedVariances(torch.ones(2, 3), torch.zeros(4))},
            "group of SharedVariances is float32: give a",
        ),
        ({"variances": SharedVariances(torch.ones(2, 3), [0] * 4)}, "group of SharedVariances is list: give a tensor"),
        ({"variances": Covariances(None)}, "matrices has type NoneType: give a tensor"),
        ({"noise_variance": "1"}, "noise_variance is '1', a str: give a number"),
        ({"noise_variance": torch.ones(4)}, r"noise_variance has shape \(4,\): give one number for all components"),
        ({"value_variances": torch.ones(4, 1)}, "value_variances without values: give values too, or leave both out"),
    ],
)
def test_mixtures_of_other_types_are_refused(
    fields: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users have it
    given: dict[str, Any] = {"log_weights": torch.zeros(4), "means": torch.zeros(4, 3), **fields}
    with pytest.raises(ValueError, match=message):
        Mixture(**given)


ROWS = torch.zeros(4, 3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Mixture.from_attention(ROWS.numpy(), ROWS.numpy()), "keys has type ndarray: give a tensor"),
        (lambda: Mixture.from_attention(None, ROWS), "keys has type NoneType: give a tensor"),
        (lambda: Mixture.from_attention(ROWS[0], ROWS), r"keys have shape \(3,\): give a row for each of N components"),
        (lambda: Mixture.from_attention(ROWS, ROWS[:2]), "values has 2 components and means 4: give one for each"),
        (
            lambda: Mixture.from_attention(ROWS, ROWS, torch.ones(3).bool()),
            "mask has 3 components and keys 4: give one",
        ),
        (lambda: Mixture.from_attention(ROWS, ROWS, torch.ones(4)), "mask has dtype float32: give booleans"),
        (lambda: Mixture.from_attention(ROWS, ROWS, value_variances=torch.ones(2, 3)), "value_variances of shape"),
        (lambda: Mixture.from_attention(ROWS, None, value_variances=ROWS), "value_variances without values: give"),
        (lambda: nested(values=None), "values has type NoneType: give a tensor"),
        (lambda: nested(log_weights=[0.0] * 4), "log_weights has type list: give a tensor"),
        (
            lambda: nested(means=ROWS),
            r"means have shape \(4, 3\): give a row for each of N components, \(\*, N, R, D\)",
        ),
        (lambda: nested(log_weights=torch.zeros(3)), "log_weights has 3 components and means 4: give one for each"),
        (
            lambda: nested(inner_log_weights=torch.zeros(4, 3)),
            r"inner_log_weights has shape \(4, 3\): .* end in \(4, 2\)",
        ),
        (lambda: nested(variances=torch.ones(4, 3, 1)), r"variances has shape \(4, 3, 1\): .* end in \(4, 2, D or 1\)"),
        (
            lambda: nested(log_weights=torch.zeros(2, 4), inner_log_weights=torch.zeros(3, 4, 2)),
            r"leading dimensions \(2,\) of log_weights, \(3,\) of inner_log_weights do not broadcast",
        ),
        (lambda: with_null(value=torch.zeros(7)), r"value has shape \(7,\): give one of shape \(2,\)"),
        (lambda: with_null(value=0.5), "value has type float: give a tensor"),
        (lambda: with_null(log_weight=torch.zeros(3)), r"log_weight has shape \(3,\): give a number"),
        (lambda: with_null(log_weight="0"), "log_weight is '0', a str: give a number"),
        (lambda: with_null(variance=torch.ones(3)), r"variance has shape \(3,\): give a number"),
        (lambda: Mixture(ROWS[:, 0], ROWS).with_null(value=ROWS[0]), "value is given, and the mixture has no values"),
    ],
)
def test_parts_that_do_not_make_a_mixture(
    make: Callable[[], Mixture], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users have it
    with pytest.raises(ValueError, match=message):
        make()


def nested(**parts: Any) -> Mixture:
    fitting: dict[str, Any] = {"log_weights": torch.zeros(4), "inner_log_weights": torch.zeros(4, 2), "values": ROWS}
    return Mixture.from_nested(**fitting | {"means": torch.zeros(4, 2, 3)} | parts)


def with_null(**options: Any) -> Mixture:
    return Mixture(torch.zeros(4), ROWS, values=torch.zeros(4, 2)).with_null(**options)


@pytest.mark.compile
def test_leading_dimensions_broadcast_in_one_graph() -> None:
    mixture, queries = (
        draw("diagonal", masked=True, batch=(1, 3)),
        torch.randn(2, 1, QUERIES, WIDTH, dtype=torch.double),
    )
    compiled = torch.compile(attend, fullgraph=True, backend="eager")
    for rows in (QUERIES, QUERIES - 1):
        some = queries[..., :rows, :].contiguous()
        torch._dynamo.mark_dynamic(some, 2)
        with torch._dynamo.config.patch(error_on_recompile=True):
            assert_close(compiled(some, mixture), attend(some, mixture))
