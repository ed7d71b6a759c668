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
# # A latent in every layer: DELLA
#
# What does each layer of a decoder need to be told of a text, and what if it does not listen?
#
# A language model writes word by word and has no idea of a whole sentence before it begins. DELLA gives it one: a
# small random vector for every layer, each of which depends on those below, mixed into what that layer's attention
# reads. Texts can then be compared, mixed and steered through a few numbers.
#
# That is the promise. In practice such a decoder is good enough to ignore all of its latents, and usually does. This
# notebook shows it happening, shows what helps and what that costs, and only then looks at what the layers carry.

# %%
import os

import matplotlib.pyplot as plt
import torch

import pyroformer as pf

quick = os.environ.get("PYROFORMER_NOTEBOOK") == "quick"  # does it run? For the tests
plt.rcParams.update({"figure.constrained_layout.use": True, "font.size": 9, "axes.titlesize": 10})

# %% [markdown]
# ## Train, without help
#
# On a small world, in which a small model learns to write within a minute: the thousand short sentences of Python's
# documentation that begin with "Return". Three layers, each with a latent of 16 numbers; trained on the evidence lower
# bound, with nothing added:
#
# $$
# \log p(x) \; \ge \; E_q \log p(x \mid z_1, z_2, z_3) - \sum_{l=1}^3 E_q \text{KL}(q(z_l \mid z_{<l}, x) \,\|\, p(z_l
# \mid z_{<l})).
# $$

# %%
everything = pf.Corpus.builtin(max_length=16)
sentences = [text for split in (everything.train, everything.valid, everything.test) for text in split]
returns = [text for text in sentences if text.startswith("Return")]
corpus = pf.Corpus.from_texts(returns, max_length=16, vocabulary=1000, overlong="drop")
print(corpus.describe())
print(*corpus.train[:5], sep="\n")

sizes = {"width": 96, "layers": 3, "heads": 4, "latent_size": 16}
options = {"batch_size": 16, "validation_texts": 128, "seed": 0}


def new_model(corpus: pf.Corpus) -> tuple[pf.DELLA, pf.DELLAGuide]:
    torch.manual_seed(0)
    model = pf.DELLA.for_corpus(corpus, **sizes)
    return model, pf.DELLAGuide(model)


plain = pf.fit(*new_model(corpus), corpus, steps=4 if quick else 200, **options)

# %% [markdown]
# ## And with help
#
# The same once more, but the weight of the KL is moved until the latents of a text carry 12 nats together. What is
# trained is then no bound any more, and is not called one; the bound is reported beside it.

# %%
held = pf.fit(*new_model(corpus), corpus, steps=4 if quick else 800, target_kl=12.0, **options)

_, axes = plt.subplots(1, 2, figsize=(10, 3.4))
for ax, run, title in zip(axes, (plain, held), ("Without help", "Held at 12 nats a text"), strict=True):
    pf.plots.layer_curves(run, ax=ax)
    ax.set_title(title, loc="left")

# %% [markdown]
# Without help the KL of every latent falls to nearly nothing within the first steps: the guide says the same of every
# text, and the decoder has become a language model. This is called *posterior collapse*. It is no failure of the
# optimizer: while the decoder cannot make use of the latents they only cost, and once the guide has given up there is
# nothing left to learn to use. The next cell shows it in words. Whatever is encoded, the same comes out:

# %%
texts = corpus.test[:4]
for name, run in {"without help": plain, "held": held}.items():
    print(name)
    for found in run.reconstruct(texts):
        print(f"    {found.original}\n        {found.text}")

# %% [markdown]
# With help the latents tell the decoder something, not enough to spell a text out: 12 nats are two or three words. The
# gist, at best.
#
# ## What does it cost?
#
# Bounds of log p(x), on texts that neither has seen, in nats for each token.

# %%
evaluations = {}
for name, run in {"without help": plain, "held": held}.items():
    evaluations[name] = run.evaluate(num_particles=16, reconstructions=32)
    parts = ("bound", "reconstruction", "rate", "importance_weighted")
    print(f"{name:>12}:", ", ".join(f"{part} {evaluations[name][part]['nats/token']:.2f}" for part in parts))

# %% [markdown]
# Nothing is free. (Costs, so less is better.) Where the latents carry something the reconstruction is better, and the
# bound, which charges for what they carry, need not be. If all you want is the likelihood of texts, a language model
# does it; latents are for what one does with them.
#
# ## What does each layer carry?
#
# In the table below, *information* is what a latent tells about which text it is, *mismatch* what it pays without
# telling anything, *active* how many of its numbers differ between texts, and *sensitivity* how much worse the decoder
# predicts when it gets the latent of another text.

# %%
print(evaluations["held"].table())

# %%
pf.plots.active_units(evaluations["held"])

# %% [markdown]
# ## Swap layers between sentences
#
# Each row is written from the latents of the first sentence with one layer's replaced by those of the second.

# %%
text, other = "Return a list of all file names.", "Return True if the object is a string."
pf.plots.swap_table(held, text, other)

# %% [markdown]
# And the way from one to the other, in a straight line:

# %%
print(*held.interpolate(text, other, 6), sep="\n")

# %% [markdown]
# ## Sample, and go on from a prompt
#
# From latents that are drawn from the prior, so that each text has an idea of its own. A temperature below one makes
# the words that follow from the idea more certain, and leaves the idea random.

# %%
print(*held.sample(5, seed=0, temperature=0.5), sep="\n")

# %%
print(*held.sample(5, seed=1, prompt="Return True if", temperature=0.5), sep="\n")

# %% [markdown]
# ## Write on demand
#
# A text may come with a condition, which the priors of all latents and the decoder then know. Here it is a topic: which
# of five words a sentence has in it, if any. Pairs of topic and sentence are all that the corpus needs; whatever
# consists of single words becomes a label.

# %%
TOPICS = ("True", "list", "string", "name", "file")


def topic(text: str) -> str:
    return next((word for word in TOPICS if word in text), "other")


pairs = pf.Corpus.from_texts([(topic(text), text) for text in returns], max_length=16, vocabulary=1000, overlong="drop")
print(pairs.describe())
asked = pf.fit(*new_model(pairs), pairs, steps=4 if quick else 400, free_bits=2.0, **options)

# %% [markdown]
# (Here the help is of another kind: *free bits*, an allowance of 2 nats for each layer that costs nothing.) Does it
# write what it is asked for? Two texts for each topic, and how many of twenty have its word in them:

# %%
for word in TOPICS:
    written = asked.sample(4 if quick else 20, seed=0, condition=word, temperature=0.5)
    print(f"{word}: {sum(word in text for text in written)} of {len(written)}", *written[:2], sep="\n    ")

# %% [markdown]
# ## What to try next
#
# - `pf.fit(..., free_bits=2.0)`, `kl_schedule="cyclical"` or `beta=0.3` in place of `target_kl=12.0`. Which of them keeps
#   all layers alive?
# - `structure="single"` gives the model one latent for all layers, `fusion="memory"` another way into them. Is a
#   hierarchy better than one vector of the same size?
# - Train for longer and on longer texts, or start from a pretrained decoder: `backbone = pf.Pretrained.from_pretrained("gpt2")`.
# - `held.interpolate(text, other, layers=[1])` moves one layer alone.
