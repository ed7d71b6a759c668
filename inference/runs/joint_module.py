"""Model and guide as one module: its trainable and its frozen parts."""

import hashlib
from collections.abc import Collection, Iterator
from itertools import chain

import torch
from torch import Tensor, nn

from ...models.base import Model

EXTRA_STATE = "_extra_state"  # torch's name for it in a checkpoint

__all__ = [
    "freeze_others",
    "frozen_fingerprint",
    "frozen_modules",
    "frozen_names",
    "joint_module",
    "trainable_modules",
]


def joint_module(model: Model, guide: nn.Module | None) -> nn.ModuleDict:
    """Model and guide in one module, whose ``state_dict`` has the names of a run's checkpoints."""
    return nn.ModuleDict({"model": model} if guide is None else {"model": model, "guide": guide})


def trainable_modules(module: nn.Module, name: str = "") -> list[str]:
    """Names of the largest modules whose parameters all require a gradient; ``[""]`` for the whole module.

    Examples:
        >>> pair = nn.ModuleDict({"encoder": nn.Linear(2, 2), "decoder": nn.Linear(2, 2)})
        >>> _ = pair["encoder"].requires_grad_(False)
        >>> trainable_modules(pair)
        ['decoder']
    """
    parameters = [parameter.requires_grad for parameter in module.parameters()]
    if not any(parameters):
        return []
    if all(parameters):
        return [name]
    prefix = f"{name}." if name else ""
    own = [prefix + key for key, parameter in module.named_parameters(recurse=False) if parameter.requires_grad]
    return own + [part for key, child in module.named_children() for part in trainable_modules(child, prefix + key)]


def freeze_others(module: nn.Module, trained: Collection[str]) -> None:
    """Freezes all parameters but those of the modules that :func:`trainable_modules` returned.

    Examples:
        >>> pair = nn.ModuleDict({"encoder": nn.Linear(2, 2), "decoder": nn.Linear(2, 2)})
        >>> freeze_others(pair, ["decoder"])
        >>> trainable_modules(pair)
        ['decoder']
    """
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(any(f"{name}.".startswith(f"{part}.") for part in trained))


def frozen_names(module: nn.Module) -> list[str]:
    """Names of the frozen parameters, with all names of one that several modules share.

    What else a frozen module keeps in a checkpoint, its extra state such as a tokenizer, is frozen with it.

    Examples:
        >>> layer = nn.Linear(2, 2, bias=False).requires_grad_(False)
        >>> frozen_names(nn.ModuleDict({"encoder": layer, "decoder": layer}))
        ['encoder.weight', 'decoder.weight']
    """
    parameters = module.named_parameters(remove_duplicate=False)
    names = [name for name, parameter in parameters if not parameter.requires_grad]
    return names + [f"{name}{EXTRA_STATE}" for name, _ in _frozen_extra_states(module)]


def frozen_fingerprint(module: nn.Module) -> str:
    """A hash of the frozen parameters and extra states: a run can only be resumed with those that it started from.

    Examples:
        >>> layer = nn.Linear(2, 2)
        >>> before = frozen_fingerprint(layer.requires_grad_(False))
        >>> _ = layer.bias.add_(1)
        >>> frozen_fingerprint(layer) == before
        False
    """
    digest = hashlib.blake2b(digest_size=8)
    frozen = (item for item in module.named_parameters() if not item[1].requires_grad)
    for name, tensor in chain(frozen, _frozen_extra_states(module)):
        digest.update(name.encode())
        digest.update(_bytes(tensor))
    return digest.hexdigest()


def frozen_modules(module: nn.Module) -> list[nn.Module]:
    """All submodules that have parameters, none of which requires a gradient.

    Examples:
        >>> layer = nn.Linear(2, 2).requires_grad_(False)
        >>> frozen_modules(nn.Sequential(layer, nn.Dropout(), nn.Linear(2, 2))) == [layer]
        True
    """
    return [part for part in module.modules() if _is_frozen(part)]


def _is_frozen(module: nn.Module) -> bool:
    """Whether a module has parameters, none of which requires a gradient."""
    parameters = [parameter.requires_grad for parameter in module.parameters()]
    return bool(parameters) and not any(parameters)


def _frozen_extra_states(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The prefixes of frozen modules that keep a tensor beside their parameters in a checkpoint, with the tensor."""
    for name, part in module.named_modules():
        if type(part).get_extra_state is not nn.Module.get_extra_state and _is_frozen(part):
            yield (f"{name}." if name else ""), part.get_extra_state()


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
