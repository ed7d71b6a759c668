"""Bayesian Transformers in Pyro: attention as posterior inference, trained by stochastic variational inference."""

from typing import TYPE_CHECKING, Any

from .models.utils.lazy import lazy_exports

__all__ = [
    "DELLA",
    "ELBO",
    "NVAE",
    "SVI",
    "VAE",
    "Batch",
    "Corpus",
    "DELLAGuide",
    "GaussianMixture",
    "LanguageModel",
    "Mixture",
    "MixtureAttention",
    "NVAEGuide",
    "Pretrained",
    "ProbabilisticAttention",
    "ProbabilisticCrossAttention",
    "Run",
    "TextEncoder",
    "VAEGuide",
    "attend",
    "diagnostics",
    "distributions",
    "em",
    "fit",
    "fit_prior",
    "guides",
    "inference",
    "load",
    "look",
    "models",
    "nvib",
    "plots",
    "priors",
    "to_arviz",
]

# Where each name lives; type checkers and editors read the same below.
_HOMES = {
    "DELLA": "models.della:DELLA",
    "ELBO": "inference.objectives.elbo:ELBO",
    "NVAE": "models.nvae:NVAE",
    "SVI": "inference.svi:SVI",
    "VAE": "models.vae:VAE",
    "Batch": "models.batch:Batch",
    "Corpus": "inference.data.corpus:Corpus",
    "DELLAGuide": "guides.della:DELLAGuide",
    "GaussianMixture": "inference.gaussian_mixture.estimator:GaussianMixture",
    "LanguageModel": "models.language_model:LanguageModel",
    "Mixture": "models.attention.mixture:Mixture",
    "MixtureAttention": "models.mixture_attention.model:MixtureAttention",
    "NVAEGuide": "guides.nvae:NVAEGuide",
    "Pretrained": "inference.pretrained.pretrained:Pretrained",
    "ProbabilisticAttention": "models.attention.layers.probabilistic:ProbabilisticAttention",
    "ProbabilisticCrossAttention": "models.attention.layers.cross:ProbabilisticCrossAttention",
    "Run": "inference.run:Run",
    "TextEncoder": "guides.encoders.text_encoder:TextEncoder",
    "VAEGuide": "guides.vae:VAEGuide",
    "attend": "models.attention.attend:attend",
    "diagnostics": "inference.diagnostics",
    "distributions": "models.distributions",
    "em": "inference.em",
    "fit": "inference.training.fit:fit",
    "guides": "guides",
    "inference": "inference",
    "load": "inference.run:load",
    "look": "inference.pages.look:look",
    "models": "models",
    "nvib": "inference.nvib",
    "plots": "inference.plots",
    "priors": "priors",
    "fit_prior": "inference.training.fit_prior:fit_prior",
    "to_arviz": "inference.posterior.export:to_arviz",
}

if TYPE_CHECKING:
    __version__: str
    from . import guides, inference, models, priors
    from .guides.della import DELLAGuide
    from .guides.encoders.text_encoder import TextEncoder
    from .guides.nvae import NVAEGuide
    from .guides.vae import VAEGuide
    from .inference import diagnostics, em, nvib, plots
    from .inference.data.corpus import Corpus
    from .inference.gaussian_mixture.estimator import GaussianMixture
    from .inference.objectives.elbo import ELBO
    from .inference.pages.look import look
    from .inference.posterior.export import to_arviz
    from .inference.pretrained.pretrained import Pretrained
    from .inference.run import Run, load
    from .inference.svi import SVI
    from .inference.training.fit import fit
    from .inference.training.fit_prior import fit_prior
    from .models import distributions
    from .models.attention.attend import attend
    from .models.attention.layers.cross import ProbabilisticCrossAttention
    from .models.attention.layers.probabilistic import ProbabilisticAttention
    from .models.attention.mixture import Mixture
    from .models.batch import Batch
    from .models.della import DELLA
    from .models.language_model import LanguageModel
    from .models.mixture_attention.model import MixtureAttention
    from .models.nvae import NVAE
else:
    _lazy, _names = lazy_exports(__name__, _HOMES)

    def __getattr__(name: str) -> Any:
        if name == "__version__":
            from importlib.metadata import version  # here, because most who import pyroformer never ask

            return version(__name__)
        return _lazy(name)

    def __dir__() -> list[str]:
        return [*_names(), "__version__"]
