"""Training with sharded weights: each process holds a share of parameters, gradients and optimizer state (FSDP)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.strategies import ModelParallelStrategy, Strategy
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from ....models.transformer.blocks import Block
from ...runs.checkpoints import SHARDS, read_unsharded
from ...runs.shards import (
    WEIGHTS,
    free_folder,
    put_back,
    read_shards,
    shard_sizes,
    split_off,
    write_shards,
)

__all__ = ["FSDP", "check_shardable", "gather", "shard"]


class FSDP(ModelParallelStrategy):
    """Lightning's strategy for FSDP2, with checkpoints in shards that every other strategy reads too.

    Each process writes its share of weights and moments, and reads its share of those that any number of processes
    wrote. What is not sharded is in the checkpoint's own file, which is written last, by renaming: until then the
    checkpoint before it counts.

    Arguments:
        processes: Number of processes, over which everything is sharded.
    """

    def __init__(self, processes: int) -> None:
        super().__init__(data_parallel_size=processes, tensor_parallel_size=1)

    @property
    def lightning_restore_optimizer(self) -> bool:
        return True

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """All weights, of sharded ones the share of this process."""
        assert self.lightning_module is not None
        return self.lightning_module.state_dict()

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """The state of an optimizer, of sharded tensors the share of this process."""
        return Strategy.optimizer_state(self, optimizer)

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        path = Path(filepath)
        name = self.broadcast(free_folder(path, checkpoint["global_step"]))
        write_shards(split_off(checkpoint), path.parent / name)
        if self.is_global_zero:
            self.checkpoint_io.save_checkpoint(checkpoint | {SHARDS: name}, path)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """A checkpoint, of whose shards this process reads its share."""
        path = Path(checkpoint_path)
        checkpoint = read_unsharded(path)
        if SHARDS in checkpoint:
            folder = path.parent / checkpoint.pop(SHARDS)
            shares = {name: self._share(name) for name in shard_sizes(folder)}
            read_shards(shares, folder, together=True)
            put_back(checkpoint, shares)
        return checkpoint

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        assert self.lightning_module is not None
        own = self.lightning_module.state_dict()
        state = {name: _like(value, own.get(name)) for name, value in checkpoint["state_dict"].items()}
        self.lightning_module.load_state_dict(state, strict=strict)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        for optimizer, saved in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            parameters = _parameters(optimizer)
            state = {
                index: {name: _like(value, parameters[index]) for name, value in entries.items()}
                for index, entries in saved["state"].items()
            }
            optimizer.load_state_dict({**saved, "state": state})

    def _share(self, name: str) -> Tensor:
        """Memory for this process's share of a tensor in the shards."""
        assert self.lightning_module is not None
        place, key = name.split("/", 1)
        if place == WEIGHTS:
            weight: Tensor = self.lightning_module.state_dict()[key]
            return weight
        _, number, index = place.split()
        return torch.zeros_like(_parameters(self.optimizers[int(number)])[int(index)])


def shard(objective: nn.Module, mesh: DeviceMesh) -> None:
    """Shards a model and its guide in place: each Transformer block on its own, and everything else together.

    A block is gathered when it is needed and let go afterwards; the rest, such as embeddings and heads, once a step.
    """
    for block in [module for module in objective.modules() if isinstance(module, Block)]:
        fully_shard(block, mesh=mesh)
    fully_shard(objective, mesh=mesh)
    register_fsdp_forward_method(objective, "losses")


def check_shardable(objective: nn.Module) -> None:
    """Raises a ValueError if a parameter is a single number, of which processes cannot have shares.

    Examples:
        >>> layer = nn.Linear(2, 2)
        >>> check_shardable(layer)
        >>> layer.scale = nn.Parameter(torch.tensor(1.0))
        >>> check_shardable(layer)
        Traceback (most recent call last):
        ValueError: strategy is fsdp, but scale is a single number, which has no shares: leave strategy at ddp.
    """
    for name, parameter in objective.named_parameters():
        if parameter.ndim == 0:
            raise ValueError(
                f"strategy is fsdp, but {name} is a single number, which has no shares: leave strategy at ddp."
            )


def gather(state: Mapping[str, Tensor], whole: Mapping[str, Tensor] | None) -> None:
    """Gathers sharded weights, one after the other, into whole ones of the same names.

    Arguments:
        state: Weights, of which each process has a share; all processes call it together.
        whole: Where to write them, in one process; None in the others.
    """
    for name, value in state.items():
        gathered = value.full_tensor() if isinstance(value, DTensor) else value  # every process takes part
        if whole is not None:
            whole[name].copy_(gathered)


def _parameters(optimizer: Optimizer) -> list[Tensor]:
    """The parameters of an optimizer, in the order of its state."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _like(value: Any, parameter: Tensor | None) -> Any:
    """A tensor of a checkpoint, sharded like a parameter of its shape; only the share is copied from the file."""
    if not isinstance(parameter, DTensor) or not isinstance(value, Tensor) or value.shape != parameter.shape:
        return value
    if isinstance(value, DTensor):
        return value
    mesh, placements = parameter.device_mesh, parameter.placements
    return distribute_tensor(value.to(parameter.device), mesh, placements, src_data_rank=None).clone()
