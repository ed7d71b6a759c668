"""Attention at the edge: NaN, variances that are none, extreme inputs, sizes of zero, devices and transforms."""

import math
from dataclasses import replace
from typing import Any

import jaxtyping
import pyro
import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim, export
from torch.nn.attention import SDPBackend, sdpa_kernel

import pyroformer as pf
from pyroformer.models.attention.attend import attend
from pyroformer.models.attention.bayes_rule import evidence, posterior_mean, posterior_variance
from pyroformer.models.attention.blockwise.attend import blockwise_attend
from pyroformer.models.attention.layers.probabilistic import ProbabilisticAttention
from pyroformer.models.attention.mixture import Mixture
from pyroformer.models.attention.value_map import value_map
from pyroformer.models.attention.variances import Covariances, SharedVariances
from pyroformer.models.transformer.self_attention import SelfAttention

M, N, D = 4, 4, 8
NAN = torch.nan


def draw(*, variances: bool = False) -> tuple[Tensor, Mixture]:
    own = torch.rand(N, 1) if variances else None
    return torch.randn(M, D), Mixture(torch.randn(N), torch.randn(N, D), own, values=torch.randn(N, 2))


# Components.


@pytest.mark.parametrize("returns", ["mean", "variance", "evidence"])
@pytest.mark.parametrize("value", [NAN, torch.inf])
@pytest.mark.parametrize("name", ["means", "log_weights"])
def test_components_that_are_not_finite_are_refused_unless_absent(name: str, value: float, returns: Any) -> None:
    """A kernel may answer some dimensions with 0 and others with NaN."""
    queries, mixture = draw()
    mixture = replace(mixture, values=None)
    broken = getattr(mixture, name).clone()
    broken[1, ...] = value
    broken = replace(mixture, **{name: broken})
    with pytest.raises(ValueError, match=rf"{name} is (nan|inf): give finite ones, or leave components out with mask"):
        attend(queries, broken, returns=returns)
    without = torch.arange(N) != 1
    expected, actual = (attend(queries, replace(each, mask=without), returns=returns) for each in (mixture, broken))
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("how", [attend, blockwise_attend])
@pytest.mark.parametrize("noise", [0.0, torch.tensor(0.0)])
def test_a_component_without_variance_and_noise_is_refused_unless_absent(how: Any, noise: Any) -> None:
    """Its density is infinite at its mean: answers would be NaN."""
    queries, mixture = draw()
    mixture = replace(mixture, variances=torch.arange(N)[:, None].float(), noise_variance=noise)
    with pytest.raises(ValueError, match="variances is 0.0: give positive numbers where noise_variance is 0, or add"):
        how(queries, mixture)
    assert how(queries, replace(mixture, mask=torch.arange(N) > 0)).isfinite().all()


@pytest.mark.parametrize("how", [attend, blockwise_attend])
def test_the_variance_of_an_only_component_that_is_absent_may_be_nan(how: Any) -> None:
    absent = Mixture(
        torch.zeros(1), torch.zeros(1, 2), torch.full((1, 2), NAN), torch.tensor([False]), torch.ones(1, 2)
    )
    assert how(torch.randn(3, 2), absent).tolist() == [[0.0, 0.0]] * 3
    assert how(torch.randn(3, 2), absent, returns="evidence").tolist() == [-math.inf] * 3


@pytest.mark.parametrize("returns", ["mean", "variance", "evidence"])
@pytest.mark.parametrize("small", [1e-8, 1e-4])
def test_small_variances_do_not_cancel(small: float, returns: Any) -> None:
    """In the natural parameters, log densities are differences of numbers such as 1 / 1e-8."""
    variances = torch.tensor([small, 1.0, 1.0, 1.0])[:, None]
    mixture = Mixture(torch.zeros(N), torch.randn(N, 3), variances, noise_variance=0.0)
    queries = torch.cat([torch.randn(5, 3), mixture.means[:1] + 5 * small**0.5 * torch.randn(20, 3)])
    explicit = {"mean": posterior_mean, "variance": posterior_variance, "evidence": evidence}[returns]
    double = replace(mixture, **{n: getattr(mixture, n).double() for n in ("log_weights", "means", "variances")})
    actual = attend(queries, mixture, returns=returns)
    assert actual.dtype == torch.float32
    torch.testing.assert_close(actual.double(), explicit(queries.double(), double), rtol=1e-5, atol=1e-5)
    with sdpa_kernel(SDPBackend.MATH):
        mapped = torch.func.vmap(lambda each: attend(each, mixture, returns=returns))(queries[:5].expand(2, 5, 3))
    assert mapped.isfinite().all()


# Queries.


@pytest.mark.parametrize("value", [NAN, torch.inf])
@pytest.mark.parametrize("variances", [False, True])
@pytest.mark.parametrize("returns", ["mean", "variance", "evidence"])
@pytest.mark.parametrize("attention", [{}, {"causal": True}, {"attn_mask": torch.ones(M, N).tril().bool()}], ids=str)
def test_a_query_that_is_not_finite_has_no_posterior_and_others_keep_theirs(
    attention: dict[str, Any], returns: Any, variances: bool, value: float
) -> None:
    queries, mixture = draw(variances=variances)
    broken = queries.clone()
    broken[1, 0] = value
    expected, actual = (attend(each, mixture, returns=returns, **attention) for each in (queries, broken))
    assert actual[1].isnan().all()
    torch.testing.assert_close(actual[[0, 2, 3]], expected[[0, 2, 3]])


def test_a_query_that_sees_nothing_gives_zeros_whatever_it_is() -> None:
    queries, mixture = draw()
    queries[1] = NAN
    seen = torch.ones(M, N).bool()
    seen[1] = False
    assert (attend(queries, mixture, attn_mask=seen)[1] == 0).all()


# Variances.


def equal(value: float) -> Tensor:
    return torch.tensor([[1.0], [value], [1.0], [1.0]])


@pytest.mark.parametrize("value", [-1.0, NAN, math.inf])
@pytest.mark.parametrize(
    ("name", "message", "kind"),
    [
        ("variances", "variances", equal),
        ("variances", "variances", lambda value: equal(value).expand(N, D)),
        ("variances", "variances", lambda value: torch.full((1, D), value)),
        ("variances", "variances", lambda value: SharedVariances(torch.full((1, D), value), torch.zeros(N).long())),
        ("variances", "variances", lambda value: Covariances(equal(value)[..., None] * torch.eye(D))),
        ("noise_variance", "noise_variance", float),
        ("noise_variance", "noise_variance", torch.tensor),
        ("value_variances", "value_variances", equal),
    ],
)
def test_variances_are_finite_and_not_negative(name: str, message: str, kind: Any, value: float) -> None:
    _, mixture = draw()
    with pytest.raises(
        ValueError, match=rf"^{message} is {value}: give (a finite number|finite numbers|positive, finite numbers)"
    ):
        Mixture(mixture.log_weights, mixture.means, values=mixture.values, **{name: kind(value)})


def test_what_is_absent_sets_no_scale() -> None:
    """Data in units in which variances are large, in single precision, as they are in double precision."""
    queries, keys, variances = 1000 * torch.randn(M, D), 1000 * torch.randn(N, D), 1e6 * (0.5 + torch.rand(N, 1))
    mixture = Mixture(torch.zeros(N), keys, variances, torch.arange(N) > 0, torch.randn(N, 2), noise_variance=0.0)
    double = replace(
        mixture, **{n: getattr(mixture, n).double() for n in ("log_weights", "means", "variances", "values")}
    )
    torch.testing.assert_close(
        attend(queries, mixture).double(), attend(queries.double(), double), rtol=1e-5, atol=1e-5
    )


def test_the_variance_of_a_later_component_changes_no_earlier_answer() -> None:
    queries, mixture = draw(variances=True)
    assert isinstance(mixture.variances, Tensor)
    later = torch.where(torch.arange(N)[:, None] < N - 1, mixture.variances, 1e-6)
    before, after = (
        attend(queries, replace(mixture, variances=each), causal=True) for each in (mixture.variances, later)
    )
    assert torch.equal(before[:-1], after[:-1]) and not torch.equal(before[-1], after[-1])


def test_values_of_exactly_no_variance_are_said_otherwise() -> None:
    with pytest.raises(ValueError, match="value_variances is 0.0: .*leave value_variances out where values are exact"):
        Mixture(torch.zeros(N), torch.zeros(N, D), values=torch.zeros(N, 1), value_variances=torch.zeros(N, 1))


def test_what_is_masked_may_be_anything() -> None:
    mask = torch.tensor([True, False, True, True])
    mixture = Mixture(torch.zeros(N), torch.zeros(N, D), equal(NAN), mask)
    assert attend(torch.randn(M, D), mixture).isfinite().all()


def test_mixtures_are_made_inside_vmap() -> None:
    queries, means, variances = torch.randn(3, M, D), torch.randn(3, N, D), torch.rand(3, N, 1)

    def mean(queries: Tensor, means: Tensor, variances: Tensor) -> Tensor:
        return posterior_mean(queries, Mixture(torch.zeros(N), means, variances))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jaxtyping.config, "jaxtyping_disable", True)
        expected = mean(queries, means, variances)
        torch.testing.assert_close(torch.func.vmap(mean)(queries, means, variances), expected)


PARTS: dict[str, Any] = {  # drawn for each of three problems
    "queries": lambda: torch.randn(3, M, D),
    "log_weights": lambda: torch.randn(3, N),
    "means": lambda: torch.randn(3, N, D),
    "mask": lambda: torch.tensor([[True] * N, [True, False] * (N // 2), [False] + [True] * (N - 1)]),
    "noise_variance": lambda: 0.1 + torch.rand(3),
    "variances": lambda: 0.1 + torch.rand(3, N, D),
    "values": lambda: torch.randn(3, N, 2),
    "value_variances": lambda: 0.1 + torch.rand(3, N, 2),
}


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
@pytest.mark.parametrize("returns", ["mean", "variance", "evidence"])
@pytest.mark.parametrize("name", PARTS)
def test_each_part_may_be_mapped_alone(name: str, returns: Any) -> None:
    drawn = {part: draw() for part, draw in PARTS.items()}
    shared = {part: value[0] for part, value in drawn.items()}

    def answer(each: Tensor) -> Tensor:
        parts = shared | {name: each}
        return attend(parts.pop("queries"), Mixture(**parts), returns=returns)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jaxtyping.config, "jaxtyping_disable", True)
        actual = torch.func.vmap(answer)(drawn[name])
        torch.testing.assert_close(actual, torch.stack([answer(each) for each in drawn[name]]))


# Layers.


@pytest.mark.parametrize("steps", [0, 1])
@pytest.mark.parametrize("precision", ["shared", "key", "diagonal"])
def test_extreme_inputs_stay_finite_and_leak_nothing(precision: Any, steps: int) -> None:
    layer = ProbabilisticAttention(
        16, 2, precision=precision, prior="learned", components=2, null_component=True, steps=steps
    )
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    x = 1000 * torch.randn(8, 6, 16)
    edited = x.clone()
    edited[:, 4] = 1000 * torch.randn(8, 16)
    before, after = layer(x, causal=True), layer(edited, causal=True)
    assert before.isfinite().all() and torch.equal(before[:, :4], after[:, :4])
    assert layer(x).isfinite().all()


def test_precisions_in_the_usual_range_are_not_limited() -> None:
    layer = ProbabilisticAttention(16, 2, precision="shared", bias=False)
    assert isinstance(layer.log_precision, nn.Parameter)
    x, actual = torch.randn(2, 5, 16), []
    for precision in (0.0, 14.0, 15.0, 16.0):
        nn.init.constant_(layer.log_precision, precision)
        actual.append(layer.posterior(0.01 * x).evidence)
    assert not torch.equal(actual[0], actual[1]) and not torch.equal(actual[1], actual[2])
    assert torch.equal(actual[2], actual[3])


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("bias", [0.0, 3.0, 10.0])
def test_adaptation_under_autocast_is_as_exact_as_its_inputs(bias: float, steps: int, causal: bool) -> None:
    """Queries and keys are rounded to bfloat16; what is computed from them is not, however large the bias of keys."""
    layer = ProbabilisticAttention(128, 2, steps=steps)
    with torch.no_grad():
        layer.qkv.bias[128:256] = bias * torch.randn(128).sign()
    x = torch.randn(4, 32, 128)
    with torch.autocast("cpu", torch.bfloat16):
        actual, projected = layer(x, causal=causal), layer.qkv(x)
    layer.double().qkv.register_forward_hook(lambda *_: projected.double())
    exact = layer(x.double(), causal=causal)
    error = (actual - exact).square().mean().sqrt() / exact.std()
    assert error < 0.006


@pytest.mark.parametrize("how", [{}, {"causal": True}, {"attn_mask": torch.ones(M, 0, dtype=torch.bool)}], ids=str)
@pytest.mark.parametrize("parts", [{}, {"values": torch.zeros(0, 2)}, {"variances": torch.zeros(0, D)}], ids=list)
def test_a_mixture_without_components_is_one_whose_components_are_all_masked(
    parts: dict[str, Any], how: dict[str, Any]
) -> None:
    queries, mixture = torch.randn(M, D), Mixture(torch.zeros(0), torch.zeros(0, D), **parts)
    for returns in ("mean", "variance"):
        assert (attend(queries, mixture, returns=returns, **how) == 0).all()
    assert (attend(queries, mixture, returns="evidence", **how) == -torch.inf).all()
    assert (posterior_mean(queries, mixture) == 0).all() and (evidence(queries, mixture) == -torch.inf).all()
    if mixture.values is not None:
        assert (blockwise_attend(queries, mixture, **how) == 0).all()


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("shape", [(2, 0, 16), (0, 5, 16), (0, 0, 16)])
@pytest.mark.parametrize(
    "layer",
    [
        lambda: SelfAttention(16, 2),
        lambda: ProbabilisticAttention(16, 2),
        lambda: ProbabilisticAttention(16, 2, steps=2),
        lambda: ProbabilisticAttention(16, 2, components=2, null_component=True),
    ],
)
def test_no_tokens_and_no_texts(layer: Any, shape: tuple[int, ...], causal: bool) -> None:
    x, mask = torch.randn(shape), torch.ones(shape[:-1], dtype=torch.bool)
    assert layer()(x, causal=causal).shape == layer()(x, mask, causal).shape == shape


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("kind", [SelfAttention, ProbabilisticAttention])
def test_weights_of_torch_give_its_outputs(kind: Any, bias: bool) -> None:
    oracle = nn.MultiheadAttention(16, 2, bias=bias, batch_first=True)
    layer = nn.Sequential(kind(16, 2, bias=bias))
    state = {f"0.{name}": value for name, value in oracle.state_dict().items()}
    before = list(state)
    result = layer.load_state_dict(state, strict=False)
    assert not result.unexpected_keys and not [name for name in result.missing_keys if "qkv" in name or "out" in name]
    assert list(state) == before  # they are the caller's
    x = torch.randn(3, 5, 16)
    torch.testing.assert_close(layer(x), oracle(x, x, x)[0], rtol=1e-5, atol=1e-6)


def test_what_has_no_place_in_the_layer_is_said() -> None:
    oracle = nn.MultiheadAttention(16, 2, add_bias_kv=True, batch_first=True)
    assert SelfAttention(16, 2).load_state_dict(oracle.state_dict(), strict=False).unexpected_keys == [
        "bias_k",
        "bias_v",
    ]


@pytest.mark.parametrize("steps", [0, 1])
@pytest.mark.parametrize("precision", ["shared", "key", "diagonal"])
def test_shapes_on_the_device_meta(precision: Any, steps: int) -> None:
    with torch.device("meta"):
        layer, x = ProbabilisticAttention(16, 2, precision=precision, steps=steps), torch.randn(2, 5, 16)
        assert layer(x).shape == layer(x, causal=True).shape == (2, 5, 16)


@pytest.mark.compile
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("options", [{}, {"null_component": True, "components": 2}, {"steps": 1}], ids=str)
def test_exported_layers_take_other_sizes(options: dict[str, Any], causal: bool) -> None:
    class Causal(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = ProbabilisticAttention(16, 2, **options)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x, causal=causal)

    module = Causal().eval()
    sizes = {0: Dim("texts", max=1000), 1: Dim("tokens", min=2, max=100)}
    exported = export(module, (torch.randn(2, 5, 16),), dynamic_shapes=(sizes,)).module()
    for shape in ((7, 9, 16), (3, 2, 16)):
        x = torch.randn(shape)
        torch.testing.assert_close(exported(x), module(x))


# Derivatives.


@pytest.mark.filterwarnings("ignore:`torch.jit.script`:DeprecationWarning")  # of torch, at the first forward mode
def test_second_derivatives_and_forward_mode_by_the_plain_kernel() -> None:
    """As the docstring of ``attend`` says: torch's fast kernels have neither."""
    queries, mixture = draw()
    queries = queries.double().requires_grad_()
    mixture = Mixture(torch.zeros(N).double(), mixture.means.double(), values=torch.randn(N, 2).double())
    with sdpa_kernel(SDPBackend.MATH):
        assert torch.autograd.gradgradcheck(lambda q: attend(q, mixture), queries)
        assert torch.autograd.gradcheck(lambda q: attend(q, mixture), queries, check_forward_ad=True)


def test_an_implicit_mode_that_nothing_depends_on() -> None:
    class Second(torch.autograd.Function):
        @staticmethod
        def forward(context: Any, x: Tensor) -> tuple[Tensor, Tensor]:
            context.set_materialize_grads(False)
            return x.clone(), x.new_ones(())

        @staticmethod
        def backward(context: Any, *gradients: Any) -> Any:
            return gradients[0]

    keys = torch.randn(5, 8, requires_grad=True)
    mixture = pf.Mixture.from_attention(keys, torch.randn(5, 2), value_variances=torch.full((1, 1), 0.5))
    modes = value_map(torch.randn(3, 8), mixture, steps=10, implicit=True)
    Second.apply(modes)[1].backward()
    assert keys.grad is None or (keys.grad == 0).all()


def test_values_are_checked_where_those_of_distributions_are() -> None:
    """In training they are not: a run that diverges is NaN, and ends as such."""
    with pyro.settings.context(validate_distributions_torch=False):
        assert Mixture(torch.zeros(N), torch.zeros(N, D), equal(NAN)).components == N
