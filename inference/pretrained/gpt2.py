"""A pretrained GPT-2 to start from, in Hugging Face format, with its tokenizer."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...models.transformer.backbone import Backbone
from ...models.transformer.gpt2 import gpt2_config, gpt2_weights
from ..data.tokenizer import Tokenizer
from .gpt2_tokenizer import read_gpt2_tokenizer
from .huggingface import find_folder, read_config, read_weights

__all__ = ["Pretrained"]


@dataclass(frozen=True, repr=False)
class Pretrained(Backbone):
    r"""A GPT-2 as the backbone of our decoders, with the tokenizer of its texts.

    A decoder that starts from it gives every token GPT-2's logit. Its vocabulary is our three special tokens, then
    GPT-2's without ``<|endoftext|>``: both ends of a text take over its row of the embedding, because GPT-2 was trained
    with it at both. Padding gets the mean :math:`\bar e` of all rows, so that it is never likely. (With a row of zeros
    it would be nearly certain: GPT-2's logits are far below 0.) Hence

    .. math::
        \log p(x_t \mid x_{<t}) = \log p_\text{GPT-2}(x_t \mid x_{<t})
                                  - \log \left( 1 + p_\text{GPT-2}(\text{end}) + e^{\bar\ell} / Z \right), \qquad
        \bar\ell = h_t \cdot \bar e \le \log (Z / V)

    where :math:`Z` normalizes the probabilities of GPT-2's :math:`V` tokens. The loss before training is GPT-2's, and
    up to :math:`\log 2` more where a text may end: until training separates the two, the beginning token is as likely
    there as the end token.

    Arguments:
        name: Its name in messages.
        config: Its sizes and options, with our vocabulary.
        weights: Weights by the names of :class:`~pyroformer.models.transformer.stacks.Decoder`, with a row for each of
            our tokens.
        tokenizer: Our special tokens, then GPT-2's merges.

    Raises:
        ValueError: If a weight is missing, unknown, or of another shape.

    References:
        Language Models are Unsupervised Multitask Learners (Radford et al., 2019),
        https://cdn.openai.com/better-language-models/language_models_are_unsupervised_multitask_learners.pdf

    Examples:
        A folder that ``save_pretrained`` wrote, or a name on the hub; then the texts, then the model::

            backbone = pf.Pretrained.from_pretrained("gpt2-folder")
            corpus = pf.Corpus.from_file("reviews.txt", tokenizer=backbone.tokenizer)
            model = pf.LanguageModel.for_corpus(corpus, backbone=backbone)
            run = pf.fit(model, None, corpus, learning_rate=1e-4)
    """

    tokenizer: Tokenizer

    @classmethod
    def from_pretrained(cls, source: str | Path) -> "Pretrained":
        """Reads a GPT-2: a folder with ``config.json``, weights and a tokenizer.

        The weights are ``model.safetensors`` or ``pytorch_model.bin``, in one file or several, the tokenizer is
        ``tokenizer.json``, or ``vocab.json`` and ``merges.txt``.

        Arguments:
            source: The folder; where there is none of this name, the name of a model on the Hugging Face hub.

        Raises:
            ValueError: If a file is missing or damaged, or the model uses something that our decoder does not compute.
        """
        folder = find_folder(source)
        hf_config = read_config(folder)
        try:
            config = gpt2_config(hf_config)
            gpt2 = Backbone(str(source), config, gpt2_weights(read_weights(folder), config.tied))
            tokenizer, ids = read_gpt2_tokenizer(folder)
            rows = [*_end_tokens(hf_config, config.vocabulary), *ids]
            if max(rows) >= config.vocabulary:
                raise ValueError(f"its tokenizer has a token {max(rows)}, but vocab_size is {config.vocabulary}.")
        except ValueError as error:
            raise ValueError(f"cannot start from {source}: {error}") from error
        weights = {
            name: _reorder_rows(value, rows) if name in _TOKEN_ROWS else value for name, value in gpt2.weights.items()
        }
        return cls(gpt2.name, replace(config, vocabulary=tokenizer.vocabulary), weights, tokenizer)


_END_OF_TEXT = 50256  # <|endoftext|>
_TOKEN_ROWS = ("embedding.tokens.weight", "head.weight", "head.bias")


def _end_tokens(hf_config: Mapping[str, Any], vocabulary: int) -> list[int]:
    """GPT-2's tokens before and after a text, usually the same one; of several ends, the first."""
    end = hf_config.get("eos_token_id", _END_OF_TEXT)
    if isinstance(end, list) and end:
        end = end[0]
    begin = hf_config.get("bos_token_id", _END_OF_TEXT)
    ends = {"bos_token_id": end if begin is None else begin, "eos_token_id": end}
    for name, token in ends.items():
        if not isinstance(token, int) or not 0 <= token < vocabulary:
            raise ValueError(f"{name} is {token}, which is no token: give config.json that of the ends of a text.")
    return list(ends.values())


def _reorder_rows(rows: Tensor, ids: list[int]) -> Tensor:
    """The row of each of our tokens in order; the row of padding, which comes first, is the mean of the others."""
    return torch.cat([rows[sorted(set(ids))].mean(0, keepdim=True), rows[ids]])
