r"""Cost of attention over a mixture, relative to softmax attention of the same size.

    python benchmarks/attention.py [--device cuda] [--out FILE]

One layer each, projections included: M = N queries over N components, ``--width`` P, ``--heads`` H. The layers take
turns; a ratio is one of fastest rounds, because other load on the machine can only increase a time.

    plain               softmax attention: F.scaled_dot_product_attention between four projections
    training            fused, over point masses, which is a sampled mixture in training
    training, explicit  the same with the matrix of weights in memory
    rank 2              fused, over Gaussian components with one variance vector shared by all tokens; exact form
    diagonal            fused, over Gaussian components with a variance of their own in each dimension; exact form
    P-wide, explicit    the same in the published computation: queries lifted to P dimensions, weights in memory

Kernels alone (``attend`` against scaled_dot_product_attention on H heads of width E) are the second table.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from measuring import peak_memory, place, seconds
from reporting import command_line, markdown
from torch import Tensor

import pyroformer as pf
from pyroformer.models.attention.layers.denoising import DenoisingAttention
from pyroformer.models.attention.variances import SharedVariances

Layer = Callable[[], Tensor]


class Cost(NamedTuple):
    """Seconds of the fastest round, forward alone and with the backward pass, and the peak memory in bytes."""

    forward: float
    both: float
    memory: int

    def ratios(self, base: "Cost") -> list[str]:
        return [f"{ours / theirs:.2f}" for ours, theirs in zip(self, base, strict=True)]


class Problem(NamedTuple):
    """Random inputs of one size."""

    layer: DenoisingAttention
    x: Tensor
    log_weights: Tensor
    vectors: Tensor
    variances: Tensor
    shared: SharedVariances
    mask: Tensor

    @classmethod
    def draw(cls, batch: int, components: int, width: int, heads: int, device: str) -> "Problem":
        torch.manual_seed(0)
        x, vectors = torch.randn(2, batch, components, width, device=device).unbind(0)
        groups = torch.arange(components, device=device).clamp_max(1)
        mask = torch.arange(components, device=device) < components - torch.arange(batch, device=device)[:, None]
        return cls(
            DenoisingAttention(width, heads).to(device),
            x.requires_grad_(),
            torch.randn(batch, components, device=device).log_softmax(-1).requires_grad_(),
            vectors.requires_grad_(),
            torch.rand(batch, components, width, device=device).requires_grad_(),
            SharedVariances(torch.rand(2, width, device=device).requires_grad_(), groups),
            mask,
        )

    def mixture(self, variances: Tensor | SharedVariances | None = None) -> pf.Mixture:
        return pf.Mixture(self.log_weights, self.vectors, variances, self.mask)

    @property
    def leaves(self) -> list[Tensor]:
        inputs = [self.x, self.log_weights, self.vectors, self.variances, self.shared.table]
        return [*inputs, *self.layer.parameters()]


def layers(problem: Problem) -> dict[str, Layer]:
    """Each form of a whole layer as a function without arguments."""
    layer, x = problem.layer, problem.x
    return {
        "plain": lambda: plain(layer, x, problem.vectors),
        "training": lambda: layer(x, problem.mixture()),
        "training, explicit": lambda: explicit(layer, x, problem.mixture()),
        "rank 2": lambda: layer(x, problem.mixture(problem.shared)),
        "diagonal": lambda: layer(x, problem.mixture(problem.variances)),
        "P-wide, explicit": lambda: explicit_wide(layer, x, problem.mixture(problem.variances)),
    }


def kernels(problem: Problem) -> dict[str, Layer]:
    """The same without projections: the heads after them."""
    heads = problem.layer.heads
    q, k = (tensor.unflatten(-1, (heads, -1)).transpose(1, 2) for tensor in (problem.x, problem.vectors))
    log_weights = problem.log_weights[:, None].expand(q.shape[:-1])
    mask = problem.mask[:, None]
    variances = problem.variances[:, None, :, : q.shape[-1]]
    shared = problem.shared._replace(table=problem.shared.table[:, : q.shape[-1]])
    return {
        "plain": lambda: F.scaled_dot_product_attention(q, k, k),
        "training": lambda: pf.attend(q, pf.Mixture(log_weights, k, mask=mask)),
        "rank 2": lambda: pf.attend(q, pf.Mixture(log_weights, k, shared, mask)),
        "diagonal": lambda: pf.attend(q, pf.Mixture(log_weights, k, variances, mask)),
    }


def plain(layer: DenoisingAttention, x: Tensor, vectors: Tensor) -> Tensor:
    queries, keys, values = (_heads(layer, y) for y in (layer.query(x), layer.key(vectors), layer.value(vectors)))
    return _merge(layer, F.scaled_dot_product_attention(queries, keys, values))


def explicit(layer: DenoisingAttention, x: Tensor, mixture: pf.Mixture) -> Tensor:
    """Point masses with the matrix of weights in memory."""
    queries, keys = _heads(layer, layer.query(x)), _heads(layer, layer.key(mixture.means))
    noise = math.sqrt(queries.shape[-1])
    bias = mixture.log_weights - mixture.means.square().sum(-1) / (2 * noise)
    bias = bias.masked_fill(~mixture.present, -1e30)
    weights = (queries @ keys.mT / noise + bias[:, None, None]).softmax(-1)
    return _merge(layer, weights @ _heads(layer, layer.value(mixture.means)))


def explicit_wide(layer: DenoisingAttention, x: Tensor, mixture: pf.Mixture) -> Tensor:
    """Gaussian components with queries, logits and answers in all P dimensions of every head."""
    queries = _heads(layer, layer.query(x))
    noise = math.sqrt(queries.shape[-1])
    lifted = torch.einsum("bhme,hep->bhmp", queries, layer.key.weight.unflatten(0, (layer.heads, -1)))
    variances = mixture.dense_variances()
    assert variances is not None
    total = variances + noise
    bias = mixture.log_weights - 0.5 * (mixture.means.square() / total + total.log()).sum(-1)
    bias = bias.masked_fill(~mixture.present, -1e30)
    linear, square = (mixture.means / total)[:, None].mT, (-0.5 / total)[:, None].mT
    weights = (lifted @ linear + lifted.square() @ square + bias[:, None, None]).softmax(-1)
    shrinkage = variances / total
    denoised = weights @ ((1 - shrinkage) * mixture.means)[:, None] + (weights @ shrinkage[:, None]) * lifted
    answers = torch.einsum("bhmp,hep->bhme", denoised, layer.value.weight.unflatten(0, (layer.heads, -1)))
    return _merge(layer, answers + layer.value.bias.unflatten(0, (layer.heads, 1, -1)))


def measure(forms: dict[str, Layer], leaves: list[Tensor], rounds: int, device: str) -> dict[str, Cost]:
    """Costs of the forms, which take turns; those of memory are of both passes, beyond their inputs."""

    def forward(form: Layer) -> None:
        with torch.no_grad():
            form()

    def both(form: Layer) -> None:
        output = form()
        torch.autograd.grad(output, leaves, output.detach(), allow_unused=True)

    memory = {name: peak_memory(partial(both, form), device) for name, form in forms.items()}
    ways = {(name, way): partial(way, form) for name, form in forms.items() for way in (forward, both)}
    best = seconds(ways, rounds, device, warm_ups=0)
    return {name: Cost(best[name, forward], best[name, both], memory[name]) for name in forms}


def table(title: str, results: dict[int, dict[str, Cost]]) -> str:
    """Ratios to plain attention as markdown."""
    rows = [
        [components, name, *cost.ratios(costs["plain"]), f"{1000 * cost.forward:.1f}"]
        for components, costs in results.items()
        for name, cost in costs.items()
    ]
    head = ["N", "form", "forward", "forward + backward", "peak memory", "forward, ms"]
    return f"### {title}\n\n{markdown(head, rows, left=2)}"


def targets(results: dict[int, dict[str, Cost]]) -> str:
    """The targets of these layers, and whether they are met."""
    rows = []
    for components, costs in results.items():
        n, training = f"N = {components}", costs["training"]
        rows.append([f"{n}: training at most 1.5 times plain", training.both / costs["plain"].both])
        if components >= 512:
            explicit = costs["training, explicit"].both / training.both
            wide = costs["P-wide, explicit"].forward / costs["rank 2"].forward
            rows.append([f"{n}: explicit at least as slow as training", explicit])
            rows.append([f"{n}: P-wide explicit at least 5 times rank 2", wide])
    return markdown(["target", "reached"], [[name, f"{value:.2f}"] for name, value in rows])


def report(device: str, threads: int, batch: int, width: int, heads: int, components: list[int], rounds: int) -> str:
    """All tables."""
    torch.set_num_threads(threads)
    whole, bare = {}, {}
    for number in components:
        problem = Problem.draw(batch, number, width, heads, device)
        whole[number] = measure(layers(problem), problem.leaves, rounds, device)
        bare[number] = measure(kernels(problem), problem.leaves, rounds, device)
    size = f"P = {width}, H = {heads}, {batch} texts, float32"
    about = f"torch {torch.__version__}, {place(device)}, {size}, {rounds} rounds; all ratios are to plain attention."
    return "\n".join([f"{about}\n", table("Layers", whole), targets(whole), table("Kernels", bare)])


def _heads(layer: DenoisingAttention, x: Tensor) -> Tensor:
    return x.unflatten(-1, (layer.heads, -1)).transpose(1, 2)


def _merge(layer: DenoisingAttention, answers: Tensor) -> Tensor:
    merged: Tensor = layer.out(answers.transpose(1, 2).flatten(2))
    return merged


if __name__ == "__main__":
    command_line(
        report, __doc__, device="cpu", threads=2, batch=2, width=256, heads=4, components=[128, 512, 1024], rounds=15
    )
