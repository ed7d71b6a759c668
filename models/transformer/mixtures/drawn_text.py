r"""The distribution of texts whose decoder draws mixtures of its own while it writes."""

from jaxtyping import Bool, Float, Int
from torch import Tensor

from ...attention.kernel.natural_parameters import Form
from ..memory import Memory
from ..text_distribution import AutoregressiveText
from .decoder import MixtureDecoder, drawn

__all__ = ["DrawnText"]


class DrawnText(AutoregressiveText):
    r"""Texts whose decoder attends to mixtures over its own tokens, which are drawn as they are written.

    .. math::

        p(x \mid F) = \mathrm{E}_{g, z} \prod_t p(x_t \mid x_{<t}, g_{\le t}, z_{\le t}, F)

    :meth:`sample` is exact. :meth:`log_prob` is the log density given one draw of all :math:`g, z`, whose mean is a
    lower bound of :math:`\log p(x \mid F)`.

    Arguments:
        decoder: The network.
        memory: The memory :math:`F`, or None.
        mask: True where there may be a token, with shape :math:`(*, T)`, or None for everywhere.
        known: Texts, and the hidden states that the decoder had for them with draws made elsewhere.
        form: The form of attention to a memory with variances.

    Examples:
        >>> from pyroformer.models.transformer.config import TransformerConfig
        >>> decoder = MixtureDecoder(TransformerConfig(vocabulary=20, max_length=8, width=16), mixtures=1)
        >>> texts = DrawnText(decoder).expand([3])
        >>> texts.log_prob(texts.sample()).shape
        torch.Size([3])
    """

    decoder: MixtureDecoder
    draws = True

    def __init__(
        self,
        decoder: MixtureDecoder,
        memory: Memory | None = None,
        mask: Bool[Tensor, "*batch T"] | None = None,
        known: tuple[Int[Tensor, "*texts T"], Float[Tensor, "*batch T P"]] | None = None,
        form: Form = "exact",
        validate_args: bool | None = None,
    ) -> None:
        self.known = known
        super().__init__(decoder, memory, mask, form=form, validate_args=validate_args)

    def _hidden(self, value: Int[Tensor, "*texts T"]) -> Float[Tensor, "*batch T P"]:
        if self.known is not None and value is self.known[0]:
            return self.known[1]
        return self.decoder(value, self.memory, self.form, lambda layer, posterior: drawn(posterior))
