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

import argparse
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from reporting import profiled_peak
from torch import Tensor

import pyroformer as pf
from pyroformer.models.attention.layers.denoising import DenoisingAttention
from pyroformer.models.attention.mixture import SharedVariances

Layer = Callable[[], Tensor]


class Cost(NamedTuple):
    """Seconds of each round and the peak memory in bytes."""

    forward: list[float]
    both: list[float]
    memory: int


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
    """Rounds in which every form runs once, after a warm-up round."""
    costs = {name: Cost([], [], peak_memory(form, leaves, device)) for name, form in forms.items()}
    for _ in range(rounds):
        for name, form in forms.items():
            start = _now(device)
            with torch.no_grad():
                form()
            costs[name].forward.append(_now(device) - start)
            start = _now(device)
            step(form, leaves)
            costs[name].both.append(_now(device) - start)
    return costs


def step(form: Layer, leaves: list[Tensor]) -> None:
    """Forward and backward."""
    output = form()
    torch.autograd.grad(output, leaves, output.detach(), allow_unused=True)


def peak_memory(form: Layer, leaves: list[Tensor], device: str) -> int:
    """Peak memory of forward and backward in bytes, beyond their inputs."""
    step(form, leaves)
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step(form, leaves)
        return torch.cuda.max_memory_allocated() - before
    return profiled_peak(lambda: step(form, leaves))


def table(title: str, results: dict[int, dict[str, Cost]]) -> str:
    """Ratios to plain attention as markdown."""
    lines = [f"### {title}", "", "| N | form | forward | forward + backward | peak memory | forward, ms |"]
    lines.append("|---:|---|---:|---:|---:|---:|")
    for components, costs in results.items():
        base = costs["plain"]
        for name, cost in costs.items():
            forward, both = ratio(cost.forward, base.forward), ratio(cost.both, base.both)
            milliseconds = 1000 * min(cost.forward)
            memory = cost.memory / base.memory
            lines.append(f"| {components} | {name} | {forward:.2f} | {both:.2f} | {memory:.2f} | {milliseconds:.1f} |")
    return "\n".join(lines) + "\n"


def targets(results: dict[int, dict[str, Cost]]) -> str:
    """The targets of these layers, and whether they are met."""
    lines = ["| target | reached |", "|---|---|"]
    for components, costs in results.items():
        training = ratio(costs["training"].both, costs["plain"].both)
        lines.append(f"| N = {components}: training at most 1.5 times plain | {training:.2f} |")
        if components >= 512:
            explicit = ratio(costs["training, explicit"].both, costs["training"].both)
            wide = ratio(costs["P-wide, explicit"].forward, costs["rank 2"].forward)
            lines.append(f"| N = {components}: explicit at least as slow as training | {explicit:.2f} |")
            lines.append(f"| N = {components}: P-wide explicit at least 5 times rank 2 | {wide:.2f} |")
    return "\n".join(lines) + "\n"


def ratio(times: list[float], base: list[float]) -> float:
    return min(times) / min(base)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--components", type=int, nargs="+", default=[128, 512, 1024])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path, help="file to write the tables to as well")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    whole, bare = {}, {}
    for components in options.components:
        problem = Problem.draw(options.batch, components, options.width, options.heads, options.device)
        whole[components] = measure(layers(problem), problem.leaves, options.rounds, options.device)
        bare[components] = measure(kernels(problem), problem.leaves, options.rounds, options.device)
    size = f"P = {options.width}, H = {options.heads}, {options.batch} texts, float32"
    where = torch.cuda.get_device_name() if options.device == "cuda" else f"CPU, {options.threads} threads"
    report = (
        f"torch {torch.__version__}, {where}, {size}, {options.rounds} rounds; all ratios are to plain attention.\n\n"
    )
    report += "\n".join([table("Layers", whole), targets(whole), table("Kernels", bare)])
    print(report)
    if options.out is not None:
        options.out.write_text(report)


def _heads(layer: DenoisingAttention, x: Tensor) -> Tensor:
    return x.unflatten(-1, (layer.heads, -1)).transpose(1, 2)


def _merge(layer: DenoisingAttention, answers: Tensor) -> Tensor:
    merged: Tensor = layer.out(answers.transpose(1, 2).flatten(2))
    return merged


def _now(device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


if __name__ == "__main__":
    main()
