"""The language model of a run as the start of other models."""

from dataclasses import replace

from ...models.language_model import LanguageModel
from ...models.transformer.linear import merged_weights
from ..pretrained.pretrained import Pretrained
from .fitted import FittedModel

__all__ = ["backbone_of"]


def backbone_of(run: FittedModel) -> Pretrained:
    """The decoder of a language model that was fitted here, with the tokenizer of its texts; adapters are merged.

    Arguments:
        run: A run of a :class:`~pyroformer.LanguageModel`.

    Raises:
        ValueError: If the run is of another model, or has probabilistic attention, for whose weights others have no
            place.

    Examples:
        >>> corpus = pf.Corpus.from_texts([f"text {n}" for n in range(40)], vocabulary=300, max_length=12)
        >>> model = pf.LanguageModel.for_corpus(corpus, width=16, layers=1)
        >>> run = pf.fit(model, None, corpus, steps=2, batch_size=4, progress=False)
        >>> backbone_of(run).config.width
        16
    """
    name = str(run.folder.path)
    if not isinstance(run.model, LanguageModel):
        raise ValueError(
            f"{name} is a run of the model {type(run.model).__name__}, and a LanguageModel is needed here: give a run "
            "of fit lm, or a folder in Hugging Face format."
        )
    decoder = run.model.decoder
    if decoder.config.attention != "softmax":
        raise ValueError(
            f"cannot start from {name}: it has attention {decoder.config.attention}, and only a language model with "
            "softmax attention is a start for others. Give such a run of fit lm, or a folder in Hugging Face format."
        )
    config = replace(decoder.config, adapter_rank=0)
    return Pretrained(name, config, merged_weights(decoder), run.tokenizer)
