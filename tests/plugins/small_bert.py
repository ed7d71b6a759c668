"""Small encoders of random weights in the folders that ``save_pretrained`` writes, for guides to read texts with."""

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
from tokenizers import models, normalizers, pre_tokenizers, processors, trainers

__all__ = ["FAMILIES", "save_bert"]

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = [f"Number {i} is {'even' if i % 2 == 0 else 'odd'}, the next is {i + 1}; it's w{i}." for i in range(60)]
SIZES = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 32,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
    "pad_token_id": 0,
}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "albert": ("Albert", {"embedding_size": 16}),
    "bert": ("Bert", {}),
    "camembert": ("Camembert", {}),
    "distilbert": ("DistilBert", {"dim": 24, "n_layers": 2, "n_heads": 3, "hidden_dim": 32}),
    "electra": ("Electra", {"embedding_size": 16}),
    "modernbert": ("ModernBert", {"local_attention": 8}),
    "mpnet": ("MPNet", {}),
    "roberta": ("Roberta", {}),
    "xlm-roberta": ("XLMRoberta", {}),
}


def save_bert(folder: Path, family: str = "bert", seed: int = 1, kind: str = "Model", **options: Any) -> Path:
    """Writes an encoder and its tokenizer, as MiniLM's: lower case, word pieces, padding and truncation switched on."""
    transformers = pytest.importorskip("transformers", reason="it writes the encoders that are read here")
    name, sizes = FAMILIES[family]
    core = tokenizers.Tokenizer.from_str(_tokenizer())
    vocabulary = {"vocab_size": core.get_vocab_size()}
    torch.manual_seed(seed)
    config = getattr(transformers, f"{name}Config")(**{**SIZES, **vocabulary, **sizes, **options})
    getattr(transformers, f"{name}{kind}")(config).eval().save_pretrained(folder)
    names = {f"{part}_token": f"[{part.upper()}]" for part in ("pad", "unk", "cls", "sep", "mask")}
    transformers.PreTrainedTokenizerFast(tokenizer_object=core, **names).save_pretrained(folder)
    return folder


@cache
def _tokenizer() -> str:
    core = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    core.normalizer = normalizers.BertNormalizer(lowercase=True)
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.train_from_iterator(
        WORDS, trainers.WordPieceTrainer(vocab_size=120, special_tokens=SPECIALS, show_progress=False)
    )
    core.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    core.enable_padding(length=12)
    core.enable_truncation(12)
    return core.to_str()
