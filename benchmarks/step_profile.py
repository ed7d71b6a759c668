"""Where the time of a training step goes, for each system: arithmetic of matrices, and everything else.

    python benchmarks/step_profile.py [--device cpu|cuda] [--width 64 256] [--compile off|full] [--out FILE]

A step is what ``fit`` does: the objective, its gradients, clipping and AdamW, of 32 texts of 32 tokens from a
vocabulary of 4,000, 2 layers in every stack. Its time is that of the fastest round; "of the rate" is its arithmetic in
products of matrices and attention, against that of one large product. Shares are of the time of all operations by the
profiler; "Python" is the share of the time of the clock that no operation accounts for: the handlers of Pyro, autograd,
and what the profiler costs itself.
"""

import re
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyro
import torch
from measuring import random_batch, seconds, synchronize
from reporting import argument_parser, markdown, show
from torch import nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

import pyroformer as pf
from pyroformer.inference.objectives.elbo import ELBO
from pyroformer.inference.training.compiled import NO_VALIDATION, captured_losses
from pyroformer.models.base import Model
from pyroformer.models.batch import Batch
from pyroformer.models.transformer.config import TransformerConfig

TEXTS, LENGTH, VOCABULARY, LAYERS = 32, 32, 4000, 2
GROUPS: Mapping[str, str] = {  # patterns of names
    "products": r"mm|addmm|bmm|baddbmm|mkldnn.*",
    "attention": r"(scaled_dot_product|flash|efficient).*",
    "norms, softmax, gates": r"exp|(fused_)?rms_norm.*|native_layer_norm.*|(log_)?softmax.*|silu.*|gelu.*",
    "AdamW, clipping": r"fused_adam.*|foreach.*|linalg_vector_norm",
    "random, special": r"normal|standard_gamma.*|digamma|lgamma|polygamma|bernoulli.*",
}
OTHERS, PYTHON = "entry by entry", "Python"


def systems(width: int) -> dict[str, tuple[Model, nn.Module | None]]:
    """A model of each kind with its guide, with the blocks that are their default."""
    shape: dict[str, Any] = {"max_length": LENGTH, "width": width, "layers": LAYERS, "heads": 4}
    plain = TransformerConfig(VOCABULARY, **shape, **pf.LanguageModel.network)
    vectors = TransformerConfig(VOCABULARY, **shape, **pf.NVAE.network)
    probabilistic = TransformerConfig(
        VOCABULARY, **shape, **pf.LanguageModel.network | {"positions": "learned"}, attention="probabilistic"
    )
    nvae, vae, della = pf.NVAE(vectors), pf.VAE(vectors), pf.DELLA(plain, latent_size=8)
    return {
        "language model": (pf.LanguageModel(plain), None),
        "language model, probabilistic attention": (pf.LanguageModel(probabilistic), None),
        "DELLA": (della, pf.DELLAGuide(della)),
        "VAE": (vae, pf.VAEGuide(vae)),
        "NVAE": (nvae, pf.NVAEGuide(nvae)),
    }


def stepper(model: Model, guide: nn.Module | None, batch: Batch, mode: str) -> Callable[[], None]:
    """A training step as ``fit`` does it."""
    objective = ELBO()(model, guide).to(batch.tokens.device)
    losses = captured_losses(objective) if mode == "full" else objective.losses
    optimizer = torch.optim.AdamW(objective.parameters(), lr=1e-3, fused=True)

    def step() -> None:
        optimizer.zero_grad()
        losses(batch)["objective"].backward()
        torch.nn.utils.clip_grad_norm_(objective.parameters(), 1.0)
        optimizer.step()

    return step


def group(operation: str) -> str:
    """The group of an operation.

    Examples:
        >>> group("aten::addmm_"), group("aten::silu_backward"), group("aten::mul")
        ('products', 'norms, softmax, gates', 'entry by entry')
    """
    name = operation.removeprefix("aten::").removeprefix("_").removesuffix("_")
    return next((label for label, pattern in GROUPS.items() if re.fullmatch(pattern, name)), OTHERS)


def likelihood_flops(hidden: Sequence[int], embedding: Sequence[int], *_: Any, out_shape: Any = None, **__: Any) -> int:
    """The logits, or their products with hidden states and embedding."""
    return 2 * hidden[0] * embedding[0] * embedding[1]


def likelihood_gradient_flops(
    grad: Sequence[int], hidden: Sequence[int], embedding: Sequence[int], *_: Any, **__: Any
) -> int:
    return 2 * likelihood_flops(hidden, embedding)


def shares(step: Callable[[], None], rounds: int, device: str) -> dict[str, float]:
    """The share of each group of the time of all operations, and of Python of the time of the clock."""
    cuda = device == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    with profile(activities=activities, acc_events=True) as profiler:
        start = time.perf_counter()
        for _ in range(rounds):
            step()
        synchronize(device)
        clock = 1e6 * (time.perf_counter() - start)
    spent: Counter[str] = Counter()
    for event in profiler.key_averages():
        if event.key.startswith("aten::"):
            spent[group(event.key)] += event.self_device_time_total if cuda else event.self_cpu_time_total
    total = sum(spent.values())
    return {label: spent[label] / total for label in (*GROUPS, OTHERS)} | {PYTHON: max(0.0, 1 - total / clock)}


def row(name: str, step: Callable[[], None], rounds: int, device: str, rate: float) -> list[str]:
    """A line of the table."""
    (fastest,) = seconds({name: step}, rounds, device, warm_ups=3).values()
    likelihood = {
        torch.ops.pyroformer.token_log_prob_in_chunks: likelihood_flops,
        torch.ops.pyroformer.token_log_prob_in_chunks_backward: likelihood_gradient_flops,
    }
    with FlopCounterMode(display=False, custom_mapping=likelihood) as counter:
        step()
    reached = counter.get_total_flops() / fastest / rate
    found = shares(step, max(3, rounds // 4), device)
    return [name, f"{1e3 * fastest:.1f} ms", *(f"{100 * share:.0f} %" for share in (reached, *found.values()))]


def product_rate(device: str, size: int = 1024, rounds: int = 10) -> float:
    """FLOP/s of a large product of matrices."""
    left, right = torch.randn(2, size, size, device=device)
    return 2 * size**3 / seconds({"product": lambda: left @ right}, rounds, device, warm_ups=0)["product"]


def table(widths: Sequence[int], mode: str, rounds: int, device: str) -> str:
    """The profile of each system at each width."""
    torch.manual_seed(0)
    batch = random_batch(VOCABULARY, TEXTS, LENGTH, device=device)
    rate, rows = product_rate(device), []
    with pyro.settings.context(**NO_VALIDATION):
        for width in widths:
            for name, (model, guide) in systems(width).items():
                step = stepper(model.to(device), None if guide is None else guide.to(device), batch, mode)
                rows.append(row(f"{name}, width {width}", step, rounds, device, rate))
    head = ["step", "time", "of the rate", *GROUPS, OTHERS, PYTHON]
    return f"One large product: {rate / 1e9:,.0f} GFLOP/s.\n\n{markdown(head, rows)}"


def main() -> None:
    parser = argument_parser(__doc__, device="cuda" if torch.cuda.is_available() else "cpu", width=[64, 256], rounds=20)
    parser.add_argument("--compile", choices=["off", "full"], default="off")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    show(table(options.width, options.compile, options.rounds, options.device), options.out)


if __name__ == "__main__":
    main()
