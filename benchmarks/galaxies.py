"""The velocities of 82 galaxies: a Dirichlet-process mixture by SVI, beside scikit-learn's.

python benchmarks/galaxies.py galaxies.csv
"""

from pathlib import Path

import numpy as np
import pyro.distributions as dist
import torch
from pyro.infer import TraceEnum_ELBO
from pyro.infer.autoguide import AutoNormal
from pyro.infer.autoguide.initialization import init_to_value
from reporting import argument_parser
from sklearn.mixture import BayesianGaussianMixture
from torch import Tensor

from pyroformer.guides.automatic import Automatic
from pyroformer.inference.svi import SVI
from pyroformer.models.attention.bayes_rule import responsibilities
from pyroformer.models.attention.mixture import Mixture
from pyroformer.models.mixture_attention.model import MixtureAttention
from pyroformer.models.priors.components import DirichletProcess, GaussianVectors

UNITS = 10


def velocities(path: Path) -> Tensor:
    """The data, standardized, with shape [82, 1]."""
    data = torch.from_numpy(np.loadtxt(path, skiprows=1)).float()[:, None]
    return (data - data.mean(0)) / data.std(0, unbiased=False)


def expected_counts(queries: Tensor, steps: int = 400, draws: int = 50) -> Tensor:
    """The expected number of galaxies of each component under the fitted posterior, in descending order.

    The base measure is scikit-learn's default, a Normal-Gamma distribution of one pseudo-count with the variance of the
    data; the concentration has the prior of Escobar and West (1995). Components are initialized along the data, the
    middle ones first, because the first weights of a stick-breaking process are the largest.
    """
    start = torch.linspace(float(queries.min()), float(queries.max()), UNITS)[:, None]
    start = start[start[:, 0].abs().argsort()]
    mixture = Mixture(torch.zeros(UNITS), torch.zeros(UNITS, 1), noise_variance=1.0)
    model = MixtureAttention(
        mixture,
        keys=GaussianVectors(mixture.means, 1.0),
        precision=dist.Gamma(0.5, 0.5),
        weights=DirichletProcess(dist.Gamma(2.0, 4.0)),
    )
    values = {"keys": start, "precision": torch.full((UNITS,), 10.0), "weights": torch.zeros(UNITS).log_softmax(-1)}
    guide = Automatic(model, AutoNormal, init_loc_fn=init_to_value(values=values), init_scale=0.05)
    svi = SVI(model, guide, torch.optim.Adam, loss=TraceEnum_ELBO(max_plate_nesting=1), lr=0.1)
    for _ in range(steps):
        svi.step(queries)
    counts = torch.zeros(UNITS)
    with torch.no_grad():
        for _ in range(draws):
            counts += responsibilities(queries, model.mixture(guide(queries))).sum(0) / draws
    return counts.sort(descending=True).values


def scikit_learn(queries: Tensor, seed: int = 0) -> Tensor:
    """The expected numbers of scikit-learn's mean-field approximation, at its defaults and 10 starts."""
    distribution = BayesianGaussianMixture(n_components=UNITS, n_init=10, max_iter=2000, tol=1e-5, random_state=seed)
    counts = distribution.fit(queries.numpy()).predict_proba(queries.numpy()).sum(0)
    return torch.from_numpy(np.sort(counts)[::-1].copy())


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("data", type=Path, help="galaxies.csv: a heading and one velocity a line")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    queries = velocities(options.data)
    print("| program | seed | components with at least 1 galaxy | expected counts |\n|---|---:|---:|---|")
    for seed in range(options.seeds):
        torch.manual_seed(seed)
        for name, counts in (("SVI", expected_counts(queries)), ("scikit-learn", scikit_learn(queries, seed))):
            shown = ", ".join(f"{count:.1f}" for count in counts if count >= 1)
            print(f"| {name} | {seed} | {int((counts >= 1).sum())} | {shown} |", flush=True)


if __name__ == "__main__":
    main()
