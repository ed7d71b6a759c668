r"""Out-of-distribution detection by the evidence of a query, compared with attention weights and distances.

    python benchmarks/out_of_distribution.py [--seeds 5] [--out FILE]

scikit-learn's digits, first 20 principal components. The memory is 600 images of the classes 0 to 7, with their class
as value; queries are held-out images of these classes, and six kinds of images that are not: classes 8 and 9, inverted,
uniform noise, contrast times 0.3 and 2, shuffled pixels. Scores are areas under the ROC curve: the probability that
an image of the known classes has the higher score, with 1/2 for chance. Each seed is another split.

    log p(q)                 the evidence, the denominator of attention's softmax
    attention weight         the largest weight
    class entropy            of the attention's output, for squared distances and for dot products
    nearest neighbor        distance to the nearest of the memory's images; to the fifth
    Mahalanobis              least distance to a class mean under the pooled covariance

The variance maximizes the leave-one-out evidence; the temperatures of the other methods minimize the leave-one-out NLL
of the class. Tuning uses images of the known classes alone.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from reporting import Scores, add, command_line, table
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.metrics import roc_auc_score
from torch import Tensor

import pyroformer as pf
from pyroformer.models.attention.kernel.natural_parameters import natural

CLASSES, MEMORY = 8, 600
PRECISIONS = tuple(float(x) for x in np.geomspace(0.25, 64, 17))

Images = np.ndarray
Familiarity = Callable[[Tensor], Tensor]


class Split(NamedTuple):
    """Memory and its classes, held-out images, and the projection of images."""

    memory: Tensor
    labels: Tensor
    held_out: Images
    project: Callable[[Images], Tensor]


def split(seed: int) -> Split:
    digits = load_digits()
    images, labels = digits.data / 16, digits.target
    order = np.random.default_rng(seed).permutation(np.flatnonzero(labels < CLASSES))
    train, rest = order[:MEMORY], order[MEMORY:]
    pca = PCA(20, random_state=0).fit(images[train])

    def project(some: Images) -> Tensor:
        return torch.as_tensor(pca.transform(some))

    return Split(project(images[train]), torch.as_tensor(labels[train]), images[rest], project)


def strangers(known: Images, seed: int) -> dict[str, Images]:
    """Images of unknown kinds, most of them made from held-out images of known classes."""
    digits, generator = load_digits(), np.random.default_rng(seed)
    return {
        "classes 8, 9": digits.data[digits.target >= CLASSES] / 16,
        "inverted": 1 - known,
        "noise": generator.random((300, known.shape[1])),
        "contrast × 0.3": 0.3 * known,
        "contrast × 2": 2 * known,
        "shuffled": generator.permuted(known, axis=1),
    }


def familiarities(data: Split) -> dict[str, Familiarity]:
    """The score of an image under each method; larger is more familiar."""
    values = torch.nn.functional.one_hot(data.labels, CLASSES).double()
    zeros = torch.zeros(MEMORY, dtype=torch.float64)

    def distances(precision: float) -> pf.Mixture:
        return pf.Mixture(zeros.log_softmax(-1), data.memory, values=values, noise_variance=1 / precision)

    def products(temperature: float) -> tuple[pf.Mixture, float]:
        return pf.Mixture.from_attention(data.memory, values), temperature * data.memory.shape[1] ** 0.5

    def loss(mixture: pf.Mixture, scale: float = 1.0) -> float:
        return _leave_one_out(scale * data.memory, mixture, data.labels)[1]

    density = distances(max(PRECISIONS, key=lambda p: _leave_one_out(data.memory, distances(p), data.labels)[0]))
    metric = distances(min(PRECISIONS, key=lambda p: loss(distances(p))))
    product, scale = products(min(PRECISIONS, key=lambda t: loss(*products(t))))
    return {
        "log p(q)": lambda q: pf.attend(q, density, returns="evidence"),
        "attention weight, L2": lambda q: _weights(q, metric).amax(-1),
        "attention weight, dot product": lambda q: _weights(scale * q, product).amax(-1),
        "class entropy, L2": lambda q: _negative_entropy(pf.attend(q, metric)),
        "class entropy, L2 at the evidence's variance": lambda q: _negative_entropy(pf.attend(q, density)),
        "class entropy, dot product": lambda q: _negative_entropy(pf.attend(scale * q, product)),
        "nearest neighbor": lambda q: -torch.cdist(q, data.memory).amin(-1),
        "fifth neighbor": lambda q: -torch.cdist(q, data.memory).kthvalue(5, -1).values,
        "Mahalanobis": _mahalanobis(data),
    }


def _weights(queries: Tensor, mixture: pf.Mixture) -> Tensor:
    return natural(mixture, mixture.query_variance).joint(queries)[0].softmax(-1)


def _leave_one_out(queries: Tensor, mixture: pf.Mixture, labels: Tensor) -> tuple[float, float]:
    """Mean evidence of the memory's images without their own component, and NLL of their classes."""
    logits, own = natural(mixture, mixture.query_variance).joint(queries)
    logits = logits.fill_diagonal_(-torch.inf)
    assert mixture.values is not None
    shares = (logits.softmax(-1) @ mixture.values)[torch.arange(len(labels)), labels]
    return float((logits.logsumexp(-1) + own).mean()), -float(shares.clamp_min(1e-12).log().mean())


def _negative_entropy(shares: Tensor) -> Tensor:
    return torch.special.xlogy(shares, shares.clamp_min(1e-300)).sum(-1)


def _mahalanobis(data: Split) -> Familiarity:
    means = torch.stack([data.memory[data.labels == label].mean(0) for label in range(CLASSES)])
    factor = torch.linalg.cholesky((data.memory - means[data.labels]).mT.cov())

    def familiarity(queries: Tensor) -> Tensor:
        whitened = [torch.linalg.solve_triangular(factor, x.mT, upper=False).mT for x in (queries, means)]
        return -torch.cdist(whitened[0], whitened[1]).amin(-1)

    return familiarity


def measure(seed: int, scores: Scores) -> None:
    data = split(seed)
    known = data.project(data.held_out)
    unknown = {kind: data.project(images) for kind, images in strangers(data.held_out, seed).items()}
    for name, familiarity in familiarities(data).items():
        inside = familiarity(known)
        areas = {}
        for kind, queries in unknown.items():
            both = torch.cat([inside, familiarity(queries)])
            areas[kind] = float(roc_auc_score((torch.arange(len(both)) < len(inside)).numpy(), both.numpy()))
        add(scores, name, **areas)


def report(seeds: int) -> str:
    scores: Scores = {}
    for seed in range(seeds):
        measure(seed, scores)
    return f"AUROC, {seeds} splits\n\n{table(scores)}"


if __name__ == "__main__":
    command_line(report, __doc__, seeds=5)
