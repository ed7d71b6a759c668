r"""A decoder-only language model without latents, the baseline of all models: its ELBO is log p(x) itself.

The story::

    text ~ AutoregressiveText(decoder)        p(x) = prod_t p(x_t | x_<t)
"""

from typing import Any, ClassVar

import pyro
from jaxtyping import Bool, Int
from torch import Tensor

from .base import Model
from .batch import Batch
from .transformer.config import TransformerConfig
from .transformer.stacks import Decoder
from .transformer.text_distribution import AutoregressiveText

__all__ = ["LanguageModel"]


class LanguageModel(Model):
    r"""A causal Transformer that predicts each token from those before it.

    Built for a corpus it has the blocks of Llama (RMS norm, SwiGLU, rotary positions, no biases), which learn fastest
    from scratch, unless options say otherwise.

    Arguments:
        config: The network.

    Examples:
        >>> model = LanguageModel(TransformerConfig(vocabulary=20, max_length=8, width=16, layers=1, heads=2))
        >>> trace = pyro.poutine.trace(model).get_trace(Batch.pad([[5, 6, 2], [7, 2]]))
        >>> trace.compute_log_prob()
        >>> trace.nodes["text"]["log_prob"].shape
        torch.Size([2])
    """

    # A literal, which --help reads without an import; the blocks of Llama: benchmarks/trunks.py.
    network: ClassVar[dict[str, Any]] = {
        "norm": "rms",
        "activation": "swiglu",
        "bias": False,
        "positions": "rotary",
        "init_std": 0.02,
    }

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.decoder = Decoder(config)

    def forward(self, batch: Batch) -> Int[Tensor, "*batch T"]:
        with self.texts(batch):
            return pyro.sample("text", self.likelihood(mask=batch.mask), obs=batch.tokens)

    def likelihood(self, memory: None = None, mask: Bool[Tensor, "*batch T"] | None = None) -> AutoregressiveText:
        """p(text), with no memory."""
        return AutoregressiveText(self.decoder, memory, mask=mask)
