"""The device of tests behaves as a GPU does."""

import numpy as np
import pytest
import torch
from other_device import NAME, other_device
from torch import nn


def test_results_and_gradients_are_those_of_the_cpu() -> None:
    x, layer = torch.randn(5, 3), nn.Linear(3, 2)
    layer(x).square().sum().backward()
    expected = [parameter.grad for parameter in layer.parameters()]
    with other_device():
        layer.zero_grad()
        layer.to(NAME)
        layer(x.to(NAME)).square().sum().backward()
        assert {str(parameter.device) for parameter in layer.parameters()} == {f"{NAME}:0"}
        found = [parameter.grad.cpu() for parameter in layer.parameters() if parameter.grad is not None]
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_tensors_of_two_devices_do_not_mix() -> None:
    with other_device():
        x = torch.ones(3, device=NAME)
        assert (x + torch.tensor(1.0)).sum().device.type == NAME  # a tensor without dimensions may
        assert x[torch.tensor([0, 2])].shape == (2,)
        y = torch.ones(3)
        for mixed in (
            lambda: x + y,
            lambda: torch.cat([x, y]),
            lambda: y[x.long()],
            lambda: torch.stack([x.sum(), y.sum()]),
            lambda: y.sum().add_(x.sum()),
        ):
            with pytest.raises(RuntimeError, match=r"a tensor is on lazy:0, and others of shape \((3,)?\) are on"):
                mixed()
        for read in (x.numpy, lambda: np.asarray(x)):
            with pytest.raises(TypeError, match="can't convert lazy:0 device type tensor to numpy"):
                read()


def test_what_would_wait_is_recorded() -> None:
    with other_device() as device:
        x = torch.tensor([1.0, -1.0], device=NAME)
        y = torch.where(x > 0, x, torch.zeros_like(x)).masked_fill(x < 0, 2.0).to(torch.float64).to(NAME)
        device.waits.clear()  # of making x
        y = y + torch.full((), 2.0, device=NAME) + torch.tensor(1.0) + torch.ones(2).to(NAME, non_blocking=True)
        assert not device.waits and y.device == x.device
        for wait in (
            x.sum().item,
            x.tolist,
            x.cpu,
            lambda: bool(x.sum() > 0),
            lambda: x[x > 0],
            lambda: torch.equal(x, x),
            lambda: torch.zeros(2).copy_(x),
            x.nonzero,
            lambda: torch.repeat_interleave(x.long().abs()),
            lambda: torch.tensor([1.0], device=NAME),
            lambda: torch.as_tensor(1.0, device=NAME),
            lambda: x[torch.tensor([0, 1])],
            lambda: torch.linalg.cholesky(torch.eye(2, device=NAME)),
        ):
            wait()
            assert len(device.waits) == 1
            device.waits.clear()
