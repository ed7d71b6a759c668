"""Trains a model, until it is killed or to the end: ``python train_forever.py CORPUS OUT [resume]``."""

import sys

import torch

from pyroformer.guides.nvae import NVAEGuide
from pyroformer.inference.data.corpus import Corpus
from pyroformer.inference.training.fit import fit
from pyroformer.models.nvae import NVAE

if __name__ == "__main__":
    corpus = Corpus.load(sys.argv[1])
    torch.manual_seed(0)
    model = NVAE.for_corpus(corpus, width=16, layers=1, heads=2, dropout=0.0)
    options = {"steps": 150, "batch_size": 16, "validations": 15, "resume": "resume" in sys.argv[3:]}
    fit(model, NVAEGuide(model), corpus, out=sys.argv[2], **options)
