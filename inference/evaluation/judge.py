"""A language model that judges texts, whoever wrote them."""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float

from ...models.batch import Batch
from ...models.language_model import LanguageModel
from ...models.utils.numbers import check_at_least
from ..pretrained.pretrained import Pretrained
from ..utils.seeded_eval import seeded_eval

__all__ = ["Judge", "Loss"]


class Loss(NamedTuple):
    """The negative log-likelihood of texts, in nats, and the number of their tokens."""

    nats: Float[np.ndarray, " texts"]
    tokens: Float[np.ndarray, " texts"]


class Judge:
    r"""A language model as a judge of texts: :math:`-\log p(x)`, its end included.

    It reads texts with its own tokenizer, so that texts of any model can be judged, and those of two models compared.
    Of a text with more tokens than it has positions, or than ``max_length``, it judges the beginning.

    Arguments:
        backbone: The language model: a :class:`~pyroformer.Pretrained`, such as that of a run, ``run.backbone``.
        max_length: The largest number of tokens that it reads of a text.

    Examples:
        >>> corpus = pf.Corpus.from_texts([f"text {n}" for n in range(40)], vocabulary=270, max_length=12)
        >>> run = pf.fit(pf.LanguageModel.for_corpus(corpus, width=16, layers=1), None, corpus, steps=2, progress=False)
        >>> loss = Judge(run.backbone).loss(["text 3", "another one"])
        >>> loss.nats.shape, loss.tokens.shape
        ((2,), (2,))
    """

    def __init__(self, backbone: Pretrained, max_length: int = 128) -> None:
        self.name, self.tokenizer = backbone.name, backbone.tokenizer
        self.max_length = min(max_length, backbone.config.max_length)
        self.model = LanguageModel(replace(backbone.config, max_length=self.max_length))
        self.model.start_from(backbone)

    def loss(self, texts: Sequence[str], batch_size: int = 16) -> Loss:
        """The loss on each text; texts of similar length are read together.

        Raises:
            ValueError: If ``batch_size`` is not positive.
        """
        check_at_least(1, batch_size=batch_size)
        ids = [tokens[: self.max_length] for tokens in self.tokenizer.encode_batch(list(texts))]
        tokens = np.array([len(row) for row in ids], dtype=float)
        nats = np.zeros(len(ids))
        order = np.argsort(tokens, kind="stable")
        with seeded_eval(self.model, None, seed=0), torch.inference_mode():
            for start in range(0, len(ids), batch_size):
                rows = order[start : start + batch_size]
                batch = Batch.pad([ids[row] for row in rows]).to(self.model.device)
                assert batch.tokens is not None
                nats[rows] = -self.model.likelihood(mask=batch.mask).log_prob(batch.tokens).double().cpu().numpy()
        return Loss(nats, tokens)
