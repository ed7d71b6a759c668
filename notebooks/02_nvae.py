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
# examines what it has learned, including where it performs badly. Prior and objective are the published ones, to show
# what they do: a Gaussian as the prior of each vector (`base_measure="gaussian"`). A model of your own begins with the
# default, `tokens`, a prior that is trained with the model, as in [08_your_own_texts](08_your_own_texts.ipynb).

# %%
import copy

import arviz as az
import numpy as np
import pandas as pd
import torch
from torch.distributions import Normal, kl_divergence

import pyroformer as pf
from pyroformer.inference.generation.editing import vectors

# %% tags=["parameters"]
steps = 500
more_steps = 100  # for each strength of the regularization
prior_steps = 100  # of the second prior
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
model = pf.NVAE.for_corpus(corpus, base_measure="gaussian", size="tiny")
guide = pf.NVAEGuide(model)
run = pf.fit(model, guide, corpus, steps=steps, batch_size=16, validation_texts=64)
pf.plots.curves(run)

# %% [markdown]
# On the left is the objective of the paper, which was trained and is *not* a bound of log p(x). On the right is the
# true bound, and it is sobering: the divergence of the vectors from their prior is hundreds of nats per token, where a
# language model needs about five to spell a token out. Trained this way, the NVAE is an autoencoder with noise: nearly
# all information is in the vectors, at any cost. (The README explains why; `objective="elbo"` trains on the bound.)
#
# As an autoencoder it half works after so few steps: most tokens are right, and few sentences whole. (A longer run
# copies nearly all.) These are held-out sentences, each with the text that is decoded from the mean of its posterior:

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
stages = {1: run}
for beta in (1000, 10_000, 100_000):
    model, guide = copy.deepcopy((model, guide))
    stages[beta] = pf.fit(
        model,
        guide,
        corpus,
        steps=more_steps,
        batch_size=16,
        learning_rate=1e-3,
        beta=float(beta),
        validations=1,
        validation_texts=held_out,
    )


# %%
@torch.no_grad()
def information(stage: pf.Run, texts: list[str]) -> torch.Tensor:
    """The information in each vector of the texts, in nats, in one row."""
    posterior = stage.encode(texts)
    own = Normal(posterior.mean, posterior.variance.sqrt())
    nats = kl_divergence(own, Normal(0.0, 1.0)).sum(-1)
    return nats[:, 1:][posterior.mask[:, 1:]]  # without the prior's own vector


nats = {f"beta {beta:,}": information(stage, [text]) for beta, stage in stages.items()}
pf.plots.token_values(run.tokenizer.pieces(text), nats)

# %% [markdown]
# Nats in the vector of each token. No single vector dies while the others stay: all of them lose information together.
# In the end less than a hundredth is left. Those of the full stop and of the end of the text, which the decoder can
# predict anyway, then carry the least; three of these seven vectors still carry more than a nat. The same for
# held-out texts, with the reconstruction of this one:


# %%
def row(stage: pf.Run) -> dict[str, object]:
    """What a stage keeps of held-out texts and of this one."""
    measured = stage.evaluate(limit=held_out, num_particles=1, reconstructions=1)
    informative = information(stage, corpus.test[:held_out]) > 1
    return {
        "nats per token": f"{measured['rate']['nats/token']:.0f}",
        "vectors over 1 nat": f"{informative.float().mean():.0%}",
        "tokens right": f"{measured['accuracy'].value:.0%}",
        "reconstruction": stage.reconstruct(text).text,
    }


pd.DataFrame({f"beta {beta:,}": row(stage) for beta, stage in stages.items()}).T

# %% [markdown]
# ## Sample
#
# Texts decoded from mixtures that are drawn from the prior. As the posterior is so far from the prior, do not expect
# much:

# %%
print(*run.sample(4, seed=0, temperature=0.5), sep="\n")

# %% [markdown]
# Word salad: the decoder was not trained on such vectors. A prior that is fitted to the posterior vectors of texts
# makes them cheaper. `pf.fit_prior` does this in a second stage, and the bound remains a bound, as the prior is part
# of the model.

# %%
better = pf.fit_prior(
    run, "autoregressive", steps=prior_steps, batch_size=16, validations=1
)
print(*better.sample(4, seed=0, temperature=0.5), sep="\n")
for name, each in {"first prior": run, "fitted prior": better}.items():
    measured = each.evaluate(limit=held_out, num_particles=1, reconstructions=1)
    rate = measured["rate"]["nats/token"]
    print(f"{name}: the latents cost {rate:.0f} nats per token")

# %% [markdown]
# After a hundred steps the fitted prior needs less than half the nats. Its samples look a little more like phrases,
# but they are not sentences, and in our measurements a longer second stage does not change that. For samples that can
# be read, train with the prior `base_measure="tokens"` from the start, as in
# [08_your_own_texts](08_your_own_texts.ipynb).

# %% [markdown]
# ## Interpolate
#
# Halfway between two mixtures lies the mixture of both: all vectors of the two texts, with half their weights. There is
# no "average vector" in between.

# %%
other = "Raise an exception in the coroutine."
print(*run.interpolate(text, other, 7), sep="\n")

# %% [markdown]
# Between the ends the words of both texts stand at their places, which is no sentence. The decoder has learned to copy
# one text; the objective does not train it to combine two.
#
# ## Edit
#
# The mixture of a text can be edited by hand. Vectors are numbered like its tokens; 0 is the vector of the prior.

# %%
for vector in vectors(run, text):
    print(vector.number, repr(vector.token), f"{vector.weight:.2f}")

# %%
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
texts = data.generated["texts"].isel(text=0).values[0]
print("decoded from single draws:", *texts, sep="\n    ")

# %%
az.plot_forest(data, var_names=["weights"], combined=True)

# %% [markdown]
# The weights are very uncertain under the guide: its concentrations are below one, so in each draw a few vectors have
# most of the weight, and different ones each time. The decoder writes the same text from most of them. But is the guide
# correct? Pareto k-hat compares the guide with the true posterior: above 0.7, importance-weighted estimates from
# its draws are not reliable.

# %%
print("k-hat:", np.round(pf.diagnostics.khat(data).values, 1))

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
