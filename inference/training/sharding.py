"""Training with sharded weights: each process holds a share of parameters, gradients and optimizer state (FSDP)."""

from collections.abc import Mapping
from typing import Any

from lightning.pytorch.strategies import ModelParallelStrategy, Strategy
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer
from torch.utils._pytree import tree_map

from ...models.transformer.blocks import Block

__all__ = ["FSDP", "check_shardable", "shard"]


class FSDP(ModelParallelStrategy):
    """Lightning's strategy for FSDP2, with the checkpoints of every other strategy.

    A checkpoint is gathered on the first process, tensor by tensor, into one file: it opens anywhere, and a run goes on
    with another number of processes or without sharding.

    Arguments:
        processes: Number of processes, over which everything is sharded.
    """

    def __init__(self, processes: int) -> None:
        super().__init__(data_parallel_size=processes, tensor_parallel_size=1, save_distributed_checkpoint=False)

    @property
    def lightning_restore_optimizer(self) -> bool:
        return True

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """All weights, on the first process; elsewhere their names alone."""
        assert self.lightning_module is not None
        return self._gathered(self.lightning_module.state_dict())

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """The whole state of an optimizer, on the first process."""
        return self._gathered(Strategy.optimizer_state(self, optimizer))

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        return Strategy.load_checkpoint(self, checkpoint_path, weights_only)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        assert self.lightning_module is not None
        own = self.lightning_module.state_dict()
        state = {name: _like(value, own.get(name)) for name, value in checkpoint["state_dict"].items()}
        self.lightning_module.load_state_dict(state, strict=strict)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        for optimizer, saved in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            state = {
                index: {name: _like(value, parameters[index]) for name, value in entries.items()}
                for index, entries in saved["state"].items()
            }
            optimizer.load_state_dict({**saved, "state": state})

    def _gathered(self, state: dict[str, Any]) -> dict[str, Any]:
        def whole(value: Any) -> Any:
            if isinstance(value, DTensor):
                value = value.full_tensor()  # every process takes part
            if not isinstance(value, Tensor):
                return value
            return value.detach().cpu() if self.is_global_zero else None

        gathered: dict[str, Any] = tree_map(whole, state)
        return gathered


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


def _like(value: Any, parameter: Tensor | None) -> Any:
    """A tensor of a checkpoint, sharded like a parameter of its shape."""
    if not isinstance(parameter, DTensor) or not isinstance(value, Tensor) or value.shape != parameter.shape:
        return value
    return distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)
