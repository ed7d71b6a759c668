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
# # Attention is inference
#
# What does attention compute, and what is gained by describing it as probabilistic inference?
#
# The answer in three sentences. Keys and values are a *mixture over vectors*; a query is a *noisy observation* of one
# vector that was drawn from it; and what attention returns is the *posterior mean* of that vector. Softmax
# attention is one exact special case of this, not an analogy. Seen this way, attention has everything that a posterior
# has: the probability of a query, the uncertainty of the answer, a reliability for each key, and a way for the keys to
# adapt to the queries.
#
# Nothing is trained here; the whole notebook runs in seconds on a CPU.

# %%
import matplotlib.pyplot as plt
import pyro
import torch
import torch.nn.functional as F
from pyro.infer import TraceEnum_ELBO

import pyroformer as pf
from pyroformer.models.attention.bayes_rule import responsibilities

pyro.set_rng_seed(0)

# %% [markdown]
# ## A query is a noisy observation of one vector
#
# The generative model draws a component $n$ with probability $\pi_n$, then a vector $v$ from that component's Gaussian.
# We do not observe $v$. We observe a query $u$, which is $v$ plus noise of variance $s$:
#
# $$
# n \sim \text{Categorical}(\pi), \qquad v \mid n \sim N(\mu_n, \sigma_n^2), \qquad u \mid v \sim N(v, s I).
# $$
#
# What is the posterior of $v$? First, the component that it came from. Bayes' rule gives every component its
# *responsibility* for the query,
#
# $$
# w_n = p(n \mid u) = \frac{\pi_n \, N(u; \mu_n, \sigma_n^2 + s)}{\sum_k \pi_k \, N(u; \mu_k, \sigma_k^2 + s)},
# $$
#
# and the responsibilities are the attention weights. Then, within a component, the posterior mean lies between the
# query and the component's mean, nearer to the one with the smaller variance. Together they give the posterior mean:
#
# $$
# E[v \mid u] = \sum_n w_n \, \frac{\sigma_n^2 \, u + s \, \mu_n}{\sigma_n^2 + s}.
# $$

# %%
mixture = pf.Mixture(
    log_weights=torch.tensor([0.30, 0.15, 0.40, 0.15]).log(),
    means=torch.tensor([[-2.3, 0.8], [-0.1, 1.7], [2.2, 0.7], [-0.3, -1.2]]),
    variances=torch.tensor([[0.30, 0.16], [0.22, 0.14], [0.30, 0.22], [0.34, 0.14]]),
    noise_variance=0.7,
)
query = torch.tensor([[0.85, 0.35]])
weights = responsibilities(query, mixture)
answer = pf.attend(query, mixture)
print("responsibilities:", [round(w, 2) for w in weights[0].tolist()])
print("posterior mean:  ", [round(x, 2) for x in answer[0].tolist()])

# %% [markdown]
# On the left is that query. Each component is drawn at one and two standard deviations, darker if its responsibility
# is larger. On the right are many other queries: attention moves each of them towards the vector that it probably was
# before the noise was added.

# %%
across, up = torch.linspace(-3.6, 3.6, 13), torch.linspace(-2.3, 2.6, 8)

_, (one, many) = plt.subplots(1, 2, figsize=(10, 4))
pf.plots.posterior_means(query, mixture, ax=one)
pf.plots.posterior_means(torch.cartesian_prod(across, up), mixture, ax=many)
one.set_title("One query, responsibilities, and the posterior mean")
many.set_title("Every query moves to its posterior mean; shade is the prior")

# %% [markdown]
# ## Softmax attention is one case, exactly
#
# Let every component be a point, $\sigma_n^2 = 0$, at a key $k_n$, and let it have a value. Let the noise variance be
# $s = \sqrt D$. Then
#
# $$
# \log \pi_n + \log N(q; k_n, \sqrt D \, I) = \frac{q \cdot k_n}{\sqrt D}
# + \underbrace{\log \pi_n - \frac{|k_n|^2}{2 \sqrt D}}_{0} + \text{a term that is the same for all } n.
# $$
#
# The brace is zero if $\pi_n \propto \exp(|k_n|^2 / 2 \sqrt D)$, and what is left is softmax attention.
# `Mixture.from_attention` chooses these weights.

# %%
queries, keys, values = torch.randn(6, 16), torch.randn(8, 16), torch.randn(8, 4)
softmax = F.scaled_dot_product_attention(queries[None], keys[None], values[None])[0]
attention = pf.Mixture.from_attention(keys, values)
torch.testing.assert_close(pf.attend(queries, attention), softmax)
difference = (pf.attend(queries, attention) - softmax).abs().max()
print(f"largest difference: {difference:.0e}")

# %% [markdown]
# This also shows a hidden assumption of softmax attention: long keys have a larger prior weight, and exponentially so.
# Here are eight keys of ordinary length with their prior weights.

# %%
prior = attention.log_weights.exp()
for n in keys.norm(dim=-1).argsort():
    print(f"|k| = {keys[n].norm():.2f}   prior weight {prior[n]:.3f}")

# %% [markdown]
# ## Evidence: was such a query expected?
#
# The denominator of Bayes' rule, which softmax cancels, is the *evidence*: the density of the query under the
# mixture,
#
# $$
# \log p(u) = \log \sum_n \pi_n \, N(u; \mu_n, \sigma_n^2 + s).
# $$
#
# Attention weights cannot take its place: they are probabilities of the components *given that the query comes from one
# of them*. Far away from all components, attention is often most certain. (White dots are the means of the components.)

# %%
two = torch.tensor([[2.9, -0.2], [-5.2, 4.2]])
points = {"a": two[0], "b": two[1]}

_, axes = plt.subplots(1, 2, figsize=(10, 4), sharey=True)
for ax, shows in zip(axes, ("evidence", "largest weight"), strict=True):
    pf.plots.mixture_map(
        mixture, shows, points=points, within=(-6.0, 6.0, -5.0, 5.0), ax=ax
    )

# %%
largest = responsibilities(two, mixture).amax(-1)
evidence = pf.attend(two, mixture, returns="evidence")
for n, name in enumerate(points):
    print(f"query {name}: largest weight {largest[n]:.3f}, evidence {evidence[n]:.1f}")

# %% [markdown]
# For both queries one component takes nearly all the weight. Only the evidence shows that the second is improbable
# under the mixture.
#
# ## Variance: how certain is the answer?
#
# A posterior has a variance as well as a mean. It has two sources, the uncertainty *within* a component and the
# uncertainty about *which* component it was ($m_n$ is the posterior mean under component $n$):
#
# $$
# \text{Var}[v \mid u] = \sum_n w_n \left[ \frac{s \, \sigma_n^2}{\sigma_n^2 + s} + (m_n - E[v \mid u])^2 \right].
# $$
#
# Move a query from the leftmost component to the rightmost.

# %%
position = torch.linspace(-3.5, 3.5, 141)
walk = torch.stack([position, torch.full_like(position, 0.75)], -1)
mean = pf.attend(walk, mixture)[:, 0]
twice = 2 * pf.attend(walk, mixture, returns="variance")[:, 0].sqrt()

_, (above, below) = plt.subplots(2, 1, figsize=(8, 4.6), sharex=True)
names = ("left", "top", "right", "bottom")
above.plot(position, responsibilities(walk, mixture), label=names)
above.set(title="Responsibilities, and the posterior of $v$")
above.legend(title="component", loc="center left", bbox_to_anchor=(1, 0.5))
below.plot(position, mean, label="posterior mean")
below.fill_between(
    position, mean - twice, mean + twice, alpha=0.3, label="± 2 standard deviations"
)
below.plot(position, position, ":", label="the query itself")
below.set(xlabel="first dimension of the query", ylabel="first dimension of $v$")
below.legend(loc="center left", bbox_to_anchor=(1, 0.5))

# %% [markdown]
# The band is wide where two components compete and narrow where one of them is certain. Is it calibrated? If vectors
# and queries really come from this model, the squared error must on average equal the posterior variance, for
# the certain answers as well as for the uncertain ones.

# %%
came_from = mixture.log_weights.exp().multinomial(20_000, replacement=True)
deviations = mixture.variances[came_from].sqrt()
vectors = mixture.means[came_from] + deviations * torch.randn(20_000, 2)
observed = vectors + mixture.noise_variance**0.5 * torch.randn(20_000, 2)
variance = pf.attend(observed, mixture, returns="variance")[:, 0]
error = (vectors - pf.attend(observed, mixture))[:, 0].square()
thirds = variance.argsort().chunk(3)
for name, rows in zip(
    ("most certain", "middle", "most uncertain"), thirds, strict=True
):
    expected, found = variance[rows].mean(), error[rows].mean()
    print(f"{name:>14} third: variance {expected:.3f}, squared error {found:.3f}")

# %% [markdown]
# ## Keys that are not equally reliable
#
# The keys of a memory are seldom equally precise. Say that the true vectors are standard normal, and that key $n$
# is one of them, stored with an error of known variance $\tau_n$. The posterior of the vector is then again Gaussian,
#
# $$
# v_n \mid k_n \sim N\left( \frac{k_n}{1 + \tau_n}, \frac{\tau_n}{1 + \tau_n} \right),
# $$
#
# and this *is* a mixture: an unreliable key is shrunk and broad. Softmax attention has no parameter for $\tau_n$.
# Below, half of the keys are nearly exact and the other half are poor; the task is to identify the vector that a query
# is an observation of. A temperature does not help the first two rows, as it does not change which key has the most
# weight.

# %%
components, width, noise = 64, 16, 0.09
truth = torch.randn(components, width)
error_variance = torch.where(torch.rand(components, 1) < 0.5, 2.25, 0.01)
stored = truth + error_variance.sqrt() * torch.randn(components, width)
came_from = torch.randint(components, (2_000,))
observed = truth[came_from] + noise**0.5 * torch.randn(2_000, width)

flat = torch.zeros(components).log_softmax(-1)
plain = pf.Mixture.from_attention(stored, stored)
nearest = pf.Mixture(flat, stored, noise_variance=noise)
shrunk, spread = (x / (1 + error_variance) for x in (stored, error_variance))
weighted = pf.Mixture(flat, shrunk, spread, noise_variance=noise)
reliable = error_variance[came_from, 0] < 1
memories = {
    "softmax attention": plain,
    "nearest key": nearest,
    "a variance for each key": weighted,
}
for name, memory in memories.items():
    right = (responsibilities(observed, memory).argmax(-1) == came_from).float()
    good, poor = right[reliable].mean(), right[~reliable].mean()
    print(
        f"{name:>23}: accuracy {good:.0%} for vectors with good keys, "
        f"{poor:.0%} for those with poor ones"
    )

# %% [markdown]
# A poor key is further from its own vector than other keys are, so it is almost never the nearest. A plot in the plane
# shows the effect of the variances. There are two keys, one good and one poor. With equal variances, the border is
# half way between them. With variances of their own, the good key is responsible for queries close to it, and the poor
# key, whose vector could be anywhere, for all the others: the border closes around the good key.

# %%
pair = torch.tensor([[-1.0, 0.0], [1.0, 0.0]])
half = torch.tensor([0.5, 0.5]).log()
equal = pf.Mixture(half, pair, torch.tensor([[0.5], [0.5]]), noise_variance=0.3)
unequal = pf.Mixture(half, pair, torch.tensor([[0.1], [3.0]]), noise_variance=0.3)

_, axes = plt.subplots(1, 2, figsize=(10, 4), sharey=True)
for ax, memory in zip(axes, (equal, unequal), strict=True):
    pf.plots.mixture_map(
        memory, 0, names=("good", "poor"), within=(-4.0, 4.0, -3.0, 3.0), ax=ax
    )
axes[0].set_title("Responsibility of the good key, equal variances")
axes[1].set_title("Variances of their own")

# %% [markdown]
# ## Keys that move: EM
#
# If the queries are data, the keys can be fitted to them. The E-step of *expectation-maximization* is attention;
# the M-step moves every key towards the queries that it is responsible for, and a prior, here worth one query,
# keeps it near its initial position. The objective, the log posterior of the keys, never decreases:
#
# $$
# J = \sum_m \log p(u_m \mid \mu) + \log p(\mu).
# $$
#
# Below, the queries have drifted away from the keys. EM finds a local optimum: had they drifted further, a key could
# end at another key's queries, depending on where it started.

# %%
start = pf.Mixture(
    torch.zeros(4).log_softmax(-1),
    torch.tensor([[-2.0, 0], [0, 2], [2, 0], [0, -2]]),
    noise_variance=0.4,
)
turn, shift = torch.tensor([[0.82, 0.57], [-0.57, 0.82]]), torch.tensor([0.9, 0.5])
drifted = start.means @ turn + shift
crowd = drifted[torch.randint(4, (240,))] + 0.4**0.5 * torch.randn(240, 2)

state = pf.em.adapt(crowd, start, steps=12)
assert (state.objective.diff() >= -1e-4).all()
pf.plots.key_paths(crowd, start, steps=12)

# %% [markdown]
# ## The same as a Pyro model
#
# `pf.MixtureAttention` is the model above as a Pyro program: draw an assignment, then a query around the vector
# that it points to. Sum the assignment out exactly: its posterior marginal is the attention matrix.

# %%
model = pf.MixtureAttention(attention)
print(pyro.poutine.trace(model).get_trace(queries).format_shapes())

# %%
exact = TraceEnum_ELBO(max_plate_nesting=1)
marginals = exact.compute_marginals(model, lambda *_: None, queries)
matrix = marginals["assignment"].probs
torch.testing.assert_close(matrix, (queries @ keys.T / 16**0.5).softmax(-1))
torch.testing.assert_close(matrix @ values, softmax)
print("rows are queries, columns are keys:", *matrix.numpy().round(2), sep="\n")

# %% [markdown]
# Whatever is uncertain can be given a prior, and all of Pyro's inference applies. With a Gaussian prior
# on the keys the log joint of the model is EM's objective up to a constant, so from the first keys to the last
# both increase by the same amount.

# %%
conjugate = pf.MixtureAttention.conjugate(start)


def log_joint(keys: torch.Tensor) -> float:
    known = pyro.condition(conjugate, data={"keys": keys})
    return -exact.loss(known, lambda *_: None, crowd)


rise = log_joint(state.mixture.means) - log_joint(start.means)
increase = float(state.objective[-1] - state.objective[0])
print(f"the log joint increased by {rise:.3f}, EM's objective by {increase:.3f}")
assert abs(rise - increase) < 0.01

# %% [markdown]
# ## What to try next
#
# - Here: increase `noise_variance`, and the answer to every query becomes the prior mean; with `moves=("means",
#   "variances")`, `pf.em.adapt` also learns the reliability of each key.
# - With queries, keys and values of a network of yours: `pf.attend(q, pf.Mixture.from_attention(k, v),
#   returns="evidence")`, or `returns="variance"`.
# - In a network: `pf.ProbabilisticAttention` starts as softmax attention and learns precisions and the prior of
#   the keys; `pyroformer fit lm --attention probabilistic` trains a language model with it.
# - Make the mixture itself random, and it becomes a latent variable that a text is encoded into and decoded from:
#   this is the [NVAE](02_nvae.ipynb).
#
# Is it worth it? [benchmarks/PROBABILISTIC_ATTENTION.md](../benchmarks/PROBABILISTIC_ATTENTION.md) compares it
# with tuned baselines, and shows where it helps and where it does not.
