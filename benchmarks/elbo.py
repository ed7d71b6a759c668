"""Cost of Pyro: one optimizer step of the NVAE's exact ELBO in four implementations, side by side in one process.

hand      the same networks, noise and closed forms in plain PyTorch
eager     pyroformer.ELBO
captured  the same, captured into one graph
pyro      stock SVI with TraceMeanField_ELBO on an equivalent plain-Pyro model

    python benchmarks/elbo.py --width 64 256 --out table.md
"""

from collections.abc import Callable

import pyro
import pyro.distributions as dist
import torch
from measuring import milliseconds, random_batch
from reporting import command_line, markdown
from torch import Tensor, nn

from pyroformer.guides.nvae import NVAEGuide
from pyroformer.inference.objectives.elbo import ELBO
from pyroformer.inference.training.compiled import NO_VALIDATION, CompiledObjective
from pyroformer.models.attention.mixture import Mixture
from pyroformer.models.batch import Batch
from pyroformer.models.distributions.log_dirichlet import LogDirichlet
from pyroformer.models.distributions.log_dirichlet_math import dirichlet_kl, sample_log_dirichlet
from pyroformer.models.nvae import NVAE
from pyroformer.models.transformer.config import TransformerConfig

VOCABULARY, TIME, TEXTS, LAYERS = 2000, 32, 32, 2


def make(width: int, device: str) -> tuple[NVAE, NVAEGuide, Batch]:
    """One model, its guide and a batch, the same for every implementation."""
    torch.manual_seed(0)
    config = TransformerConfig(vocabulary=VOCABULARY, max_length=TIME, width=width, layers=LAYERS, heads=4, dropout=0.0)
    model = NVAE(config)
    guide = NVAEGuide(model)
    return model.to(device), guide.to(device), random_batch(VOCABULARY, TEXTS, TIME, TIME // 2, device)


def by_hand(model: NVAE, guide: NVAEGuide, batch: Batch) -> Tensor:
    """The exact ELBO without probabilistic programming; the sites are sampled in the guide's order."""
    posterior = guide.encode(batch)
    log_alpha, mask = posterior.log_alpha.double(), posterior.mask
    log_weights = sample_log_dirichlet(log_alpha, mask)
    noise = torch.empty_like(posterior.mean).normal_()
    vectors = posterior.mean + posterior.variance.sqrt() * noise
    prior = model.weight_prior(mask).log_concentration
    kl_weights = dirichlet_kl(log_alpha, prior, mask)
    kl_each = 0.5 * (posterior.mean.square() + posterior.variance - 1 - posterior.variance.log()).sum(-1)
    kl_vectors = (kl_each * mask).sum(-1)
    kl_length = -model.length_prior().log_prob(batch.lengths)
    mixture = Mixture(log_weights.float(), vectors, mask=mask)
    log_likelihood = model.likelihood(mixture, batch.mask).log_prob(batch.tokens)
    return (batch.weight * (kl_weights + kl_vectors + kl_length - log_likelihood)).sum()


def stock_pair(model: NVAE, guide: NVAEGuide) -> tuple[Callable[[Batch], None], Callable[[Batch], None]]:
    """The same model and guide as plain Pyro functions, networks registered with ``pyro.module``."""

    def stock_model(batch: Batch) -> None:
        pyro.module("decoder", model.decoder)
        assert batch.mask is not None
        with pyro.plate("texts", batch.weight.shape[0], dim=-1):
            pyro.sample("length", model.length_prior(), obs=batch.lengths)
            mask = torch.nn.functional.pad(batch.mask, (1, 0), value=True)
            weights = pyro.sample("weights", model.weight_prior(mask))
            base = dist.Normal(batch.weight.new_zeros(model.config.width), 1.0).to_event(1)
            vectors = pyro.sample("vectors", base.expand(mask.shape).mask(mask).to_event(1))
            mixture = Mixture(weights.float(), vectors, mask=mask)
            pyro.sample("text", model.likelihood(mixture, batch.mask), obs=batch.tokens)

    def stock_guide(batch: Batch) -> None:
        pyro.module("encoder", guide.encoder)
        pyro.module("mean", guide.mean)
        pyro.module("alpha", guide.alpha)
        pyro.module("log_variance", guide.log_variance)
        log_alpha, mean, variance, mask, *_ = guide.encode(batch)
        with pyro.plate("texts", batch.weight.shape[0], dim=-1):
            pyro.sample("weights", LogDirichlet(log_alpha.double(), mask))
            pyro.sample("vectors", dist.Normal(mean, variance.sqrt()).to_event(1).mask(mask).to_event(1))

    return stock_model, stock_guide


def steps(width: int, device: str) -> dict[str, Callable[[], object]]:
    """One optimizer step of each implementation, on separate models."""

    def optimized(parameters: list[nn.Parameter], loss: Callable[[], Tensor]) -> Callable[[], object]:
        optimizer = torch.optim.AdamW(parameters, lr=1e-4)

        def step() -> None:
            optimizer.zero_grad()
            loss().backward()
            optimizer.step()

        return step

    model, guide, batch = make(width, device)
    parameters = list(ELBO()(model, guide).parameters())  # those that both use counted once
    result = {"hand": optimized(parameters, lambda: by_hand(model, guide, batch))}
    eager = ELBO()(*make(width, device)[:2])
    result["eager"] = optimized(list(eager.parameters()), lambda: eager(batch))
    objective = ELBO()(*make(width, device)[:2])
    captured = CompiledObjective(objective)
    result["captured"] = optimized(list(objective.parameters()), lambda: captured.losses(batch)["objective"])
    stock = make(width, device)
    pyro.clear_param_store()
    svi = pyro.infer.SVI(
        *stock_pair(stock[0], stock[1]), pyro.optim.AdamW({"lr": 1e-4}), pyro.infer.TraceMeanField_ELBO()
    )
    result["pyro"] = lambda: svi.step(batch)
    return result


def largest_difference(width: int, device: str) -> dict[str, float]:
    """Largest relative difference of a gradient from the hand-written one, with the same noise."""
    model, guide, batch = make(width, device)
    objective = ELBO()(model, guide)
    captured = CompiledObjective(objective)
    losses: dict[str, Callable[[], Tensor]] = {
        "hand": lambda: by_hand(model, guide, batch),
        "eager": lambda: objective(batch),
        "captured": lambda: captured.losses(batch)["objective"],
    }
    gradients = {}
    with torch._inductor.config.patch(fallback_random=True):
        for name, loss in losses.items():
            torch.manual_seed(5)
            gradients[name] = torch.autograd.grad(loss(), list(objective.parameters()))
    scale = max(g.abs().max() for g in gradients["hand"])
    return {
        name: float(max((a - b).abs().max() for a, b in zip(gradients[name], gradients["hand"], strict=True)) / scale)
        for name in ("eager", "captured")
    }


def report(width: list[int], repeats: int, device: str) -> str:
    """The table of ratios at each width."""
    rows = []
    for each in width:
        with pyro.settings.context(**NO_VALIDATION):
            difference = largest_difference(each, device)
            result = milliseconds(steps(each, device), repeats, device, warm_ups=3)
        ratio = {name: value / result["hand"] for name, value in result.items()}
        times = [f"1.00 ({result['hand']:.1f} ms)", *(f"{ratio[name]:.2f}" for name in ("eager", "captured", "pyro"))]
        rows.append([each, *times, f"{difference['eager']:.0e}", f"{difference['captured']:.0e}"])
    head = ["width", "hand-written", "eager", "captured", "stock Pyro SVI", "gradient: eager", "gradient: captured"]
    return (
        f"torch {torch.__version__}, {device}, {torch.get_num_threads()} threads; {TEXTS} texts of up to {TIME} "
        f"tokens, vocabulary {VOCABULARY}, {LAYERS} + {LAYERS} layers; fastest of {repeats} steps, taking turns\n\n"
        f"{markdown(head, rows, left=0)}"
    )


if __name__ == "__main__":
    command_line(report, __doc__, width=[64, 256], repeats=30, device="cuda" if torch.cuda.is_available() else "cpu")
