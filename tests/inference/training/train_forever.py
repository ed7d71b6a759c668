"""Trains ``train_forever.py CORPUS CUT``, or resumes it and trains another, ``train_forever.py CORPUS CUT WHOLE``."""

import sys

import torch

from pyroformer.guides.nvae import NVAEGuide
from pyroformer.inference.data.corpus import Corpus
from pyroformer.inference.training.fit import fit
from pyroformer.models.nvae import NVAE


def train(corpus: Corpus, out: str, resume: bool) -> None:
    torch.manual_seed(0)
    model = NVAE.for_corpus(corpus, base_measure="gaussian", width=16, layers=1, heads=2, dropout=0.0)
    fit(
        model,
        NVAEGuide(model),
        corpus,
        out=out,
        steps=60,
        batch_size=16,
        validations=6,
        validation_texts=8,
        resume=resume,
    )


if __name__ == "__main__":
    texts, cut, *whole = sys.argv[1:]
    train(Corpus.load(texts), cut, resume=bool(whole))
    for out in whole:
        train(Corpus.load(texts), out, resume=False)
