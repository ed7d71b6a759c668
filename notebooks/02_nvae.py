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
# # A text as a random mixture: the NVAE
#
# How many vectors does a sentence need, and what happens when they cost something?
#
# A Transformer's encoder makes one vector of each token, and the decoder attends to all of them. The NVAE makes a
# *distribution* of them: a random mixture, in which each token's vector has a mean, a variance and a weight, and
# one more vector stands for the prior, for "nothing was said". Attention is then the posterior mean under that
# mixture ([01_attention_is_inference](01_attention_is_inference.ipynb)). What a text does not need, it can leave to
# the prior: weights go to zero, variances go to the prior's.
#
# This notebook trains one on the English sentences that every Python carries in its documentation, which takes a
# minute or two, and looks at what it has learned from all sides: also from those where it looks bad.

# %%
import copy
import os

import arviz as az
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.colors import LogNorm
from torch.distributions import Normal, kl_divergence

import pyroformer as pf
from pyroformer.inference.diagnostics import khat
from pyroformer.inference.generation.editing import vectors
from pyroformer.inference.plots.style import COLORS, SHADES

quick = os.environ.get("PYROFORMER_NOTEBOOK") == "quick"  # does it run? For the tests
plt.rcParams.update({"figure.constrained_layout.use": True, "font.size": 9, "axes.titlesize": 10})
plt.rcParams.update({"axes.titlelocation": "left", "axes.spines.top": False, "axes.spines.right": False})

# %% [markdown]
# ## Train
#
# Short sentences only, of at most 16 tokens, so that it goes fast. `model` is what is assumed (the prior of the
# mixture and a decoder), `guide` is what is learned (an encoder that says which mixture a text has), and `fit` is
# stochastic variational inference.

# %%
corpus = pf.Corpus.builtin(max_length=16)
print(corpus.describe())
print(*corpus.train[:3], sep="\n")

# %%
torch.manual_seed(0)
model = pf.NVAE.for_corpus(corpus, size="tiny")
guide = pf.NVAEGuide(model)
run = pf.fit(model, guide, corpus, steps=4 if quick else 500, batch_size=16, validation_texts=128)
pf.plots.curves(run)

# %% [markdown]
# On the left is what was trained: the objective of the paper, which is *not* a bound of log p(x). On the right is
# the true bound, and it says something sobering: the vectors' divergence from their prior is hundreds of nats a
# token, where a language model needs about five to spell a token out. Trained this way the NVAE is an autoencoder
# with noise. Nearly all it says is in the vectors, at whatever price. (The README says why; `objective="elbo"` trains
# on the bound.)
#
# As an autoencoder it works. These are sentences that it has not seen, and what the decoder writes from the mean of
# their posteriors:

# %%
texts = corpus.test[:6]
for found in run.reconstruct(texts):
    print(f"{found.original}\n    {found.text}")

# %% [markdown]
# ## Look at a posterior
#
# The weight of each token in the mean of the posterior mixture, and below it the *concentration* that the weight
# follows from: how many observations that token counts for.

# %%
text = "Return the current file position."
pf.plots.weights(run, text, alpha=True)

# %% [markdown]
# And this is where the decoder looks while it writes the text again. A diagonal means that it copies token by token.

# %%
pf.plots.attention(run, text)

# %% [markdown]
# ## Regularize: vectors fall silent
#
# A vector whose posterior is the prior says nothing of its token. What it does say is its divergence from the prior, in
# nats. `beta` multiplies what that costs. The paper's scaling makes a nat cheap: at `beta=1` it costs about 1/128,000
# of what it costs in the bound of log p(x), where it costs one nat. So there is a long way to go. From the run above we
# go on for a hundred steps each with a larger and larger one.

# %%
strengths = [1.0, 1000.0, 10_000.0, 100_000.0]
stages = [run]
for strength in strengths[1:]:
    model, guide = copy.deepcopy((stages[-1].model, stages[-1].guide))
    options = {"beta": strength, "batch_size": 16, "learning_rate": 1e-3, "validations": 1, "validation_texts": 64}
    stages.append(pf.fit(model, guide, corpus, steps=2 if quick else 100, **options))


# %%
@torch.no_grad()
def said(stage: pf.Run, texts: list[str]) -> torch.Tensor:
    """What the vector of each token says, in nats; the vectors of all texts in one row."""
    posterior = stage.encode(texts)
    distribution, prior = Normal(posterior.mean, posterior.variance.sqrt()), Normal(0.0, 1.0)
    return kl_divergence(distribution, prior).sum(-1)[:, 1:][posterior.mask[:, 1:]]  # without the prior's own vector


def draw_silence() -> None:
    _, (one, many) = plt.subplots(1, 2, figsize=(11, 3.2), width_ratios=(1.5, 1))
    nats = torch.stack([said(stage, [text]) for stage in stages])
    one.imshow(nats.numpy(), cmap=SHADES, norm=LogNorm(0.5, 600), aspect="auto")
    for row, values in enumerate(nats.tolist()):
        for column, value in enumerate(values):
            one.text(column, row, f"{value:.0f}" if value >= 10 else f"{value:.1f}", ha="center", va="center")
    one.set_xticks(range(nats.shape[1]), run.tokenizer.pieces(text))
    one.set_yticks(range(len(strengths)), [f"{strength:,.0f}" for strength in strengths])
    one.set(ylabel="beta", title="What each vector says, in nats")
    loud = [(said(stage, corpus.test[:64]) > 1).float().mean().item() for stage in stages]
    many.plot(strengths, loud, "o-", label="vectors that say over 1 nat")
    right = [each["accuracy"].value for each in measured]
    many.plot(strengths, right, "o-", color=COLORS[1], label="tokens that are predicted right")
    many.set(xscale="log", xlabel="beta", ylabel="share", ylim=(0, 1.05), title="64 held-out texts")
    many.legend(frameon=False)


measured = [stage.evaluate(limit=64, num_particles=1, reconstructions=1) for stage in stages]
draw_silence()

# %% [markdown]
# No vector dies while the others live on: all of them get quieter together. Those of the full stop and of the end of
# the text, which the decoder can guess anyway, are the quietest, and those of the nouns hold out longest. Below is the
# sentence as it is written from each of these posteriors, and what all latents cost:

# %%
for strength, stage, each in zip(strengths, stages, measured, strict=True):
    print(f"{strength:>9,.0f}, {each['rate']['nats/token']:>4.0f} nats a token: {stage.reconstruct(text).text}")

# %% [markdown]
# ## Sample
#
# A mixture drawn from the prior, and what the decoder makes of it. Above we saw how far the posterior is from the
# prior, so nobody should expect much:

# %%
print(*run.sample(4, seed=0, temperature=0.5), sep="\n")

# %% [markdown]
# Word salad. The decoder has never seen such vectors. What helps is a better prior, fitted to the vectors that texts
# really have: `pf.fit_prior` does that in a second stage, and the bound stays a bound as the prior is part of the model.

# %%
refitted = pf.fit_prior(run, "autoregressive", steps=2 if quick else 100, batch_size=16, validations=1)
print(*refitted.sample(4, seed=0, temperature=0.5), sep="\n")
for name, each in {"trained prior": run, "refitted prior": refitted}.items():
    rate = each.evaluate(limit=64, num_particles=1, reconstructions=1)["rate"]["nats/token"]
    print(f"{name}: the latents cost {rate:.0f} nats a token")

# %% [markdown]
# ## Interpolate
#
# Halfway between two mixtures lies the mixture of both: all vectors of the two texts, half as heavy. There is no
# "average vector" in between.

# %%
print(*run.interpolate("Return the current file position.", "Raise an exception in the coroutine.", 7), sep="\n")

# %% [markdown]
# The change is abrupt: one word is the first text's, the rest the second's, and then all of it. The decoder has learned
# to copy a text, and nothing asked it to make sense of two.
#
# ## Edit
#
# What a text's mixture holds can be changed by hand. Vectors are numbered as its tokens are; 0 is the prior's.

# %%
for vector in vectors(run, text):
    print(vector.number, repr(vector.token), f"{vector.weight:.2f}")

# %%
other = "Raise an exception in the coroutine."
print("as it is:             ", run.edit(text).text)
print("without vector 4:     ", run.edit(text, drop=[4]).text)
print("vector 4 from another:", run.edit(text, swap={4: 3}, other=other).text)

# %% [markdown]
# The edits show how the decoder reads: it looks for the vector of a *place*. Where that is gone it takes a neighbor's
# word again, and a vector from another text brings its own place along.
#
# ## The posterior in ArviZ
#
# Pyro's posterior draws, with names: a weight for each component and 128 numbers for each vector, for each draw.
# ArviZ draws and summarizes them like any other.

# %%
data = run.posterior(text, draws=200, predictive=5)
print(dict(data.posterior.sizes))
weights = data.posterior["weights"].isel(text=0).mean(("chain", "draw"))
print("mean weights:", np.round(weights.values, 2))
print("written from single draws:", *data.posterior_predictive["written"].isel(text=0).values[0], sep="\n    ")

# %%
az.plot_forest(data, var_names=["weights"], combined=True)

# %% [markdown]
# The guide is not sure of the weights at all: its concentrations are below one, so that in each draw a few vectors have
# most of the weight, and in every draw others. The decoder writes nearly the same text from all of them. But is the
# guide right? Pareto's k-hat compares the guide with the true posterior: above 0.7, nothing that is computed by
# weighting its draws can be trusted.

# %%
print("k-hat:", np.round(khat(data).values, 1))

# %% [markdown]
# It is far above, which was to be expected: with a thousand dimensions and more, small errors multiply.
# [05_check_your_posterior](05_check_your_posterior.ipynb) shows how, and what can be said nevertheless.
#
# ## What to try next
#
# - Train for longer: `minutes=10` in place of `steps`, and `pf.Corpus.builtin()` without the max_length. Or your own texts:
#   `pf.Corpus.from_file("reviews.txt")`.
# - Train on the bound: `pf.fit(..., objective="elbo", beta=0.01)`, with beta raised towards 1. How much of the text
#   still comes back, and do the samples get better?
# - `pf.VAE` and `pf.VAEGuide` in place of `pf.NVAE` and `pf.NVAEGuide`: the same with one Gaussian vector a token and
#   no weights. What do the weights buy?
# - A prior of your own: [04_new_prior](04_new_prior.ipynb). Another model: [03_della](03_della.ipynb).
