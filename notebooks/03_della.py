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
# What information about a text does each layer of a decoder need, and what if the decoder ignores it?
#
# A language model writes word by word, without a plan for the whole sentence. DELLA adds one: a small latent vector for
# every layer, conditioned on those below, which is fused into the values of that layer's attention. Texts can then be
# compared, mixed and controlled through a few numbers.
#
# In practice, such a decoder is good enough to ignore all of its latents, and usually does. This notebook shows this
# collapse, then a remedy and its cost, and only then examines the information in each layer.

# %%
import arviz as az
import matplotlib.pyplot as plt
import torch

import pyroformer as pf

# %% tags=["parameters"]
steps = 800
conditional_steps = 300
particles = 16  # of the importance-weighted bound
held_out = 128  # texts
generated = 20  # texts for each topic
draws = 200

# %% [markdown]
# ## Train, without help
#
# The corpus is small, so that a small model learns to write within a minute: the thousand short sentences of Python's
# documentation that begin with "Return". (As it is small, activations are dropped at random, and words that the decoder
# reads.) The model has three layers, each with a latent of 16 dimensions, and is trained on the plain evidence lower
# bound:
#
# $$
# \log p(x) \; \ge \; E_q \log p(x \mid z_1, z_2, z_3) - \sum_{l=1}^3 E_q \text{KL}(q(z_l \mid z_{<l}, x) \,\|\, p(z_l
# \mid z_{<l})).
# $$

# %%
everything = pf.Corpus.builtin(max_length=16)
sentences = [*everything.train, *everything.valid, *everything.test]
returns = [text for text in sentences if text.startswith("Return")]
corpus = pf.Corpus.from_texts(returns, max_length=16, vocabulary=1000, overlong="drop")
print(corpus.summary())
print(*corpus.train[:5], sep="\n")

sizes = {"width": 96, "layers": 3, "heads": 4, "latent_size": 16}
dropout = {"dropout": 0.1, "word_dropout": 0.2}
options = {"batch_size": 16, "validation_texts": held_out, "seed": 0}


def new_model(corpus: pf.Corpus, **dropout: float) -> tuple[pf.DELLA, pf.DELLAGuide]:
    torch.manual_seed(0)
    model = pf.DELLA.for_corpus(corpus, **sizes, **dropout)
    return model, pf.DELLAGuide(model)


plain = pf.fit(*new_model(corpus, **dropout), corpus, steps=steps, **options)

# %% [markdown]
# ## And with help
#
# The same once more, for as many steps, but the weight of the KL is adapted until the KL of all latents of a text is
# 12 nats, about one for each of its tokens. This objective is no longer a bound, and is not called one; the bound is
# reported beside it. The curves are nats per token, and those of the three latents add up to the target.

# %%
targeted = pf.fit(
    *new_model(corpus, **dropout), corpus, steps=steps, target_kl=12.0, **options
)

_, (left, right) = plt.subplots(1, 2, figsize=(10, 3.4), sharey=True)
pf.plots.layer_curves(plain, ax=left).set_title("Without help")
tokens = float(corpus.valid.lengths.mean())  # of a text
target = f"Target: {12 / tokens:.2f} nats per token in all"
pf.plots.layer_curves(targeted, ax=right).set_title(target)

# %% [markdown]
# Without help the KL of every latent drops to nearly zero within the first steps: the posterior is the same for every
# text, and the decoder has become a language model. This is called *posterior collapse*. The optimizer has not failed:
# as long as the decoder does not use the latents, they only add to the loss, and once the guide ignores the text,
# the latents contain nothing that the decoder could learn to use. The next cell shows it in reconstructions: whatever
# is encoded, the output is the same.

# %%
texts = corpus.test[:4]
for name, run in {"without help": plain, "with a target": targeted}.items():
    print(name)
    for reconstruction in run.reconstruct(texts):
        print(f"    {reconstruction.original}\n        {reconstruction.text}")

# %% [markdown]
# With help the latents carry information, but not enough to spell a text out: 12 nats are two or three words, the gist
# at best.
#
# ## What does it cost?
#
# Bounds of log p(x) on held-out texts, in nats per token.

# %%
parts = ("bound", "reconstruction", "rate", "importance_weighted")
for name, run in {"without help": plain, "with a target": targeted}.items():
    evaluation = run.evaluate(num_particles=particles, reconstructions=held_out // 4)
    nats = [f"{part} {evaluation[part]['nats/token']:.2f}" for part in parts]
    print(f"{name}:", f"    {', '.join(nats)}", sep="\n")

# %% [markdown]
# (These are costs: smaller is better.) Where the latents carry information, the reconstruction is better by half a nat
# a token. The bound, which includes the cost of that information, is worse by as much, and its importance-weighted
# form, which depends less on the guide, by a fifth of a nat. [Larger budgets](../benchmarks/RESULTS.md#della) do not
# change that. If all you need is the likelihood of texts, use a language model; latents are useful for what follows.
#
# ## What does each layer carry?
#
# In the table below, *mutual information* is that between a latent and the text; *marginal KL* is the divergence of the
# aggregated posterior from the prior, which is a cost without information; *active* counts the dimensions whose
# posterior mean varies between texts; and *sensitivity* is the increase of the reconstruction loss when the decoder
# gets the latent of another text.

# %%
evaluation

# %%
_, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8))
pf.plots.layer_kl(evaluation, ax=left)
pf.plots.active_units(evaluation, ax=right)

# %% [markdown]
# The three mutual informations add up to ln 38, the most that 38 texts allow: each is what a latent tells beyond those
# below it, and after `z_1` and `z_2` most is told. So the large KL of `z_3` is hardly information about *which* text it
# is. But it is not idle: given another text's `z_3` the decoder loses 8 nats, more than from any other latent.
#
# ## The posterior of one text
#
# Draws of all latents of a text, from the guide and from the prior, as ArviZ's InferenceData. Each row of the picture
# is an entry of a latent: gray where it may be before the text is known, blue afterwards.

# %%
text = "Return a list of all file names."
data = targeted.posterior(text, draws=draws)

_, axes = plt.subplots(1, 3, figsize=(11, 4), sharex=True, sharey=True)
for ax, latent in zip(axes, ("z_1", "z_2", "z_3"), strict=True):
    pf.plots.intervals(data, latent, {"text": 0}, ax=ax)

# %% [markdown]
# In `z_1` most entries stay where the prior had them. In `z_2` the text moves about half of the sixteen by more than a
# standard deviation, in `z_3` a few, and it confines one of them. ArviZ takes the same data:

# %%
az.summary(data, var_names=["z_1"], kind="stats").head(4)

# %% [markdown]
# ## Turn one number
#
# What does an entry of a latent mean? Decode the text with that entry at other values than its own. By default it is
# the entry that the posterior knows best.

# %%
pf.plots.traversal(targeted, text, latent=1)

# %%
pf.plots.traversal(targeted, text, latent=3)

# %% [markdown]
# The bold row is the text's own value, gray rows equal the one above. Both entries change the object of the sentence
# and hardly its beginning: neither means one thing, such as "a list" or "a name". A small decoder that was trained for
# a minute has no reason to keep such things apart.

# %% [markdown]
# ## Swap layers between sentences
#
# Each row is decoded from the latents of the first sentence, with those of one layer replaced by the second sentence's.

# %%
other = "Return True if the object is a string."
pf.plots.swap_table(targeted, text, other)

# %% [markdown]
# `z_2` of the other sentence makes this one of its kind; `z_1` and `z_3` change its object only. And an interpolation
# from one to the other, along a straight line:

# %%
print(*targeted.interpolate(text, other, 6), sep="\n")

# %% [markdown]
# ## Sample, and continue a prompt
#
# Each text is decoded from latents that are drawn from the prior. A temperature below one sharpens the distribution of
# the words given the latents, and leaves the latents random.

# %%
print(*targeted.sample(5, seed=0, temperature=0.5), sep="\n")

# %%
print(*targeted.sample(5, seed=1, prompt="Return True if", temperature=0.5), sep="\n")

# %% [markdown]
# ## Conditional generation
#
# A text may come with a condition, which becomes an input of the priors of all latents and of the decoder. Here it is a
# topic: the first of five words that a sentence contains, if any. The corpus takes pairs of topic and sentence;
# conditions of single words become labels.

# %%
TOPICS = ("True", "list", "string", "name", "file")


def topic(text: str) -> str:
    return next((word for word in TOPICS if word in text), "other")


pairs = pf.Corpus.from_texts(
    [(topic(text), text) for text in returns],
    max_length=16,
    vocabulary=1000,
    overlong="drop",
)
print(pairs.summary())
conditional = pf.fit(
    *new_model(pairs), pairs, steps=conditional_steps, free_bits=2.0, **options
)

# %% [markdown]
# (Here the help is of another kind: *free bits*, 2 nats per layer that are not charged.) Do the texts follow their
# condition? Two texts for each topic, and how many of twenty contain its word:

# %%
for word in TOPICS:
    written = conditional.sample(generated, seed=0, condition=word, temperature=0.5)
    count = sum(word in text for text in written)
    print(f"{word}: {count} of {generated}", *written[:2], sep="\n    ")

# %% [markdown]
# Always for `True` and `list`, which are in many of these sentences; for the rarer words in most of the texts.

# %% [markdown]
# ## What to try next
#
# - `pf.fit(..., free_bits=2.0)`, `kl_schedule="cyclical"` or `beta=0.3` in place of `target_kl=12.0`. Which of them
#   keeps all layers active?
# - `structure="single"` gives the model one latent for all layers, and `fusion="memory"` another way to condition the
#   decoder on it. Is a hierarchy better than one vector of the same size?
# - Train for longer and on longer texts, or start from a pretrained decoder:
#   `backbone = pf.Pretrained.from_pretrained("gpt2")`.
# - `targeted.interpolate(text, other, layers=[1])` interpolates one layer alone.
