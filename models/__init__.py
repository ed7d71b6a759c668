"""Generative models, the mixtures and Transformer blocks they are made of, and their priors."""

from typing import TYPE_CHECKING

from .utils.lazy import lazy_exports

__all__ = [
    "DELLA",
    "NVAE",
    "VAE",
    "AutoregressiveText",
    "Batch",
    "Context",
    "Covariances",
    "Decoder",
    "DenoisingAttention",
    "Encoder",
    "LanguageModel",
    "LocalModule",
    "Mixture",
    "MixtureAttention",
    "Model",
    "ProbabilisticAttention",
    "SharedVariances",
    "TransformerConfig",
    "attend",
    "distributions",
    "priors",
]

_HOMES = {
    "AutoregressiveText": "transformer.text_distribution:AutoregressiveText",
    "Batch": "batch:Batch",
    "Context": "transformer.memory:Context",
    "Covariances": "attention.mixture:Covariances",
    "DELLA": "della:DELLA",
    "Decoder": "transformer.stacks:Decoder",
    "DenoisingAttention": "attention.layers.denoising:DenoisingAttention",
    "Encoder": "transformer.stacks:Encoder",
    "LanguageModel": "language_model:LanguageModel",
    "LocalModule": "local_params:LocalModule",
    "Mixture": "attention.mixture:Mixture",
    "MixtureAttention": "mixture_attention.model:MixtureAttention",
    "Model": "base:Model",
    "NVAE": "nvae:NVAE",
    "ProbabilisticAttention": "attention.layers.probabilistic:ProbabilisticAttention",
    "SharedVariances": "attention.mixture:SharedVariances",
    "TransformerConfig": "transformer.config:TransformerConfig",
    "VAE": "vae:VAE",
    "attend": "attention.attend:attend",
    "distributions": "distributions",
    "priors": "priors",
}

if TYPE_CHECKING:
    from . import distributions, priors
    from .attention.attend import attend
    from .attention.layers.denoising import DenoisingAttention
    from .attention.layers.probabilistic import ProbabilisticAttention
    from .attention.mixture import Mixture
    from .attention.variances import Covariances, SharedVariances
    from .base import Model
    from .batch import Batch
    from .della import DELLA
    from .language_model import LanguageModel
    from .local_params import LocalModule
    from .mixture_attention.model import MixtureAttention
    from .nvae import NVAE
    from .transformer.config import TransformerConfig
    from .transformer.memory import Context
    from .transformer.stacks import Decoder, Encoder
    from .transformer.text_distribution import AutoregressiveText
    from .vae import VAE
else:
    __getattr__, __dir__ = lazy_exports(__name__, _HOMES)
