"""The report of benchmarks/nvib_pretrained.py at a tiny size."""

import importlib
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parents[1] / "benchmarks"


def test_nvib_pretrained(monkeypatch: pytest.MonkeyPatch) -> None:
    """A random BERT: what each row of the report means, and that the dial at its start is the plain model."""
    monkeypatch.syspath_prepend(FOLDER)
    script = importlib.import_module("nvib_pretrained")
    transformers = pytest.importorskip("transformers")
    from sklearn.metrics import roc_auc_score
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = "a man woman dog runs sits sleeps outside inside red blue big".split()
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(["[PAD]", "[UNK]", *words])}, "[UNK]"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=core, pad_token="[PAD]", model_max_length=32)
    sizes = {"vocab_size": 14, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.BertConfig(**sizes, intermediate_size=16, initializer_range=0.5)
    made = [" ".join(words[int(i)] for i in row) for row in torch.randint(len(words), (24, 6))]
    pairs = script.Pairs(made[:12], made[12:], torch.arange(12).numpy() % 2 == 0)
    monkeypatch.setattr(script, "ALPHAS", (float("inf"), -4.0))
    monkeypatch.setattr(script, "SIGMAS", (0.0,))
    results = script.measured(transformers.BertModel(config), tokenizer, pairs, pairs)
    assert results["identity"] < 1e-5
    start, turned = results["dial"]
    assert start["rank"] == pytest.approx(1) and start["prior"] == pytest.approx(0, abs=1e-6) and start["vectors"] > 0.9
    assert turned["rank"] < 0.9999 and turned["prior"] > 0.01
    same = next(row for row in results["test"].values())
    assert same["plain"] == pytest.approx(start["auc"])
    assert "| no noise |" in script.report(results)
    values = torch.randint(5, (12,)).double().numpy()
    assert script.auc(values, pairs.entailed) == pytest.approx(roc_auc_score(pairs.entailed, values))
    dropped = script.noise(made, "dropped words", 0)
    assert script.noise(made, "dropped words", 0) == dropped != script.noise(made, "dropped words", 1)
    assert all(set(short.split()) <= set(text.split()) for short, text in zip(dropped, made, strict=True))
    mistyped = script.noise(made, "typing errors", 0)
    assert [len(text.split()) for text in mistyped] == [len(text.split()) for text in made] and mistyped != made
