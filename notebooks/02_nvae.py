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
# A Transformer's encoder computes one vector per token, and the decoder attends to all of them. The NVAE turns these
# vectors into a *distribution*: a random mixture, in which each token's vector has a mean, a variance and a weight, and
# one more vector stands for the prior, that is, for no information. Attention is then the posterior mean under that
# mixture ([01_attention_is_inference](01_attention_is_inference.ipynb)). Information that a text does not need can be
# left to the prior: weights go to zero, and variances to those of the prior.
#
# This notebook trains an NVAE on the English sentences of Python's documentation, which takes a minute or two, and
# examines what it has learned, including where it performs badly.

# %%
import copy

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

# %% tags=["parameters"]
steps = 500
more_steps = 100  # for each strength of the regularization, and for the second prior
held_out = 64  # texts
draws = 200

# %% [markdown]
# ## Train
#
# Only short sentences, of at most 16 tokens, so that training is fast. `model` is the generative model (the prior of
# the mixture and a decoder), `guide` is the inference network (an encoder that computes the posterior mixture of a
# text), and `fit` is stochastic variational inference.

# %%
corpus = pf.Corpus.builtin(max_length=16)
print(corpus.summary())
print(*corpus.train[:3], sep="\n")

# %%
torch.manual_seed(0)
model = pf.NVAE.for_corpus(corpus, size="tiny")
guide = pf.NVAEGuide(model)
run = pf.fit(
    model, guide, corpus, steps=steps, batch_size=16, validation_texts=2 * held_out
)
pf.plots.curves(run)

# %% [markdown]
# On the left is the objective of the paper, which was trained and is *not* a bound of log p(x). On the right is the
# true bound, and it is sobering: the divergence of the vectors from their prior is hundreds of nats per token, where a
# language model needs about five to spell a token out. Trained this way, the NVAE is an autoencoder with noise: nearly
# all information is in the vectors, at any cost. (The README explains why; `objective="elbo"` trains on the bound.)
#
# As an autoencoder it works. These are held-out sentences, each with the text that is decoded from the mean of its
# posterior:

# %%
texts = corpus.test[:6]
for reconstruction in run.reconstruct(texts):
    print(f"{reconstruction.original}\n    {reconstruction.text}")

# %% [markdown]
# ## Look at a posterior
#
# The weight of each token in the mean of the posterior mixture, and below it the *concentration* that determines the
# weight: the number of pseudo-observations of that token.

# %%
text = "Return the current file position."
pf.plots.weights(run, text, alpha=True)

# %% [markdown]
# And this is the decoder's cross-attention while it reconstructs the text. A diagonal means that it copies token by
# token.

# %%
pf.plots.attention(run, text)

# %% [markdown]
# ## Regularize: vectors lose their information
#
# A vector whose posterior equals the prior carries no information about its token. The information that it carries is
# its divergence from the prior, in nats, and `beta` is the weight of that divergence. The paper's scaling makes it
# small: at `beta=1` a nat costs about 1/128,000 of a nat of the bound of log p(x). So there is a long way to go. We
# continue the run above with larger and larger weights, a hundred steps each.

# %%
strengths = [1.0, 1000.0, 10_000.0, 100_000.0]
stages = [run]
for strength in strengths[1:]:
    model, guide = copy.deepcopy((stages[-1].model, stages[-1].guide))
    options = {
        "beta": strength,
        "batch_size": 16,
        "learning_rate": 1e-3,
        "validations": 1,
        "validation_texts": held_out,
    }
    stages.append(pf.fit(model, guide, corpus, steps=more_steps, **options))


# %%
@torch.no_grad()
def information(stage: pf.Run, texts: list[str]) -> torch.Tensor:
    """The information in each vector of the texts, in nats, in one row."""
    posterior = stage.encode(texts)
    distribution, prior = (
        Normal(posterior.mean, posterior.variance.sqrt()),
        Normal(0.0, 1.0),
    )
    return kl_divergence(distribution, prior).sum(-1)[:, 1:][
        posterior.mask[:, 1:]
    ]  # without the prior's own vector


# %% tags=["hide-input"] jupyter={"source_hidden": true}
def draw_information() -> None:
    _, (one, many) = plt.subplots(1, 2, figsize=(11, 3.2), width_ratios=(1.5, 1))
    nats = torch.stack([information(stage, [text]) for stage in stages])
    one.imshow(nats.numpy(), cmap=SHADES, norm=LogNorm(0.5, 600), aspect="auto")
    for row, values in enumerate(nats.tolist()):
        for column, value in enumerate(values):
            one.text(
                column,
                row,
                f"{value:.0f}" if value >= 10 else f"{value:.1f}",
                ha="center",
                va="center",
            )
    one.set_xticks(range(nats.shape[1]), run.tokenizer.pieces(text))
    one.set_yticks(
        range(len(strengths)), [f"{strength:,.0f}" for strength in strengths]
    )
    one.set(ylabel="beta", title="Information in each vector, in nats")
    informative = [
        (information(stage, corpus.test[:held_out]) > 1).float().mean().item()
        for stage in stages
    ]
    many.plot(strengths, informative, "o-", label="vectors with more than 1 nat")
    accuracy = [each["accuracy"].value for each in measured]
    many.plot(
        strengths,
        accuracy,
        "o-",
        color=COLORS[1],
        label="accuracy of token predictions",
    )
    many.set(
        xscale="log",
        xlabel="beta",
        ylabel="share",
        ylim=(0, 1.05),
        title=f"{held_out} held-out texts",
    )
    many.legend(frameon=False)


measured = [
    stage.evaluate(limit=held_out, num_particles=1, reconstructions=1)
    for stage in stages
]
draw_information()

# %% [markdown]
# No single vector dies while the others stay: all of them lose information together. The vectors of the full stop and
# of the end of the text, which the decoder can predict anyway, carry the least, and those of the nouns keep theirs
# longest. Below is the reconstruction from each of these posteriors, with the rate of all latents:

# %%
for strength, stage, each in zip(strengths, stages, measured, strict=True):
    print(
        f"{strength:>9,.0f}, {each['rate']['nats/token']:>4.0f} nats per token: "
        f"{stage.reconstruct(text).text}"
    )

# %% [markdown]
# ## Sample
#
# Texts decoded from mixtures that are drawn from the prior. As the posterior is so far from the prior, do not expect
# much:

# %%
print(*run.sample(4, seed=0, temperature=0.5), sep="\n")

# %% [markdown]
# Word salad: the decoder was not trained on such vectors. The remedy is a better prior, fitted to the posterior
# vectors of texts. `pf.fit_prior` does this in a second stage, and the bound remains a bound, as the prior is part of
# the model.

# %%
better = pf.fit_prior(
    run, "autoregressive", steps=more_steps, batch_size=16, validations=1
)
print(*better.sample(4, seed=0, temperature=0.5), sep="\n")
for name, each in {"first prior": run, "fitted prior": better}.items():
    rate = each.evaluate(limit=held_out, num_particles=1, reconstructions=1)["rate"][
        "nats/token"
    ]
    print(f"{name}: the latents cost {rate:.0f} nats per token")

# %% [markdown]
# ## Interpolate
#
# Halfway between two mixtures lies the mixture of both: all vectors of the two texts, with half their weights. There is
# no "average vector" in between.

# %%
print(
    *run.interpolate(
        "Return the current file position.", "Raise an exception in the coroutine.", 7
    ),
    sep="\n",
)

# %% [markdown]
# The change is abrupt: one word comes from the first text and the rest from the second, and then everything. The
# decoder has learned to copy one text; the objective does not train it to combine two.
#
# ## Edit
#
# The mixture of a text can be edited by hand. Vectors are numbered like its tokens; 0 is the vector of the prior.

# %%
for vector in vectors(run, text):
    print(vector.number, repr(vector.token), f"{vector.weight:.2f}")

# %%
other = "Raise an exception in the coroutine."
print("as it is:             ", run.edit(text).text)
print("without vector 4:     ", run.edit(text, drop=[4]).text)
print("vector 4 from another:", run.edit(text, swap={4: 3}, other=other).text)

# %% [markdown]
# The edits show how the decoder works: it looks for the vector of a *position*. Where that vector is missing, it
# repeats the word of a neighbor, and a vector from another text brings its own position along.
#
# ## The posterior in ArviZ
#
# Posterior draws with named dimensions: in each draw, a weight for each component and 128 entries for each vector.
# ArviZ plots and summarizes them like any other posterior.

# %%
data = run.posterior(text, draws=draws, predictive=5)
print(dict(data.posterior.sizes))
weights = data.posterior["weights"].isel(text=0).mean(("chain", "draw"))
print("mean weights:", np.round(weights.values, 2))
print(
    "decoded from single draws:",
    *data.generated["texts"].isel(text=0).values[0],
    sep="\n    ",
)

# %%
az.plot_forest(data, var_names=["weights"], combined=True)

# %% [markdown]
# The weights are very uncertain under the guide: its concentrations are below one, so in each draw a few vectors have
# most of the weight, and different ones each time. The decoder writes nearly the same text from all of them. But is the
# guide correct? Pareto k-hat compares the guide with the true posterior: above 0.7, importance-weighted estimates from
# its draws are not reliable.

# %%
print("k-hat:", np.round(khat(data).values, 1))

# %% [markdown]
# It is far above, as expected: with more than a thousand dimensions, small errors multiply.
# [05_check_your_posterior](05_check_your_posterior.ipynb) shows how, and which conclusions are still valid.
#
# ## What to try next
#
# - Train for longer: `minutes=10` in place of `steps`, and `pf.Corpus.builtin()` without `max_length`. Or use your own
#   texts: `pf.Corpus.from_file("reviews.txt")`.
# - Train on the bound: `pf.fit(..., objective="elbo", beta=0.01)`, with beta raised towards 1. How much of the text is
#   still reconstructed, and do the samples get better?
# - `pf.VAE` and `pf.VAEGuide` in place of `pf.NVAE` and `pf.NVAEGuide`: the same with one Gaussian vector per token and
#   no weights. What are the weights good for?
# - A prior of your own: [04_new_prior](04_new_prior.ipynb). Another model: [03_della](03_della.ipynb).
