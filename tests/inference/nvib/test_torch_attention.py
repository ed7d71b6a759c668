"""torch's own attention with a bottleneck, in all its ways of being called, and in torch's encoders and decoders."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import pyroformer as pf
from pyroformer.models.distributions.log_dirichlet_math import dirichlet_kl

P, H, B, M, N = 12, 3, 2, 4, 6
PADDING = torch.arange(N) >= torch.tensor([[4], [N]])
BLOCKED = torch.ones(M, N, dtype=torch.bool).triu(3)
BY_HEAD = torch.linspace(0, 99, B * H * M * N).view(B * H, M, N).sin() < -0.2
BY_HEAD[..., 0] = False  # a query that sees nothing is NaN or zero, by the version of torch
MASKS: dict[str, dict[str, Tensor]] = {
    "none": {},
    "padding": {"key_padding_mask": PADDING},
    "padding to add": {"key_padding_mask": torch.zeros(B, N).masked_fill(PADDING, -torch.inf)},
    "blocked": {"attn_mask": BLOCKED},
    "blocked by head": {"attn_mask": BY_HEAD},
    "added": {"attn_mask": torch.linspace(-3, 3, M * N).view(M, N)},
    "both": {"key_padding_mask": PADDING, "attn_mask": BLOCKED},
    "both by head": {"key_padding_mask": PADDING, "attn_mask": BLOCKED.expand(B * H, M, N)},
    "both to add": {
        "key_padding_mask": torch.zeros(B, N).masked_fill(PADDING, -9.0),
        "attn_mask": torch.linspace(2, -1, M * N).view(M, N),
    },
}


def attention(**options: Any) -> nn.MultiheadAttention:
    layer = nn.MultiheadAttention(P, H, **options).eval()
    if layer.in_proj_bias is not None:
        nn.init.normal_(layer.in_proj_bias)
    return layer


def sequences(layer: nn.MultiheadAttention) -> tuple[Tensor, Tensor]:
    x, memory = torch.randn(B, M, P), torch.randn(B, N, layer.kdim)
    return (x, memory) if layer.batch_first else (x.transpose(0, 1), memory.transpose(0, 1))


@pytest.mark.parametrize("masks", MASKS)
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("weights", [{"need_weights": False}, {}, {"average_attn_weights": False}], ids=str)
def test_wrapping_changes_nothing(masks: str, batch_first: bool, weights: dict[str, bool]) -> None:
    layer = attention(batch_first=batch_first)
    x, memory = sequences(layer)
    y, shares = layer(x, memory, memory, **MASKS[masks], **weights)
    wrapped = pf.nvib.wrap(layer)
    assert wrapped is layer and isinstance(layer, nn.MultiheadAttention)
    ours, own_shares = layer(x, memory, memory, **MASKS[masks], **weights)
    torch.testing.assert_close(ours, y, rtol=0, atol=1e-5)
    torch.testing.assert_close(own_shares, shares, rtol=0, atol=1e-5)


@pytest.mark.parametrize("options", [{"bias": False}, {"kdim": 8, "vdim": 8}, {"dtype": torch.float64}], ids=str)
def test_other_layers(options: dict[str, Any]) -> None:
    layer = attention(batch_first=True, **options)
    x, memory = (each.to(layer.out_proj.weight.dtype) for each in sequences(layer))
    expected = layer(x, memory, memory)
    for ours, theirs in zip(pf.nvib.wrap(layer)(x, memory, memory), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def test_one_sequence() -> None:
    layer = attention()
    x, memory, padding = torch.randn(M, P), torch.randn(N, P), PADDING[0]
    expected = layer(x, memory, memory, key_padding_mask=padding)
    for ours, theirs in zip(pf.nvib.wrap(layer)(x, memory, memory, key_padding_mask=padding), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("heads", [1, B * H], ids=["for all", "by head"])
@pytest.mark.parametrize("added", [False, True])
def test_vectors_that_no_query_may_attend_to_do_not_count(heads: int, added: bool) -> None:
    x, padding = torch.randn(B, N, P), (torch.arange(N) >= 4).expand(B, N)
    x[padding] = 100.0
    blocked = padding[0].expand(N, N) if heads == 1 else padding[0].expand(B * H, N, N)
    mask = torch.zeros(blocked.shape).masked_fill(blocked, -torch.inf) if added else blocked
    measured = []
    for masks in ({"key_padding_mask": padding}, {"attn_mask": mask}):
        torch.manual_seed(0)
        layer = pf.nvib.wrap(attention(batch_first=True))
        batch = {"query": x, "key": x, "value": x, **masks}
        pf.nvib.regularize(pf.nvib.fit_priors(layer, [batch]), tau_alpha=0.0, tau_sigma=0.3)
        layer.train()(**batch)
        measured.append((layer.nvib.prior_mean, pf.nvib.kl(layer).loss))
    torch.testing.assert_close(*measured)
    assert measured[0][0].abs().max() < 3


@pytest.mark.parametrize("mask", [None, torch.zeros(M, M)], ids=["no mask", "added mask"])
@pytest.mark.parametrize("need_weights", [True, False])
def test_dropout_is_that_of_the_layer(need_weights: bool, mask: Tensor | None) -> None:
    layer = pf.nvib.wrap(nn.MultiheadAttention(P, H, dropout=0.5, batch_first=True)).train()
    x, options = torch.randn(B, M, P), {"need_weights": need_weights, "attn_mask": mask}
    assert not torch.equal(layer(x, x, x, **options)[0], layer(x, x, x, **options)[0])
    layer.dropout = 0.0  # nothing is drawn at the start
    torch.testing.assert_close(layer(x, x, x, **options)[0], layer.eval()(x, x, x, **options)[0])


def test_training_draws_and_evaluation_does_not() -> None:
    layer, x = pf.nvib.wrap(attention(batch_first=True)), torch.randn(B, M, P)
    pf.nvib.regularize(pf.nvib.fit_priors(layer, [(x, x, x)]), tau_alpha=0.0, tau_sigma=0.5)
    assert torch.equal(layer(x, x, x)[0], layer(x, x, x)[0])
    layer.train()
    assert not torch.equal(layer(x, x, x)[0], layer(x, x, x)[0])
    layer.nvib.sample = False
    torch.testing.assert_close(layer(x, x, x)[0], layer.eval()(x, x, x)[0])


# in torch's encoders and decoders, which have fused layers of their own


@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.filterwarnings("ignore:enable_nested_tensor is True:UserWarning")
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
def test_an_encoder(norm_first: bool) -> None:
    encoder = nn.TransformerEncoder(
        nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, norm_first=norm_first), 2
    ).eval()
    x, padding = torch.randn(B, N, 16), PADDING
    with torch.no_grad():
        before = encoder(x, src_key_padding_mask=padding)
        pf.nvib.wrap(encoder)
        torch.testing.assert_close(
            encoder(x, src_key_padding_mask=padding)[~padding], before[~padding], rtol=0, atol=1e-5
        )
        batch = {"src": x, "src_key_padding_mask": padding}
        pf.nvib.regularize(pf.nvib.fit_priors(encoder, [batch]), tau_alpha=-1.0)
        assert (encoder(**batch) - before)[~padding].abs().max() > 1e-2
        pf.nvib.unwrap(encoder)
        torch.testing.assert_close(encoder(**batch)[~padding], before[~padding])
    assert int((~padding).sum()) == 10


def test_a_decoder() -> None:
    decoder = nn.TransformerDecoder(nn.TransformerDecoderLayer(16, 2, 32, batch_first=True), 2).eval()
    x, memory = torch.randn(B, M, 16), torch.randn(B, N, 16)
    causal = nn.Transformer.generate_square_subsequent_mask(M)
    options = {"tgt_mask": causal, "memory_key_padding_mask": PADDING, "tgt_is_causal": True}
    before = decoder(x, memory, **options)
    torch.testing.assert_close(pf.nvib.wrap(decoder)(x, memory, **options), before, rtol=0, atol=1e-5)
    groups = {name: layer.group for name, layer in pf.nvib.layers(decoder).items()}
    assert groups == {
        f"layers.{i}.{name}": group
        for i in (0, 1)
        for name, group in (("self_attn", "decoder"), ("multihead_attn", "cross"))
    }
    pf.nvib.regularize(pf.nvib.fit_priors(decoder, [{"tgt": x, "memory": memory, **options}]), tau_alpha=-1.0)
    short = decoder(x[:, :2], memory, tgt_mask=causal[:2, :2], memory_key_padding_mask=PADDING)
    torch.testing.assert_close(decoder(x, memory, **options)[:, :2], short, rtol=0, atol=1e-5)
    assert int(pf.nvib.layers(decoder, "cross")["layers.0.multihead_attn"].count) == int((~PADDING).sum())


# how many vectors stay


def test_kept_by_hand() -> None:
    """One layer whose weights are asked for directly."""
    layer, x = pf.nvib.wrap(attention(batch_first=True)), torch.randn(B, N, P)
    batch = {"query": x, "key": x, "value": x, "key_padding_mask": PADDING}
    with torch.no_grad():  # key and value are to be one tensor
        pf.nvib.fit_priors(layer, [batch])
        pf.nvib.regularize(layer, tau_alpha=-1.0)
        shares = layer(**batch, average_attn_weights=False)[1]
    there = ~PADDING
    rest = 1 - shares.sum(-1).mean(1)
    largest = shares.masked_fill(PADDING[:, None, :, None], 0).amax((1, 2))
    for above in (0.01, 0.2):
        (kept,) = pf.nvib.kept(layer, [batch], above=above).values()
        assert kept.prior == pytest.approx(float(rest[there].mean()), abs=1e-5)
        assert kept.vectors == pytest.approx(float((largest >= above)[there].float().mean()))
    one, other = (
        {name: value[i : i + 1] for name, value in batch.items() if name == "key_padding_mask"} for i in (0, 1)
    )
    split = [{**dict.fromkeys(("query", "key", "value"), x[i : i + 1]), **part} for i, part in enumerate((one, other))]
    assert pf.nvib.kept(layer, split)[""].prior == pytest.approx(float(rest[there].mean()), abs=1e-5)


def test_the_prior_takes_over() -> None:
    encoder, x = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), torch.randn(B, N, 16)
    pf.nvib.fit_priors(pf.nvib.wrap(encoder), [x])
    found = [pf.nvib.kept(pf.nvib.regularize(encoder, tau_alpha=t), [x])["self_attn"] for t in (50.0, 0.0, -2.0, -50.0)]
    assert [k.prior for k in found] == sorted(k.prior for k in found)
    assert [k.vectors for k in found] == sorted((k.vectors for k in found), reverse=True)
    assert found[0] == (pytest.approx(0, abs=1e-6), 1.0) and found[-1] == (pytest.approx(1), 0.0)


# divergences


def wrapped(tau_alpha: float = 0.5, tau_sigma: float = 0.4, **options: Any) -> tuple[nn.Module, Tensor]:
    encoder, x = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True), torch.randn(B, N, 16)
    pf.nvib.fit_priors(pf.nvib.wrap(encoder, **options), [x])
    return pf.nvib.regularize(encoder, tau_alpha=tau_alpha, tau_sigma=tau_sigma).train(), x


def test_divergences_are_those_of_the_distributions() -> None:
    """L_D is the divergence of two symmetric Dirichlet distributions, L_G a mean of those of Gaussians."""
    encoder, x = wrapped(-1.0)
    encoder.double()
    layer = pf.nvib.layers(encoder)["self_attn"]
    layer.prior_log_alpha.fill_(1.0)
    layer.log_alpha_std.fill_(0.9)
    pf.nvib.regularize(encoder, tau_mu=0.7)
    x = 0.3 * x.double()
    encoder(x, src_key_padding_mask=PADDING)
    result = pf.nvib.kl(encoder, lambda_d=0.5, lambda_g=3.0, delta=0.4)
    s = 8**0.5
    for text, n in ((0, 4), (1, 6)):
        rows = x[text, :n]
        alpha = torch.cat([torch.ones(1).double(), rows.square().sum(-1) / (2 * s) - 0.9]).exp()
        ones = torch.ones(n + 1).double() / (n + 1)
        own = math.exp(1.0) * (1 + 0.4 * n)
        q, p = torch.distributions.Dirichlet(alpha.sum() * ones), torch.distributions.Dirichlet(own * ones)
        weights = torch.distributions.kl_divergence(q, p) / (n + 1)
        torch.testing.assert_close(result.weights["self_attn"][text], weights, rtol=1e-4, atol=1e-6)
        std = layer.prior_variance.sqrt()
        prior = torch.distributions.Normal(layer.prior_mean, std)
        means = 0.7 * rows + 0.3 * layer.prior_mean
        each = torch.distributions.kl_divergence(torch.distributions.Normal(means, 0.4 * std), prior).mean(-1)
        vectors = (alpha[1:] / alpha.sum() * each).sum()
        torch.testing.assert_close(result.vectors["self_attn"][text], vectors, rtol=1e-5, atol=1e-7)
    expected = (0.5 * result.weights["self_attn"] + 3 * result.vectors["self_attn"]).mean()
    torch.testing.assert_close(result.loss, expected)


def test_divergences_of_vectors_of_large_norm() -> None:
    encoder, x = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 20 * torch.randn(B, N, 16)
    pf.nvib.regularize(pf.nvib.fit_priors(pf.nvib.wrap(encoder), [x]), tau_alpha=0.0, tau_sigma=0.4).train()
    layer = pf.nvib.layers(encoder)["self_attn"]
    assert layer.prior_log_alpha > 700  # its exponential is infinite in float64
    encoder(x)
    own, each = layer.prior_log_alpha.double(), layer.natural_log_alpha(x).double()
    for text, weights in enumerate(pf.nvib.kl(encoder, delta=0.4).weights["self_attn"]):
        total = torch.cat([own[None], each[text]]).logsumexp(0)
        q, p = (log - math.log(N + 1) for log in (total, own + math.log(1 + 0.4 * N)))
        expected = dirichlet_kl(q.expand(N + 1), p.expand(N + 1)) / (N + 1)
        torch.testing.assert_close(weights, expected.float(), rtol=1e-5, atol=1e-5)


def test_weights_of_layers() -> None:
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True), 2)
    x = torch.randn(B, N, 16)
    pf.nvib.regularize(pf.nvib.fit_priors(pf.nvib.wrap(encoder), [x]), tau_alpha=0.0, tau_sigma=0.5).train()
    for layer in pf.nvib.layers(encoder).values():
        layer.sample = False
    losses = {}
    for by_layer in ("equal", "linear", (1.0, 0.0), (0.0, 5.0)):
        encoder(x)
        losses[by_layer] = pf.nvib.kl(encoder, by_layer=by_layer).loss.item()
    first, second = losses[(1.0, 0.0)], losses[(0.0, 5.0)]
    encoder(x)
    assert pf.nvib.kl(encoder, by_layer=torch.tensor([0.0, 5.0])).loss == second  # type: ignore[arg-type]
    assert losses["equal"] == pytest.approx((first + second) / 2, rel=1e-4)
    assert losses["linear"] == pytest.approx((first + 2 * second) / 3, rel=1e-4)


def test_a_pass_counts_once() -> None:
    encoder, x = wrapped()
    encoder(x)
    pf.nvib.kl(encoder)
    with pytest.raises(ValueError, match=r"no layer has run since the last call: run the model in training mode first"):
        pf.nvib.kl(encoder)


def test_checkpointing_keeps_the_gradients_of_the_divergences() -> None:
    encoder, x = wrapped(learn=True)
    pf.nvib.layers(encoder)["self_attn"].sample = False
    gradients = []
    for run in (encoder, lambda x: checkpoint(encoder, x, use_reentrant=False)):
        encoder.zero_grad()
        (run(x.requires_grad_()).square().mean() + pf.nvib.kl(encoder).loss).backward()
        gradients.append([p.grad for p in encoder.parameters() if p.grad is not None])
        with pytest.raises(ValueError, match="no layer has run since the last call"):  # nor does backward count
            pf.nvib.kl(encoder)
    torch.testing.assert_close(*gradients)


def test_divergences_without_gradients_are_refused_where_some_are_recorded() -> None:
    encoder, x = wrapped(learn=True)
    y = checkpoint(encoder, x.requires_grad_(), use_reentrant=True)
    with pytest.raises(ValueError, match="'self_attn' ran without recording gradients, .* use_reentrant=False"):
        pf.nvib.kl(encoder)
    with torch.no_grad():
        assert pf.nvib.kl(encoder).loss > 0
    y.sum().backward()
    with pytest.raises(ValueError, match="no layer has run since the last call"):
        pf.nvib.kl(encoder)


# draws for ArviZ


def test_draws_have_the_moments_of_the_posterior() -> None:
    encoder, x = wrapped(-1.5)
    layer = pf.nvib.layers(encoder)["self_attn"]
    batch = {"src": x, "src_key_padding_mask": PADDING}
    group = pf.nvib.posterior(encoder, batch, draws=4000)["posterior"]
    weights = torch.as_tensor(group["self_attn"].values)
    assert weights.shape == (1, 4000, B, N + 1)
    log_alpha = torch.cat(
        [layer.prior_log_alpha.expand(B, 1), x.square().sum(-1) / (2 * 8**0.5) - 1.5 * layer.log_alpha_std], -1
    )
    alpha = log_alpha.exp() * torch.cat([torch.ones(B, 1), ~PADDING], -1)
    torch.testing.assert_close(weights[0].mean(0), alpha / alpha.sum(-1, keepdim=True), rtol=0, atol=0.01)
    assert (weights[0][:, 0, 5:] == 0).all()
    again = pf.nvib.posterior(encoder, batch, draws=4000)["posterior"]["self_attn"].values
    assert torch.equal(torch.as_tensor(again), weights)
    named = pf.nvib.posterior(encoder, batch, draws=2, tokens=list("noodle"))["posterior"]
    assert named["encoder_vector"].values.tolist() == ["prior", "n", "o", "o (2)", "d", "l", "e"]


# what is refused


def unchecked(function: Any) -> Any:
    """A function without the tests' own checks of types."""
    return getattr(function, "__wrapped__", function)


def model_of_one() -> nn.Module:
    return pf.nvib.wrap(attention(batch_first=True))


X = torch.randn(B, N, P)
REFUSED: dict[str, tuple[Any, str]] = {
    "no attention": (lambda: pf.nvib.wrap(nn.Linear(3, 3)), "the Linear has no attention that can be turned into NVIB"),
    "no module": (lambda: unchecked(pf.nvib.wrap)("bert"), "the model has type str: give a torch.nn.Module"),
    "twice": (lambda: pf.nvib.wrap(model_of_one()), r"is wrapped already: pf\.nvib\.unwrap\(model\) undoes it"),
    "half": (
        lambda: pf.nvib.wrap(attention().half()),
        r"its weights are float16, and distributions need float32: call",
    ),
    "bias_kv": (lambda: pf.nvib.wrap(attention(add_bias_kv=True)), "it has add_bias_kv=True, a key and value that"),
    "zero": (lambda: pf.nvib.wrap(attention(add_zero_attn=True)), "it has add_zero_attn=True, and the prior's comp"),
    "widths": (lambda: pf.nvib.wrap(attention(kdim=4, vdim=8)), "it has kdim=4 and vdim=8, and NVIB needs one width"),
    "form": (
        lambda: unchecked(pf.nvib.wrap)(attention(), form="approximate"),
        "form is 'approximate': choose one of exact, publ",
    ),
    "variance": (lambda: pf.nvib.wrap(attention(), variance="full"), "variance is 'full': choose one of shared, diag"),
    "nothing to learn": (lambda: pf.nvib.wrap(attention(), variance="diagonal"), "what heads learn: give learn=True"),
    "not wrapped": (lambda: pf.nvib.unwrap(nn.Linear(3, 3)), "the Linear is not wrapped"),
    "no layers": (
        lambda: pf.nvib.regularize(nn.Linear(3, 3), tau_mu=0.0),
        r"has no NVIB layers: pf\.nvib\.wrap\(model\)",
    ),
    "no prior": (
        lambda: pf.nvib.regularize(model_of_one(), tau_alpha=0.0),
        r"has no prior yet: call pf\.nvib\.fit_prio",
    ),
    "nothing": (lambda: pf.nvib.regularize(model_of_one()), "nothing to set: give tau_alpha, tau_sigma, tau_mu or"),
    "nats": (
        lambda: pf.nvib.regularize(wrapped(math.inf)[0], tau_nats=-2.0),
        "tau_nats is -2 beside tau_alpha = inf in the layer 'self_attn': give tau_alpha=0.0 too",
    ),
    "nats inf": (lambda: pf.nvib.regularize(model_of_one(), tau_nats=math.inf), "tau_nats is inf: give a finite numb"),
    "sigma": (lambda: pf.nvib.regularize(model_of_one(), tau_sigma=-0.1), "tau_sigma is -0.1: give 0, a point mass, o"),
    "sigma inf": (lambda: pf.nvib.regularize(model_of_one(), tau_sigma=math.inf), "tau_sigma is inf: give 0, a point"),
    "alpha": (lambda: pf.nvib.regularize(model_of_one(), tau_alpha=math.nan), "tau_alpha is nan: give a number, or ma"),
    "mu": (lambda: pf.nvib.regularize(model_of_one(), tau_mu=1.5), "tau_mu is 1.5: give a number from 0, the prior's"),
    "text": (lambda: unchecked(pf.nvib.regularize)(model_of_one(), tau_mu="1"), "tau_mu is '1': give a number from 0"),
    "select": (
        lambda: pf.nvib.regularize(model_of_one(), tau_mu=1.0, select="cross"),
        "no layer is selected by 'cross'",
    ),
    "no batches": (lambda: pf.nvib.fit_priors(model_of_one(), []), "there are no batches: give at least one"),
    "one batch": (
        lambda: pf.nvib.fit_priors(model_of_one(), X),
        "batches has type Tensor: give an iterable of batches",
    ),
    "a number": (lambda: pf.nvib.fit_priors(model_of_one(), [3]), "a batch has type int: give a dictionary of the mod"),
    "one vector": (
        lambda: pf.nvib.fit_priors(model_of_one(), [(X[:1, :1],) * 3]),
        "no prior for the layer '': 1 vectors have no variance: give at least 2",
    ),
    "NaN": (lambda: pf.nvib.fit_priors(model_of_one(), [(X * torch.nan,) * 3]), "its vectors are NaN or infinite: loo"),
    "two tensors": (lambda: model_of_one()(X, X, X + 1), "key and value are different tensors, and NVIB attends to ve"),
    "hint": (lambda: model_of_one()(X, X, X, is_causal=True), "is_causal is a hint about attn_mask, and there is none"),
    "mask dtype": (
        lambda: model_of_one()(X, X, X, key_padding_mask=torch.ones(B, N, dtype=torch.long)),
        "key_padding_mask has dtype int64: give booleans, True where attention is blocked, or floats to add",
    ),
    "mask shape": (
        lambda: model_of_one()(X, X, X, key_padding_mask=PADDING.T),
        r"key_padding_mask has shape \(6, 2\): give \(batch, keys\) = \(2, 6\)",
    ),
    "attn_mask": (
        lambda: model_of_one()(X, X, X, attn_mask=torch.ones(2, 2, dtype=torch.bool)),
        r"attn_mask has shape \(2, 2\): give \(queries, keys\) or \(batch \* heads, queries, keys\) = \(6, 6\) or",
    ),
    "dimensions": (lambda: model_of_one()(X[0], X, X), "query and key have 2 and 3 dimensions: give both 3, or both 2"),
    "no number": (
        lambda: unchecked(pf.nvib.kept)(model_of_one(), [(X,) * 3], above="1"),
        "above is '1', a str: give a number",
    ),
    "no pattern": (
        lambda: unchecked(pf.nvib.layers)(model_of_one(), 3),
        "select is 3: give one of encoder, decoder, cr",
    ),
    "None": (lambda: unchecked(pf.nvib.layers)(None), "the model has type NoneType: give a torch.nn.Module"),
    "above": (
        lambda: pf.nvib.kept(model_of_one(), [(X,) * 3], above=0.0),
        "above is 0.0: give a share of the attention",
    ),
    "not run": (lambda: pf.nvib.kl(model_of_one()), "no layer has run since the last call: run the model in training"),
    "draws": (lambda: pf.nvib.posterior(model_of_one(), X, draws=0), "draws is 0: give a positive whole number"),
    "tokens": (lambda: draws_of(0.0, tokens=["a"]), "tokens has 1 names, and there are 6 vectors: give one for each"),
    "another width": (
        lambda: model_of_one()(*[X[..., :8]] * 3),
        "the vectors have width 8, and the attention layer needs",
    ),
    "by_layer": (lambda: kl_of(by_layer="rising"), "by_layer is 'rising': choose equal or linear, or give 1 numbers"),
    "by_layers": (
        lambda: kl_of(by_layer=[1.0, 2.0]),
        r"by_layer is \[1.0, 2.0\]: give 1 numbers, 0 or more and not all 0",
    ),
    "lambda": (lambda: kl_of(lambda_g=-1.0), "lambda_g is -1.0: give a finite number, 0 or more"),
    "infinite": (
        lambda: kl_of(tau_sigma=0.0),
        "tau_sigma is 0 in the layer 'self_attn', so that its divergence is inf",
    ),
    "infinite alpha": (lambda: kl_of(tau_alpha=math.inf), "tau_alpha is inf in the layer 'self_attn', so that its div"),
    "point": (lambda: draws_of(tau_alpha=math.inf), "tau_alpha is inf in the layer 'self_attn', so that its weights"),
}


def kl_of(tau_alpha: float = 0.5, tau_sigma: float = 0.4, **options: Any) -> None:
    encoder, x = wrapped(tau_alpha, tau_sigma)
    encoder(x)
    pf.nvib.kl(encoder, **options)


def draws_of(tau_alpha: float, **options: Any) -> None:
    encoder, x = wrapped(tau_alpha)
    pf.nvib.posterior(encoder, x, **options)


@pytest.mark.parametrize("case", REFUSED)
def test_refused_in_one_line(case: str) -> None:
    call, message = REFUSED[case]
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


@pytest.mark.compile
def test_compiled_without_a_graph_break() -> None:
    encoder, x = wrapped()
    for mode in (encoder.eval(), encoder.train()):
        compiled = torch.compile(mode.self_attn, fullgraph=True, backend="aot_eager")
        torch.manual_seed(0)
        expected = mode.self_attn(x, x, x, key_padding_mask=PADDING, need_weights=False)[0]
        torch.manual_seed(0)
        torch.testing.assert_close(
            compiled(x, x, x, key_padding_mask=PADDING, need_weights=False)[0], expected, rtol=1e-4, atol=1e-4
        )
