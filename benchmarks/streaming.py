r"""A mixture of Gaussians fitted to rows on disk: time and memory, by their number.

    python benchmarks/streaming.py [--rows 1000000 10000000] [--steps 3] [--folder /tmp]

Rows of 8 columns in float32 are drawn from four clusters and written to a ``numpy.memmap``. ``fit`` reads them 50,000
at a time in every step, ``partial_fit`` once. Each runs in a process of its own; its memory is the peak that the
operating system counts as resident, mapped pages of the file included, beyond that before the fit.
"""

import multiprocessing
import resource
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from reporting import argument_parser, markdown

import pyroformer as pf

WIDTH, CLUSTERS, BATCH = 8, 4, 50_000


def write(path: Path, rows: int) -> None:
    """Rows of four clusters, a batch at a time."""
    generator = np.random.default_rng(0)
    centers = 3 * generator.standard_normal((CLUSTERS, WIDTH))
    table = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(rows, WIDTH))
    for start in range(0, rows, BATCH):
        part = table[start : start + BATCH]
        labels = generator.integers(CLUSTERS, size=len(part))
        part[:] = centers[labels] + generator.standard_normal(part.shape)
    table.flush()


def measured(path: Path, how: str, steps: int) -> dict[str, float]:
    """Seconds, MiB of memory beyond those before, and the mean log density of the first rows."""
    options = {"covariance_type": "diag", "random_state": 0, "reg_covar": 0.0}
    pf.GaussianMixture(2, **options).fit(np.random.default_rng(0).standard_normal((1000, WIDTH)))
    table = np.load(path, mmap_mode="r")
    before, start = _resident(), time.perf_counter()
    if how == "fit":
        mixture = pf.GaussianMixture(CLUSTERS, max_iter=steps, tol=0.0, batch_size=BATCH, **options)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of convergence: the number of steps is given
            mixture.fit(table)
    else:
        mixture = pf.GaussianMixture(CLUSTERS, **options)
        for first in range(0, len(table), BATCH):
            mixture.partial_fit(table[first : first + BATCH])
    seconds, memory = time.perf_counter() - start, _resident() - before
    return {"seconds": seconds, "memory": memory, "score": mixture.score(np.array(table[:BATCH]))}


def report(rows: list[int], steps: int, folder: Path | None = None) -> str:
    """The table."""
    table = []
    for number in rows:
        with tempfile.TemporaryDirectory(dir=folder) as where:
            path = Path(where) / "rows.npy"
            write(path, number)
            for how in ("fit", "partial_fit"):
                with multiprocessing.get_context("spawn").Pool(1, torch.set_num_threads, (1,)) as pool:
                    result = pool.apply(measured, (path, how, steps))
                cells = [f"{result['seconds']:.0f}", f"{result['memory']:.0f}", f"{result['score']:.3f}"]
                table.append([f"{number:,}", f"{number * WIDTH * 4 / 2**20:.0f}", how, *cells])
    head = ["rows", "on disk, MiB", "", "seconds", "memory beyond what was there, MiB", "mean log density"]
    return (
        f"{WIDTH} columns, {CLUSTERS} components of diagonal covariances, 1 thread; `fit` makes {steps} steps.\n\n"
        f"{markdown(head, table, left=0)}"
    )


def _resident() -> float:
    """The peak resident memory of this process so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    parser = argument_parser(__doc__, rows=[1_000_000, 10_000_000], steps=3)
    parser.add_argument("--folder", type=Path, help="where rows are written to; they are deleted")
    options = parser.parse_args()
    print(report(options.rows, options.steps, options.folder))
