"""Attention in blocks: against the fused kernel, the definitions, brute force, SciPy and its own gradients."""

from dataclasses import replace
from itertools import pairwise
from typing import Any

import jaxtyping
import mpmath as mp
import pytest
import scipy.stats
import torch
from causal_keys import causal_responsibilities
from torch import Tensor

from pyroformer.models.attention.attend import attend
from pyroformer.models.attention.bayes_rule import log_joint, responsibilities
from pyroformer.models.attention.blockwise import problem as blocks_of
from pyroformer.models.attention.blockwise.adaptation import adapted
from pyroformer.models.attention.blockwise.attend import blockwise_attend
from pyroformer.models.attention.blockwise.e_step import EStep
from pyroformer.models.attention.blockwise.problem import Problem
from pyroformer.models.attention.blockwise.relative_positions import RelativePositions
from pyroformer.models.attention.blockwise.tails import influence, log_normalizer, log_tail
from pyroformer.models.attention.key_adaptation import adapt_keys
from pyroformer.models.attention.mixture import Mixture

M, N, D, V = 7, 7, 3, 2


@pytest.fixture(params=["one block", "blocks of two"])
def blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    if request.param == "one block":
        return False
    monkeypatch.setattr(blocks_of, "ROWS", (2, 2))
    monkeypatch.setattr(blocks_of, "ROWS_DIAGONAL", 2)
    monkeypatch.setattr(blocks_of, "ENTRIES", {"cpu": 1})
    return True


def randn(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.double)


def draw(columns: int | None = 1, *batch: int, masked: bool = False) -> tuple[Tensor, Mixture]:
    variances = None if columns is None else torch.rand(*batch, N, columns, dtype=torch.double) + 0.1
    mask = torch.ones(*batch, N, dtype=torch.bool)
    mask[..., 3] = not masked
    mixture = Mixture(randn(*batch, N).log_softmax(-1), randn(*batch, N, D), variances, mask, randn(*batch, N, V))
    return randn(*batch, M, D), mixture


def close(actual: Tensor, expected: Tensor, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("columns", [1, D])
@pytest.mark.parametrize("restricted", ["", "causal", "causal, more queries", "attn_mask", "one row"])
def test_without_more_it_is_attention(columns: int | None, restricted: str, blocks: bool) -> None:
    queries, mixture = draw(columns, 2, masked=True)
    queries = torch.cat([queries, queries + 1], -2) if restricted == "causal, more queries" else queries
    mixture = replace(mixture, value_variances=torch.rand(N if columns == 1 else 1, V).double() + 0.1)
    how: dict[str, Any] = {
        "causal": {"causal": True},
        "causal, more queries": {"causal": True},
        "attn_mask": {"attn_mask": torch.rand(2, M, N) < 0.6},
        "one row": {"attn_mask": torch.rand(2, 1, N) < 0.6},
    }.get(restricted, {})
    for returns in ("mean", "variance", "evidence"):
        close(
            blockwise_attend(queries, mixture, returns=returns, **how), attend(queries, mixture, returns=returns, **how)
        )


@pytest.mark.parametrize("columns", [None, 1, D])
@pytest.mark.parametrize("steps", [2])
def test_means_adapt_as_those_of_the_fused_kernel(columns: int | None, steps: int, blocks: bool) -> None:
    queries, mixture = draw(columns, 2, masked=True)
    mask = torch.rand(2, M) < 0.8
    expected = attend(queries, adapt_keys(queries, mixture, steps=steps, pseudo_counts=0.6, mask=mask))
    close(blockwise_attend(queries, mixture, steps=steps, pseudo_counts=0.6, mask=mask), expected)
    one = blockwise_attend(queries, mixture, steps=steps, mask=torch.tensor([True]))
    close(one, blockwise_attend(queries, mixture, steps=steps))


@pytest.mark.parametrize("columns", [None, 1, D])
@pytest.mark.parametrize("steps", [1, 3])
def test_causal_means_and_their_gradients_are_those_of_the_matrix(
    columns: int | None, steps: int, blocks: bool
) -> None:
    queries, mixture = draw(columns, 2, masked=True)
    mask = torch.rand(2, M) < 0.8
    assert mixture.values is not None
    leaves = [queries, mixture.means, mixture.log_weights, mixture.values]
    leaves = [leaf.requires_grad_() for leaf in leaves]
    weights = causal_responsibilities(queries, mixture, steps=steps, pseudo_counts=0.7, mask=mask)
    expected = weights @ mixture.values
    actual = blockwise_attend(queries, mixture, steps=steps, pseudo_counts=0.7, mask=mask, causal=True)
    close(torch.where(mask[..., None], actual, 0), torch.where(mask[..., None], expected, 0))
    upstream = torch.where(mask[..., None], randn(*expected.shape), 0)
    gradients = (torch.autograd.grad(y, leaves, upstream, retain_graph=True) for y in (actual, expected))
    for one, other in zip(*gradients, strict=True):
        close(one, other, 1e-8)


@pytest.mark.parametrize("columns", [1, D])
def test_the_first_of_more_queries_than_keys_move_no_mean(columns: int, blocks: bool) -> None:
    _, mixture = draw(columns, 2)
    queries = randn(2, M + 4, D).requires_grad_()
    assert mixture.values is not None
    expected = causal_responsibilities(queries, mixture, steps=2, pseudo_counts=0.7) @ mixture.values
    actual = blockwise_attend(queries, mixture, steps=2, pseudo_counts=0.7, causal=True)
    close(actual, expected)
    assert (actual[:, :4] == 0).all()
    upstream = randn(*expected.shape)
    close(*(torch.autograd.grad(y, queries, upstream)[0] for y in (actual, expected)), 1e-8)


@pytest.mark.parametrize("steps", [0, 2])
@pytest.mark.parametrize("options", [{}, {"common": 1}, {"per_key": 2, "common": 1, "hard": True}], ids=str)
def test_queries_before_the_first_key_see_the_common_components_alone(
    options: dict[str, Any], steps: int, blocks: bool
) -> None:
    """Those that see a key have the answers that they would have without the others, as long as no mean adapts."""
    queries, mixture = draw()
    e_step = EStep(**options, positions=RelativePositions(randn(5, D), randn(5, D), randn(5, V)))
    more = e_step.keys(N) + 2
    queries = randn(more, D)
    how: dict[str, Any] = {"e_step": e_step, "causal": True, "steps": steps}
    actual = blockwise_attend(queries, mixture, **how)
    assert actual.isfinite().all() and mixture.values is not None
    close(actual[:2], mixture.values[:1].expand(2, V) if e_step.common else torch.zeros(2, V).double())
    if not steps:
        close(actual[2:], blockwise_attend(queries[2:], mixture, **how))


def test_causal_adaptation_leaks_nothing_in_blocks(blocks: bool) -> None:
    queries, mixture = draw(1, 2)
    for e_step in (EStep(), EStep(inverse_degrees=torch.tensor(0.3)), EStep(hard=True)):
        how: dict[str, Any] = {"steps": 2, "e_step": e_step, "causal": True, "tolerance": 1e-3}
        before = blockwise_attend(queries, mixture, **how)
        edited = queries.clone()
        edited[:, 4] += 2
        after = blockwise_attend(edited, mixture, **how)
        assert torch.equal(before[:, :4], after[:, :4]) and not torch.equal(before[:, 4:], after[:, 4:])


@pytest.mark.parametrize("columns", [None, 1, D])
def test_absent_components_may_hold_anything(columns: int | None) -> None:
    queries, mixture = draw(columns)
    mask = torch.arange(N) != 2
    expected = blockwise_attend(queries, replace(mixture, mask=mask), steps=2, causal=True)
    for tensor in (mixture.means, mixture.variances, mixture.values):
        if isinstance(tensor, Tensor):
            tensor[..., 2, :] = torch.nan
    assert torch.equal(blockwise_attend(queries, replace(mixture, mask=mask), steps=2, causal=True), expected)


# Student's t.


@pytest.mark.parametrize("degrees", [0.5, 1.0, 3.0, 40.0, 2000.0, 1e6])
def test_the_density_of_students_t_is_that_of_scipy(degrees: float) -> None:
    x, scale, tau = randn(5, D), 0.4, torch.tensor(1 / degrees, dtype=torch.double)
    expected = scipy.stats.multivariate_t(shape=scale * torch.eye(D).numpy(), df=degrees).logpdf(x.numpy())
    distance = x.square().sum(-1) / scale
    actual = log_tail(distance, tau, D) + log_normalizer(tau, D) - 0.5 * D * torch.tensor(scale).double().log()
    close(actual, torch.from_numpy(expected), 1e-6)


def test_students_t_is_smooth_at_the_gaussian() -> None:
    distance = torch.tensor([0.0, 0.3, 40.0], dtype=torch.double)
    tau = torch.tensor([0.0, 1e-9, 1e-4, 2e-3, 0.5], dtype=torch.double)[:, None].requires_grad_()
    close(log_tail(distance, tau, 4)[0], -0.5 * distance, 1e-15)
    (slope,) = torch.autograd.grad(log_tail(distance, tau, 4).sum(), tau)
    assert torch.autograd.gradcheck(lambda t: log_tail(distance, t, 4), tau[2:].detach().requires_grad_())
    close(slope[0, 0], (-2 * distance + distance.square() / 4).sum(), 1e-12)
    torch.testing.assert_close(slope[1], slope[0], rtol=1e-6, atol=0)


@pytest.mark.parametrize("width", [1, 2, 64, 768])
def test_the_normalizer_is_exact_at_every_width(width: int) -> None:
    tau = torch.tensor([1e-12, 1e-6, 5e-4, 9.99e-4, 1e-3, 0.02, 0.5, 20.0], dtype=torch.double, requires_grad=True)
    with mp.workdps(40):
        exact = [
            mp.loggamma((nu + width) / 2) - mp.loggamma(nu / 2) - mp.mpf(width) / 2 * mp.log(nu * mp.pi)
            for nu in (1 / mp.mpf(each) for each in tau.tolist())
        ]
    close(log_normalizer(tau, width), torch.tensor([float(each) for each in exact], dtype=torch.double), 1e-11)
    at_zero = torch.zeros((), dtype=torch.double, requires_grad=True)
    for each in (tau, at_zero):
        log_normalizer(each, width).sum().backward()
    close(at_zero.grad, torch.tensor(width * (width - 2) / 4).double(), 1e-9)
    close(tau.grad[0], at_zero.grad, 1e-4)


@pytest.mark.parametrize("width", [4, 64, 768])
def test_students_t_and_its_slopes_have_the_digits_of_float32(width: int) -> None:
    """On both sides of every change of branch, and where one branch would overflow in the other's range."""
    tau = torch.cat([10 ** torch.arange(-14.0, 13), torch.tensor([0.0999, 0.1001, 0.0999 / width, 0.1001 / width])])
    formulas = (
        lambda t: mp.loggamma((1 / t + width) / 2) - mp.loggamma(1 / t / 2) - width * mp.log(mp.pi / t) / 2,
        lambda t: -(1 / t + width) / 2 * mp.log1p(t),
    )
    ours: Any = (lambda t: log_normalizer(t, width), lambda t: log_tail(torch.ones(()), t, width))
    for formula, function in zip(formulas, ours, strict=True):
        tau.grad, tau.requires_grad = None, True
        value = function(tau)
        value.sum().backward()
        with mp.workdps(60):
            points = [mp.mpf(each) for each in tau.tolist()]
            values = torch.tensor([float(formula(t)) for t in points])
            slopes = torch.tensor([float(mp.diff(formula, t, h=t * mp.mpf(10) ** -20)) for t in points])
        torch.testing.assert_close(value, values, rtol=1e-6, atol=0)
        torch.testing.assert_close(tau.grad, slopes, rtol=1e-5, atol=0)


def student_joint(queries: Tensor, mixture: Mixture, tau: Tensor) -> Tensor:
    """log pi_n t(u_m; mu_n), written out."""
    assert isinstance(mixture.variances, Tensor)
    total = (mixture.variances + mixture.query_variance).expand(mixture.means.shape)
    distance = ((queries[..., :, None, :] - mixture.means[..., None, :, :]).square() / total[..., None, :, :]).sum(-1)
    log_det = total.log().sum(-1)[..., None, :]
    return mixture.log_weights[..., None, :] - 0.5 * log_det + log_tail(distance, tau, D) + log_normalizer(tau, D)


@pytest.mark.parametrize("columns", [1, D])
def test_attention_to_students_t_is_bayes_rule(columns: int, blocks: bool) -> None:
    queries, mixture = draw(columns, 2)
    tau = torch.tensor([[[0.2]], [[1.5]]], dtype=torch.double)  # one for each batch element
    joint = student_joint(queries, mixture, tau)
    e_step = EStep(inverse_degrees=tau)
    assert mixture.values is not None
    close(blockwise_attend(queries, mixture, e_step=e_step), joint.softmax(-1) @ mixture.values)
    close(blockwise_attend(queries, mixture, e_step=e_step, returns="evidence"), joint.logsumexp(-1))


@pytest.mark.parametrize("columns", [1, D])
def test_em_of_students_t_never_lowers_its_posterior(columns: int, blocks: bool) -> None:
    queries, mixture = draw(columns)
    queries, tau, kappa = 3 * queries, torch.tensor(0.5, dtype=torch.double), 0.5
    objective, keys = [], mixture
    e_step = EStep(inverse_degrees=tau)
    assert isinstance(mixture.variances, Tensor)
    total = mixture.variances + mixture.query_variance
    for _ in range(8):
        penalty = 0.5 * kappa * ((keys.means - mixture.means).square() / total).sum()
        objective.append(student_joint(queries, keys, tau).logsumexp(-1).sum() - penalty)
        problem = Problem.of(queries, keys, e_step, pseudo_counts=kappa)
        moved = adapted(replace(problem, initial=mixture.means - problem.center), 1)
        keys = replace(keys, means=moved + problem.center)
    assert (torch.stack(objective).diff() > -1e-10).all() and objective[-1] > objective[0] + 0.01


@pytest.mark.parametrize("columns", [1, D])
def test_causal_students_t_by_brute_force(columns: int, blocks: bool) -> None:
    queries, mixture = draw(columns)
    tau = torch.tensor(0.4, dtype=torch.double)
    assert isinstance(mixture.variances, Tensor) and mixture.values is not None
    total = mixture.variances + mixture.query_variance
    visible = torch.ones(M, N, dtype=torch.bool).tril()
    means = mixture.means.expand(M, N, D)
    for step in range(3):
        joint = torch.stack(
            [student_joint(queries[m : m + 1], replace(mixture, means=means[m]), tau)[0] for m in range(M)]
        )
        weights = torch.where(visible, joint, -torch.inf).softmax(-1)
        distance = ((queries[:, None] - means).square() / total).sum(-1)
        pull = weights * influence(distance, tau, D)
        sums = (pull[..., None] * queries[:, None]).cumsum(0)
        if step < 2:
            means = (0.7 * mixture.means + sums) / (0.7 + pull.cumsum(0))[..., None]
    how: dict[str, Any] = {"e_step": EStep(inverse_degrees=tau), "steps": 2, "pseudo_counts": 0.7, "causal": True}
    close(blockwise_attend(queries, mixture, **how), weights @ mixture.values)


# The hard E-step.


def test_of_a_keys_gaussians_the_most_probable_counts(blocks: bool) -> None:
    """One component in front, then three keys of two Gaussians each."""
    queries, mixture = draw(1)
    joint = log_joint(queries, mixture)
    best = torch.cat([joint[:, :1], joint[:, 1:].unflatten(-1, (3, 2)).amax(-1)], -1)
    assert mixture.values is not None
    values = mixture.values.clone()
    values[2::2] = values[1::2]
    mixture, e_step = replace(mixture, values=values), EStep(hard=True, per_key=2, common=1)
    close(blockwise_attend(queries, mixture, e_step=e_step), best.softmax(-1) @ values[[0, 1, 3, 5]])
    close(blockwise_attend(queries, mixture, e_step=e_step, returns="evidence"), best.logsumexp(-1))


def test_a_hard_step_is_one_of_k_means(blocks: bool) -> None:
    queries, mixture = draw(None)
    mixture = replace(mixture, log_weights=torch.zeros(N).double())
    nearest = torch.cdist(queries, mixture.means).argmin(-1)
    assigned = torch.nn.functional.one_hot(nearest, N).double()
    moved = (1e-9 * mixture.means + assigned.mT @ queries) / (1e-9 + assigned.sum(0))[:, None]
    expected = attend(queries, replace(mixture, means=moved))
    close(blockwise_attend(queries, mixture, e_step=EStep(hard=True), steps=1, pseudo_counts=1e-9), expected, 1e-7)


def test_equal_gaussians_share() -> None:
    queries, mixture = draw(1)
    both = replace(
        mixture,
        log_weights=mixture.log_weights.repeat_interleave(2),
        means=mixture.means.repeat_interleave(2, -2).requires_grad_(),
        variances=mixture.variances.repeat_interleave(2, -2),  # type: ignore[union-attr]
        mask=None,
        values=mixture.values.repeat_interleave(2, -2),  # type: ignore[union-attr]
    )
    actual = blockwise_attend(queries, both, e_step=EStep(hard=True, per_key=2))
    close(actual, attend(queries, mixture))
    (gradient,) = torch.autograd.grad(actual.sum(), both.means)
    close(gradient[::2], gradient[1::2])


# Relative positions.


@pytest.mark.parametrize("causal", [False, True])
def test_positions_by_brute_force(causal: bool, blocks: bool) -> None:
    """Four queries are the last of seven; one component belongs to no key; farther than two is two."""
    queries, mixture = draw(1)
    queries, keys = queries[:4], mixture.means[1:]
    tables = RelativePositions(randn(5, D), randn(5, D), randn(5, V))
    bias, values = torch.zeros(4, N).double(), mixture.values.expand(4, N, V).clone()  # type: ignore[union-attr]
    for m in range(4):
        for n in range(N - 1):
            o = min(max(m + 2 - n, -2), 2) + 2
            bias[m, n + 1] = (queries[m] @ tables.queries[o] + keys[n] @ tables.keys[o]) / D**0.5
            bias[m, n + 1] += -torch.inf if causal and n > m + 2 else 0
            values[m, n + 1] += tables.values[o]
    joint = log_joint(queries, mixture) + bias
    e_step = EStep(common=1, positions=tables)
    mean = (joint.softmax(-1)[..., None] * values).sum(-2)
    variance = (joint.softmax(-1)[..., None] * (values - mean[:, None]).square()).sum(-2)
    close(blockwise_attend(queries, mixture, e_step=e_step, causal=causal), mean)
    close(blockwise_attend(queries, mixture, e_step=e_step, causal=causal, returns="variance"), variance)
    close(blockwise_attend(queries, mixture, e_step=e_step, causal=causal, returns="evidence"), joint.logsumexp(-1))


# The stopping rule.


@pytest.mark.parametrize("columns", [1, D])
def test_means_stay_once_they_hardly_move(columns: int | None) -> None:
    queries, mixture = draw(columns, 3)
    means = [adapt_keys(queries, mixture, steps=steps).means for steps in range(12)]
    own = 0 if mixture.variances is None else mixture.variances
    total = own + mixture.query_variance  # type: ignore[operator]
    moves = torch.stack([((b - a).square() / total).sum(-1).amax(-1).sqrt() for a, b in pairwise(means)])
    stops = (moves < 0.05).double().argmax(0) + 1  # the step after which an element stays
    assert len(stops.unique()) > 1 and (moves < 0.05).any(0).all()
    expected = torch.stack([means[int(stop)][i] for i, stop in enumerate(stops)])
    close(adapt_keys(queries, mixture, steps=11, tolerance=0.05).means, expected)
    after = attend(queries, replace(mixture, means=expected))
    close(blockwise_attend(queries, mixture, steps=11, tolerance=0.05), after)
    close(adapt_keys(queries[1], _element(mixture, 1), steps=11, tolerance=0.05).means, expected[1])


def test_causal_rows_stay_once_their_weights_hardly_change(blocks: bool) -> None:
    queries, mixture = draw(1)
    loose = blockwise_attend(queries, mixture, steps=12, causal=True, tolerance=1e-2)
    all_steps = blockwise_attend(queries, mixture, steps=12, causal=True)
    close(loose, all_steps, 0.2)
    assert not torch.equal(loose, all_steps)
    one = blockwise_attend(queries, mixture, steps=1, causal=True)
    close(blockwise_attend(queries, mixture, steps=3, causal=True, tolerance=1e9), one)


def _element(mixture: Mixture, i: int) -> Mixture:
    variances = mixture.variances[i] if isinstance(mixture.variances, Tensor) else None
    assert mixture.mask is not None and mixture.values is not None
    return Mixture(mixture.log_weights[i], mixture.means[i], variances, mixture.mask[i], mixture.values[i])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"returns": "all"}, "returns is 'all': choose one of mean, variance, evidence"),
        ({"steps": -1}, "steps is -1: give a whole number of at least 0"),
        ({"pseudo_counts": 0.0}, "pseudo_counts is 0.0: give (a )?positive"),
        ({"tolerance": 0.0}, "tolerance is 0.0: give a positive, finite number, or None"),
        ({"tolerance": "small"}, "tolerance is 'small', a str: give a number"),
        ({"causal": 1}, "causal is 1: give True or False"),
        ({"causal": True, "attn_mask": torch.ones(M, N, dtype=torch.bool)}, "causal and attn_mask both restrict"),
        ({"e_step": EStep(per_key=2)}, "per_key is 2 and common 0: 7 components are no multiple"),
        ({"steps": 1.5}, "steps is 1.5: give a whole number, such as 2"),
        ({"dropout": 2.0}, "dropout is 2.0: give a probability from 0 to 1"),
        ({"e_step": "hard"}, "e_step has type str: give an EStep"),
        ({"e_step": EStep(per_key=0)}, "per_key is 0: give a whole number of at least 1"),
        ({"mask": torch.ones(3, dtype=torch.bool)}, r"mask has shape \(3,\)"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users have it
    queries, mixture = draw()
    with pytest.raises(ValueError, match=message):
        blockwise_attend(queries, mixture, **options)


@pytest.mark.parametrize("degrees", [-1.0, torch.nan, torch.inf])
def test_inverse_degrees_out_of_range(degrees: float) -> None:
    with pytest.raises(ValueError, match=rf"inverse_degrees is {degrees}: give finite numbers of at least 0"):
        EStep(inverse_degrees=torch.tensor(degrees))


def test_a_mixture_without_values() -> None:
    queries, mixture = draw()
    with pytest.raises(ValueError, match="the mixture has no values: give Mixture"):
        blockwise_attend(queries, replace(mixture, values=None))


@pytest.mark.compile
@pytest.mark.parametrize("causal", [False, True])
def test_blocks_compile_in_one_graph(causal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks_of, "ROWS", (4, 4))
    monkeypatch.setattr(blocks_of, "ENTRIES", {"cpu": 1})
    queries, mixture = draw()
    queries.requires_grad_()

    def answers(queries: Tensor) -> Tensor:
        return blockwise_attend(queries, mixture, steps=1, causal=causal, e_step=EStep(hard=True))

    compiled = torch.compile(answers, fullgraph=True, backend="aot_eager")
    close(compiled(queries), answers(queries))
    upstream = randn(M, V)
    close(*(torch.autograd.grad(f(queries), queries, upstream)[0] for f in (compiled, answers)))


def test_responsibilities_are_in_reach() -> None:
    """A query that sees nothing has the answer zero."""
    queries, mixture = draw()
    mask = torch.ones(M, N, dtype=torch.bool)
    mask[2] = False
    actual = blockwise_attend(queries, mixture, attn_mask=mask)
    assert mixture.values is not None
    close(actual, responsibilities(queries, mixture, mask) @ mixture.values)
    assert (actual[2] == 0).all()
