"""Encoders of the BERT type, of the package transformers: read from a folder, or built from a configuration."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from logging import CRITICAL
from pathlib import Path
from typing import Any, NamedTuple

import tokenizers
import torch
from torch import nn

from ...models.utils.errors import first_line
from ...models.utils.hub import check_holds_model, local_folder
from ...models.utils.seeding import forked_rng

__all__ = ["FAMILIES", "PretrainedBert", "build_bert", "max_tokens", "read_bert"]

FAMILIES = (  # values of model_type
    "albert",
    "bert",
    "camembert",
    "distilbert",
    "electra",
    "modernbert",
    "mpnet",
    "roberta",
    "xlm-roberta",
)
AFTER_PADDING = ("camembert", "mpnet", "roberta", "xlm-roberta")  # their positions begin after the padding token's id
# Not written into a run's configuration: where the model came from, heads that are not read, and what would change how
# it is loaded or what it returns.
LEFT_OUT = (
    "architectures",
    "attn_implementation",
    "auto_map",
    "dtype",
    "id2label",
    "label2id",
    "output_attentions",
    "output_hidden_states",
    "problem_type",
    "quantization_config",
    "return_dict",
    "torch_dtype",
    "transformers_version",
    "use_cache",
)


class PretrainedBert(NamedTuple):
    """An encoder as it was read: its configuration as plain data, the network, and its tokenizer."""

    config: dict[str, Any]
    network: nn.Module
    tokenizer: tokenizers.Tokenizer


def read_bert(source: str | Path) -> PretrainedBert:
    """The encoder and the tokenizer in a folder, or of a name on the Hugging Face hub.

    No code of the folder is executed.

    Raises:
        ValueError: If there is none, it is no encoder of a known family, weights are missing, or the package
            transformers is.
    """
    transformers = _transformers(f"reading {source}")
    place = _place(source)
    try:
        with _quiet():
            hf_config = transformers.AutoConfig.from_pretrained(place, trust_remote_code=False)
            _check_encoder(hf_config)
            network, loaded = transformers.AutoModel.from_pretrained(
                place, config=hf_config, dtype=torch.float32, output_loading_info=True, trust_remote_code=False
            )
            tokenizer = transformers.AutoTokenizer.from_pretrained(place, trust_remote_code=False)
        _check_weights(loaded)
        core = _core(tokenizer, hf_config.vocab_size)
    except Exception as error:  # of transformers, of the hub, of the disk
        if isinstance(error, OSError) and not Path(place).is_dir():
            raise ValueError(
                f"{source} is no folder, and the hub did not give it ({first_line(error).rstrip('.')}): give the "
                "folder of an encoder, or its name on the hub while online."
            ) from error
        raise ValueError(f"cannot read a text encoder from {source}: {first_line(error)}") from error
    return PretrainedBert(_plain(hf_config), _without_pooler(network), core)


def build_bert(config: Mapping[str, Any]) -> nn.Module:
    """The network of a configuration, with random weights; no global generator is moved.

    Raises:
        ValueError: If it is of no known family or damaged, or the package transformers is missing.
    """
    transformers = _transformers("a guide with a pretrained encoder")
    plain = {name: value for name, value in config.items() if not _left_out(name)}
    if plain.get("model_type") not in FAMILIES:
        raise ValueError(_no_encoder(plain.get("model_type")))
    try:
        with forked_rng(), _quiet():
            hf_config = transformers.AutoConfig.for_model(**plain)
            network: nn.Module = transformers.AutoModel.from_config(hf_config, trust_remote_code=False)
    except Exception as error:  # whatever its values lead to
        raise ValueError(f"the configuration of a text encoder cannot be used: {first_line(error)}") from error
    return _without_pooler(network)


def max_tokens(hf_config: Any) -> int:
    """The number of positions of an encoder, and so of tokens of a text with the two special ones at its ends."""
    first = hf_config.pad_token_id + 1 if hf_config.model_type in AFTER_PADDING else 0
    return int(hf_config.max_position_embeddings) - first


def _transformers(purpose: str) -> Any:
    try:
        import transformers
    except ImportError as error:
        raise ValueError(f"{purpose} needs the package transformers: pip install transformers.") from error
    return transformers


def _place(source: str | Path) -> str:
    """A local folder with a model, or a name on the hub."""
    folder = local_folder(source, "an encoder")
    if folder is None:
        return str(source)
    check_holds_model(folder)
    return str(folder)


def _check_encoder(hf_config: Any) -> None:
    if hf_config.model_type not in FAMILIES:
        raise ValueError(_no_encoder(hf_config.model_type))
    if getattr(hf_config, "is_decoder", False):
        raise ValueError("it is a decoder (is_decoder): give an encoder, which reads texts both ways.")
    if getattr(hf_config, "quantization_config", None):
        raise ValueError("its weights are quantized: save it with weights in bfloat16, float16 or float32.")


def _check_weights(loaded: Mapping[str, Any]) -> None:
    missing = sorted(name for name in loaded["missing_keys"] if "pooler" not in name)
    if missing:
        raise ValueError(f"{len(missing)} of its weights are missing, such as {missing[0]}.")


def _core(tokenizer: Any, vocabulary: int) -> tokenizers.Tokenizer:
    """The tokenizer itself, which leaves texts as long as they are."""
    core = getattr(tokenizer, "backend_tokenizer", None)
    if core is None:
        raise ValueError(f"its {type(tokenizer).__name__} has no tokenizer.json: save the fast tokenizer there.")
    if not vocabulary / 2 <= core.get_vocab_size() <= vocabulary:  # transformers makes one of no file at all
        raise ValueError(
            f"its tokenizer has {core.get_vocab_size()} tokens, but vocab_size is {vocabulary}: put the files of its "
            "own tokenizer there."
        )
    core.no_truncation()
    core.no_padding()
    return core


def _plain(hf_config: Any) -> dict[str, Any]:
    """A configuration as plain data, with every default that sizes depend on written out."""
    content = json.loads(hf_config.to_json_string(use_diff=False))
    return {name: value for name, value in content.items() if not _left_out(name)}


def _left_out(name: str) -> bool:
    return name.startswith("_") or name in LEFT_OUT


def _without_pooler(network: nn.Module) -> nn.Module:
    """The network without what comes after its hidden states, and what some folders have no weights for."""
    if isinstance(getattr(network, "pooler", None), nn.Module):
        network.register_module("pooler", None)
    return network


def _no_encoder(kind: object) -> str:
    return f"model_type is {kind!r}, and a text encoder is one of {', '.join(FAMILIES)}."


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence progress bars and reports of transformers and the hub: problems are raised as errors here."""
    from huggingface_hub.utils import logging as hub_logging
    from transformers.utils import logging

    levels, bars = (logging.get_verbosity(), hub_logging.get_verbosity()), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    hub_logging.set_verbosity(CRITICAL)  # it tries again, with a line each time
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(levels[0])
        hub_logging.set_verbosity(levels[1])
        if bars:
            logging.enable_progress_bar()
