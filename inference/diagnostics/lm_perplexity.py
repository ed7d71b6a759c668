r"""Forward and reverse perplexity of generated texts under a language model.

Forward perplexity measures quality: it is low for likely texts, even if all are the same. Reverse perplexity, of real
texts under a language model trained on generated ones, measures diversity as well. Both use a decoder-only
:class:`~pyroformer.LanguageModel`, whose log p(x) is exact.
"""

from dataclasses import replace
from typing import Any

from ...models.language_model import LanguageModel
from ...models.utils.seeding import forked_rng
from ..data.corpus import Corpus
from ..data.entries import TextSource, as_texts
from ..evaluation.report import MetricResult
from ..run import Run
from ..training.fit import fit

__all__ = ["forward_perplexity", "reverse_perplexity"]

HELD_OUT = 10  # one text in ten is for validation


def forward_perplexity(lm: Run, texts: TextSource) -> MetricResult:
    r"""Log-likelihood of generated texts under a language model trained on real texts.

    Arguments:
        lm: A run of a model without latents.
        texts: The generated texts. Blank texts are left out, and counted in the label; texts longer than the model's
            max_length are treated as those of its corpus.

    Raises:
        ValueError: If the model has latents, or all texts are blank.
    """
    if lm.guide is not None:
        raise ValueError(f"a {type(lm.model).__name__} has latents, so that it only bounds log p(x): give a run of lm.")
    texts = as_texts(texts)
    generated = _without_blank(texts)
    metric: MetricResult = lm.evaluate(generated)["bound"]
    blank = len(texts) - len(generated)
    label = f"forward, {len(generated):,} texts" + (f" ({blank:,} blank ones left out)" if blank else "")
    return replace(metric, label=label, bound_on=None, exact=False)


def reverse_perplexity(texts: TextSource, corpus: Corpus, *, size: str = "tiny", **options: Any) -> MetricResult:
    r"""Log-likelihood of real held-out texts under a language model trained on generated texts.

    Arguments:
        texts: The generated texts; blank ones are left out, every tenth is for validation.
        corpus: The real texts: the language model is evaluated on their test split and uses their tokenizer.
        size: Size of the language model.
        options: Options of :func:`~pyroformer.fit`, such as ``steps``, and, under ``network``, of
            :meth:`~pyroformer.LanguageModel.for_corpus`.

    Raises:
        ValueError: If there are fewer than 20 texts.
    """
    usable = _without_blank(as_texts(texts), least=2 * HELD_OUT)
    generated = Corpus.from_texts(
        {
            "train": [text for i, text in enumerate(usable) if i % HELD_OUT],
            "valid": usable[::HELD_OUT],
            "test": corpus.test[:],
        },
        max_length=corpus.max_length,
        tokenizer=corpus.tokenizer,
        name="generated texts",
    )
    with forked_rng(options.get("seed", 0)):
        model = LanguageModel.for_corpus(generated, size=size, **options.pop("network", {}))
    metric: MetricResult = fit(model, None, generated, **options).evaluate()["bound"]
    label = f"reverse, trained on {len(generated.train):,} texts"
    return replace(metric, label=label, bound_on=None, exact=False)


def _without_blank(texts: list[str], least: int = 1) -> list[str]:
    usable = [text for text in texts if text.strip()]
    if len(usable) < least:
        raise ValueError(f"{len(usable)} of {len(texts)} texts are not blank: give at least {least}.")
    return usable
