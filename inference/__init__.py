"""Inference with a model and its guide: training, evaluation, generation, plots and the command line."""

from typing import TYPE_CHECKING

from ..models.utils.lazy import lazy_exports

__all__ = [
    "ELBO",
    "NVIB",
    "SVI",
    "Corpus",
    "ImportanceWeighted",
    "Pretrained",
    "Run",
    "Tokenizer",
    "TrainingOptions",
    "diagnostics",
    "em",
    "evaluate",
    "fit",
    "fit_prior",
    "global_posterior",
    "importance_weighted",
    "load",
    "plots",
    "to_arviz",
]

_HOMES = {
    "Corpus": "data.corpus:Corpus",
    "ELBO": "objectives.elbo:ELBO",
    "ImportanceWeighted": "objectives.importance_weighted:ImportanceWeighted",
    "NVIB": "objectives.nvib:NVIB",
    "Pretrained": "pretrained.pretrained:Pretrained",
    "Run": "run:Run",
    "SVI": "svi:SVI",
    "Tokenizer": "data.tokenizer:Tokenizer",
    "TrainingOptions": "options:TrainingOptions",
    "diagnostics": "diagnostics",
    "em": "em",
    "evaluate": "evaluation.evaluate:evaluate",
    "fit": "training.fit:fit",
    "fit_prior": "training.fit_prior:fit_prior",
    "global_posterior": "posterior.global_latents:global_posterior",
    "importance_weighted": "objectives.bounds:importance_weighted",
    "load": "run:load",
    "plots": "plots",
    "to_arviz": "posterior.export:to_arviz",
}

if TYPE_CHECKING:
    from . import diagnostics, em, plots
    from .data.corpus import Corpus
    from .data.tokenizer import Tokenizer
    from .evaluation.evaluate import evaluate
    from .objectives.bounds import importance_weighted
    from .objectives.elbo import ELBO
    from .objectives.importance_weighted import ImportanceWeighted
    from .objectives.nvib import NVIB
    from .options import TrainingOptions
    from .posterior.export import to_arviz
    from .posterior.global_latents import global_posterior
    from .pretrained.pretrained import Pretrained
    from .run import Run, load
    from .svi import SVI
    from .training.fit import fit
    from .training.fit_prior import fit_prior
else:
    __getattr__, __dir__ = lazy_exports(__name__, _HOMES)
