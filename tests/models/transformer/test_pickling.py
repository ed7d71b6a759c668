"""Models and guides are pickled with their tie, by pickle and by torch.save."""

import io
import pickle
from typing import Any

import pytest
import torch

import pyroformer as pf
from pyroformer.models.transformer.config import TransformerConfig

PAIRS = [(pf.LanguageModel, None), (pf.NVAE, pf.NVAEGuide), (pf.VAE, pf.VAEGuide), (pf.DELLA, pf.DELLAGuide)]
CONFIG = TransformerConfig(vocabulary=20, max_length=8, width=16, layers=1, heads=2)


def saved(modules: Any) -> Any:
    file = io.BytesIO()
    torch.save(modules, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def pickled(modules: Any) -> Any:
    return pickle.loads(pickle.dumps(modules))


@pytest.mark.parametrize("again", [pickled, saved])
@pytest.mark.parametrize(("model_class", "guide_class"), PAIRS, ids=lambda each: getattr(each, "__name__", ""))
def test_models_are_pickled_with_their_guides(model_class: Any, guide_class: Any, again: Any) -> None:
    model = model_class(CONFIG).eval()
    guide = None if guide_class is None else guide_class(model).eval()
    batch = pf.Batch.pad([[5, 6, 2], [7, 2]])
    other_model, other_guide = again((model, guide))
    losses = []
    for pair in ((model, guide), (other_model, other_guide)):
        torch.manual_seed(0)
        losses.append(pf.ELBO().loss(*pair, batch))
    assert losses[0] == losses[1]
    names = dict(other_model.named_parameters())
    if guide is not None:
        shared = {id(p) for p in model.parameters()} & {id(p) for p in guide.parameters()}
        other_shared = {id(p) for p in names.values()} & {id(p) for p in other_guide.parameters()}
        assert len(other_shared) == len(shared)
