# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A dial on a trained Transformer
#
# How many of the vectors that a trained Transformer attends to does it need?
#
# Softmax attention is a posterior mean under one particular posterior over mixtures
# ([notebook 1](01_attention_is_inference.ipynb)). So a Transformer that was trained without a thought of this *is* a
# Bayesian model already, and other posteriors regularize it without any training
# ([Fehr and Henderson, 2024](https://arxiv.org/abs/2312.00662)). Here a small encoder learns to fill in missing words;
# then its attention layers are turned into NVIB attention, and a dial is turned.
#
# It takes about a minute. If `bert` names the folder of a BERT, the last part looks at that too.

# %%
import arviz as az
import matplotlib.pyplot as plt
import pyro
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import pyroformer as pf

pyro.set_rng_seed(0)

# %% tags=["parameters"]
steps = 600
positions = 13  # of the dial
batch_size = 64
batches = 8  # held-out ones, and those that the priors are fitted to
bert = ""  # the folder of a BERT, for the last part

# %% [markdown]
# ## A Transformer of torch
#
# Two layers of `nn.TransformerEncoder` between an embedding and its readout. One word piece in six is hidden, and the
# model is to name it.

# %%
corpus = pf.Corpus.builtin(vocabulary=800, max_length=24)
hidden = corpus.tokenizer.vocabulary  # a token of its own for what is hidden


class FillIn(nn.Module):
    """Logits of every word piece, from those around it."""

    def __init__(self, width: int = 64, heads: int = 4) -> None:
        super().__init__()
        self.tokens = nn.Embedding(hidden + 1, width)
        self.positions = nn.Embedding(32, width)
        layer = nn.TransformerEncoderLayer(
            width, heads, 2 * width, dropout=0.0, batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, tokens: Tensor, padding: Tensor) -> Tensor:
        x = self.tokens(tokens) + self.positions.weight[: tokens.shape[1]]
        return self.encoder(x, src_key_padding_mask=padding) @ self.tokens.weight.T


def hide(batch: pf.Batch, seed: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens with some of them hidden, where the padding is, and which are hidden."""
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    chosen = (torch.rand(batch.tokens.shape, generator=generator) < 1 / 6) & batch.mask
    return batch.tokens.masked_fill(chosen, hidden), ~batch.mask, chosen


model = FillIn()
optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
for step, batch in enumerate(corpus.batches("train", batch_size, epochs=9)):
    tokens, padding, chosen = hide(batch)
    loss = F.cross_entropy(model(tokens, padding)[chosen], batch.tokens[chosen])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step == steps:
        break
model.eval()
valid = corpus.batches("valid", batch_size)
held_out = [batch for batch in valid if bool((batch.weight > 0).all())][:batches]


@torch.no_grad()
def loss_of_hidden() -> float:
    """Nats for each hidden word piece of held-out texts."""
    losses = []
    for seed, batch in enumerate(held_out):
        tokens, padding, chosen = hide(batch, seed)
        logits, truth = model(tokens, padding)[chosen], batch.tokens[chosen]
        losses.append(F.cross_entropy(logits, truth, reduction="none"))
    return torch.cat(losses).mean().item()


def loss_by_frequency() -> float:
    """The same for a guess by the frequencies of word pieces, whatever is around."""
    every = torch.cat(
        [batch.tokens[batch.mask] for batch in corpus.batches("train", 64)]
    )
    log_frequencies = (every.bincount(minlength=hidden) + 1.0).log().log_softmax(0)
    truth = [batch.tokens[hide(batch, seed)[2]] for seed, batch in enumerate(held_out)]
    return -log_frequencies[torch.cat(truth)].mean().item()


print(f"{step} steps; nats for each hidden piece: {loss_of_hidden():.3f}")
by_frequency = loss_by_frequency()
print(f"by the frequencies of word pieces alone: {by_frequency:.3f}")

# %% [markdown]
# ## Wrap
#
# `pf.nvib.wrap` turns the attention layers, in place. Nothing changes: every vector is a point of the mixture, with the
# weight that softmax attention gives it implicitly. Then one pass over training texts gives each layer its empirical
# prior: the mean and the variance of the vectors that it reads, and how their log weights vary.

# %%
before = loss_of_hidden()
pf.nvib.wrap(model)
print(f"loss before {before:.6f}, after {loss_of_hidden():.6f}")

training = zip(range(batches), corpus.batches("train", batch_size), strict=False)
pf.nvib.fit_priors(model, [hide(batch, seed)[:2] for seed, batch in training])
for name, layer in pf.nvib.layers(model).items():
    print(f"{name}: log weight {layer.prior_log_alpha:.1f} ± {layer.log_alpha_std:.1f}")

# %% [markdown]
# ## The dial
#
# By softmax attention a vector has the log weight $|x|^2 / 2s$, and here the prior's component has the mean of that.
# `tau_alpha` moves the vectors' log weights against the prior's, in the standard deviations that were just printed, and
# `tau_nats` in nats. We take the second: behind a LayerNorm all vectors are about equally long, and the deviations are
# small. From the left, where the prior's component has no say, to the right, where attention finds it more probable
# that a query came from *what texts have in common* than from a vector of this text. A vector *stays* while some query
# gives it at least a twentieth of its attention.

# %%
taus = torch.linspace(12, -6, positions).tolist()
losses, kept = [], []
for tau in taus:
    pf.nvib.regularize(model, tau_alpha=0.0, tau_nats=tau)
    losses.append(loss_of_hidden())
    inputs = [hide(batch, seed)[:2] for seed, batch in enumerate(held_out[:2])]
    kept.append(pf.nvib.kept(model, inputs, above=0.05))

# %%
_, (left, right) = plt.subplots(1, 2, figsize=(10, 3.4))
left.axhline(before, color="gray", linestyle="--", label="softmax attention")
left.axhline(by_frequency, color="gray", linestyle=":", label="frequencies alone")
left.plot(taus, losses, "o-", markersize=4, label="NVIB attention")
left.set(title="Loss without any training", ylabel="nats for each hidden word piece")
left.set_xlabel("vectors against the prior, nats")
left.invert_xaxis()
left.legend()
pf.plots.vectors_kept(taus, kept, ax=right)

# %% [markdown]
# At 0 the prior's component weighs as much as a vector and takes a tenth of the attention; the loss does not notice.
# It rises as the prior takes more, even before the first vectors leave, for this small model does use what it reads. In
# the end it is above that of a guess by frequencies alone, the dotted line: nothing was trained for that. Nothing
# promises that a dial improves a model either; it shows what the attention rests on.
#
# ## What stays, in ArviZ
#
# The weights of a text's vectors have a posterior, a Dirichlet distribution for each layer. `pf.nvib.posterior` draws
# from it. Here is one text in the second layer, at a place of the dial where the prior has a say.

# %%
pf.nvib.regularize(model, tau_alpha=0.0, tau_nats=0.0)
text = "Return a copy of the list with the items in order."
ids = torch.tensor([corpus.tokenizer.encode(text)])
pieces = corpus.tokenizer.pieces(text)
padding = torch.zeros_like(ids, dtype=torch.bool)
data = pf.nvib.posterior(model, (ids, padding), draws=500, tokens=pieces)
az.plot_forest(data, var_names=["encoder.layers.1.self_attn"], combined=True)
az.summary(data, var_names=["encoder.layers.1.self_attn"], kind="stats").head(4)

# %% [markdown]
# ## A pretrained BERT
#
# The same calls take a BERT, GPT-2 or BART of transformers. Put the folder of a BERT in place of `bert`, and this cell
# prints the share of vectors that stay in each of its layers. For a real sentence encoder, MiniLM, this is
# [measured](../benchmarks/RESULTS.md#nvib-in-a-pretrained-sentence-encoder): similarities of sentences hold down to
# `tau_alpha = 0`.

# %%
if bert:
    from transformers import AutoModel, AutoTokenizer

    pretrained = pf.nvib.wrap(AutoModel.from_pretrained(bert).eval())
    tokenizer = AutoTokenizer.from_pretrained(bert)
    options = {"return_tensors": "pt", "padding": True, "truncation": True}
    texts = [dict(tokenizer(corpus.train[:64], **options))]
    pf.nvib.fit_priors(pretrained, texts)
    for tau in (0.0, -2.0, -4.0):
        pf.nvib.regularize(pretrained, tau_alpha=tau)
        kept = pf.nvib.kept(pretrained, texts).values()
        print(tau, [f"{layer.vectors:.2f}" for layer in kept])

# %% [markdown]
# ## What to try next
#
# - `pf.nvib.kl` is a regularizer for training the wrapped model further: [A dial on a trained
#   Transformer](../docs/nvib_pretrained.md) has the loop.
# - What a draw from such a posterior gives away of its text: [private embeddings](../docs/private_embeddings.md).
# - Models whose layers are NVIB from the start: [NVIB in every layer](../docs/nvib_layers.md).
