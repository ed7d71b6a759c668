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
# # Check your posterior
#
# Variational inference always returns a posterior. How do you know whether it is a good one?
#
# The true posterior is unknown, but three checks detect different errors. *Bounds* measure the gap to log p(x) that
# the guide leaves. *Pareto k-hat* shows whether the guide misses regions where the posterior has mass. *Coverage*
# shows whether the true value lies inside the guide's intervals as often as their level promises. None of them
# detects every error, so there are three.
#
# Here they are tried on a model so small that the exact posterior is known, so the checks themselves are checked.
# No network is trained; the whole notebook runs in seconds.

# %%
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import torch
from matplotlib.axes import Axes
from torch import Tensor, nn

import pyroformer as pf
from pyroformer.inference.diagnostics import khat
from pyroformer.inference.objectives.bounds import importance_sweep

pyro.set_rng_seed(0)

# %% tags=["parameters"]
cases = 500
learning_steps = 400
draws = 1000
most_draws = 512  # of the importance-weighted bound

# %% [markdown]
# ## A model with a known posterior
#
# Two numbers are drawn, and only their sum is observed, with noise:
#
# $$
# z_1, z_2 \sim N(0, 1), \qquad x \mid z \sim N(z_1 + z_2, \; 0.5).
# $$
#
# Everything is Gaussian, so the posterior has a closed form. If the first number was large, the second must have been
# small: in the posterior their correlation is -2/3.
#
# $$
# z \mid x \sim N \left( \frac{x}{2.5} \begin{pmatrix} 1 \\ 1 \end{pmatrix},
# \begin{pmatrix} 0.6 & -0.4 \\ -0.4 & 0.6 \end{pmatrix} \right), \qquad x \sim N(0, \; 2.5).
# $$
#
# Below is the same model in Pyro. The library's models are models of texts: they observe a site `text` in a plate
# `texts`. So does this one, although its "texts" are numbers, which the model stores; the batch only gives their
# number. We draw 500 cases from the model and keep the true numbers, to compare with later.


# %%
class Sum(nn.Module):
    """Two standard normal numbers for each case, whose sum is observed with noise."""

    def __init__(self, observed: Tensor) -> None:
        super().__init__()
        self.observed = observed

    def forward(self, batch: pf.Batch) -> None:
        with pyro.plate("texts", len(self.observed), dim=-1):
            origin = torch.zeros(len(self.observed), 2)
            z = pyro.sample("z", dist.Normal(origin, 1.0).to_event(1))
            pyro.sample("text", dist.Normal(z.sum(-1), 0.5**0.5), obs=self.observed)


truth = torch.randn(cases, 2)
observed = truth.sum(-1) + 0.5**0.5 * torch.randn(cases)
model, batch = Sum(observed), pf.Batch.pad([[2]] * cases)

center = observed[:, None].expand(-1, 2) / 2.5
covariance = torch.tensor([[0.6, -0.4], [-0.4, 0.6]])
log_evidence = dist.Normal(0.0, 2.5**0.5).log_prob(observed)
print(f"log p(x) is {log_evidence.mean():.3f} nats per case, on average")

# %% [markdown]
# ## The best guide without correlation
#
# Most guides treat the entries of a latent as independent, and so does this one. It learns how the means depend on
# the data, and one standard deviation for each number.


# %%
class Guess(nn.Module):
    """A Gaussian posterior with fixed means and one covariance for all cases."""

    def __init__(self, mean: Tensor, covariance: Tensor) -> None:
        super().__init__()
        self.mean, self.covariance = mean, covariance

    def conditional(self) -> dist.MultivariateNormal:
        return dist.MultivariateNormal(self.mean, self.covariance)

    def forward(self, batch: pf.Batch) -> None:
        with pyro.plate("texts", len(self.mean), dim=-1):
            pyro.sample("z", self.conditional())


class Independent(Guess):
    """A Gaussian posterior to be learned, with two independent numbers."""

    def __init__(self, observed: Tensor) -> None:
        super().__init__(observed[:, None].expand(-1, 2), torch.eye(2))
        self.slope = nn.Parameter(torch.zeros(2))
        self.log_scale = nn.Parameter(torch.zeros(2))

    def conditional(self) -> dist.MultivariateNormal:
        scales = self.log_scale.exp().diag()
        return dist.MultivariateNormal(self.slope * self.mean, scale_tril=scales)


learned = Independent(observed)
svi = pf.SVI(model, learned, torch.optim.Adam, lr=0.03)
losses = [svi.step(batch) for _ in range(learning_steps)]

slope, scale = (
    x.detach().numpy().round(2) for x in (learned.slope, learned.log_scale.exp())
)
print("slope:             ", slope, " exact: 0.4")
print("standard deviation:", scale, " exact: 0.77")

# %% [markdown]
# The means are right and the standard deviations too small. This is not a lack of training: to stay inside a slanted
# ellipse, an ellipse that is not slanted must shrink. The loss converges above the loss of the exact posterior, and the
# difference is exactly the divergence of the guide from the posterior.

# %%
exact = Guess(center, covariance)
missing = torch.distributions.kl_divergence(learned.conditional(), exact.conditional())


# %%
def draw(guide: Guess, case: int, ax: Axes) -> None:
    """The exact posterior of a case, shaded, and a guide's as a line: half their mass."""
    given = guide.conditional()
    pf.plots.gaussian(
        exact.mean[case], exact.covariance, filled=True, color="lightsteelblue", ax=ax
    )
    pf.plots.gaussian(given.mean[case], given.covariance_matrix[case], ax=ax)
    ax.set(aspect="equal", xlabel="$z_1$", ylabel="$z_2$")


_, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), width_ratios=(1.6, 1))
left.plot(losses, label="loss: −ELBO")
left.axhline(-log_evidence.mean(), color="k", ls="--", label="−log p(x), the best loss")
left.set(xlabel="step", ylabel="nats per case")
left.set_title(f"The loss converges {missing.mean():.2f} nats above −log p(x)")
left.legend()
draw(learned, 0, right)
right.set_title("Exact posterior (shaded), guide (line)")

# %% [markdown]
# ## A gallery of bad guides
#
# Five guides to try the checks on. The second is the exact posterior with half its standard deviations, the third
# with twice as large ones, the fourth has a shifted mean, and the last one ignores the data: it is the prior.

# %%
guides = {
    "independent, learned": learned,
    "too narrow": Guess(center, covariance / 4),
    "too wide": Guess(center, covariance * 4),
    "wrong mean": Guess(center + 0.6, covariance),
    "the prior": Guess(torch.zeros(cases, 2), torch.eye(2)),
}

_, axes = plt.subplots(1, 5, figsize=(12, 2.9), sharex=True, sharey=True)
for ax, (name, guide) in zip(axes, guides.items(), strict=True):
    draw(guide, int(observed.argmax()), ax)
    ax.set_title(name)
    ax.label_outer()

# %% [markdown]
# ## Bounds: the gap that the guide leaves
#
# The bound of log p(x) from one draw per case is the ELBO, and its gap is the divergence of the guide from the
# posterior. The bound from $K$ draws, averaged before the logarithm, has a smaller gap:
#
# $$
# \log p(x) \; \ge \; E \log \frac1K \sum_{k=1}^K \frac{p(x, z_k)}{q(z_k \mid x)}, \qquad z_k \sim q.
# $$
#
# In a real model log p(x) is unknown, but the *increase* of the bound with $K$ can be measured, and the gap of the
# ELBO is at least that large.

# %%
counts = [2**power for power in range(most_draws.bit_length())]


def importance(guide: Guess) -> list[float]:
    """The gap between log p(x) and the bound of K draws, for each K, in nats per case."""
    torch.manual_seed(1)
    bounds = importance_sweep(model, guide, batch, counts)
    return [float((log_evidence - bounds[count]).mean()) for count in counts]


gaps = {name: importance(guide) for name, guide in guides.items()}

_, ax = plt.subplots(figsize=(7, 3.4))
for name, values in gaps.items():
    ax.loglog(counts, values, "o-", markersize=3, label=name)
ax.set_xscale("log", base=2)
ax.set(xlabel="draws $K$", ylabel="nats per case", ylim=(0.01, 5))
ax.set_title("Gap between log p(x) and the bound of $K$ draws")
ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))

# %% [markdown]
# Every guide has a gap, and more draws reduce it, but not equally. The gap of the prior is the largest for one draw
# and soon small: the prior covers the posterior, so some of its draws always hit. The guide that is too narrow has a
# much smaller gap for one draw and the largest for many: more draws hardly help where it has almost no mass. The bounds
# of one draw would rank these two wrongly for importance sampling. (Where a line leaves the axes, the gap is smaller
# than the noise of 500 cases.)
#
# ## k-hat: does the guide miss parts of the posterior?
#
# The importance weights of the draws, $p(x, z) / q(z \mid x)$, show it. A nearly exact guide has nearly equal weights.
# A guide that misses a tail of the posterior has a few enormous ones, and the largest weights follow a Pareto
# distribution whose shape is called k-hat: below 0.5 the guide is close; up to 0.7 importance weighting corrects it;
# above 0.7 no importance-weighted estimate from its draws is reliable.
#
# `pf.to_arviz` stores draws and their densities for any model that observes `text` in `texts`; `khat` reads them. For a
# Gaussian whose variance in some direction is a fraction $c < 1$ of the posterior's, the shape is known: $1 - c$ at the
# smallest $c$. It is 3/4 for the guide that is too narrow, and 2/3 for the learned one, which is too narrow along the
# long axis of the ellipse.

# %%
drawn = {
    name: pf.to_arviz(model, guide, batch, draws, include_prior=False)
    for name, guide in guides.items()
}
pf.plots.khats_by_guide(drawn)

# %% [markdown]
# The guide with the wrong mean has a high k-hat as well: it has too little mass on one side. Wide guides pass, and so
# does the prior, except for a few cases far to the right: their data are improbable, and hardly any draw from the prior
# explains them.
#
# Where the guide is wide enough, its weighted draws are as good as draws from the posterior. So check k-hat before you
# rely on the weights:

# %%
for name, data in drawn.items():
    weight = np.exp(data.sample_stats["log_p"] - data.sample_stats["log_q"])
    weight = weight / weight.sum(("chain", "draw"))
    first = data.posterior["z"].isel(z_dim_0=0)
    mean = (weight * first).sum(("chain", "draw"))
    weighted = (weight * (first - mean) ** 2).sum(("chain", "draw")) ** 0.5
    plain = first.std(("chain", "draw"))
    print(
        f"{name:>20}: standard deviation {plain.median():.2f}, "
        f"weighted {weighted.median():.2f}, exact {0.6**0.5:.2f}"
    )

# %% [markdown]
# ## Coverage: do the guide's intervals contain the truth?
#
# The cases were drawn from the model, so their true numbers are known. This works for any model: draw latents and data
# from it, infer, and compare. If the guide is exact, its central 90 % interval contains the truth in 90 % of the
# cases, and the same holds for every other level. The number of draws below the truth is all that this takes; it is
# counted for the first of the two numbers.

# %%
below = {
    name: (data.posterior["z"].values[0, :, :, 0] < truth[:, 0].numpy()).sum(0)
    for name, data in drawn.items()
}
calibration = pf.diagnostics.Calibration(below, draws)
pf.plots.coverage(calibration)

# %% [markdown]
# Coverage detects what k-hat did not: intervals that are too wide, and ones with the wrong center. But it misses
# something as well. The prior passes: its wide intervals contain the truth as often as promised. Only the bound shows
# that this guide ignores the data. All three in one table:

# %%
pd.DataFrame(
    {
        "gap, K = 1": {name: gap[0] for name, gap in gaps.items()},
        f"gap, K = {counts[-1]}": {name: gap[-1] for name, gap in gaps.items()},
        "median k-hat": {
            name: khat(data).median().item() for name, data in drawn.items()
        },
        "90 % covers": {name: calibration.coverage(name, 0.9) for name in guides},
    }
).round(2)

# %% [markdown]
# ## k-hat in many dimensions
#
# One warning before k-hat is used with a Transformer. It grows with the number of dimensions, because small errors
# multiply. Below is a guide whose standard deviations are only a tenth too small, in more and more dimensions. With
# infinitely many draws k-hat would be 0.19 for all of them. With a few hundred draws it is larger.


# %%
class PriorOnly(nn.Module):
    """Latents that the data do not depend on: the posterior is the prior."""

    def __init__(self, size: int, scale: float = 1.0, observes: bool = True) -> None:
        super().__init__()
        self.size, self.scale, self.observes = size, scale, observes

    def forward(self, batch: pf.Batch) -> None:
        with pyro.plate("texts", 20, dim=-1):
            around = dist.Normal(torch.zeros(20, self.size), self.scale)
            pyro.sample("z", around.to_event(1))
            if self.observes:
                noise = dist.Normal(torch.zeros(20), 1.0)
                pyro.sample("text", noise, obs=torch.zeros(20))


sizes = [4**power for power in range(6)]
twenty = pf.Batch.pad([[2]] * 20)
by_size = []
for size in sizes:
    exact, narrow = PriorOnly(size), PriorOnly(size, 0.9, observes=False)
    data = pf.to_arviz(exact, narrow, twenty, draws // 2, include_prior=False)
    by_size.append(khat(data).values)

_, ax = plt.subplots(figsize=(6.4, 3.2))
ax.semilogx(sizes, by_size, "C4.", base=2)
ax.plot(sizes, np.median(by_size, axis=1), "C0o-", label="median of 20 cases")
ax.axhline(0.7, color="gray", linestyle="--", label="0.7")
ax.set(xlabel="dimensions", ylabel="k-hat", title="A guide that is a tenth too narrow")
ax.legend()

# %% [markdown]
# The posterior of a sentence under an `NVAE` has more than a thousand dimensions. A k-hat above 0.7 there does not
# mean that the model is useless; it means that the guide's draws, weighted or not, do not represent the posterior,
# and that the importance-weighted bound is still well below log p(x). Compare models by bounds with the same number
# of draws, and report that number.
#
# ## What to try next
#
# - Here: draw fewer cases, and see how much of a bad guide's error chance can hide in the coverage plot; let
#   `Independent` learn a full `scale_tril`, and see all checks pass.
# - With a run of yours: `data = run.posterior(texts, draws=200)`, then `khat(data)` for each text, and `khat(data,
#   "vectors")` for the change from prior to posterior at one site.
# - `pf.diagnostics.calibrate(model, guide)` simulates many data sets and ranks the truth among the guide's draws, for
#   any model; `.table()` and `pf.plots.ranks` show the result. It ranks log p as well, which detects even the prior.
# - `run.evaluate()` reports the bounds of one draw and of more; `pf.diagnostics.compare(first, second, texts)`
#   estimates which of two runs gives held-out texts a higher probability, with a standard error.
# - The guide's gap is one of two reasons for a bad bound. The other is the model: [04_new_prior](04_new_prior.ipynb)
#   changes that.
