"""The language model of a run as the start of other models."""

from ...models.language_model import LanguageModel
from ..pretrained.pretrained import Pretrained
from .fitted import FittedModel

__all__ = ["backbone_of"]


def backbone_of(run: FittedModel) -> Pretrained:
    """The decoder of a language model that was fitted here, with the tokenizer of its texts.

    Arguments:
        run: A run of a :class:`~pyroformer.LanguageModel`.

    Raises:
        ValueError: If the run is of another model, or its decoder has weights that others lack, such as adapters or
            those of probabilistic attention.

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
            f"cannot start from {name}: it is a run of the model {type(run.model).__name__}, and only a LanguageModel "
            "is a start for others. Give a run of fit lm, or a folder in Hugging Face format."
        )
    decoder = run.model.decoder
    weights = {key: value.detach().clone() for key, value in decoder.named_parameters()}
    try:
        return Pretrained(name, decoder.config, weights, run.tokenizer)
    except ValueError as error:
        raise ValueError(f"cannot start from {name}: {error}") from error
