"""Fixtures of every test and doctest: seeds, validation, unchanged global state, and skipped tests."""

import ast
import doctest
import os
import random
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import pyro
import pytest
import shape_checks
import torch

import pyroformer

CHECKED = os.environ.get("JAXTYPING_DISABLE", "0") in ("", "0")

torch.set_num_threads(1)  # many small tensors: more threads only wait for one another


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "compile" in item.keywords and CHECKED:
            item.add_marker(pytest.mark.skip(reason="needs JAXTYPING_DISABLE=1: type checks cannot be compiled"))
        if "gpu" in item.keywords and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs CUDA"))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    if CHECKED:
        shape_checks.start()


@pytest.fixture(scope="session", autouse=True)
def no_waiting_for_the_disk() -> Iterator[None]:
    """Files that tests write need not survive a power failure."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda number: None)
        yield


@pytest.fixture(autouse=True)
def isolated(request: pytest.FixtureRequest, doctest_namespace: dict[str, Any]) -> Iterator[None]:
    """Seeds the generators, validates distributions and requires that torch's and Pyro's global state is unchanged."""
    if isinstance(request.node, pytest.DoctestItem) and reads_a_run(request.node.dtest.examples):
        doctest_namespace.update(names_of_the_run())
    os.environ.pop("COLUMNS", None)  # which processes of pytest-xdist have: tables are as wide as in a pipe
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    pyro.clear_param_store()
    pyro.enable_validation(True)
    doctest_namespace.update(torch=torch, pyro=pyro, pf=pyroformer)
    if "compile" in request.keywords:
        torch._dynamo.reset()  # graphs of other tests count towards the limit of recompilations
    before = _global_state()
    yield
    after = _global_state()
    if after != before:
        _restore(before)
    pyro.clear_param_store()
    if "compile" in request.keywords:  # torch.compile switches torch's validation off itself
        del before["pyro's validate_distributions_torch"]
    changed = [f"{name}: {value} -> {after[name]}" for name, value in before.items() if after[name] != value]
    assert not changed, f"the test left global state changed: {', '.join(changed)}"


def reads_a_run(examples: list[doctest.Example]) -> bool:
    """Whether examples read a ``run`` that they do not make."""
    names = [node for each in examples for node in ast.walk(ast.parse(each.source)) if isinstance(node, ast.Name)]
    return next((isinstance(name.ctx, ast.Load) for name in names if name.id == "run"), False)


@cache
def names_of_the_run() -> dict[str, Any]:
    """What the example of Run defines: examples that read a run without making one go on from there."""
    torch.manual_seed(0)
    names: dict[str, Any] = {"pf": pyroformer}
    for example in doctest.DocTestParser().get_examples(pyroformer.Run.__doc__ or ""):
        exec(example.source, names)
    return names


def _global_state() -> dict[str, Any]:
    return {
        **{f"pyro's {name}": value for name, value in pyro.settings.get().items()},
        "default dtype": torch.get_default_dtype(),
        "default device": torch.get_default_device(),
        "gradient mode": torch.is_grad_enabled(),
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "matmul precision": torch.get_float32_matmul_precision(),
        "threads": torch.get_num_threads(),
    }


def _restore(state: dict[str, Any]) -> None:
    pyro.settings.set(**{name.removeprefix("pyro's "): value for name, value in state.items() if "pyro's " in name})
    torch.set_default_dtype(state["default dtype"])
    torch.set_default_device(None)  # as it is at the start: a device, even the CPU, would put a mode around every call
    torch.set_grad_enabled(state["gradient mode"])
    torch.use_deterministic_algorithms(state["deterministic algorithms"])
    torch.set_float32_matmul_precision(state["matmul precision"])
    torch.set_num_threads(state["threads"])
