"""Lightning on the device that every machine has."""

import sys
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch.accelerators import Accelerator
from lightning.pytorch.strategies import SingleDeviceStrategy
from other_device import NAME

DEVICE = torch.device(NAME, 0)
Trainer = lightning.Trainer


class OtherAccelerator(Accelerator):
    """What Lightning asks an accelerator for."""

    def setup_device(self, device: torch.device) -> None: ...

    def teardown(self) -> None: ...

    def get_device_stats(self, device: Any) -> dict[str, Any]:
        return {}

    @staticmethod
    def parse_devices(devices: Any) -> int:
        return int(devices)

    @staticmethod
    def get_parallel_devices(devices: int) -> list[torch.device]:
        return [DEVICE] * devices

    @staticmethod
    def auto_device_count() -> int:
        return 1

    @staticmethod
    def is_available() -> bool:
        return True

    @staticmethod
    def name() -> str:
        return NAME


def train_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make ``fit`` train on the device, with the optimizers of a GPU."""

    def trainer(**options: Any) -> lightning.Trainer:
        options |= {"accelerator": "auto", "strategy": SingleDeviceStrategy(DEVICE, accelerator=OtherAccelerator())}
        return Trainer(**options)

    monkeypatch.setattr("lightning.Trainer", trainer)
    optimizer = sys.modules["torch.optim.optimizer"]  # the package has another of its name
    monkeypatch.setattr(optimizer, "_get_fused_kernels_supported_devices", lambda: [NAME, "cpu"])
