"""Amortized neural posteriors, one for each model, under the model's file name."""

from typing import TYPE_CHECKING

from ..models.utils.lazy import lazy_exports

__all__ = [
    "AssignmentGuide",
    "Automatic",
    "DELLAGuide",
    "Guide",
    "KeyGuide",
    "MixtureGuide",
    "NVAEGuide",
    "TextEncoder",
    "VAEGuide",
    "ValueGuide",
]

_HOMES = {
    "AssignmentGuide": "mixture_attention:AssignmentGuide",
    "Automatic": "automatic:Automatic",
    "DELLAGuide": "della:DELLAGuide",
    "Guide": "base:Guide",
    "KeyGuide": "mixture_attention:KeyGuide",
    "MixtureGuide": "mixture_attention:MixtureGuide",
    "NVAEGuide": "nvae:NVAEGuide",
    "TextEncoder": "encoders.text_encoder:TextEncoder",
    "VAEGuide": "vae:VAEGuide",
    "ValueGuide": "mixture_attention:ValueGuide",
}

if TYPE_CHECKING:
    from .automatic import Automatic
    from .base import Guide
    from .della import DELLAGuide
    from .encoders.text_encoder import TextEncoder
    from .mixture_attention import AssignmentGuide, KeyGuide, MixtureGuide, ValueGuide
    from .nvae import NVAEGuide
    from .vae import VAEGuide
else:
    __getattr__, __dir__ = lazy_exports(__name__, _HOMES)
