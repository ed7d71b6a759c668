"""Traces of model and guide: parameters of networks are sites of them only for handlers of others."""

from typing import Any

import pytest
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger

from pyroformer.guides.vae import VAEGuide
from pyroformer.inference.objectives.elbo import ELBO
from pyroformer.inference.objectives.trace_pair import trace_pair
from pyroformer.models import local_params
from pyroformer.models.batch import EOS, Batch
from pyroformer.models.transformer.config import TransformerConfig
from pyroformer.models.vae import VAE

BATCH = Batch.pad([[5, 6, 7, EOS], [8, EOS]])


def pair() -> tuple[VAE, VAEGuide]:
    torch.manual_seed(0)
    model = VAE(TransformerConfig(vocabulary=20, max_length=8, width=8, layers=1, heads=2, dropout=0.0))
    return model, VAEGuide(model)


class Parameters(Messenger):
    """A handler that sees parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def _pyro_param(self, msg: Any) -> None:
        self.names.add(msg["name"])


def kinds(*traces: Any) -> set[str]:
    return {site["type"] for trace in traces for site in trace.nodes.values()}


def test_parameters_are_no_sites_unless_a_handler_of_others_sees_them() -> None:
    model, guide = pair()
    assert "param" not in kinds(*trace_pair(model, guide, BATCH))
    with Parameters() as handler:
        trace_pair(model, guide, BATCH)
    assert any(name.startswith("decoder$$$") for name in handler.names)
    assert "param" in kinds(poutine.trace(model).get_trace(BATCH)), "as before"


def test_they_are_sites_again_after_an_error() -> None:
    model, guide = pair()
    with pytest.raises(TypeError):
        trace_pair(model, guide, BATCH, "unexpected")
    assert "param" in kinds(poutine.trace(model).get_trace(BATCH))


def test_loss_and_gradients_are_those_with_sites(monkeypatch: pytest.MonkeyPatch) -> None:
    results = []
    for sites in (False, True):
        objective = ELBO()(*pair())
        with monkeypatch.context() as patch:
            if sites:
                patch.setattr(local_params, "_PYRO_STACK", ["a handler of others"])
            loss = objective(BATCH)
        loss.backward()
        results.append([loss.detach(), *(parameter.grad for parameter in objective.parameters())])
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)
