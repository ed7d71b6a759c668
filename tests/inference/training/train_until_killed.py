"""Trains ``... CORPUS CUT``, or resumes it and trains another, ``... CORPUS CUT WHOLE``, for a test that kills it."""

import sys
from pathlib import Path

import torch

from pyroformer.guides.nvae import NVAEGuide
from pyroformer.inference.data.corpus import Corpus
from pyroformer.inference.run import Run
from pyroformer.inference.training.fit import fit
from pyroformer.models.nvae import NVAE

OPTIONS = {"steps": 40, "batch_size": 16, "validations": 4, "validation_texts": 8}


def train(corpus: Corpus, out: Path, resume: bool) -> Run:
    torch.manual_seed(0)
    model = NVAE.for_corpus(corpus, base_measure="gaussian", width=16, layers=1, heads=2, dropout=0.0)
    return fit(model, NVAEGuide(model), corpus, out=out, resume=resume, **OPTIONS)


if __name__ == "__main__":
    texts, cut, *whole = sys.argv[1:]
    train(Corpus.load(texts), Path(cut), resume=bool(whole))
    for out in whole:
        train(Corpus.load(texts), Path(out), resume=False)
