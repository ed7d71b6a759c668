"""A training that a test kills: ``train_forever.py CORPUS OUT``."""

import sys
from pathlib import Path

import torch

from pyroformer.guides.nvae import NVAEGuide
from pyroformer.inference.data.corpus import Corpus
from pyroformer.inference.training.fit import fit
from pyroformer.models.nvae import NVAE


def trained(texts: Path, out: Path, resume: bool) -> None:
    corpus = Corpus.load(texts)
    torch.manual_seed(0)
    model = NVAE.for_corpus(corpus, base_measure="gaussian", width=16, layers=1, heads=2, dropout=0.0)
    options = {"steps": 60, "batch_size": 16, "validations": 6, "validation_texts": 8}
    fit(model, NVAEGuide(model), corpus, out=out, resume=resume, **options)


if __name__ == "__main__":
    trained(Path(sys.argv[1]), Path(sys.argv[2]), resume=False)
