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

import argparse
from pathlib import Path

import torch
from attention import Cost, Layer, measure, ratio

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
    lines = [
        "| causal | layer | forward | forward + backward | peak memory | forward, ms |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for causal, costs in results.items():
        base = costs["softmax"]
        for name, cost in costs.items():
            ratios = [ratio(cost.forward, base.forward), ratio(cost.both, base.both), cost.memory / base.memory]
            figures = " | ".join(f"{figure:.2f}" for figure in ratios)
            milliseconds = 1000 * min(cost.forward)
            lines.append(f"| {'yes' if causal else 'no'} | {name} | {figures} | {milliseconds:.1f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path, help="file to write the table to as well")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    softmax = SelfAttention(options.width, options.heads)
    layers = {"softmax": softmax}
    for name, more in FORMS.items():
        layers[name] = ProbabilisticAttention(options.width, options.heads, **more)  # type: ignore[assignment,arg-type]
        layers[name].load_state_dict(softmax.state_dict(), strict=False)
    x = torch.randn(options.batch, options.tokens, options.width, device=options.device, requires_grad=True)
    for layer in layers.values():
        layer.to(options.device)
    leaves = [x, *(parameter for layer in layers.values() for parameter in layer.parameters())]
    results = {}
    for causal in (False, True):
        forms: dict[str, Layer] = {
            name: lambda layer=layer, causal=causal: layer(x, None, causal)  # type: ignore[misc]
            for name, layer in layers.items()
            if not (causal and name in ("20 steps", "implicit"))
        }
        results[causal] = measure(forms, leaves, options.rounds, options.device)
    where = torch.cuda.get_device_name() if options.device == "cuda" else f"CPU, {options.threads} threads"
    report = (
        f"torch {torch.__version__}, {where}, P = {options.width}, H = {options.heads}, {options.batch} texts of "
        f"{options.tokens} tokens, float32, {options.rounds} rounds\n\n{table(results)}"
    )
    print(report)
    if options.out is not None:
        options.out.write_text(report)


if __name__ == "__main__":
    main()
