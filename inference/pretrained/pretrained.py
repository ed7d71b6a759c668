"""A pretrained language model to start from, in Hugging Face format, with its tokenizer."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...models.transformer.backbone import Backbone
from ...models.transformer.config import TransformerConfig
from ...models.transformer.gpt2 import gpt2_config, gpt2_weights
from ..data.tokenizer import Tokenizer
from .byte_level_tokenizer import NO_ROW, PretrainedTokens, read_byte_level_tokenizer
from .gpt2_tokenizer import read_gpt2_tokenizer
from .huggingface import find_folder, read_config, read_generation_config, read_weights
from .llama import llama_config, llama_weights
from .mistral import mistral_config
from .qwen import qwen2_config, qwen3_config

__all__ = ["FAMILIES", "Family", "Pretrained"]


class Family(NamedTuple):
    """How the models of a family are read: their configuration, their weights and their tokenizer."""

    config: Callable[[Mapping[str, Any]], TransformerConfig]
    weights: Callable[[Mapping[str, Tensor], TransformerConfig], dict[str, Tensor]] = llama_weights
    tokenizer: Callable[[Path], PretrainedTokens] = read_byte_level_tokenizer


FAMILIES = {  # by the model_type of config.json
    "gpt2": Family(gpt2_config, lambda weights, config: gpt2_weights(weights, config.tied), read_gpt2_tokenizer),
    "llama": Family(llama_config),
    "mistral": Family(mistral_config),
    "qwen2": Family(qwen2_config),
    "qwen3": Family(qwen3_config),
}


@dataclass(frozen=True, repr=False)
class Pretrained(Backbone):
    r"""A pretrained GPT-2, Llama, Mistral or Qwen as the backbone of our decoders, with the tokenizer of its texts.

    A decoder that starts from it gives every token its logit there. Our vocabulary is our three special tokens, then
    those tokens of the pretrained model that a text can have, without its special ones such as ``<|endoftext|>``: our
    ends of a text take over the rows of its own, often one row for both. Padding gets the mean :math:`\bar e` of all
    rows, so that it is never likely. (With a row of zeros it would be nearly certain: GPT-2's logits are far below 0.)
    Hence, where both ends have one row and no other token is left out,

    .. math::
        \log p(x_t \mid x_{<t}) = \log p_0(x_t \mid x_{<t})
                                  - \log \left( 1 + p_0(\text{end}) + e^{\bar\ell} / Z \right), \qquad
        \bar\ell = h_t \cdot \bar e \le \log (Z / V)

    where :math:`p_0` is the pretrained model, and :math:`Z` normalizes the probabilities of its :math:`V` tokens. The
    loss before training is its own, and up to :math:`\log 2` more where a text may end: until training separates the
    two, the beginning token is as likely there as the end token.

    Arguments:
        name: Its name in messages.
        config: Its sizes and options, with our vocabulary.
        weights: Weights by the names of :class:`~pyroformer.models.transformer.stacks.Decoder`, with a row for each of
            our tokens.
        tokenizer: Our special tokens, then the pretrained model's.

    Raises:
        ValueError: If a weight is missing, unknown, or of another shape.

    References:
        Language Models are Unsupervised Multitask Learners (Radford et al., 2019), for GPT-2,
        https://cdn.openai.com/better-language-models/language_models_are_unsupervised_multitask_learners.pdf
        The Llama 3 Herd of Models (2024), https://arxiv.org/abs/2407.21783
        Qwen3 Technical Report (2025), https://arxiv.org/abs/2505.09388

    Examples:
        A folder that ``save_pretrained`` wrote, or a name on the hub; then the texts, then the model:

        .. code-block:: python

            backbone = pf.Pretrained.from_pretrained("smollm2-folder")
            corpus = pf.Corpus.from_file("reviews.txt", tokenizer=backbone.tokenizer)
            model = pf.LanguageModel.for_corpus(corpus, backbone=backbone)
            run = pf.fit(model, None, corpus, learning_rate=1e-4)
    """

    tokenizer: Tokenizer

    @classmethod
    def from_pretrained(cls, source: str | Path) -> "Pretrained":
        """Reads a model: a folder with ``config.json``, weights and a tokenizer.

        The weights are ``model.safetensors`` or ``pytorch_model.bin``, in one file or several, in any precision of
        floating point; the tokenizer is ``tokenizer.json``, or for a GPT-2 ``vocab.json`` and ``merges.txt``.

        Arguments:
            source: The folder; where there is none of this name, the name of a model on the Hugging Face hub.

        Raises:
            ValueError: If a file is missing or damaged, or the model uses something that our decoder does not compute.
        """
        folder = find_folder(source)
        hf_config = read_config(folder)
        try:
            family = _family(hf_config)
            config = family.config(hf_config)
            backbone = Backbone(str(source), config, family.weights(_checked(read_weights(folder)), config))
            tokenizer, ids = family.tokenizer(folder)
            ends = _end_tokens({**read_generation_config(folder), **hf_config}, config.vocabulary)
            rows = [*ends, *ids]
            if max(rows) >= config.vocabulary:
                raise ValueError(f"its tokenizer has a token {max(rows)}, but vocab_size is {config.vocabulary}.")
        except ValueError as error:
            raise ValueError(f"cannot start from {source}: {error}") from error
        weights = {
            name: _reorder_rows(weight, rows) if name in _TOKEN_ROWS else weight
            for name, weight in backbone.weights.items()
        }
        return cls(backbone.name, replace(config, vocabulary=tokenizer.vocabulary), weights, tokenizer)

    def check_tokens(self, corpus: Any) -> None:
        """Raises unless the texts of a corpus have its tokens; labels come after these.

        Raises:
            ValueError: If they have others, even if as many.
        """
        if not self.tokenizer.has_tokens_of(corpus.tokenizer):
            raise ValueError(
                f"the texts have other tokens than {self.name}: read them with its tokenizer, as in "
                "pyroformer.Corpus.from_file(path, tokenizer=backbone.tokenizer)."
            )


_END_OF_TEXT = 50256  # GPT-2's <|endoftext|>
_TOKEN_ROWS = ("embedding.tokens.weight", "head.weight", "head.bias")
_FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def _family(hf_config: Mapping[str, Any]) -> Family:
    """The family of a model.

    Raises:
        ValueError: If it is unknown, or the weights are quantized.
    """
    kind = hf_config.get("model_type")
    if kind not in FAMILIES:
        names = ", ".join(f"'{name}'" for name in FAMILIES)
        raise ValueError(f"model_type is {kind!r}, and only {names} can be loaded.")
    if quantization := hf_config.get("quantization_config"):
        method = quantization.get("quant_method") if isinstance(quantization, dict) else quantization
        raise ValueError(f"its weights are quantized ({method}): save it with weights in bfloat16, float16 or float32.")
    return FAMILIES[kind]


def _checked(weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The weights, if all that are not masks are floating-point numbers of a usual kind.

    Raises:
        ValueError: If they are not.
    """
    for name, value in weights.items():
        if value.dtype not in _FLOATS and not name.endswith((".attn.bias", ".attn.masked_bias")):
            raise ValueError(f"{name} holds {value.dtype}: save it with weights in bfloat16, float16 or float32.")
    return weights


def _end_tokens(hf_config: Mapping[str, Any], vocabulary: int) -> list[int]:
    """The tokens before and after a text, often the same one; of several ends, the first."""
    default = _END_OF_TEXT if hf_config["model_type"] == "gpt2" else None
    end = hf_config.get("eos_token_id", default)
    if isinstance(end, list) and end:
        end = end[0]
    begin = hf_config.get("bos_token_id", default)
    ends = {"bos_token_id": end if begin is None else begin, "eos_token_id": end}
    for name, token in ends.items():
        if not isinstance(token, int) or not 0 <= token < vocabulary:
            raise ValueError(f"{name} is {token}, which is no token: give config.json that of the ends of a text.")
    return list(ends.values())


def _reorder_rows(rows: Tensor, ids: list[int]) -> Tensor:
    """The row of each of our tokens in order, the mean of all for one that has none; padding, the first, is such."""
    known = sorted({row for row in ids if row != NO_ROW})
    mean = rows[known].float().mean(0, keepdim=True).to(rows.dtype)
    return torch.cat([rows, mean])[[len(rows), *(len(rows) if row == NO_ROW else row for row in ids)]]
