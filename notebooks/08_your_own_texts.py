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
# # From a csv of yours to a model
#
# You have a table with a column of texts. What does it take to get a model of them that has latents which mean
# something, and a program that uses it?
#
# Five lines to train. Then comes the trap that everybody steps into: the decoder learns to write without the latents,
# and nobody is told. This notebook shows how to see that, what to do about it, and how to save and serve the result.

# %%
import csv
import json
import random
import tempfile
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import parse_qs, quote, urlsplit
from urllib.request import urlopen

import torch

import pyroformer as pf

# %% tags=["parameters"]
steps = 300
held_out = 64  # texts
replications = 40

# %% [markdown]
# ## The table
#
# Any csv with a header will do. This one has reviews of a hotel, put together at random from a few phrases, so that a
# minute of training is enough. Put the path of yours in place of `table`, and the name of its column in place of
# `"text"`.

# %% tags=["hide-input"] jupyter={"source_hidden": true}
folder = Path(tempfile.mkdtemp())
table = folder / "reviews.csv"


def review(rng: random.Random) -> tuple[int, str]:
    """Stars and text."""
    happy, turns = rng.random() < 0.5, rng.random() < 0.2
    good = ("lovely", "fresh", "friendly", "warm", "clean", "quiet", "wonderful")
    bad = ("cold", "loud", "dirty", "slow", "stale", "rude", "terrible")
    places = ("food", "soup", "room", "service", "coffee", "view", "waiter", "garden")
    praise = ("we will come back", "the children loved it", "the price was fair")
    blame = ("we left early", "nobody said sorry", "we waited for an hour")
    first = rng.choice(("The", "Our", "Their")) + " " + rng.choice(places) + " was "
    first += rng.choice(("", "very ", "a little ")) + rng.choice(good if happy else bad)
    last = rng.choice(praise if happy != turns else blame)
    stars = rng.choice((4, 5) if happy else (1, 2))
    return stars, f"{first}{', but' if turns else ' and'} {last}."


rng = random.Random(0)
with table.open("w", newline="", encoding="utf-8") as file:
    writer = csv.writer(file)
    writer.writerow(("stars", "text"))
    writer.writerows(review(rng) for _ in range(4000))

print(*table.read_text(encoding="utf-8").splitlines()[:5], sep="\n")

# %%
corpus = pf.Corpus.from_file(table, field="text", max_length=24)
corpus

# %% [markdown]
# The corpus has its own tokenizer, and is split into texts for training, for validation and for tests. No text is in
# two of them. `max_length` is the largest number of tokens of a text; longer ones would be split between words, or left
# out with `overlong="drop"`.
#
# ## Five lines
#
# `pf.VAE` encodes a text as one Gaussian vector for each token. (`pf.NVAE` and `pf.DELLA` are used in the same way.)

# %%
sizes = {"width": 64, "layers": 2, "heads": 4}
torch.manual_seed(0)
model = pf.VAE.for_corpus(corpus, base_measure="gaussian", **sizes)
guide = pf.VAEGuide(model)
options = {"steps": steps, "batch_size": 16, "validation_texts": held_out}
first = pf.fit(model, guide, corpus, **options)

# %% [markdown]
# ## The trap
#
# Samples from the prior look fluent, mostly:

# %%
print(*first.sample(4, seed=0), sep="\n")

# %% [markdown]
# But the model was meant to have latents, so encode some held-out reviews and decode them again:

# %%
for pair in first.reconstruct(corpus.test[:4]):
    print(f"{pair.original}\n    {pair.text}")

# %% [markdown]
# Whatever is encoded, the same text comes out. The latents have *collapsed*: their posterior is the prior for every
# text, and the decoder is a language model. Nothing is wrong with the optimizer, for the bound does not ask for latents
# that are used. The picture shows when it happened: in the right panel, the KL of the
# vectors falls to a thousandth of a nat.

# %%
pf.plots.curves(first)

# %% [markdown]
# One line tells, without looking at any text:

# %%
few = {"limit": held_out, "num_particles": 4, "reconstructions": 16}
before = first.evaluate(**few)
print(before.verdict)

# %% [markdown]
# ## The cure
#
# One can pay the latents for being used (`target_kl=5`, `free_bits=1`: [how to](../docs/howto.md#the-kl-is-zero)); then
# the objective is no bound any more. The better way is a prior that makes them worth their price. The prior `tokens` is
# a language model over the vectors, with one Gaussian for each token of the vocabulary: the posterior starts there, so
# the vectors say which tokens there are from the first step on.

# %%
torch.manual_seed(0)
model = pf.VAE.for_corpus(corpus, base_measure="tokens", **sizes)
run = pf.fit(model, pf.VAEGuide(model), corpus, **options)
pf.plots.curves(run)

# %%
after = run.evaluate(**few)
print(after.verdict)
for name, evaluation in {"collapsed": before, "tokens": after}.items():
    nats = {part: evaluation[part]["nats/text"] for part in ("bound", "rate")}
    accuracy = evaluation["accuracy"].value
    print(
        f"{name:>9}: the latents cost "
        f"{nats['rate']:.1f} of {nats['bound']:.1f} nats a text,"
    )
    print(f"{'':>11}and {accuracy:.0%} of the tokens are decoded right")

# %%
for pair in run.reconstruct(corpus.test[:4]):
    print(f"{pair.original}\n    {pair.text}")

# %% [markdown]
# Every review comes back, and the bound is no worse for it: now the language model is the prior, and the decoder reads.
# The picture shows how. Each row is a token that is written, each column a vector of the text:

# %%
text = "The soup was very cold and we left early."
pf.plots.attention(run, text)

# %% [markdown]
# ## Prompts, and halves of two reviews
#
# A sample can begin with words of yours. The latents are then drawn from the prior *given* these words:

# %%
print(*run.sample(4, seed=0, prompt="The coffee was"), sep="\n")

# %% [markdown]
# Between two reviews, every vector moves from one to the other. The text jumps where the vectors cross the border
# between two tokens, and most of them do so at the same time:

# %%
print(
    *run.interpolate(text, "Our view was very lovely and we will come back.", 7),
    sep="\n",
)

# %% [markdown]
# ## Are samples like the real texts?
#
# Choose numbers that matter to you, and compare them in held-out texts with those in as many sampled ones, many times.
# There is a rule in these reviews that no single word shows: after *but* the mood turns.

# %%
GOOD = ("lovely", "fresh", "friendly", "warm", "clean", "quiet", "wonderful")
BLAME = ("we left early", "nobody said sorry", "we waited for an hour")


def share(texts: list[str], *parts: str) -> float:
    """The share of the texts in which every part is found."""
    return sum(all(part in text for part in parts) for text in texts) / len(texts)


def turned(texts: list[str]) -> float:
    """The share of blame after something good, where there is a but."""
    praised = [text for text in texts if any(word in text for word in GOOD)]
    doubted = [text for text in praised if ", but " in text]
    return sum(
        text.endswith(tuple(f"{end}." for end in BLAME)) for text in doubted
    ) / max(len(doubted), 1)


statistics = {
    "characters": lambda texts: sum(map(len, texts)) / len(texts),
    "say but": lambda texts: share(texts, ", but "),
    "are about the soup": lambda texts: share(texts, "soup"),
    "blame after good, but": turned,
}
check = pf.diagnostics.check_texts(
    run, statistics=statistics, replications=replications, limit=held_out
)
pf.plots.predictive(check)

# %% [markdown]
# Not in every respect. Samples are as long as real texts. Fewer of them say *but*, 17 % for 27 %, and fewer are about
# the soup, though such differences are still possible by chance. Not so the last one: of the samples that say *but*
# after something good, 57 % end in blame, as all such real texts do. It is orange: the rule is not learned yet.

# %% [markdown]
# ## Save and serve
#
# A run is a folder. `pf.load` needs nothing but that folder, neither the csv nor this notebook, and `pf.look` writes a
# page of HTML about it, which any browser opens.

# %%
run.save(folder / "reviews")
page = pf.look(pf.load(folder / "reviews"), limit=8)
print(*sorted(path.name for path in (folder / "reviews").iterdir()), sep="\n")

# %% [markdown]
# A server needs no more than Python has. Load once, not for each request; calls from several threads wait for one
# another.

# %%
served = pf.load(folder / "reviews")


class Reviews(BaseHTTPRequestHandler):
    """Reviews that go on from a prompt: GET /?prompt=The+soup"""

    def do_GET(self) -> None:
        query = parse_qs(urlsplit(self.path).query)
        prompt = query.get("prompt", [""])[0]
        try:
            status, answer = 200, served.sample(2, seed=1, prompt=prompt)
        except ValueError as error:  # a prompt that is too long
            status, answer = 400, [str(error)]
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())

    def log_message(self, *_: object) -> None:
        """Say nothing."""


server = HTTPServer(("127.0.0.1", 0), Reviews)  # 0: any port that is free
Thread(target=server.serve_forever, daemon=True).start()

address = f"http://127.0.0.1:{server.server_port}/?prompt={quote('Their garden was')}"
with urlopen(address) as answer:
    print(*json.load(answer), sep="\n")
server.shutdown()
server.server_close()

# %% [markdown]
# (After 300 steps not every sample is English: train longer for a server of yours.)
#
# ## What to try next
#
# - The same from the command line: `pyroformer fit vae --data reviews.csv --field text --out runs/reviews --steps 300`;
#   `tokens` is the default prior there.
# - Do the stars matter? `pf.Corpus.from_file(table, field="text", condition="stars")` makes pairs of stars and text,
#   and `pf.DELLA` writes a review for each: `run.sample(3, condition="5")`, as in [03_della](03_della.ipynb).
# - An `NVAE` gives each vector a weight as well: [02_nvae](02_nvae.ipynb).
# - Draws of all latents for ArviZ: `run.posterior(texts)`; are they any good?
#   [05_check_your_posterior](05_check_your_posterior.ipynb).
# - Sizes, GPUs, formats and what to do if something fails: [how to](../docs/howto.md).
