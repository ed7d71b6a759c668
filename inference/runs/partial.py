"""Training of a part: what is trained where the rest is held, by name, and what is held."""

import hashlib

import torch
from torch import nn

__all__ = ["frozen_fingerprint", "frozen_modules", "trainable_modules"]


def trainable_modules(module: nn.Module, name: str = "") -> list[str]:
    """The largest parts of which every parameter requires a gradient, by name; ``[""]`` if that is the whole module.

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


def frozen_fingerprint(module: nn.Module) -> str:
    """A fingerprint of the parameters that are held, by which a run knows what it began with.

    Examples:
        >>> layer = nn.Linear(2, 2)
        >>> before = frozen_fingerprint(layer.requires_grad_(False))
        >>> _ = layer.bias.add_(1)
        >>> frozen_fingerprint(layer) == before
        False
    """
    digest = hashlib.blake2b(digest_size=8)
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            digest.update(name.encode())
            digest.update(parameter.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def frozen_modules(module: nn.Module) -> list[nn.Module]:
    """The parts that have parameters, none of which requires a gradient.

    Examples:
        >>> layer = nn.Linear(2, 2).requires_grad_(False)
        >>> frozen_modules(nn.Sequential(layer, nn.Dropout(), nn.Linear(2, 2))) == [layer]
        True
    """
    held = []
    for part in module.modules():
        parameters = list(part.parameters())
        if parameters and not any(parameter.requires_grad for parameter in parameters):
            held.append(part)
    return held
