r"""Cost of probabilistic self-attention, relative to softmax self-attention of the same size.

    python benchmarks/probabilistic_layer.py [--device cuda] [--out FILE]

One layer each on ``--tokens`` tokens, projections included; the layers take turns and a ratio is one of fastest rounds.

    softmax     SelfAttention
    shared      ProbabilisticAttention with one precision for each head
    full        one precision matrix for each head
    key         one precision for each key
    diagonal    one for each dimension of each key
    2 keys      two Gaussians in each key
    hard        two Gaussians in each key, of which the more probable counts
    Student     keys with heavy tails
    positions   relative positions, up to 16 apart
    1 step      keys that adapt once
    3 steps     keys that adapt three times
    20 steps    twenty times
    implicit    twenty times, with the gradient of the fixed point; if not causal
"""

from functools import partial

import torch
from attention import Cost, Layer, measure
from measuring import place
from reporting import command_line, markdown

from pyroformer.models.attention.layers.probabilistic import ProbabilisticAttention
from pyroformer.models.transformer.self_attention import SelfAttention

FORMS: dict[str, dict[str, object]] = {
    "shared": {"precision": "shared"},
    "full": {"precision": "full"},
    "key": {"precision": "key"},
    "diagonal": {"precision": "diagonal"},
    "2 keys": {"precision": "key", "components": 2},
    "hard": {"precision": "key", "components": 2, "assignment": "hard"},
    "Student": {"precision": "shared", "density": "student"},
    "positions": {"precision": "shared", "positions": 16},
    "1 step": {"precision": "key", "steps": 1},
    "3 steps": {"precision": "key", "steps": 3},
    "20 steps": {"precision": "key", "steps": 20},
    "implicit": {"precision": "key", "steps": 20, "gradient": "implicit"},
}


def table(results: dict[bool, dict[str, Cost]]) -> str:
    """Ratios to softmax attention as markdown."""
    rows = [
        ["yes" if causal else "no", name, *cost.ratios(costs["softmax"]), f"{1000 * cost.forward:.1f}"]
        for causal, costs in results.items()
        for name, cost in costs.items()
    ]
    return markdown(["causal", "layer", "forward", "forward + backward", "peak memory", "forward, ms"], rows, left=2)


def report(device: str, threads: int, batch: int, width: int, heads: int, tokens: int, rounds: int) -> str:
    """The table, and what it was measured on."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    softmax = SelfAttention(width, heads)
    layers: dict[str, torch.nn.Module] = {"softmax": softmax}
    for name, options in FORMS.items():
        layers[name] = ProbabilisticAttention(width, heads, **options)
        layers[name].load_state_dict(softmax.state_dict(), strict=False)
    x = torch.randn(batch, tokens, width, device=device, requires_grad=True)
    for layer in layers.values():
        layer.to(device)
    leaves = [x, *(parameter for layer in layers.values() for parameter in layer.parameters())]
    results = {}
    for causal in (False, True):
        forms: dict[str, Layer] = {
            name: partial(layer, x, None, causal)
            for name, layer in layers.items()
            if not (causal and name in ("20 steps", "implicit"))
        }
        results[causal] = measure(forms, leaves, rounds, device)
    return (
        f"torch {torch.__version__}, {place(device)}, P = {width}, H = {heads}, {batch} texts of {tokens} tokens, "
        f"float32, {rounds} rounds\n\n{table(results)}"
    )


if __name__ == "__main__":
    command_line(report, __doc__, device="cpu", threads=2, batch=1, width=512, heads=8, tokens=1024, rounds=15)
