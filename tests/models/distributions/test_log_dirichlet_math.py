r"""Dirichlets from log concentrations: 100-digit references, torch where it is accurate, Monte Carlo, integrals.

Errors against the references are relative to 1 + |value| (values) and to 1 + the largest entry (gradients).
Monte-Carlo checks are at five standard errors, which a right answer fails once in 2e6 times, and are seeded.
"""

import math

import mpmath as mp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor
from torch.distributions import Dirichlet, Gamma, kl_divergence

from pyroformer.models.distributions.log_dirichlet_math import (
    LOG_ALPHA_MIN,
    LOG_ZERO,
    dirichlet_entropy,
    dirichlet_kl,
    dirichlet_log_prob,
    dirichlet_mean_log,
    gamma_kl_remainder,
    sample_log_dirichlet,
    sample_log_gamma,
    symmetric_dirichlet_kl,
)

TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-11}
DTYPES = pytest.mark.parametrize("dtype", TOLERANCE, ids=["float32", "float64"])

PAIRS = {
    "ordinary": ([0.3, 2.8, 1.4, -2.0], [-2.5, -2.5, -2.5, -2.5]),
    "small": ([-30.0, -25.0, -9.3], [-28.0, -8.2, -30.0]),
    "large": ([200.0, 150.0, 180.0], [170.0, 200.0, 20.0]),
    "wide": ([-30.0, 200.0, 0.0], [200.0, -30.0, 5.0]),
    "one holds all of a": ([0.0, -30.0], [100.0, -30.0]),
    "one holds all of both": ([90.0, -29.0, -25.0], [190.0, -3.0, -12.0]),
    "almost equal": ([199.0, 150.0, -20.0], [199.0 + 1e-6, 150.0 - 1e-12, -20.0]),
    "almost proportional": ([60.0, 59.0, 58.0], [160.0, 159.0 + 3e-13, 158.0]),
    "proportional": ([99.0, 98.5], [199.0, 198.5]),
    "symmetric": ([150.0, 150.0, 150.0], [-1.5, -1.5, -1.5]),
    "an encoder's": ([48.0, 11.0, -12.0, 20.0, 35.0], [-0.4, -0.4, -0.4, -0.4, -0.4]),
    "float32 overflows": ([88.9, 100.0], [0.0, 1.0]),
}


def reference_kl(log_a: list[float], log_b: list[float]) -> tuple[mp.mpf, list[mp.mpf], list[mp.mpf]]:
    """The textbook form and its gradients by log a and log b, with 300 digits."""
    with mp.workdps(300):
        a, b = [mp.exp(mp.mpf(x)) for x in log_a], [mp.exp(mp.mpf(x)) for x in log_b]
        a0, b0 = mp.fsum(a), mp.fsum(b)
        psi = [mp.digamma(x) - mp.digamma(a0) for x in a]
        value = mp.loggamma(a0) - mp.loggamma(b0)
        value += mp.fsum(mp.loggamma(y) - mp.loggamma(x) + (x - y) * p for x, y, p in zip(a, b, psi, strict=True))
        common = (a0 - b0) * mp.polygamma(1, a0)
        by_a = [x * ((x - y) * mp.polygamma(1, x) - common) for x, y in zip(a, b, strict=True)]
        by_b = [y * (mp.digamma(y) - mp.digamma(b0) - p) for y, p in zip(b, psi, strict=True)]
        return value, by_a, by_b


def reference_log_prob(log_alpha: list[float], log_weights: list[float]) -> tuple[mp.mpf, list[mp.mpf]]:
    """The textbook form at the normalized weights, and its gradient by log alpha, with 300 digits."""
    with mp.workdps(300):
        a = [mp.exp(mp.mpf(x)) for x in log_alpha]
        norm = mp.log(mp.fsum(mp.exp(mp.mpf(y)) for y in log_weights))
        y = [mp.mpf(v) - norm for v in log_weights]
        a0 = mp.fsum(a)
        value = mp.loggamma(a0) + mp.fsum(x * v - mp.loggamma(x) for x, v in zip(a, y, strict=True))
        return value, [x * (v - mp.digamma(x) + mp.digamma(a0)) for x, v in zip(a, y, strict=True)]


def assert_equal(value: Tensor, expected: mp.mpf, scale: mp.mpf | float = 0) -> None:
    error = abs(mp.mpf(value.item()) - expected) / (1 + max(abs(expected), scale))
    assert error < TOLERANCE[value.dtype], f"{value.item()} instead of {mp.nstr(expected, 17)}"


class TestDivergence:
    @DTYPES
    @pytest.mark.parametrize("case", PAIRS)
    def test_equals_a_100_digit_reference(self, case: str, dtype: torch.dtype) -> None:
        log_a, log_b = (torch.tensor(x, dtype=dtype, requires_grad=True) for x in PAIRS[case])
        value, by_a, by_b = reference_kl(log_a.tolist(), log_b.tolist())
        result = dirichlet_kl(log_a, log_b)
        if value > torch.finfo(dtype).max:
            assert result.item() == torch.finfo(dtype).max
            return
        assert_equal(result, value)
        for gradient, expected in zip(torch.autograd.grad(result, (log_a, log_b)), (by_a, by_b), strict=True):
            for entry, truth in zip(gradient, expected, strict=True):
                assert_equal(entry, truth, scale=max(map(abs, expected)))

    @settings(max_examples=20, deadline=None)
    @given(st.lists(st.tuples(*[st.floats(-30, 200)] * 2), min_size=1, max_size=5))
    def test_equals_a_100_digit_reference_anywhere(self, pairs: list[tuple[float, float]]) -> None:
        log_a, log_b = map(list, zip(*pairs, strict=True))
        value, _, _ = reference_kl(log_a, log_b)
        a, b = (torch.tensor(x, dtype=torch.float64) for x in (log_a, log_b))
        assert_equal(dirichlet_kl(a, b), value)

    @settings(max_examples=40, deadline=None)
    @given(st.data(), st.integers(1, 6), st.sampled_from(list(TOLERANCE)))
    def test_is_positive_finite_and_zero_at_home(self, data: st.DataObject, n: int, dtype: torch.dtype) -> None:
        logs = st.lists(st.floats(-60, 300), min_size=n, max_size=n)
        log_a, log_b = (torch.tensor(data.draw(logs), dtype=dtype, requires_grad=True) for _ in range(2))
        value = dirichlet_kl(log_a, log_b)
        assert value > -1e-11 and value.isfinite()
        assert dirichlet_kl(log_a, log_a.detach()).abs() < 1e-12
        if value < 1e30:
            assert all(g.isfinite().all() for g in torch.autograd.grad(value, (log_a, log_b)))

    def test_equals_torch_where_torch_is_accurate(self) -> None:
        a, b = (torch.rand(50, 6, dtype=torch.float64) * 8 + 0.1 for _ in range(2))
        expected = kl_divergence(Dirichlet(a), Dirichlet(b))
        torch.testing.assert_close(dirichlet_kl(a.log(), b.log()), expected, atol=1e-10, rtol=1e-10)

    @pytest.mark.parametrize("log_a0, log_b0", [(1.0, 3.0), (1042.0, 1040.5), (1042.0, 3.0)])
    def test_of_symmetric_ones_needs_only_totals(self, log_a0: float, log_b0: float) -> None:
        totals = torch.tensor([log_a0, log_b0], dtype=torch.float64)
        a, b = (totals - math.log(5)).expand(5, 2).unbind(-1)
        torch.testing.assert_close(symmetric_dirichlet_kl(*totals, 5), dirichlet_kl(a, b), rtol=1e-10, atol=1e-10)

    def test_remainder_completes_the_divergence_of_gammas(self) -> None:
        a, b = (torch.rand(50, dtype=torch.float64) * 8 + 0.1 for _ in range(2))
        leading = b * (b / a).log() - b + a
        expected = kl_divergence(Gamma(a, 1.0), Gamma(b, 1.0))
        torch.testing.assert_close(leading + gamma_kl_remainder(a.log(), b.log()), expected)

    def test_equals_monte_carlo(self) -> None:
        log_a, log_b = torch.tensor([-1.0, 2.0, 4.0]).double(), torch.tensor([0.0, -1.0, 1.0]).double()
        draws = sample_log_dirichlet(log_a.expand(100_000, 3))
        ratio = dirichlet_log_prob(log_a, draws) - dirichlet_log_prob(log_b, draws)
        _assert_mean(ratio, dirichlet_kl(log_a, log_b))

    def test_gradient_is_right_to_first_order(self) -> None:
        inputs = [torch.randn(2, 3, dtype=torch.float64, requires_grad=True) for _ in range(2)]
        mask = torch.tensor([[True, True, True], [True, False, True]])
        assert torch.autograd.gradcheck(lambda a, b: dirichlet_kl(a, b, mask), inputs)


class TestDensity:
    @DTYPES
    @pytest.mark.parametrize("case", ["ordinary", "small", "large", "wide", "an encoder's", "float32 overflows"])
    @pytest.mark.parametrize("where", ["draw", "mean", "far"])
    def test_equals_a_100_digit_reference(self, where: str, case: str, dtype: torch.dtype) -> None:
        log_alpha = torch.tensor(PAIRS[case][0], dtype=dtype, requires_grad=True)
        far = 30 * torch.randn(log_alpha.shape, dtype=dtype)
        points = {
            "draw": sample_log_dirichlet(log_alpha),
            "mean": log_alpha.log_softmax(-1),
            "far": far.log_softmax(-1),
        }
        log_weights = points[where].detach()
        value, gradient = reference_log_prob(log_alpha.tolist(), log_weights.tolist())
        result = dirichlet_log_prob(log_alpha, log_weights)
        if -value > torch.finfo(dtype).max:
            assert result.item() == -torch.finfo(dtype).max
            return
        assert_equal(result, value)
        for entry, truth in zip(torch.autograd.grad(result, log_alpha)[0], gradient, strict=True):
            assert_equal(entry, truth, scale=max(map(abs, (*gradient, value))))

    def test_equals_torch_up_to_the_jacobian(self) -> None:
        alpha = torch.rand(50, 4, dtype=torch.float64) * 5 + 0.1
        log_weights = sample_log_dirichlet(alpha.log()).clamp(min=-300)
        expected = Dirichlet(alpha, validate_args=False).log_prob(log_weights.exp()) + log_weights.sum(-1)
        torch.testing.assert_close(dirichlet_log_prob(alpha.log(), log_weights), expected)

    @pytest.mark.parametrize("log_alpha", [[0.0, 0.0], [-1.5, 1.0], [3.0, 5.0], [-1.0, 0.5, 1.0], [0.0, 0.0, 3.0]])
    def test_integrates_to_one_over_log_ratios(self, log_alpha: list[float]) -> None:
        free = len(log_alpha) - 1
        reach, step = (150, 0.2) if free == 1 else (80, 0.4)
        axis = torch.arange(-reach, reach, step, dtype=torch.float64)
        ratios = torch.stack(torch.meshgrid(*[axis] * free, indexing="ij"), -1)
        points = torch.nn.functional.pad(ratios, (0, 1)).log_softmax(-1)
        density = dirichlet_log_prob(torch.tensor(log_alpha).double(), points).exp()
        # the trapezoidal rule converges exponentially on smooth functions that vanish at both ends
        assert density.sum() * step**free == pytest.approx(1, abs=1e-8)

    def test_reads_weights_up_to_rounding(self) -> None:
        log_alpha = torch.tensor([30.0, 29.0, 3.0]).double()
        exact = log_alpha.log_softmax(-1)
        rounded = exact + 1e-7
        torch.testing.assert_close(dirichlet_log_prob(log_alpha, exact), dirichlet_log_prob(log_alpha, rounded))

    def test_is_finite_at_a_weight_of_zero(self) -> None:
        log_weights = torch.tensor([0.0, -math.inf], requires_grad=True)
        value = dirichlet_log_prob(torch.zeros(2), log_weights)
        assert value == LOG_ZERO and torch.autograd.grad(value, log_weights)[0].isfinite().all()

    def test_gradient_is_right_to_first_order(self) -> None:
        log_alpha = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
        scores = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
        mask = torch.tensor([[True, True, True], [True, False, True]])

        def density(log_alpha: Tensor, scores: Tensor) -> Tensor:
            log_weights = torch.where(mask, torch.where(mask, scores, LOG_ZERO).log_softmax(-1), LOG_ZERO)
            return dirichlet_log_prob(log_alpha, log_weights, mask)

        assert torch.autograd.gradcheck(density, [log_alpha, scores])


class TestMoments:
    @DTYPES
    @pytest.mark.parametrize("case", PAIRS)
    def test_equal_a_100_digit_reference(self, case: str, dtype: torch.dtype) -> None:
        log_alpha = torch.tensor(PAIRS[case][0], dtype=dtype)
        with mp.workdps(300):
            a = [mp.exp(mp.mpf(x)) for x in log_alpha.tolist()]
            mean = [mp.digamma(x) - mp.digamma(mp.fsum(a)) for x in a]
            entropy = -mp.loggamma(mp.fsum(a)) + mp.fsum(mp.loggamma(x) - x * m for x, m in zip(a, mean, strict=True))
        assert_equal(dirichlet_entropy(log_alpha), entropy)
        for entry, truth in zip(dirichlet_mean_log(log_alpha), mean, strict=True):
            assert_equal(entry, truth)

    def test_equal_torch_up_to_the_jacobian(self) -> None:
        alpha = torch.rand(50, 4, dtype=torch.float64) * 5 + 0.1
        expected = Dirichlet(alpha).entropy() - dirichlet_mean_log(alpha.log()).sum(-1)
        torch.testing.assert_close(dirichlet_entropy(alpha.log()), expected)


class TestSampler:
    @pytest.mark.parametrize("log_alpha", [-12.0, -3.0, 0.0, 3.0, 9.0, 13.8, 13.9])  # 13.82: where the cube takes over
    def test_draws_follow_the_gamma_law(self, log_alpha: float) -> None:
        draws = sample_log_gamma(torch.full((20_000,), log_alpha, dtype=torch.float64))
        # Kolmogorov-Smirnov, at one failure in 1e6
        assert stats.kstest(draws.numpy(), stats.loggamma(math.exp(log_alpha)).cdf).pvalue > 1e-6

    @DTYPES
    @pytest.mark.parametrize("log_alpha", [-20.0, -1.0, 2.0, 8.0, 13.0, 14.0, 30.0])
    def test_mean_and_its_gradient_are_those_of_the_gamma_law(self, log_alpha: float, dtype: torch.dtype) -> None:
        x = torch.full((50_000,), log_alpha, dtype=dtype, requires_grad=True)
        draws = sample_log_gamma(x)
        centered = draws.double() - log_alpha  # E log g = log alpha - c(alpha) / alpha
        (gradient,) = torch.autograd.grad(draws.sum(), x)
        _assert_mean(centered, float(mp.digamma(mp.exp(log_alpha)) - log_alpha), magnitude=abs(log_alpha))
        _assert_mean(gradient.double(), float(mp.exp(log_alpha) * mp.polygamma(1, mp.exp(log_alpha))), magnitude=1.0)

    @pytest.mark.parametrize("log_alpha", [13.9, 16.0])
    def test_cumulants_of_the_cube_of_a_normal(self, log_alpha: float, monkeypatch: pytest.MonkeyPatch) -> None:
        """By quadrature over the normal, as no number of draws shows them: they are those of the Gamma within 1e-9."""
        normals, weights = (torch.from_numpy(each) for each in np.polynomial.hermite_e.hermegauss(40))
        monkeypatch.setattr(torch, "randn_like", lambda like: normals)
        values, weights = sample_log_gamma(torch.full_like(normals, log_alpha)), weights / weights.sum()
        alpha = mp.exp(log_alpha)
        mean = float((weights * (values - log_alpha)).sum())
        assert mean == pytest.approx(float(mp.digamma(alpha) - log_alpha), abs=1e-9)
        variance = float((weights * (values - log_alpha - mean).square()).sum())
        assert variance == pytest.approx(float(mp.polygamma(1, alpha)), abs=1e-9)

    def test_gradient_of_an_expectation_equals_its_closed_form(self) -> None:
        log_alpha = torch.tensor([-0.5, 1.0, 0.3], dtype=torch.float64, requires_grad=True)
        a = log_alpha.exp()
        second_moment = a[0] * (a[0] + 1) / (a.sum() * (a.sum() + 1))
        (expected,) = torch.autograd.grad(second_moment, log_alpha)
        many = log_alpha.detach().expand(100_000, 3).clone().requires_grad_()
        squares = sample_log_dirichlet(many)[:, 0].exp().square()
        (gradients,) = torch.autograd.grad(squares.sum(), many)
        _assert_mean(squares, second_moment.detach())
        for i in range(3):
            _assert_mean(gradients[:, i], expected[i])

    @settings(max_examples=50, deadline=None)
    @given(st.lists(st.floats(-100, 200), min_size=1, max_size=6), st.sampled_from(list(TOLERANCE)))
    def test_finite_everywhere(self, logs: list[float], dtype: torch.dtype) -> None:
        log_alpha = torch.tensor(logs, dtype=dtype, requires_grad=True)
        log_weights = sample_log_dirichlet(log_alpha)
        (gradient,) = torch.autograd.grad(log_weights[0], log_alpha)
        assert log_weights.isfinite().all() and gradient.isfinite().all()
        assert abs(log_weights.exp().sum() - 1) < 1e-5
        assert (gradient[log_alpha < LOG_ALPHA_MIN] == 0).all()

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_precision_is_raised(self, dtype: torch.dtype) -> None:
        log_alpha = torch.tensor([1.0, 2.0], dtype=dtype)
        assert sample_log_dirichlet(log_alpha).dtype == torch.float32
        assert dirichlet_kl(log_alpha, log_alpha).dtype == torch.float32
        assert dirichlet_log_prob(log_alpha, log_alpha.float().log_softmax(-1)).dtype == torch.float32


class TestMask:
    # what the masked entries hold must not matter, nor where they are
    mask = torch.tensor([True, False, True, True, False])
    junk = torch.tensor([0.0, math.nan, 0.0, 0.0, 1e30])

    def padded(self, x: Tensor) -> Tensor:
        return self.junk.to(x.dtype).index_put((self.mask.nonzero().squeeze(-1),), x)

    @settings(max_examples=15, deadline=None)
    @given(st.lists(st.tuples(*[st.floats(-30, 200)] * 2), min_size=3, max_size=3))
    def test_masked_components_change_nothing(self, pairs: list[tuple[float, float]]) -> None:
        log_a, log_b = torch.tensor(pairs, dtype=torch.float64).T.requires_grad_()
        log_weights = log_b.detach().log_softmax(-1)
        short = [
            dirichlet_kl(log_a, log_b),
            dirichlet_log_prob(log_a, log_weights),
            dirichlet_entropy(log_a),
            dirichlet_mean_log(log_a).sum(),
        ]
        long = [
            dirichlet_kl(self.padded(log_a), self.padded(log_b), self.mask),
            dirichlet_log_prob(self.padded(log_a), self.padded(log_weights), self.mask),
            dirichlet_entropy(self.padded(log_a), self.mask),
            dirichlet_mean_log(self.padded(log_a), self.mask)[self.mask].sum(),
        ]
        for x, y in zip(short, long, strict=True):
            torch.testing.assert_close(x, y, rtol=1e-12, atol=1e-12)
            of_x, of_y = (torch.autograd.grad(z, log_a, retain_graph=True)[0] for z in (x, y))
            assert (of_x - of_y).abs().max() <= 1e-10 * (1 + of_x.abs().max())

    def test_draws_are_those_of_the_others(self) -> None:
        log_alpha = torch.tensor([-1.0, 0.5, 1.0], dtype=torch.float64)
        padded = self.padded(log_alpha).nan_to_num().expand(20_000, 5).clone().requires_grad_()
        draws = sample_log_dirichlet(padded, self.mask)
        assert (draws[:, ~self.mask] == LOG_ZERO).all()
        total = log_alpha.exp().sum()
        for i, alpha in zip([0, 2, 3], log_alpha.exp(), strict=True):  # each weight's marginal is a Beta
            distribution = stats.beta(float(alpha), float(total - alpha))
            assert stats.kstest(draws[:, i].detach().exp().numpy(), distribution.cdf).pvalue > 1e-6
        (gradient,) = torch.autograd.grad(draws[:, 0].sum(), padded)
        assert (gradient[:, ~self.mask] == 0).all() and gradient.isfinite().all()

    def test_a_row_without_components_counts_for_nothing(self) -> None:
        log_alpha, none = torch.randn(3, requires_grad=True), torch.zeros(3, dtype=torch.bool)
        draws = sample_log_dirichlet(log_alpha, none)
        assert (draws == LOG_ZERO).all()
        for value in (
            dirichlet_kl(log_alpha, 2 * log_alpha, none),
            dirichlet_log_prob(log_alpha, draws, none),
            dirichlet_entropy(log_alpha, none),
        ):
            assert value == 0
            assert (torch.autograd.grad(value, log_alpha, retain_graph=True)[0] == 0).all()

    def test_one_component_has_no_freedom(self) -> None:
        log_alpha = torch.tensor([[3.0], [-20.0], [150.0]])
        assert (sample_log_dirichlet(log_alpha) == 0).all()
        assert (dirichlet_log_prob(log_alpha, torch.zeros(3, 1)).abs() < 1e-10).all()
        assert (dirichlet_kl(log_alpha, log_alpha.flip(0)).abs() < 1e-10).all()


@pytest.mark.compile
class TestCompiled:
    def test_one_graph_keeps_the_digits(self) -> None:
        """The hard cases, as rows of one masked batch."""

        def both(log_a: Tensor, log_b: Tensor, mask: Tensor) -> Tensor:
            return torch.stack([dirichlet_kl(log_a, log_b, mask), dirichlet_log_prob(log_a, log_b, mask)])

        width = max(len(log_a) for log_a, _ in PAIRS.values())
        rows = [[x + [0.0] * (width - len(x)) for x in pair] for pair in PAIRS.values()]
        log_a, log_b = torch.tensor(rows, dtype=torch.float64).transpose(0, 1).requires_grad_()
        lengths = torch.tensor([len(log_a) for log_a, _ in PAIRS.values()])
        mask = torch.arange(width) < lengths[:, None]
        eager = both(log_a, log_b, mask)
        compiled = torch.compile(both, fullgraph=True, backend="aot_eager")(log_a, log_b, mask)
        torch.testing.assert_close(compiled, eager, rtol=1e-10, atol=1e-10)
        of_compiled, of_eager = (torch.autograd.grad(x.sum(), (log_a, log_b)) for x in (compiled, eager))
        for x, y in zip(of_compiled, of_eager, strict=True):
            assert ((x - y).abs().amax(-1) <= 1e-10 * (1 + y.abs().amax(-1))).all()

    def test_the_others_are_one_graph_too(self) -> None:
        def others(log_alpha: Tensor, mask: Tensor) -> Tensor:
            draws = sample_log_dirichlet(log_alpha, mask)
            return dirichlet_entropy(log_alpha, mask)[..., None] + dirichlet_mean_log(log_alpha, mask) + 0 * draws

        log_alpha = torch.empty(2, 4).uniform_(-30, 100)
        mask = torch.tensor([[True] * 4, [True, False, True, False]])
        compiled = torch.compile(others, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(log_alpha, mask), others(log_alpha, mask))


def _assert_mean(draws: Tensor, expected: Tensor | float, magnitude: float = 0.0) -> None:
    """Five standard errors, and the rounding of numbers of this magnitude."""
    draws = draws.detach()
    standard_error = draws.std() / math.sqrt(len(draws))
    rounding = torch.finfo(torch.float32).eps * magnitude
    assert abs(draws.mean() - float(expected)) < 5 * standard_error + rounding
