"""What moves the objective during a run, without a Trainer."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pyroformer.inference.objectives.keep_control import KeepController
from pyroformer.inference.objectives.kl_control import KLController
from pyroformer.inference.options import TrainingOptions
from pyroformer.inference.training.kl_weights import KLWeights, VectorsToKeep
from pyroformer.models.batch import Batch
from pyroformer.models.priors.weights import BoundedDirichletProcess


def weights(**full: float) -> nn.Module:
    module = nn.Module()
    for site, weight in full.items():
        module.register_buffer(site, torch.tensor(weight))
    return module


def of_two_processes(mean: Tensor, reduce_op: str) -> Tensor:
    """The mean with another process that has twice as much."""
    assert reduce_op == "mean"
    return 1.5 * mean


def test_a_schedule_moves_all_weights_and_validation_has_the_full_ones() -> None:
    module = weights(z=0.5, h=2.0)
    kl_weights = KLWeights(module, TrainingOptions(kl_schedule="linear"))
    kl_weights.set(progress=0.125)
    assert [float(weight) for _, weight in module.named_buffers()] == [0.25, 1.0]
    kl_weights.set_full()
    assert [float(weight) for _, weight in module.named_buffers()] == [0.5, 2.0]
    assert kl_weights.reported() == {"beta": 1.0}, "of the last batch, not of a validation"
    assert KLWeights(module, TrainingOptions()).reported() == {}, "it stays"
    assert KLWeights(nn.Module(), TrainingOptions(kl_schedule="linear")).reported() == {}, "there is none"


def test_a_step_moves_the_weight_by_the_mean_kl_of_its_batches_and_processes() -> None:
    module, expected = weights(z=1.0, h=1.0), KLController(4.0)
    kl_weights = KLWeights(module, TrainingOptions(target_kl=4.0))
    for step in ((1.0, 3.0), (7.0,)):
        for kl in step:
            kl_weights.note({"kl_z": torch.tensor(kl), "kl_h": torch.tensor(1.0)}, Batch.pad([[5, 2]]))
        kl_weights.end_step(of_two_processes)
        expected.update(torch.tensor(1.5 * (1.0 + sum(step) / len(step))))
    kl_weights.set(progress=0.9)
    assert [float(weight) for _, weight in module.named_buffers()] == 2 * [float(expected.value)] != [1.0, 1.0]


@pytest.mark.parametrize(("kl", "objective"), [(0.5, 1.5), (3.0, 1.0)])
def test_a_kl_below_its_target_is_charged_as_the_target(kl: float, objective: float) -> None:
    kl_weights = KLWeights(weights(z=1.0), TrainingOptions(target_kl=4.0))
    values = {"objective": 9.0, "bound": 1.0, "kl_z": kl}
    assert kl_weights.charged(values, tokens_per_text=4.0) == objective


def test_vectors_beyond_the_share_move_delta_and_are_charged() -> None:
    prior, twin = (BoundedDirichletProcess(delta=0.3) for _ in range(2))
    vectors, expected = VectorsToKeep(KeepController(0.5, prior), vocabulary=100), KeepController(0.5, twin)
    batch: Any = Batch.pad([[5, 6, 7, 2]])
    for kept in (4.0, 3.0):
        vectors.note({"kept": torch.tensor(kept)}, batch)
    vectors.end_step(of_two_processes)
    vectors.set(progress=0.9)
    expected.update(torch.tensor(1.5 * 3.5), torch.tensor(1.5 * 4.0))
    expected.set_delta()
    assert vectors.reported() == {"delta": float(twin.delta)} != {"delta": 0.3}
    assert vectors.charged({"objective": 1.0, "kept": 0.62}, 4.0) == pytest.approx(1.0 + 0.1 * math.log(100))
