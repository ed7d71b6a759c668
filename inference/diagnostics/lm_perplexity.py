r"""How texts that a model made up read to a language model, and what a language model learns from them.

Forward perplexity falls when texts are likely, be they all the same; reverse perplexity falls when together they teach
what real texts are like. Each needs the other. Both are taken with a decoder-only :class:`~pyroformer.LanguageModel`,
whose log p(x) is exact; an autoencoder, which has seen the text that it predicts, gives no perplexity.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from ...models.language_model import LanguageModel
from ..data.corpus import Corpus
from ..evaluation.report import Metric
from ..run import Run

__all__ = ["forward_perplexity", "reverse_perplexity"]

HELD_OUT = 10  # of how many texts one is kept to choose the weights by


def forward_perplexity(judge: Run, texts: Sequence[str]) -> Metric:
    r"""Log-likelihood of made-up texts under a language model that was trained on real ones.

    Arguments:
        judge: A run whose model has no latents.
        texts: What to judge. Blank ones are left out, and counted in the label; those longer than the judge's max_length
            are treated as those of its corpus were.

    Raises:
        ValueError: If the judge has latents, or no text is left.
    """
    if judge.guide is not None:
        raise ValueError(
            f"a {type(judge.model).__name__} has latents, so that it only bounds log p(x): judge with a run of lm."
        )
    written = _written(texts)
    figure: Metric = judge.evaluate(written)["bound"]
    blank = len(texts) - len(written)
    label = f"forward, {len(written):,} texts" + (f" ({blank:,} blank ones left out)" if blank else "")
    return replace(figure, label=label, bound_on=None, exact=False)


def reverse_perplexity(texts: Sequence[str], corpus: Corpus, *, size: str = "tiny", **options: Any) -> Metric:
    r"""Log-likelihood of real held-out texts under a language model that is trained on made-up ones.

    Arguments:
        texts: What to train on, blank ones left out; every tenth is held out, to choose the best weights by.
        corpus: The real texts, whose test split is judged and whose tokenizer is used, so that figures compare.
        size: Of the language model.
        options: Of :func:`~pyroformer.fit`, such as ``steps``, and of :meth:`~pyroformer.LanguageModel.for_corpus`
            under ``network``.

    Raises:
        ValueError: If there are fewer than 20 texts.
    """
    written = _written(texts, least=2 * HELD_OUT)
    made_up = Corpus.from_texts(
        {
            "train": [text for i, text in enumerate(written) if i % HELD_OUT],
            "valid": written[::HELD_OUT],
            "test": corpus.test[:],
        },
        max_length=corpus.max_length,
        tokenizer=corpus.tokenizer,
        name="made-up texts",
    )
    from ..training.fit import fit

    with torch.random.fork_rng():
        torch.manual_seed(options.get("seed", 0))
        model = LanguageModel.for_corpus(made_up, size=size, **options.pop("network", {}))
    figure: Metric = fit(model, None, made_up, **options).evaluate()["bound"]
    label = f"reverse, trained on {len(made_up.train):,} texts"
    return replace(figure, label=label, bound_on=None, exact=False)


def _written(texts: Sequence[str], least: int = 1) -> list[str]:
    written = [text for text in texts if text.strip()]
    if len(written) < least:
        raise ValueError(f"{len(written)} of {len(texts)} texts are not blank: give at least {least} to judge.")
    return written
