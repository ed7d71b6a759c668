"""Runs are used from several threads as from one."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from pyroformer.guides.vae import VAEGuide
from pyroformer.inference.data.corpus import Corpus
from pyroformer.inference.run import Run
from pyroformer.inference.runs.folder import RunFolder
from pyroformer.inference.utils.seeded_eval import seeded_eval
from pyroformer.models.vae import VAE


def test_threads_wait_for_one_another() -> None:
    corpus = Corpus.from_texts([f"number {n} of many" for n in range(40)], vocabulary=265, max_length=12)
    model = VAE.for_corpus(corpus, base_measure="gaussian", width=8, layers=1, heads=2)
    run = Run(model.eval(), VAEGuide(model).eval(), corpus, RunFolder("nowhere"), {}, 0)
    expected = [run.sample(2, seed=seed) for seed in range(8)]
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(lambda seed: run.sample(2, seed=seed), range(8))) == expected


def test_one_thread_enters_again_and_errors_let_others_in() -> None:
    layer = torch.nn.Dropout()
    with seeded_eval(layer, seed=0), seeded_eval(layer, seed=1):
        assert not layer.training
    try:
        with seeded_eval(layer, seed=0):
            raise KeyError
    except KeyError:
        pass

    def enter() -> bool:
        with seeded_eval(layer, seed=0):
            return layer.training

    with ThreadPoolExecutor(1) as thread:
        assert thread.submit(enter).result(timeout=10) is False
    assert layer.training


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_named(value: float) -> None:
    """Of the model or of its guide: otherwise a bound is nan, or Pyro prints all of its numbers."""
    corpus = Corpus.from_texts([f"number {n} of many" for n in range(40)], vocabulary=265, max_length=12)
    for part, name in (("model", "VAE"), ("guide", "VAEGuide")):
        model = VAE.for_corpus(corpus, base_measure="gaussian", width=8, layers=1, heads=2)
        run = Run(model, VAEGuide(model), corpus, RunFolder("nowhere"), {}, 0)
        with torch.no_grad():
            next(reversed(list(getattr(run, part).parameters())))[..., -1] = value
        calls: list[Callable[[Run], object]] = [
            lambda run: run.sample(1),
            lambda run: run.bound(["number 3"]),
            lambda run: run.reconstruct("a"),
            lambda run: run.posterior("a"),
        ]
        for call in calls:
            with pytest.raises(
                ValueError, match=rf"^{name} has weights that are not finite, .*: fit it anew with a lower"
            ):
                call(run)
