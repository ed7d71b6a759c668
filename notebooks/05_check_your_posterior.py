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
# You cannot look at the true posterior, but three checks see different sides of what is wrong. *Bounds* tell how
# much of log p(x) the guide gives away. *Pareto's k-hat* tells whether the guide leaves out places where the
# posterior is. *Coverage* tells whether the truth lies inside its intervals as often as they promise. None of them
# sees everything, which is why there are three.
#
# Here they are tried on a model so small that the exact posterior is known, so that the checks are checked as
# well. No network is trained; all of it runs in seconds.

# %%
import math
import os

import matplotlib.pyplot as plt
import numpy as np
import pyro
import pyro.distributions as dist
import torch
from matplotlib.axes import Axes
from matplotlib.patches import Ellipse
from torch import Tensor, nn

import pyroformer as pf
from pyroformer.inference.diagnostics import khat
from pyroformer.inference.objectives.bounds import importance_sweep
from pyroformer.inference.plots.style import COLORS, FRAME, INK, SHADES

torch.manual_seed(0)
draws = 100 if os.environ.get("PYROFORMER_NOTEBOOK") == "quick" else 1000  # quick: does it run?
plt.rcParams.update({"figure.constrained_layout.use": True, "font.size": 9, "axes.titlesize": 10})
plt.rcParams.update({"axes.titlelocation": "left", "axes.spines.top": False, "axes.spines.right": False})

# %% [markdown]
# ## A posterior that is known
#
# Two numbers are drawn, and only their sum is seen, with noise:
#
# $$
# z_1, z_2 \sim N(0, 1), \qquad x \mid z \sim N(z_1 + z_2, \; 0.5).
# $$
#
# Everything is Gaussian, so that Bayes' rule can be worked out by hand. If the first number was large the second
# must have been small: in the posterior they are correlated, by -2/3.
#
# $$
# z \mid x \sim N \left( \frac{x}{2.5} \begin{pmatrix} 1 \\ 1 \end{pmatrix},
# \begin{pmatrix} 0.6 & -0.4 \\ -0.4 & 0.6 \end{pmatrix} \right), \qquad x \sim N(0, \; 2.5).
# $$
#
# Below is the same in Pyro. The library's models are of texts: they observe a site `text` in a plate `texts`, and
# so does this one, though its "texts" are numbers, which the model keeps itself. The batch only says how many
# there are. We draw 500 cases from the model and keep the true numbers, to compare with later.


# %%
class Sum(nn.Module):
    """Two standard normal numbers for each case, of which the sum is seen with noise."""

    def __init__(self, seen: Tensor) -> None:
        super().__init__()
        self.seen = seen

    def forward(self, batch: pf.Batch) -> None:
        with pyro.plate("texts", len(self.seen), dim=-1):
            z = pyro.sample("z", dist.MultivariateNormal(self.seen.new_zeros(len(self.seen), 2), torch.eye(2)))
            pyro.sample("text", dist.Normal(z.sum(-1), 0.5**0.5), obs=self.seen)


cases = 500
truth = torch.randn(cases, 2)
seen = truth.sum(-1) + 0.5**0.5 * torch.randn(cases)
model, batch = Sum(seen), pf.Batch.pad([[2]] * cases)

center = seen[:, None].expand(-1, 2) / 2.5
covariance = torch.tensor([[0.6, -0.4], [-0.4, 0.6]])
log_evidence = dist.Normal(0.0, 2.5**0.5).log_prob(seen)
print(f"log p(x) is {log_evidence.mean():.3f} nats a case, on average")

# %% [markdown]
# ## The best guide that knows no correlation
#
# Most guides treat the entries of a latent as independent, as ours here does. It learns how the means follow from
# what was seen, and one standard deviation for each number.


# %%
class Guess(nn.Module):
    """A Gaussian posterior with given means and one covariance for all cases."""

    def __init__(self, mean: Tensor, covariance: Tensor) -> None:
        super().__init__()
        self.mean, self.covariance = mean, covariance

    def conditional(self) -> dist.MultivariateNormal:
        return dist.MultivariateNormal(self.mean, self.covariance)

    def forward(self, batch: pf.Batch) -> None:
        with pyro.plate("texts", len(self.mean), dim=-1):
            pyro.sample("z", self.conditional())


class Independent(Guess):
    """A Gaussian posterior to be learned, whose two numbers are independent."""

    def __init__(self, seen: Tensor) -> None:
        super().__init__(seen[:, None].expand(-1, 2), torch.eye(2))
        self.slope, self.log_scale = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))

    def conditional(self) -> dist.MultivariateNormal:
        return dist.MultivariateNormal(self.slope * self.mean, scale_tril=self.log_scale.exp().diag())


learned = Independent(seen)
svi = pf.SVI(model, learned, torch.optim.Adam, lr=0.03)
losses = [svi.step(batch) for _ in range(400)]

print("slope:             ", [round(x, 2) for x in learned.slope.tolist()], " exact: 0.4")
print("standard deviation:", [round(x, 2) for x in learned.log_scale.exp().tolist()], " exact: 0.77")

# %% [markdown]
# The means are right and the standard deviations too small. That is no accident and not a lack of training: to
# stay inside a slanted ellipse, one that is not slanted must shrink. The loss flattens out above what the exact
# posterior would reach, and how far above is exactly the divergence of the guide from the posterior.

# %%
exact = Guess(center, covariance)
missing = torch.distributions.kl_divergence(learned.conditional(), exact.conditional()).mean().item()


def ellipse(ax: Axes, mean: Tensor, covariance: Tensor, **style: object) -> None:
    """Where a Gaussian has half of its mass."""
    variances, directions = torch.linalg.eigh(covariance)
    width, height = (2 * math.sqrt(2 * math.log(2)) * variances.sqrt()).tolist()
    angle = math.degrees(math.atan2(directions[1, 0], directions[0, 0]))
    ax.add_patch(Ellipse(tuple(mean.tolist()), width, height, angle=angle, **style))


def draw_posterior(ax: Axes, guide: Guess, case: int, color: str) -> None:
    """The exact posterior of a case, shaded, with a guide's as an outline."""
    with torch.no_grad():
        distribution = guide.conditional()
        ellipse(ax, exact.mean[case], exact.covariance, facecolor=SHADES(0.6), edgecolor="none")
        ellipse(
            ax,
            distribution.mean[case],
            distribution.covariance_matrix[case],
            facecolor="none",
            edgecolor=color,
            linewidth=2,
        )
    reach = exact.mean[case, 0].item()
    ax.set(xlim=(reach - 2.4, reach + 2.4), ylim=(reach - 2.4, reach + 2.4), aspect="equal", xlabel="$z_1$")


def draw_learning() -> None:
    _, (loss, plane) = plt.subplots(1, 2, figsize=(9, 3.6), width_ratios=(1.6, 1))
    loss.plot(losses, color=COLORS[0], label="loss: minus the bound")
    loss.axhline(-log_evidence.mean(), color=INK, linestyle="--", label="minus log p(x): no guide can do better")
    loss.set(xlabel="step", ylabel="nats a case", title=f"The loss ends {missing:.2f} nats above minus log p(x)")
    loss.legend(frameon=False)
    draw_posterior(plane, learned, 0, COLORS[0])
    plane.set(ylabel="$z_2$", title="Exact posterior (shaded), guide (line)")


draw_learning()

# %% [markdown]
# ## A gallery of bad guides
#
# Five guides to try the checks on. The second is the exact posterior with half its standard deviations, the third
# with twice as large ones, the fourth is beside it, and the last one has not looked at the data at all: it is the
# prior.

# %%
guides = {
    "independent, learned": learned,
    "too narrow": Guess(center, covariance / 4),
    "too wide": Guess(center, covariance * 4),
    "wrong mean": Guess(center + 0.6, covariance),
    "the prior": Guess(torch.zeros(cases, 2), torch.eye(2)),
}


def draw_gallery() -> None:
    case = int(seen.argmax())
    _, axes = plt.subplots(1, 5, figsize=(12, 2.9), sharey=True)
    for ax, (name, guide), color in zip(axes, guides.items(), COLORS, strict=False):
        draw_posterior(ax, guide, case, color)
        ax.set_title(name)
    axes[0].set_ylabel("$z_2$")


draw_gallery()

# %% [markdown]
# ## Bounds: what the guide gives away
#
# A bound of log p(x) from one draw a case is the ELBO, and what it lacks is the guide's divergence. A bound from
# $K$ draws, averaged before the logarithm, lacks less and less:
#
# $$
# \log p(x) \; \ge \; E \log \frac1K \sum_{k=1}^K \frac{p(x, z_k)}{q(z_k \mid x)}, \qquad z_k \sim q.
# $$
#
# In a real model log p(x) is not known, but how far the bound *rises* with $K$ is, and the guide is off by at least
# that much.

# %%
counts = [2**power for power in range(10)]


def importance(guide: Guess) -> list[float]:
    """What the bound of K draws lacks of log p(x), for each K, in nats a case."""
    torch.manual_seed(1)
    found = importance_sweep(model, guide, batch, counts)
    return [float((log_evidence - found[count]).mean()) for count in counts]


lacking = {name: importance(guide) for name, guide in guides.items()}


def draw_bounds() -> None:
    _, ax = plt.subplots(figsize=(7, 3.4))
    for (name, values), color in zip(lacking.items(), COLORS, strict=False):
        ax.plot(counts, values, "o-", color=color, markersize=3, label=name)
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    ax.set(
        xlabel="draws $K$", ylabel="nats a case", ylim=(0.01, 5), title="What the bound of $K$ draws lacks of log p(x)"
    )
    ax.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))


draw_bounds()

# %% [markdown]
# All guides give something away, and draws make up for it, but not for all alike. The prior lacks most at first and
# soon little: it covers the posterior, so that some of its draws always hit. The guide that is too narrow lacks much
# less at first and most at the end: where it hardly ever looks, more draws hardly help. With one draw the bounds
# would rank these two the wrong way round for whoever means to weight the draws. (Where a line leaves the picture,
# what is lacking is smaller than the noise of 500 cases.)
#
# ## k-hat: is the posterior where the guide does not look?
#
# The importance weights of the draws, $p(x, z) / q(z \mid x)$, tell. A guide that is nearly right has nearly equal
# weights. One that leaves out a tail of the posterior has a few enormous ones, and their largest follow a Pareto distribution
# whose shape is called k-hat: below 0.5 the guide is near, up to 0.7 weighting its draws mends it, above 0.7 nothing
# that is computed from its draws can be trusted.
#
# `pf.to_arviz` draws and keeps the densities, for any model that observes `text` in `texts`; `khat` reads them. For a
# Gaussian whose variance in some direction is a share $c < 1$ of the posterior's, the shape is known: $1 - c$ at the
# smallest $c$. That is 3/4 for the guide that is too narrow, and 2/3 for the one that was learned, which is too narrow
# along the ellipse's long axis.

# %%
drawn = {name: pf.to_arviz(model, guide, batch, draws, prior=False) for name, guide in guides.items()}
shapes = {name: khat(data).values for name, data in drawn.items()}


def draw_shapes() -> None:
    _, ax = plt.subplots(figsize=(7, 3.0))
    spread = np.random.default_rng(0).uniform(-0.28, 0.28, cases)
    for row, (values, color) in enumerate(zip(shapes.values(), COLORS, strict=False)):
        ax.plot(values, row + spread, ".", color=color, markersize=3, alpha=0.5)
        ax.plot(np.median(values), row, "|", color=INK, markersize=22, markeredgewidth=2)
    for limit in (0.5, 0.7):
        ax.axvline(limit, color=FRAME, linestyle="--")
    ax.set_yticks(range(len(shapes)), list(shapes))
    ax.invert_yaxis()
    ax.set(xlabel="k-hat of each case; the bar is the median", title="Left of the dashed lines, a guide passes")


draw_shapes()

# %% [markdown]
# The guide in the wrong place is suspected as well: on its far side it is too thin. Wide guides pass, the prior too,
# but for a few cases far to the right: there the data were a surprise, and hardly a draw from the prior explains them.
#
# Where the guide is wide enough, its draws can be weighted and are then as good as the posterior's. So one checks
# k-hat before one trusts what the weights say:

# %%
for name, data in drawn.items():
    weight = np.exp(data.sample_stats["log_p"] - data.sample_stats["log_q"])
    weight = weight / weight.sum(("chain", "draw"))
    first = data.posterior["z"].isel(z_dim_0=0)
    mean = (weight * first).sum(("chain", "draw"))
    weighted = ((weight * (first - mean) ** 2).sum(("chain", "draw")) ** 0.5).median().item()
    plain = first.std(("chain", "draw")).median().item()
    print(f"{name:>20}: standard deviation {plain:.2f}, weighted {weighted:.2f}, exact {0.6**0.5:.2f}")

# %% [markdown]
# ## Coverage: is the truth where the guide says?
#
# The cases were drawn from the model, so their true numbers are known. That can be had for any model: draw latents
# and data from it, infer, and compare. If the guide is right, its central 90 % interval holds the truth in 90 % of
# the cases, and so for every other share.

# %%
levels = np.linspace(0, 1, 41)


def coverage(data: object) -> np.ndarray:
    """How often the truth lies in the central interval of each level."""
    rank = (data.posterior["z"].values[0] < truth.numpy()).mean(0)
    return np.array([(abs(rank - 0.5) <= level / 2).mean() for level in levels])


covered = {name: coverage(data) for name, data in drawn.items()}


def draw_coverage() -> None:
    _, ax = plt.subplots(figsize=(6.4, 4.2))
    chance = 2 * np.sqrt(levels * (1 - levels) / cases)
    ax.fill_between(levels, levels - chance, levels + chance, color=SHADES(0.4), label="right, give or take chance")
    for (name, values), color in zip(covered.items(), COLORS, strict=False):
        ax.plot(levels, values, color=color, label=name)
    ax.set(xlabel="the interval promises", ylabel="the truth is inside", aspect="equal", title="Coverage")
    ax.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))


draw_coverage()

# %% [markdown]
# Coverage sees what k-hat did not: intervals that are too wide, and ones that are in the wrong place. But it is
# blind as well. The prior passes: whoever says "I don't know", and means it, is right as often as promised. Only the
# bound tells that this guide threw the data away. All three in one table:

# %%
print(f"{'':>20}  {'lacks, K = 1':>12}  {f'K = {counts[-1]}':>8}  {'k-hat':>6}  {'in its 90 %':>11}")
for name in guides:
    first, last = lacking[name][0], lacking[name][-1]
    inside = covered[name][np.isclose(levels, 0.9)].item()
    print(f"{name:>20}  {first:>12.2f}  {last:>8.2f}  {np.median(shapes[name]):>6.2f}  {inside:>11.0%}")

# %% [markdown]
# ## How far k-hat reaches
#
# One warning before k-hat meets a Transformer. It grows with the number of dimensions, because small errors multiply.
# Below is a guide whose standard deviations are only a tenth too small, in more and more dimensions. With endless
# draws k-hat would be 0.19 for all of them. With a few hundred draws it is not.


# %%
class Unmoved(nn.Module):
    """Latents of some size that the data say nothing about: the posterior is the prior."""

    def __init__(self, size: int, scale: float = 1.0, sees: bool = True) -> None:
        super().__init__()
        self.size, self.scale, self.sees = size, scale, sees

    def forward(self, batch: pf.Batch) -> None:
        with pyro.plate("texts", 20, dim=-1):
            pyro.sample("z", dist.Normal(torch.zeros(20, self.size), self.scale).to_event(1))
            if self.sees:
                pyro.sample("text", dist.Normal(torch.zeros(20), 1.0), obs=torch.zeros(20))


sizes = [4**power for power in range(6)]
twenty = pf.Batch.pad([[2]] * 20)
by_size = [
    khat(pf.to_arviz(Unmoved(size), Unmoved(size, 0.9, sees=False), twenty, draws // 2, prior=False)).values
    for size in sizes
]


def draw_sizes() -> None:
    _, ax = plt.subplots(figsize=(6.4, 3.2))
    ax.plot(sizes, by_size, ".", color=COLORS[4], alpha=0.6)
    ax.plot(sizes, np.median(by_size, axis=1), "o-", color=COLORS[0], label="median of 20 cases")
    ax.axhline(0.7, color=FRAME, linestyle="--", label="0.7")
    ax.set_xscale("log", base=2)
    ax.set(xlabel="dimensions", ylabel="k-hat", title="A guide that is a tenth too narrow")
    ax.legend(frameon=False)


draw_sizes()

# %% [markdown]
# The posterior of a sentence under an `NVAE` has more than a thousand dimensions. A k-hat above 0.7 there does not
# mean that the model is useless; it means that the guide's draws, weighted or not, do not stand for the posterior,
# and that the importance-weighted bound is still well below log p(x). Compare models by bounds of the same number of
# draws, then, and say the number.
#
# ## What to try next
#
# - Here: draw fewer cases, and see how much of a bad guide chance can hide in the picture of coverage; give
#   `Independent` a full `scale_tril` to learn, and see all checks pass.
# - With a run of yours: `data = run.posterior(texts, draws=200)`, then `khat(data)` for each text, and `khat(data,
#   "vectors")` for how far the text moves one site away from its prior.
# - `pf.diagnostics.calibrate(model, guide)` draws the data anew many times and ranks the truth among the guide's draws,
#   for any model; `.table()` and `pf.plots.ranks` show it. It ranks log p as well, which finds out even the prior.
# - `run.evaluate()` prints the bound of one draw beside those of more; `compare(first, second, texts)` in
#   `pyroformer.inference.diagnostics` says which of two runs finds held-out texts more probable, with a standard
#   error.
# - The guide's gap is one of two reasons for a bad bound. The other is the model: [04_new_prior](04_new_prior.ipynb)
#   changes that.
