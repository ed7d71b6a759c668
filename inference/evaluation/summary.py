"""A run in a few words: what it is, what it was trained on and by which objective, and what its latents cost."""

from ..objectives.registry import in_words
from ..runs.fitted import FittedModel
from ..runs.joint_module import joint_module
from .verdict import latent_cost, validation_rate_per_text

__all__ = ["run_summary"]


def run_summary(run: FittedModel) -> dict[str, str]:
    """The model, objective, texts, step and folder of a run, and what its latents cost, as lines with their titles."""
    names = [type(module).__name__ for module in (run.model, run.guide) if module is not None]
    count = sum(parameter.numel() for parameter in joint_module(run.model, run.guide).parameters())
    described = run.config.get("objective") or {"name": "elbo", "kl_weights": {}}
    summary = {
        "model": f"{' with '.join(names)}, {count:,} parameters on {run.model.device}",
        "objective": in_words(described, elbo="elbo") or described["name"],
        "texts": run.corpus.summary(),
        "step": f"{run.step:,}",
        "folder": str(run.folder.path),
    }
    rate = validation_rate_per_text(run)
    return summary if rate is None else summary | {"latents": latent_cost(rate)}
