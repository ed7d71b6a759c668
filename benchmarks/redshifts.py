r"""Redshifts of galaxies by attention to a catalog whose colors have error bars.

    pip install --no-deps pz-rail-base                  # 10,225 galaxies come with it
    python benchmarks/redshifts.py --data .../rail/examples_data/testdata/test_dc2_training_9816.pq [--seeds 5]

The catalog (MIT license) is a part of cosmoDC2, a simulated sky as LSST would see it after ten years, with the error
bars of its magnitudes. A galaxy of known redshift is a key, its five colors and its magnitude, with a value, the
redshift; a galaxy of unknown redshift is a query. Error bars differ by a factor of a thousand, and in the u band 7 % of
the galaxies were not seen at all.

dot product            softmax attention
distance               Gaussian keys, all equally precise
error bars of keys     a variance for each entry of a key, its error bar; that of the catalog where it was not seen
and of the query       the error bars of the query as well

Each learns a scale for every feature and the spread of redshifts at a key, from the catalog alone: by the log density
of each galaxy's redshift given all others. Then the rivals that have no error bars, nearest neighbors with as many
neighbors as are best on held-out galaxies, and a random forest that reads the error bars as features.

Columns, for 2,000 queries: root mean square error; the same of the fainter half; 1.48 times the median absolute
deviation of (z - z') / (1 + z'), the field's metric; the share of queries off by more than 0.15 in it; the negative log
density of the redshift; and how often the central 90 % interval holds it.
"""

import math
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from reporting import Scores, add, argument_parser, table
from sklearn.ensemble import RandomForestRegressor
from sklearn.neighbors import KNeighborsRegressor
from torch import Tensor, nn

import pyroformer as pf
from pyroformer.models.attention.bayes_rule import evidence, responsibilities

BANDS = "ugrizy"
UNSEEN = 40  # no magnitude is as large: 99 marks what was not seen
QUERIES, HELD_OUT, STEPS, BATCH = 2000, 1000, 200, 64


class Galaxies(NamedTuple):
    """Features with their variances, and redshifts."""

    features: Tensor
    variances: Tensor
    redshift: Tensor

    def __getitem__(self, rows: object) -> "Galaxies":
        return Galaxies(*(column[rows] for column in self._asdict().values()))


def read(path: Path, seed: int) -> Galaxies:
    """The catalog in random order: colors against the i band and its magnitude, standardized."""
    frame = pd.read_parquet(path).sample(frac=1, random_state=seed)
    magnitudes, errors = (
        torch.tensor(frame[[f"{kind}_{band}_lsst" for band in BANDS]].to_numpy(), dtype=torch.float32)
        for kind in ("mag", "mag_err")
    )
    base, others = BANDS.index("i"), [BANDS.index(band) for band in "ugrzy"]
    seen = (magnitudes < UNSEEN)[:, [*others, base]]
    features = torch.cat([magnitudes[:, others] - magnitudes[:, [base]], magnitudes[:, [base]]], -1)
    variances = errors[:, [*others, base]].square()  # the i band's error is far below that of the other bands
    mean, spread = (
        torch.stack([f(features[seen[:, d], d]) for d in range(len(BANDS))]) for f in (torch.mean, torch.std)
    )
    features, variances = (features - mean) / spread, (variances / spread.square()).clamp_max(1.0)
    redshift = torch.tensor(frame["redshift"].to_numpy(), dtype=torch.float32)[:, None]
    return Galaxies(torch.where(seen, features, 0.0), torch.where(seen, variances, 1.0), redshift)


class Attention(nn.Module):
    """Attention to a catalog with a learned scale for every feature, as a distribution over redshifts."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.log_scale = nn.Parameter(torch.full((len(BANDS),), math.log(0.2)))
        self.log_spread = nn.Parameter(torch.tensor(math.log(0.1)))
        self.log_query, self.offset = nn.Parameter(torch.zeros(len(BANDS))), nn.Parameter(torch.zeros(len(BANDS)))

    def forward(self, queries: Galaxies, catalog: Galaxies) -> tuple[Tensor, pf.Mixture]:
        """Queries and the mixture that they attend to; one for each query where its error bars count."""
        scale = self.log_scale.exp()
        u, keys, values = queries.features / scale, catalog.features / scale, catalog.redshift
        spread = (2 * self.log_spread).exp().expand(1, 1)
        if self.kind == "dot product":
            mixture = pf.Mixture.from_attention(keys, values)
            return u * self.log_query.exp() + self.offset, replace(mixture, value_variances=spread)
        variances = None
        if self.kind != "distance":
            variances = catalog.variances / scale.square()
        if self.kind == "and of the query":
            assert variances is not None
            u, variances = u[:, None], variances + (queries.variances / scale.square())[:, None]
            keys, values = keys.expand_as(variances), values.expand(len(u), -1, -1)
        flat = keys.new_zeros(keys.shape[:-1])
        return u, pf.Mixture(flat, keys, variances, values=values, noise_variance=1.0, value_variances=spread)

    def log_density(self, queries: Galaxies, catalog: Galaxies, others: Tensor | None = None) -> Tensor:
        """log p(redshift | features) of each query, with shape [M]; ``others`` masks keys that it may not read."""
        u, mixture = self(queries, catalog)
        values = queries.redshift
        if u.ndim == 3:
            values, others = values[:, None], None if others is None else others[:, None]
        both, alone = evidence(u, mixture, others, values=values), evidence(u, mixture, others)
        return (both - alone).reshape(-1)

    def learn(self, catalog: Galaxies) -> "Attention":
        """Fits the scales to the redshift of each galaxy given all others."""
        optimizer = torch.optim.Adam(self.parameters(), lr=0.03)
        for step in range(STEPS):
            optimizer.param_groups[0]["lr"] = 0.03 * (1 - step / STEPS)
            rows = torch.randint(len(catalog.redshift), (BATCH,))
            others = rows[:, None] != torch.arange(len(catalog.redshift))
            optimizer.zero_grad()
            (-self.log_density(catalog[rows], catalog, others).mean()).backward()
            optimizer.step()
        return self

    @torch.no_grad()
    def predict(self, queries: Galaxies, catalog: Galaxies) -> tuple[Tensor, dict[str, float]]:
        """Posterior means, [M], and what the density says of the true redshifts."""
        means, densities, below = [], [], []
        for rows in torch.arange(len(queries.redshift)).split(BATCH):
            some = queries[rows]
            u, mixture = self(some, catalog)
            means.append(pf.attend(u, mixture).reshape(-1))
            densities.append(self.log_density(some, catalog))
            weights = responsibilities(u, mixture).reshape(len(rows), -1)
            normal = torch.special.ndtr((some.redshift - catalog.redshift.T) / self.log_spread.exp())
            below.append((weights * normal).sum(-1))
        inside = (torch.cat(below) - 0.5).abs() < 0.45
        return torch.cat(means), {"nll": -float(torch.cat(densities).mean()), "in 90 %": float(inside.float().mean())}


def errors(predicted: Tensor, queries: Galaxies) -> dict[str, float]:
    """The field's metrics of redshifts."""
    truth = queries.redshift[:, 0]
    faint = queries.features[:, -1] > queries.features[:, -1].median()
    relative = (predicted - truth) / (1 + truth)
    return {
        "rmse": float((predicted - truth).square().mean().sqrt()),
        "rmse, faint": float((predicted - truth)[faint].square().mean().sqrt()),
        "nmad": 1.4826 * float((relative - relative.median()).abs().median()),
        "outliers": float((relative.abs() > 0.15).float().mean()),
    }


def rivals(catalog: Galaxies, held_out: Galaxies, queries: Galaxies, seed: int) -> dict[str, Tensor]:
    """Predictions of nearest neighbors and of a random forest."""
    x, y = catalog.features.numpy(), catalog.redshift[:, 0].numpy()

    def neighbors(k: int, of: Galaxies) -> Tensor:
        return torch.from_numpy(KNeighborsRegressor(k, weights="distance").fit(x, y).predict(of.features.numpy()))

    best = min((3, 5, 10, 20, 40), key=lambda k: errors(neighbors(k, held_out), held_out)["rmse"])
    both = [np.hstack([g.features.numpy(), g.variances.log().numpy()]) for g in (catalog, queries)]
    forest = RandomForestRegressor(200, min_samples_leaf=3, random_state=seed).fit(both[0], y)
    return {"nearest neighbors": neighbors(best, queries), "random forest": torch.from_numpy(forest.predict(both[1]))}


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--data", type=Path, required=True, help="the catalog, a parquet file")
    parser.add_argument("--seeds", type=int, default=5, help="random divisions into catalog and queries")
    options = parser.parse_args()
    scores: Scores = {}
    for seed in range(options.seeds):
        torch.manual_seed(seed)
        galaxies = read(options.data, seed)
        queries, held_out = galaxies[:QUERIES], galaxies[QUERIES : QUERIES + HELD_OUT]
        catalog = galaxies[QUERIES + HELD_OUT :]
        for kind in ("dot product", "distance", "error bars of keys", "and of the query"):
            predicted, density = Attention(kind).learn(catalog).predict(queries, catalog)
            add(scores, kind, **errors(predicted, queries), **density)
        for name, predicted in rivals(catalog, held_out, queries, seed).items():
            add(scores, name, **errors(predicted, queries))
    print(table(scores))


if __name__ == "__main__":
    main()
