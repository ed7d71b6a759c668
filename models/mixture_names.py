"""The names of the mixtures that a model has: that of the text, and those of layers that attend to mixtures."""

import re
from collections.abc import Iterable
from typing import Literal, NamedTuple

__all__ = ["MixtureNames"]


class MixtureNames(NamedTuple):
    """The names of the sites and counts of one mixture: the text's, or that of a layer of the encoder or the decoder.

    Arguments:
        stack: What the mixture is of.
        layer: The number of the layer, from 1; None for the text's.

    Examples:
        >>> MixtureNames().weights, MixtureNames("encoder", 2).vectors, MixtureNames("decoder", 2).kept
        ('weights', 'vectors_2', 'kept_decoder_2')
        >>> MixtureNames("decoder", 2).description
        'layer 2 of the decoder'
    """

    stack: Literal["text", "encoder", "decoder"] = "text"
    layer: int | None = None

    @classmethod
    def all_in(cls, names: Iterable[str], kind: Literal["weights", "vectors", "kept"]) -> list["MixtureNames"]:
        """The mixtures whose ``kind`` is among some names, in their order.

        Examples:
            >>> MixtureNames.all_in(["length", "weights_2", "weights", "weights_decoder_3"], "weights")[1:]
            [MixtureNames(stack='text', layer=None), MixtureNames(stack='decoder', layer=3)]
        """
        found = [re.fullmatch(rf"{kind}(?:(_decoder)?_(\d+))?", name) for name in names]
        return [
            cls() if match[2] is None else cls("decoder" if match[1] else "encoder", int(match[2]))
            for match in found
            if match
        ]

    @property
    def weights(self) -> str:
        """The site of the log weights."""
        return self._named("weights")

    @property
    def vectors(self) -> str:
        """The site of the vectors."""
        return self._named("vectors")

    @property
    def kept(self) -> str:
        """The number of vectors that are not switched off, as training reports it."""
        return self._named("kept")

    @property
    def description(self) -> str:
        """What a message calls the layer."""
        return "the text" if self.layer is None else f"layer {self.layer} of the {self.stack}"

    def _named(self, kind: str) -> str:
        return kind + {"text": "", "encoder": f"_{self.layer}", "decoder": f"_decoder_{self.layer}"}[self.stack]
