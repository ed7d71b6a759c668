r"""Cost of EM: a Gaussian mixture fitted by ``pf.em.adapt`` and by scikit-learn, from the same start, step for step.

    python benchmarks/em.py [--queries N] [--threads 1] [--out FILE]

K spherical components in d dimensions, maximum likelihood (no prior, no regularization, no convergence test), a fixed
number of steps and one more E-step. Fits take turns and the fastest of each counts, because other load on the machine
can only increase a time. Both programs have the same number of threads. The second table is the peak memory beyond the
inputs; with the number of queries, only their shifted copy grows.
"""

import warnings
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from measuring import profiled_peak, seconds
from reporting import command_line, markdown
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from threadpoolctl import threadpool_limits
from torch import Tensor

import pyroformer as pf

TOLERANCE = {torch.float64: 1e-9, torch.float32: 5e-3}
"""How far means, variances and weights may be from scikit-learn's in double precision, relative to the largest."""


class Problem(NamedTuple):
    """Queries and the mixture that EM starts from."""

    queries: Tensor
    log_weights: Tensor
    vectors: Tensor
    variances: Tensor

    @classmethod
    def draw(cls, queries: int, components: int, width: int) -> "Problem":
        """Queries from a mixture with as many components; the start is its means plus noise, and one variance."""
        generator = torch.Generator().manual_seed(0)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        means = 1.5 * normal(components, width)
        scales = 0.5 + torch.rand(components, 1, generator=generator, dtype=torch.float64)
        drawn = torch.randint(components, (queries,), generator=generator)
        return cls(
            means[drawn] + scales[drawn] * normal(queries, width),
            torch.zeros(components, dtype=torch.float64).log_softmax(-1),
            means + 0.5 * normal(components, width),
            torch.ones(components, 1, dtype=torch.float64),
        )

    def to(self, dtype: torch.dtype) -> "Problem":
        return Problem(*(x.to(dtype) for x in self))


class Fit(NamedTuple):
    """The fitted mixture."""

    vectors: Tensor
    variances: Tensor
    weights: Tensor

    def distance(self, other: "Fit") -> float:
        """The largest difference of any parameter, relative to the largest entry."""
        return max(float((a.double() - b).abs().max() / b.abs().max()) for a, b in zip(self, other, strict=True))


def ours(problem: Problem, steps: int) -> Fit:
    state = pf.em.adapt(
        problem.queries,
        pf.Mixture(problem.log_weights, problem.vectors, problem.variances, noise_variance=0.0),
        steps=steps,
        moves=("means", "variances", "weights"),
        priors=pf.em.ConjugatePriors(pseudo_counts=0.0),
    ).mixture
    variances = state.dense_variances()
    assert variances is not None
    return Fit(state.means, variances[..., 0], state.log_weights.exp())


def theirs(problem: Problem, steps: int) -> Fit:
    arrays = [x.numpy() for x in (problem.log_weights.exp(), problem.vectors, 1 / problem.variances[:, 0])]
    mixture = GaussianMixture(
        len(arrays[0]), covariance_type="spherical", tol=0, reg_covar=0, max_iter=steps,
        weights_init=arrays[0], means_init=arrays[1], precisions_init=arrays[2],
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # tol=0: it never says that it has converged
        mixture.fit(problem.queries.numpy())
    return Fit(*(torch.as_tensor(x) for x in (mixture.means_, mixture.covariances_, mixture.weights_)))


def speed_table(problem: Problem, steps: int, rounds: int) -> str:
    """Seconds, ratios, and the difference of the results."""
    double, single = problem, problem.to(torch.float32)
    forms: dict[str, Callable[[], Fit]] = {
        "scikit-learn, float64": lambda: theirs(double, steps),
        "scikit-learn, float32": lambda: theirs(single, steps),
        "pyroformer, float64": lambda: ours(double, steps),
        "pyroformer, float32": lambda: ours(single, steps),
    }
    fits = {name: form() for name, form in forms.items()}  # also the round that does not count
    gaps = {name: fit.distance(fits["scikit-learn, float64"]) for name, fit in fits.items()}
    for name, dtype in (("pyroformer, float64", torch.float64), ("pyroformer, float32", torch.float32)):
        assert gaps[name] < TOLERANCE[dtype], f"{name} is {gaps[name]:.1e} from scikit-learn"
    times = seconds(forms, rounds, warm_ups=0)
    rows = []
    for name, taken in times.items():
        ratios = [f"{times[f'scikit-learn, {dtype}'] / taken:.1f}" for dtype in ("float64", "float32")]
        rows.append([name, f"{taken:.2f}", *ratios, f"{gaps[name]:.0e}"])
    return markdown(["", "seconds", "sklearn float64 ÷ this", "sklearn float32 ÷ this", "largest difference"], rows)


def memory_table(problem: Problem, components: tuple[int, ...] = (64, 256)) -> str:
    """Bytes at a quarter of the queries, half of them and all, and the size of the avoided matrix of weights."""
    rows = []
    total, width = problem.queries.shape
    for count in components:
        single = Problem.draw(total, count, width).to(torch.float32)
        parts = {n: single._replace(queries=single.queries[:n].clone()) for n in (total // 4, total // 2, total)}
        peaks = {n: profiled_peak(partial(ours, part, 1)) for n, part in parts.items()}
        (few, fewest), *_, (many, most) = peaks.items()
        slope = (most - fewest) / (many - few)
        rows += [
            [n, count, f"{peak / 2**20:.1f}", f"{slope:.0f}", f"{4 * n * count / 2**20:.1f}"]
            for n, peak in peaks.items()
        ]
    head = ["queries", "K", "peak beyond the inputs, MiB", "of it for each query, bytes", "weights would be, MiB"]
    return markdown(head, rows, left=0)


def report(queries: int, components: int, width: int, steps: int, rounds: int, threads: int) -> str:
    """Both tables."""
    problem = Problem.draw(queries, components, width)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with threadpool_limits(threads):
            title = (
                f"n = {queries}, K = {components}, d = {width}, {steps} steps, {threads} thread(s), fastest of {rounds}"
            )
            return f"{title}\n\n{speed_table(problem, steps, rounds)}\n{memory_table(problem)}"
    finally:
        torch.set_num_threads(before)


if __name__ == "__main__":
    command_line(report, __doc__, queries=100_000, components=64, width=16, steps=20, rounds=7, threads=1)
