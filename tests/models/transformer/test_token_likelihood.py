"""The token likelihood against torch's own cross entropy and Categorical, in value, gradient and memory."""

import itertools

import pyro
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Categorical
from torch.fx.experimental.proxy_tensor import make_fx
from torch.profiler import ProfilerActivity, profile

from pyroformer.models.batch import PAD
from pyroformer.models.transformer import token_likelihood as likelihood
from pyroformer.models.transformer.token_likelihood import TokenLikelihood, token_log_prob

N, V, P = 37, 50, 8


@pytest.fixture(params=["dense", "chunked", "kept"])
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """All logits in one chunk; chunks of five rows, which are computed again; or such chunks, which are kept."""
    if request.param != "dense":
        monkeypatch.setattr(likelihood, "_chunk_rows", lambda hidden, embedding: 5)
    if request.param == "chunked":
        monkeypatch.setattr(likelihood, "KEPT_BYTES", 0)
    return request.param


def inputs(dtype: torch.dtype = torch.float64, bias: bool = True) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    hidden = torch.randn(N, P, dtype=dtype, requires_grad=True)
    embedding = torch.randn(V, P, dtype=dtype, requires_grad=True)
    offsets = torch.randn(V, dtype=dtype, requires_grad=True) if bias else None
    return hidden, embedding, offsets, torch.randint(V, (N,))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("masked", [True, False])
def test_equals_cross_entropy(form: str, bias: bool, masked: bool) -> None:
    hidden, embedding, offsets, tokens = inputs(bias=bias)
    mask = torch.rand(N) < 0.7 if masked else None
    weight = torch.randn(N, dtype=torch.float64)
    expected = -F.cross_entropy(F.linear(hidden, embedding, offsets), tokens, reduction="none")
    expected = expected if mask is None else expected * mask
    actual = token_log_prob(hidden, embedding, tokens, offsets, mask)
    torch.testing.assert_close(actual, expected, atol=1e-12, rtol=0)
    parameters = [x for x in (hidden, embedding, offsets) if x is not None]
    for a, b in zip(*(torch.autograd.grad((x * weight).sum(), parameters) for x in (actual, expected)), strict=True):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=0)


def test_gradcheck(form: str) -> None:
    hidden, embedding, bias, tokens = inputs()
    mask = torch.arange(N) % 3 > 0
    assert torch.autograd.gradcheck(
        lambda h, e, b: token_log_prob(h[:11], e[:7], tokens[:11] % 7, b[:7], mask[:11]), (hidden, embedding, bias)
    )


def test_equals_torch_linear_cross_entropy(form: str) -> None:
    if not hasattr(F, "linear_cross_entropy"):
        pytest.skip("this torch has no linear_cross_entropy")
    hidden, embedding, bias, tokens = inputs(torch.float32)
    expected = F.linear_cross_entropy(hidden, embedding, tokens, linear_bias=bias, reduction="none")
    torch.testing.assert_close(-token_log_prob(hidden, embedding, tokens, bias), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(form: str, dtype: torch.dtype) -> None:
    hidden, embedding, bias, tokens = (x if x is None else x.detach() for x in inputs(torch.float32))
    hidden = hidden.to(dtype).requires_grad_()
    expected = token_log_prob(hidden.float(), embedding, tokens, bias)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = token_log_prob(hidden, embedding, tokens, bias)
        actual.sum().backward()
    assert actual.dtype == torch.float32 and hidden.grad is not None and hidden.grad.dtype == dtype
    torch.testing.assert_close(actual, expected, atol=1e-6, rtol=1e-6)


def test_far_logits_stay_finite(form: str) -> None:
    hidden, embedding, _, tokens = inputs(torch.float32)
    log_prob = token_log_prob(hidden * 1e4, embedding, tokens)
    log_prob.sum().backward()
    assert log_prob.isfinite().all() and hidden.grad is not None and hidden.grad.isfinite().all()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_absent_rows_reach_nothing(form: str, bad: float) -> None:
    hidden, embedding, bias, tokens = inputs()
    mask = torch.arange(N) != 3
    spoilt = hidden.detach().clone()
    spoilt[3] = bad
    spoilt.requires_grad_()
    results = []
    for h in (hidden, spoilt):
        log_prob = token_log_prob(h, embedding, tokens, bias, mask)
        results.append((log_prob, *torch.autograd.grad(log_prob.sum(), (h, embedding, bias))))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, atol=0, rtol=0)


def test_nothing_present_has_gradients_of_zero(form: str) -> None:
    hidden, embedding, bias, tokens = inputs()
    log_prob = token_log_prob(hidden, embedding, tokens, bias, torch.zeros(N, dtype=torch.bool))
    gradients = torch.autograd.grad(log_prob.sum(), (hidden, embedding, bias))
    assert not any(x.any() for x in (log_prob, *gradients))


def test_a_frozen_embedding_gets_no_gradient(form: str) -> None:
    hidden, embedding, bias, tokens = inputs()
    full = torch.autograd.grad(token_log_prob(hidden, embedding, tokens, bias).sum(), (hidden, embedding, bias))
    frozen = embedding.detach()
    log_prob = token_log_prob(hidden, frozen, tokens, bias)
    part = torch.autograd.grad(log_prob.sum(), (hidden, bias))
    torch.testing.assert_close(part, (full[0], full[2]))
    if form == "chunked":  # not even room for it
        grad, log_norm = torch.ones(len(hidden)).to(hidden), (hidden @ frozen.T + bias).logsumexp(-1)
        arguments = (grad, hidden, frozen, bias, tokens, None, log_norm, hidden.new_empty(0, 0), 5, "nothing", True)
        gradients = torch.ops.pyroformer.token_log_prob_in_chunks_backward(*arguments)
        assert gradients[1].numel() == 0
        torch.testing.assert_close(gradients[0], full[0])


@pytest.mark.parametrize("masked", [True, False])
def test_frozen_vectors_leave_the_gradient_of_hidden_states(form: str, masked: bool) -> None:
    hidden, embedding, bias, tokens = inputs()
    mask = torch.rand(N) < 0.7 if masked else None
    weight = torch.randn(N, dtype=torch.float64)
    assert bias is not None
    frozen = token_log_prob(hidden, embedding.detach(), tokens, bias.detach(), mask)
    trained = token_log_prob(hidden, embedding, tokens, bias, mask)
    torch.testing.assert_close(frozen, trained)
    for a, b in zip(*(torch.autograd.grad((x * weight).sum(), hidden) for x in (frozen, trained)), strict=True):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=0)


def test_what_is_kept_gets_no_gradient_of_zeros(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would be as large as all logits, in every training step."""
    monkeypatch.setattr(likelihood, "_chunk_rows", lambda hidden, embedding: 5)
    hidden, embedding, bias, tokens = inputs()
    log_prob = token_log_prob(hidden, embedding, tokens, bias).sum()
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True, acc_events=True) as profiler:
        log_prob.backward()
    filled = [event.input_shapes[0] for event in profiler.events() if event.name in ("aten::fill_", "aten::zero_")]
    assert filled and [N, V] not in filled


def test_what_is_kept_for_the_backward_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, embedding, bias, _ = inputs()
    monkeypatch.setattr(likelihood, "KEPT_BYTES", 0)
    rows = {n: hidden.detach().new_ones(n, P).requires_grad_() for n in (2 * P, 2 * P + 1)}
    assert [likelihood._kept(h, embedding, None) for h in rows.values()] == ["softmax", "nothing"]
    assert likelihood._kept(rows[17], embedding.detach(), None) == "gradient"
    assert likelihood._kept(rows[16], embedding.detach(), bias) == "softmax"
    assert likelihood._kept(hidden.detach(), embedding.detach(), None) == "nothing"
    with torch.no_grad():
        assert likelihood._kept(rows[16], embedding, bias) == "nothing"
    for size, kept in ((17 * V * 8, "softmax"), (17 * V * 8 - 1, "nothing")):
        monkeypatch.setattr(likelihood, "KEPT_BYTES", size)
        assert likelihood._kept(rows[17], embedding, None) == kept


@pytest.mark.parametrize("frozen", [False, True])
def test_chunked_saves_no_logits(frozen: bool) -> None:
    n, v, p = 5000, 8000, 16
    hidden, embedding = torch.randn(n, p, requires_grad=True), torch.randn(v, p, requires_grad=not frozen)
    saved: list[int] = []

    def pack(x: Tensor) -> Tensor:
        saved.append(x.nbytes)
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        token_log_prob(hidden, embedding, torch.randint(v, (n,)), mask=torch.ones(n, dtype=torch.bool))
    dense = n * v * 4
    assert 0 < sum(saved) < dense / 50, f"{sum(saved)} bytes saved, dense logits are {dense}"


def test_capture_keeps_the_recomputation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Configurable below Python, forward and backward stay two opaque calls: nothing of size [N, V] is in the graph."""
    monkeypatch.setattr(likelihood, "KEPT_BYTES", 0)
    n, v = 600, 8000
    hidden, embedding, tokens = torch.randn(n, P), torch.randn(v, P), torch.randint(v, (n,))

    def step(hidden: Tensor, embedding: Tensor) -> tuple[Tensor, ...]:
        hidden, embedding = hidden.requires_grad_(), embedding.requires_grad_()
        loss = -token_log_prob(hidden, embedding, tokens).mean()
        return loss, *torch.autograd.grad(loss, (hidden, embedding))

    graph = make_fx(step)(hidden, embedding)
    sizes = [node.meta["val"].numel() for node in graph.graph.nodes if isinstance(node.meta.get("val"), Tensor)]
    assert "pyroformer.token_log_prob_in_chunks_backward" in graph.code and max(sizes, default=0) < n * v
    for a, b in zip(graph(hidden, embedding), step(hidden.clone(), embedding.clone()), strict=True):
        torch.testing.assert_close(a, b)


def test_operator_registrations() -> None:
    hidden, embedding, bias, tokens = inputs()
    operator = torch.ops.pyroformer.token_log_prob_in_chunks.default
    for b, mask, kept in itertools.product((bias, None), (torch.arange(N) < 30, None), ("nothing", "softmax")):
        torch.library.opcheck(operator, (hidden, embedding, b, tokens, mask, 5, kept))
    frozen = (hidden, embedding.detach(), None if bias is None else bias.detach(), tokens, None, 5, "gradient")
    torch.library.opcheck(operator, frozen)


# --- the distribution -------------------------------------------------------------------------------------------------


def distribution(mask: Tensor | None = None, batch: tuple[int, ...] = (4,)) -> TokenLikelihood:
    return TokenLikelihood(torch.randn(*batch, 6, P), torch.randn(V, P), torch.randn(V), mask)


def test_log_prob_equals_categorical(form: str) -> None:
    mask = torch.arange(6) < torch.tensor([6, 3, 1, 0])[:, None]
    d = distribution(mask)
    tokens = torch.randint(V, (4, 6))
    expected = (Categorical(logits=d.logits()).log_prob(tokens) * mask).sum(-1)
    torch.testing.assert_close(d.log_prob(tokens), expected)
    torch.testing.assert_close(d.token_log_prob(tokens).sum(-1), expected)
    assert d.log_prob(tokens)[3] == 0


@pytest.mark.parametrize("hidden_batch, value_batch", [((4,), (3, 4)), ((3, 4), (4,)), ((3, 1), (4,)), ((), (3, 4))])
def test_batches_broadcast(form: str, hidden_batch: tuple[int, ...], value_batch: tuple[int, ...]) -> None:
    d = distribution(torch.arange(6) < 4, hidden_batch)
    tokens = torch.randint(V, (*value_batch, 6))
    log_prob = d.log_prob(tokens)
    expected = (Categorical(logits=d.logits()).log_prob(tokens) * d.token_log_prob(tokens).ne(0)).sum(-1)
    assert log_prob.shape == (3, 4)
    torch.testing.assert_close(log_prob, expected)


def test_expanded_dimensions_are_not_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    d = distribution()
    tokens = torch.randint(V, (4, 6))
    rows: list[int] = []
    compute = likelihood.token_log_prob
    monkeypatch.setattr(likelihood, "token_log_prob", lambda h, *rest: rows.append(len(h)) or compute(h, *rest))
    expanded = d.expand((5, 4))
    assert expanded.batch_shape == (5, 4) and expanded.event_shape == (6,)
    torch.testing.assert_close(expanded.log_prob(tokens), d.log_prob(tokens).expand(5, 4))
    assert rows == [24, 24]
    assert expanded.sample().shape == (5, 4, 6)


def test_samples_follow_the_probabilities(form: str) -> None:
    d = TokenLikelihood(torch.randn(2, 3, P), torch.randn(4, P) / 2)
    frequencies = F.one_hot(d.sample((4000,)), 4).double().mean(0)
    error = (frequencies - d.logits().softmax(-1)).abs()
    assert error.max() < 5 * 0.5 / 4000**0.5  # five standard errors


def test_masked_positions_are_sampled_as_padding(form: str) -> None:
    mask = torch.arange(6) < 2
    d = TokenLikelihood(torch.randn(3, 6, P), torch.cat([torch.full((1, P), 0.0), torch.randn(9, P)]), mask=mask)
    assert (d.sample((7,))[..., 2:] == PAD).all() and (d.predicted()[..., 2:] == PAD).all()
    assert d.sample((7,)).shape == (7, 3, 6)


def test_predicted_is_the_mode(form: str) -> None:
    d = distribution()
    assert d.predicted().equal(d.logits().argmax(-1))


def test_in_a_pyro_model() -> None:
    tokens = torch.randint(V, (4, 6))
    hidden, embedding = torch.randn(4, 6, P), torch.randn(V, P)

    def model() -> None:
        with pyro.plate("num_particles", 3, dim=-2), pyro.plate("texts", 4, dim=-1):
            pyro.sample("text", TokenLikelihood(hidden, embedding), obs=tokens)

    trace = pyro.poutine.trace(model).get_trace()
    trace.compute_log_prob()
    expected = TokenLikelihood(hidden, embedding).log_prob(tokens)
    torch.testing.assert_close(trace.nodes["text"]["log_prob"], expected.expand(3, 4))


def test_wrong_width_is_refused() -> None:
    with pytest.raises(ValueError, match="hidden states of width 3 do not fit an embedding of width 4"):
        TokenLikelihood(torch.zeros(2, 5, 3), torch.zeros(7, 4))


def test_values_are_validated() -> None:
    with pytest.raises(ValueError, match="within the support"):
        distribution().log_prob(torch.full((4, 6), V))
    with pytest.raises(ValueError, match="hidden"):
        TokenLikelihood(torch.full((2, 5, 3), float("nan")), torch.zeros(7, 3))


@pytest.mark.compile
@pytest.mark.parametrize("v", [50, 8000])
def test_compiles_without_breaks(v: int) -> None:
    hidden, embedding = torch.randn(600, P, requires_grad=True), torch.randn(v, P, requires_grad=True)
    tokens, mask = torch.randint(v, (600,)), torch.rand(600) < 0.8

    def loss(hidden: Tensor, embedding: Tensor) -> Tensor:
        return token_log_prob(hidden, embedding, tokens, None, mask).sum()

    results = [
        (value := f(hidden, embedding), *torch.autograd.grad(value, (hidden, embedding)))
        for f in (loss, torch.compile(loss, fullgraph=True))
    ]
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
