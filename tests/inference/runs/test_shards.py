"""Checkpoints in shards: written and read, never executed, and replaced only when the next one is whole."""

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

from pyroformer.inference.runs.checkpoints import read_checkpoint, read_unsharded
from pyroformer.inference.training.distributed.sharding import FSDP
from pyroformer.inference.training.trainer import AtomicCheckpoints

WEIGHT = torch.arange(12.0).reshape(4, 3)


@pytest.fixture(scope="module")
def mesh() -> Iterator[DeviceMesh]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


@pytest.fixture
def strategy(monkeypatch: pytest.MonkeyPatch) -> FSDP:
    monkeypatch.setattr(FSDP, "is_global_zero", True)
    monkeypatch.setattr(FSDP, "broadcast", lambda self, value: value)
    strategy = FSDP(1)
    strategy.checkpoint_io = AtomicCheckpoints()
    return strategy


def checkpoint(mesh: DeviceMesh, step: int) -> dict[str, Any]:
    def sharded(value: Tensor) -> Tensor:
        return distribute_tensor(value, mesh, [Shard(0)])

    moments = {"step": torch.tensor(float(step)), "exp_avg": sharded(WEIGHT * step)}
    return {
        "state_dict": {"objective.w": sharded(WEIGHT + step), "objective.buffer": torch.ones(2)},
        "optimizer_states": [{"state": {0: moments}, "param_groups": [{"params": [0]}]}],
        "global_step": step,
    }


def test_a_checkpoint_is_read_whole(mesh: DeviceMesh, strategy: FSDP, tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    strategy.save_checkpoint(checkpoint(mesh, 5), path)
    assert read_unsharded(path)["shards"] == "last-5" and read_unsharded(path)["global_step"] == 5
    whole = read_checkpoint(path)
    assert whole.keys() == {"state_dict", "optimizer_states", "global_step"}
    assert torch.equal(whole["state_dict"]["objective.w"], WEIGHT + 5)
    moments = whole["optimizer_states"][0]["state"][0]
    assert torch.equal(moments["exp_avg"], WEIGHT * 5) and float(moments["step"]) == 5
    without = read_checkpoint(path, moments=False)
    assert torch.equal(without["state_dict"]["objective.w"], WEIGHT + 5)
    assert without["optimizer_states"][0]["state"][0].keys() == {"step"}


@pytest.mark.parametrize("place", ["distributed.sharding.write_shards", "trainer.write_atomically"])
def test_the_last_whole_checkpoint_survives_a_write_that_ends_early(
    mesh: DeviceMesh, strategy: FSDP, tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "last.ckpt"
    strategy.save_checkpoint(checkpoint(mesh, 5), path)

    def killed(*arguments: object) -> None:
        (tmp_path / "last-7").mkdir(exist_ok=True)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(f"pyroformer.inference.training.{place}", killed)
        strategy.save_checkpoint(checkpoint(mesh, 7), path)
    assert torch.equal(read_checkpoint(path)["state_dict"]["objective.w"], WEIGHT + 5)
    strategy.save_checkpoint(checkpoint(mesh, 7), path)
    assert torch.equal(read_checkpoint(path)["state_dict"]["objective.w"], WEIGHT + 7)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["last-7-again", "last.ckpt"]


def test_an_index_is_data(mesh: DeviceMesh, strategy: FSDP, tmp_path: Path) -> None:
    strategy.save_checkpoint(checkpoint(mesh, 5), tmp_path / "last.ckpt")
    marker = tmp_path / "executed"

    class Hostile:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return eval, (f"__import__('pathlib').Path({str(marker)!r}).touch()",)

    (tmp_path / "last-5" / ".metadata").write_bytes(pickle.dumps(Hostile()))
    with pytest.raises(ValueError, match=r"the shards in .*last-5 cannot be read \(builtins.eval is not of an index\)"):
        read_checkpoint(tmp_path / "last.ckpt")
    assert not marker.exists()


@pytest.mark.parametrize("damage", ["no folder", "no index", "cut index", "no shard", "cut shard"])
def test_shards_that_are_missing_or_damaged(mesh: DeviceMesh, strategy: FSDP, tmp_path: Path, damage: str) -> None:
    strategy.save_checkpoint(checkpoint(mesh, 5), tmp_path / "last.ckpt")
    folder = tmp_path / "last-5"
    file = folder / (".metadata" if "index" in damage else "__0_0.distcp")
    if damage == "no folder":
        folder.rename(tmp_path / "elsewhere")
    elif damage.startswith("no "):
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(ValueError, match=r"the shards in .*last-5 cannot be read .* were not all copied"):
        read_checkpoint(tmp_path / "last.ckpt")


def test_a_disk_that_is_full(mesh: DeviceMesh, strategy: FSDP, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("torch.distributed.checkpoint.filesystem.os.fsync", full)
    with pytest.raises(OSError, match="last-5 could not be written") as caught:
        strategy.save_checkpoint(checkpoint(mesh, 5), tmp_path / "last.ckpt")
    assert caught.value.errno == 28
