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
# Are there kinds of words, and how many, if nobody tells the model what a kind is?
#
# A prior is a guess about data that nobody has seen yet. To change it is to ask a question: if texts get more probable
# under the new guess, the data agree. This notebook goes the whole way once: from the question to a prior of a few
# lines, with a *hyper-prior* for what we do not know about it, to a fit, to a look at what was learned, and to a
# comparison on texts that no model has seen.

# %%
import os

import matplotlib.pyplot as plt
import numpy as np
import pyro.distributions as dist
import torch
from pyro.nn import PyroSample
from torch import nn

import pyroformer as pf
from pyroformer.inference.plots.style import COLORS, FRAME
from pyroformer.models.priors.vectors import gaussian_mixture

quick = os.environ.get("PYROFORMER_NOTEBOOK") == "quick"  # does it run? For the tests
plt.rcParams.update({"figure.constrained_layout.use": True, "font.size": 9, "axes.titlesize": 10})
plt.rcParams.update({"axes.titlelocation": "left", "axes.spines.top": False, "axes.spines.right": False})

# %% [markdown]
# ## The question
#
# `pf.VAE` encodes a text as one random vector for each token. Its prior says where such vectors are before anything is
# read. By default that is one Gaussian cloud: every vector is like every other. But words are of kinds. Articles and
# full stops come again and again in the same places, names hardly ever twice. If vectors of words fall into groups, a
# prior of several clouds should fit them better:
#
# $$
# \pi \sim \text{Dirichlet}(\tfrac12, \dots, \tfrac12), \qquad
# z \sim \sum_{k=1}^{16} \pi_k \, N(\mu_k, \text{diag} \, \sigma_k^2).
# $$
#
# Where the clouds are is learned. How large they are, the shares $\pi$, we admit not to know: they have a prior of their
# own, which likes to leave clouds empty. So sixteen is no claim, only a limit, and the posterior of $\pi$ answers how
# many there are.
#
# ## The prior
#
# `VectorPrior` is the role, a distribution over one vector. `Hierarchical` is what lets a prior have hyper-priors: `PyroSample`
# says that the shares are drawn, once for all texts. The guide gets a posterior for them by itself.

# %%
KINDS = 16


class Kinds(pf.priors.VectorPrior, pf.priors.Hierarchical):
    """Vectors come from several Gaussian clouds, whose shares are unknown."""

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
# First a model with the prior that it comes with, on short English sentences from Python's documentation. Its KL is
# weighted by a thousandth: at full weight so small a model would not use its vectors at all, and where nothing is said
# no prior makes a difference (see [03_della](03_della.ipynb)).
#
# Then two second stages. `pf.fit_prior` holds encoder and decoder and fits a new prior to the vectors that texts really
# have, on the true bound: once one cloud whose place and size are learned, once ours. So the only difference between
# the two is the number of clouds.

# %%
corpus = pf.Corpus.builtin(max_length=16, vocabulary=2000)
print(corpus.describe())

WIDTH = 64
options = {"batch_size": 16, "validations": 2, "validation_texts": 128, "seed": 0}
torch.manual_seed(0)
model = pf.VAE.for_corpus(corpus, width=WIDTH)
first = pf.fit(model, pf.VAEGuide(model), corpus, steps=4 if quick else 400, beta=1e-3, **options)

runs = {"as trained": first}
priors = {"one cloud": pf.priors.GaussianVectorPrior(WIDTH, learnable=True), "many clouds": Kinds(WIDTH)}
for name, prior in priors.items():
    runs[name] = pf.fit_prior(first, prior, steps=4 if quick else 300, learning_rate=1e-2, **options)

for name, run in runs.items():
    found = run.evaluate(limit=64, num_particles=1, reconstructions=64)
    parts = ("bound", "reconstruction", "rate")
    print(f"{name:>12}:", ", ".join(f"{part} {found[part]['nats/token']:.2f}" for part in parts), "nats a token")

# %% [markdown]
# ## The comparison
#
# On held-out texts, one by one: how much more probable does the second model find each? Each bound takes the same
# number of draws. A difference counts if it is several standard errors from zero.

# %%
held_out = corpus.test[:16] if quick else corpus.test[:100]
result = pf.diagnostics.compare(runs["many clouds"], runs["one cloud"], held_out, num_particles=4 if quick else 16)
print(f"many clouds against one: {result.difference:+.1f} ± {result.error:.1f} nats a text")


def draw_comparison() -> None:
    _, ax = plt.subplots(figsize=(6.4, 2.8))
    ax.hist(result.each, bins=30, color=COLORS[0])
    ax.axvline(0, color=FRAME, linestyle="--")
    ax.set(xlabel="nats in favor of many clouds", ylabel="texts", title="Held-out texts")


draw_comparison()

# %% [markdown]
# The texts agree, nearly one and all: their words are of kinds. What is written from the vectors is as good as before;
# only what the vectors cost has changed. (They still cost far more than a sentence needs: trained with so weak a KL,
# they say where they are to many digits.)
#
# ## The hyper-prior, before and after
#
# The site is called as one gets to it from the model: `base_measure.shares`. Faint is what the hyper-prior allowed,
# strong is what is left of that after all the texts.

# %%
data = runs["many clouds"].posterior(corpus.test[:2], draws=200)
before = data.prior["base_measure.shares"].values[0]
after = data.posterior["base_measure.shares"].values[0]
order = after.mean(0).argsort()[::-1]


def draw_shares() -> None:
    _, ax = plt.subplots(figsize=(7.5, 3.2))
    for place, kind in enumerate(order):
        for draws, color, shift, label in ((before, FRAME, -0.15, "prior"), (after, COLORS[0], 0.15, "posterior")):
            low, middle, high = np.quantile(draws[:, kind], [0.05, 0.5, 0.95])
            ax.plot([place + shift] * 2, [low, high], color=color, linewidth=2, label=label if place == 0 else None)
            ax.plot(place + shift, middle, "o", color=color, markersize=4)
    ax.set_xticks(range(KINDS), [f"{kind}" for kind in order])
    ax.set(xlabel="cloud", ylabel="share", ylim=(0, None), title="Shares of the clouds: median and 90 % interval")
    ax.legend(frameon=False)


draw_shares()

# %%
effective = np.exp(-(after * np.log(after.clip(1e-9))).sum(-1))
print(f"as many as {effective.mean():.1f} clouds of equal size")

# %% [markdown]
# Some clouds stay all but empty, so the limit was high enough. The posterior is narrow because it has seen all the
# texts: hyper-priors are soon overruled. That, too, is an answer: what we assumed of the shares hardly matters.
#
# ## What the kinds are
#
# Which cloud each token of some held-out texts most probably came from:

# %%
run = runs["many clouds"]
texts = corpus.test[:300]
posterior = run.encode(texts)
with torch.no_grad():
    prior = run.model.base_measure
    clouds = dist.Normal(prior.mean, (prior.log_variance / 2).exp()).to_event(1)
    scores = clouds.log_prob(posterior.mean[:, :, None]) + torch.as_tensor(after.mean(0)).log()
cloud = scores.argmax(-1)

words: dict[int, dict[str, int]] = {kind: {} for kind in order}
for row, text in enumerate(texts):
    for kind, piece in zip(cloud[row].tolist(), run.tokenizer.pieces(text), strict=False):
        words[kind][piece.strip()] = words[kind].get(piece.strip(), 0) + 1
for kind in order:
    most = sorted(words[kind], key=words[kind].__getitem__, reverse=True)[:10]
    print(f"cloud {kind}, {after.mean(0)[kind]:.0%}, {len(words[kind])} different tokens: {' '.join(most)}")

# %% [markdown]
# The end of a sentence has a cloud to itself, and another has the words that sentences begin with, capitals and all.
# Articles and other small words are together, and the large clouds share out what nouns and names are made of. Nobody
# told the model what a word is. But look at how clouds overlap: they are as much about *places* in a sentence as about
# words, as the decoder needs to know both.

# %% [markdown]
# ## What to try next
#
# - Ask the opposite: give the hyper-prior `torch.full((kinds,), 50.0)`, which insists on clouds of equal size. Do the
#   texts believe it?
# - Other questions: `pyroformer.models.priors.heavy_tails` has priors under which a few entries are far out;
#   `pyroformer.models.priors.weights` has priors for the weights of an `NVAE`, one with a random concentration.
# - A prior over all vectors of a text in their order, which knows that "the" is followed by a noun:
#   `pf.fit_prior(run, "autoregressive")` fits one to a finished run.
# - Is the guide good enough to trust the comparison? [05_check_your_posterior](05_check_your_posterior.ipynb).
