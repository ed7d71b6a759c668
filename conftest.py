"""What holds for every test and doctest: the same seeds, validation on, and no global state left changed."""

import os
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyro
import pytest
import torch

torch.set_num_threads(min(4, torch.get_num_threads()))  # many small tensors: more threads only wait for one another


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    checked = os.environ.get("JAXTYPING_DISABLE", "0") in ("", "0")
    for item in items:
        if "compile" in item.keywords and checked:
            item.add_marker(pytest.mark.skip(reason="needs JAXTYPING_DISABLE=1: type checks cannot be compiled"))
        if "gpu" in item.keywords and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs CUDA"))


@pytest.fixture(autouse=True)
def isolated(doctest_namespace: dict[str, Any]) -> Iterator[None]:
    """Seeded, validated, and with the global state of torch and Pyro as it was."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    pyro.clear_param_store()
    pyro.enable_validation(True)
    doctest_namespace["torch"] = torch
    before = _global_state()
    yield
    after = _global_state()
    _restore(before)
    pyro.clear_param_store()
    changed = [f"{name}: {before[name]} -> {after[name]}" for name in before if before[name] != after[name]]
    assert not changed, f"the test left global state changed: {', '.join(changed)}"


def _global_state() -> dict[str, Any]:
    return {
        "default dtype": torch.get_default_dtype(),
        "default device": torch.get_default_device(),
        "grad mode": torch.is_grad_enabled(),
        "threads": torch.get_num_threads(),
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "torch validation": torch.distributions.Distribution._validate_args,
        "pyro validation": pyro.distributions.torch_distribution.TorchDistributionMixin._validate_args
        if hasattr(pyro.distributions.torch_distribution.TorchDistributionMixin, "_validate_args")
        else None,
        "pyro local params": pyro.settings.get("module_local_params"),
    }


def _restore(state: dict[str, Any]) -> None:
    torch.set_default_dtype(state["default dtype"])
    torch.set_default_device(state["default device"])
    torch.set_grad_enabled(state["grad mode"])
    torch.set_num_threads(state["threads"])
    torch.use_deterministic_algorithms(state["deterministic algorithms"])
    pyro.enable_validation(True)
    pyro.settings.set(module_local_params=state["pyro local params"])
