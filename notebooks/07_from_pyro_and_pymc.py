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
# # From Pyro and PyMC
#
# You know mixtures, NUTS and ArviZ. Where in that world does attention live, and what do the fast algorithms of this
# library give away for their speed?
#
# Attention is the posterior assignment of a query to a component of a Gaussian mixture. So here is one small mixture
# with unknown means, weights and precisions, fitted three times: by EM, which finds the mode, by NUTS, which is exact
# in the limit, and by SVI with a Gaussian guide. At the end leave-one-out compares numbers of components.

# %%
import arviz as az
import matplotlib.pyplot as plt
import pyro
import torch
from pyro.infer import MCMC, NUTS, TraceEnum_ELBO
from pyro.infer.autoguide import AutoMultivariateNormal, AutoNormal
from pyro.infer.autoguide.initialization import init_to_value
from pyro.infer.inspect import get_model_relations

import pyroformer as pf
from pyroformer.guides.automatic import Automatic
from pyroformer.models.attention.bayes_rule import responsibilities

# %% tags=["parameters"]
warmup = 150
draws = 300
steps = 400

# %% [markdown]
# ## One model
#
# Sixty points from three clusters, two of which overlap. `pf.MixtureAttention.conjugate` is a Pyro model with priors on
# what `moves` names: a Dirichlet over weights, Gaussians over means ("keys"), Gammas over precisions.

# %%
pyro.set_rng_seed(0)
centers = torch.tensor([[-1.7, 0.0], [1.7, 0.0], [0.0, 4.0]])
points = torch.cat([torch.randn(20, 2) + center for center in centers])

start = torch.tensor([[-2.0, 0.0], [2.0, 0.0], [0.0, 3.0]])
mixture = pf.Mixture(
    torch.zeros(3).log_softmax(-1), start, torch.ones(3, 1), noise_variance=0.0
)
priors = pf.em.ConjugatePriors(
    concentration=2.0, pseudo_counts=0.3, shape=2.0, rate=2.0
)
moves = ("means", "variances", "weights")
model = pf.MixtureAttention.conjugate(mixture, priors, moves)

# %% [markdown]
# What `pyro.render_model` draws, in words, because it needs no Graphviz: every site with its distribution, and which
# sites each depends on.

# %%
relations = get_model_relations(model, (points,))
for site, parents in relations["sample_sample"].items():
    above = ", ".join(parent for parent in parents if parent != site) or "nothing"
    print(f"{site:11} ~ {relations['sample_dist'][site]:15} given {above}")

# %% [markdown]
# ## Three algorithms
#
# EM climbs the log joint of the model.

# %%
mode = pf.em.adapt(points, mixture, steps=100, moves=moves, priors=priors)
print(
    f"EM: log joint {mode.objective[0]:.1f} -> {mode.objective[-1]:.1f}, never falling"
)
found = {
    "keys": mode.mixture.means,
    "weights": mode.mixture.log_weights.exp(),
    "precision": 1 / mode.mixture.variances[:, 0],
}

# %% [markdown]
# NUTS sums the assignments out, as in any Pyro model. Components could be renamed without changing the density, so it
# starts at the mode.

# %%
kernel = NUTS(model, init_strategy=init_to_value(values=found))
chains = MCMC(kernel, num_samples=draws, warmup_steps=warmup, disable_progbar=True)
chains.run(points)
exact = chains.get_samples()
keys = chains.diagnostics()["keys"]
print(f"effective draws of the means: at least {keys['n_eff'].min():.0f} of {draws}")

# %% [markdown]
# SVI: a Gaussian for each unknown, on the unconstrained scale. `Automatic` keeps the parameters of one of Pyro's
# autoguides in a module, so that nothing goes into Pyro's global store. It starts at the mode, as PyMC's `advi` may.


# %%
def gaussian_guide(
    model: pf.MixtureAttention, mixture: pf.Mixture, kind: type = AutoNormal
) -> tuple[Automatic, list[float]]:
    """A guide, trained from the mode that EM finds from a mixture, and the losses."""
    mode = pf.em.adapt(points, mixture, steps=100, moves=moves, priors=priors).mixture
    found = {
        "keys": mode.means,
        "weights": mode.log_weights.exp(),
        "precision": 1 / mode.variances[:, 0],
    }
    at_mode = init_to_value(values=found)
    guide = Automatic(model, kind, init_loc_fn=at_mode, init_scale=0.1)
    loss = TraceEnum_ELBO(max_plate_nesting=1)
    svi = pf.SVI(model, guide, torch.optim.Adam, lr=0.03, loss=loss)
    return guide, [svi.step(points) for _ in range(steps)]


guide, losses = gaussian_guide(model, mixture)
print(f"negative ELBO: {losses[0]:.1f} -> {sum(losses[-50:]) / 50:.1f} nats")

# %% [markdown]
# ## What each gives away
#
# The posterior of the means: draws of NUTS, draws of the guide, the mode of EM.

# %%
data = pf.inference.global_posterior(model, guide, points, plate="tokens", draws=draws)
drawn = data.posterior["keys"].values[0]
means = {"NUTS": exact["keys"], "SVI": drawn, "EM": mode.mixture.means[None]}

_, axes = plt.subplots(1, 3, figsize=(9, 3.2), sharex=True, sharey=True)
for ax, (name, keys) in zip(axes, means.items(), strict=True):
    ax.plot(*points.T, ".", color="lightgray")
    for n in range(3):
        ax.plot(
            *keys[:, n].T,
            "X" if name == "EM" else ".",
            markersize=9 / len(keys) ** 0.25,
        )
    ax.set(title=name, aspect="equal")

# %% [markdown]
# The same in numbers. A mean-field guide knows each mean, but not that the two overlapping clusters trade points:
# its standard deviations are the smaller ones.

# %%
for n in range(3):
    by_nuts, by_svi = exact["keys"][:, n].std(0).numpy(), drawn[:, n].std(0)
    print(f"mean {n}: sd by NUTS {by_nuts.round(2)}, by SVI {by_svi.round(2)}")
az.summary(data, var_names=["keys"], kind="stats")

# %% [markdown]
# ## The attention matrix
#
# Given the unknowns, the posterior assignment of queries is a row of attention each. Under NUTS it is averaged over
# draws, so two queries between the clusters keep the uncertainty about where the clusters are.

# %%
between = torch.tensor([[0.0, 0.0], [0.4, 0.0]])
each = [
    responsibilities(between, model.mixture({name: x[s] for name, x in exact.items()}))
    for s in range(draws)
]
at_mode = responsibilities(between, mode.mixture)
print("at the mode:", *at_mode.numpy().round(3), sep="\n")
print("by NUTS:", *torch.stack(each).mean(0).numpy().round(3), sep="\n")

# %% [markdown]
# ## How many components?
#
# Every unknown here is shared by all points, so leave-one-out is right: `az.loo` and `az.compare` take these data, and
# `pf.diagnostics.loo` also corrects for the error of the guide, here a joint Gaussian of all unknowns. (Where each
# observation has a latent of its own, as a text has in a VAE, leave-one-out is wrong, and the data of such a model
# refuses it.)

# %%
exports, results = {}, {}
for count in (1, 2, 3, 4):
    means = points[torch.linspace(0, len(points) - 1, count).long()]
    log_weights = torch.zeros(count).log_softmax(-1)
    rival = pf.Mixture(log_weights, means, torch.ones(count, 1), noise_variance=0.0)
    candidate = pf.MixtureAttention.conjugate(rival, priors, moves)
    approximation, _ = gaussian_guide(candidate, rival, AutoMultivariateNormal)
    exports[count] = pf.inference.global_posterior(
        candidate, approximation, points, plate="tokens", draws=draws
    )
    result = results[count] = pf.diagnostics.loo(exports[count])
    unreliable = int((result.khat > 0.7).sum())
    elpd = f"{result.elpd:.1f} ± {result.error:.1f} nats"
    print(f"components {count}: {elpd}, k-hat above 0.7 for {unreliable} points")
    if count > 1:
        gains = (
            result.each - results[count - 1].each
        )  # of each point, so that they pair
        error = len(gains) ** 0.5 * gains.std(ddof=1)
        print(f"{'':>13} {gains.sum():.1f} ± {error:.1f} more than with {count - 1}")

# %% [markdown]
# Three components have the better estimate: some 12 nats above two, about two standard errors of the paired difference.
# A fourth gains nothing. How far to believe an estimate, k-hat says: where it is above 0.7 for many points, the guide
# misses part of the posterior, such as components that trade points, and draws of NUTS are needed. `az.loo(exports[3])`
# takes the draws for exact, and so cannot see this.
