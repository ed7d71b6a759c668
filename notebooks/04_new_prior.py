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
# # From a question to a prior
#
# Do the vectors of words form clusters, and how many, if the model has no labels for them?
#
# A prior is an assumption about the data before they are seen. To change the prior is to ask a question: if texts
# become more probable under the new prior, the data support it. This notebook goes all the way once: from the question
# to a prior of a few lines, with a *hyper-prior* for its unknown parameters, to a fit, to the learned posterior, and to
# a comparison on held-out texts.

# %%
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pyro.distributions as dist
import torch
from pyro.nn import PyroSample
from torch import nn

import pyroformer as pf
from pyroformer.models.priors.vectors import gaussian_mixture

# %% tags=["parameters"]
steps = 400
prior_steps = 300
held_out = 100  # texts
particles = 16
draws = 2000

# %% [markdown]
# ## The question
#
# `pf.VAE` encodes a text as one random vector for each token. In its simplest form (`base_measure="gaussian"`), the
# prior of these vectors is one Gaussian cloud, the same for every token. But there are kinds of words: articles and
# full stops occur again and again in the same positions, names hardly ever twice. If the vectors of words form
# clusters, a prior of several clouds should fit them better:
#
# $$
# \pi \sim \text{Dirichlet}(\tfrac12, \dots, \tfrac12), \qquad
# z \sim \sum_{k=1}^{16} \pi_k \, N(\mu_k, \text{diag} \, \sigma_k^2).
# $$
#
# The means and variances of the clouds are learned parameters. Their weights $\pi$ (`shares` below) are unknown: they
# have a prior of their own, which favors empty clouds. So sixteen is only an upper limit, and the posterior of $\pi$
# answers how many there are.
#
# ## The prior
#
# `VectorPrior` is the base class of distributions over one vector. `Hierarchical` allows hyper-priors in a prior:
# `PyroSample` declares that the weights are drawn, once for all texts. The guide adds a posterior for them
# automatically.

# %%
KINDS = 16


class Kinds(pf.priors.VectorPrior, pf.priors.Hierarchical):
    """A mixture of Gaussian clouds with unknown weights."""

    def __init__(self, width: int, kinds: int = KINDS) -> None:
        super().__init__()
        self.shares = PyroSample(dist.Dirichlet(torch.full((kinds,), 0.5)))
        self.mean = nn.Parameter(torch.randn(kinds, width))
        self.log_variance = nn.Parameter(torch.zeros(kinds, width))

    def forward(self) -> torch.distributions.Distribution:
        return gaussian_mixture(self.shares.log(), self.mean, self.log_variance)


# %% [markdown]
# ## The fits
#
# First a model with this prior, on short English sentences from Python's documentation. Its KL has a weight of
# 0.001: at full weight, so small a model would not use its vectors at all, and if the vectors carry no information, the
# prior makes no difference (see [03_della](03_della.ipynb)).
#
# Then two second stages. `pf.fit_prior` freezes encoder and decoder and fits a new prior to the posterior vectors of
# texts, on the true bound: once a single cloud with learned mean and variance, once our prior. The two differ only in
# the number of clouds.

# %%
corpus = pf.Corpus.builtin(max_length=16, vocabulary=2000)
print(corpus.summary())

WIDTH = 64
options = {"batch_size": 16, "validations": 2, "validation_texts": held_out, "seed": 0}
torch.manual_seed(0)
model = pf.VAE.for_corpus(corpus, base_measure="gaussian", width=WIDTH)
first = pf.fit(model, pf.VAEGuide(model), corpus, steps=steps, beta=1e-3, **options)

runs = {"as trained": first}
priors = {
    "one cloud": pf.priors.GaussianVectorPrior(WIDTH, learnable=True),
    "many clouds": Kinds(WIDTH),
}
for name, prior in priors.items():
    runs[name] = pf.fit_prior(
        first, prior, steps=prior_steps, learning_rate=1e-2, **options
    )

for name, run in runs.items():
    evaluation = run.evaluate(limit=held_out, num_particles=1, reconstructions=1)
    parts = ("bound", "reconstruction", "rate")
    nats = {part: round(evaluation[part]["nats/token"], 2) for part in parts}
    print(f"{name:>12}, nats per token:", nats)

# %% [markdown]
# ## The comparison
#
# On held-out texts, one by one: how much more probable is each under the second model? Both bounds use the same number
# of draws. A difference is significant if it is several standard errors from zero.

# %%
many, one, texts = runs["many clouds"], runs["one cloud"], corpus.test[:held_out]
result = pf.diagnostics.compare(many, one, texts, num_particles=particles)
print(result)

_, ax = plt.subplots(figsize=(6.4, 2.8))
ax.hist(result.each, bins=30)
ax.axvline(0, color="gray", linestyle="--")
ax.set(xlabel="nats in favor of many clouds", ylabel="texts", title="Held-out texts")

# %% [markdown]
# Every one of these texts is more probable under many clouds: the vectors of words do form clusters. The
# reconstructions are as good as before; only the rate of the vectors has changed. (It is still far higher than a
# sentence needs: trained with so small a weight on the KL, the posterior of a vector is very narrow.)
#
# ## The hyper-prior, before and after
#
# A site is named by its path in the model: `base_measure.shares`. Intervals of the hyper-prior are gray, those of the
# posterior given all texts are colored.

# %%
data = many.posterior(corpus.test[:2], draws=draws)
pf.plots.intervals(data, "base_measure.shares", ordered=True)

# %%
after = data.posterior["base_measure.shares"].values[0]
effective = np.exp(-(after * np.log(after.clip(1e-9))).sum(-1))
print(f"as many as {effective.mean():.1f} clouds of equal size")

# %% [markdown]
# Some clouds remain almost empty, so the limit was high enough. The posterior is narrow because it is conditioned on
# all texts: the data soon dominate a hyper-prior. That, too, is an answer: our assumption about the weights hardly
# matters.
#
# ## What the clusters are
#
# The most probable cloud of each token of some held-out texts:

# %%
texts = corpus.test[: 3 * held_out]
many.to("cpu")
posterior, prior = many.encode(texts), many.model.base_measure
with torch.no_grad():
    shares = torch.as_tensor(after.mean(0))
    clouds = gaussian_mixture(shares.log(), prior.mean, prior.log_variance)
    scores = clouds.component_distribution.log_prob(posterior.mean[:, :, None])
    scores = scores + shares.log()
cloud = scores.argmax(-1)[posterior.mask]
position = posterior.mask.nonzero()[:, 1] + 1
tokens = [piece.strip() for text in texts for piece in many.tokenizer.pieces(text)]

table = pd.DataFrame({"cloud": cloud, "position": position, "token": tokens})
by_cloud = table.groupby("cloud").agg(
    tokens=("token", "size"),
    different=("token", "nunique"),
    position=("position", "mean"),
    examples=("token", lambda some: " ".join(some.value_counts().index[:9])),
)
by_cloud.sort_values("tokens", ascending=False).round(1)

# %% [markdown]
# The column *position* is the mean of the places where the words of a cloud stand. Capitalized words, which begin
# sentences, have clouds of their own, and the end of a sentence leads a cloud of late places. The other large clouds
# hold words of all kinds: what tells them apart is the *position* in a sentence more than the word, as the decoder has
# to find each word by its place.
#
# If so, the vectors must say the place as well. Here they are in the plane in which four groups of places are furthest
# apart: group 0 has the places 1 to 4, group 1 those from 5 to 8, and so on.

# %%
place = (position - 1) // 4
pf.plots.vector_groups(posterior.mean[posterior.mask], place, tokens, named=2)

# %% [markdown]
# The groups, whose numbers stand in their middles, lie in order and hardly overlap: the place can be read from a
# vector. The clouds above were found without it: the prior knows nothing of places.

# %% [markdown]
# ## What to try next
#
# - The opposite assumption: the hyper-prior `torch.full((kinds,), 50.0)` strongly favors clouds of equal weight. Do the
#   data agree?
# - Other priors: `pf.priors.StudentTVectorPrior` and `LaplaceVectorPrior` have heavy tails, and
#   `pf.priors.GammaDirichletProcess` is a prior of an `NVAE`'s weights with a random concentration.
# - A prior over all vectors of a text in their order, in which "the" can be followed by a noun:
#   `pf.fit_prior(run, "autoregressive")` fits one to a finished run.
# - Is the guide good enough to rely on the comparison? [05_check_your_posterior](05_check_your_posterior.ipynb).
