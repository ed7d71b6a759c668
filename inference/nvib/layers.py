"""The wrapped layers of a model, by name."""

from fnmatch import fnmatchcase

from torch import nn

from ...models.nvib.bottleneck import Bottleneck

__all__ = ["GROUPS", "check_prior", "layers"]

GROUPS = ("encoder", "decoder", "cross")


def layers(model: nn.Module, select: str | None = None) -> dict[str, Bottleneck]:
    """The bottlenecks of a wrapped model, by the names of the attention layers that they belong to.

    Arguments:
        model: The model.
        select: Which of them: ``"encoder"``, ``"decoder"`` or ``"cross"``, or a pattern of names such as
            ``"*.layer.[0-3].*"``; None is all.

    Raises:
        ValueError: If the model is not wrapped, or none is selected.

    Examples:
        >>> model = pf.nvib.wrap(torch.nn.TransformerEncoderLayer(16, 2, batch_first=True))
        >>> pf.nvib.layers(model)
        {'self_attn': Bottleneck(16, group='encoder', tau_mu=1, tau_sigma=0, tau_alpha=inf, form='exact')}
    """
    if not isinstance(model, nn.Module):
        raise ValueError(f"the model has type {type(model).__name__}: give a torch.nn.Module")
    if select is not None and not isinstance(select, str):
        raise ValueError(f"select is {select!r}: give one of {', '.join(GROUPS)}, or a pattern of names")
    wrapped = {
        name.rpartition("nvib")[0].rstrip("."): module
        for name, module in model.named_modules()
        if isinstance(module, Bottleneck)
    }
    if not wrapped:
        raise ValueError(f"the {type(model).__name__} has no NVIB layers: pf.nvib.wrap(model) gives it some")
    if select is None:
        return wrapped
    if select in GROUPS:
        selected = {name: layer for name, layer in wrapped.items() if layer.group == select}
    else:
        selected = {name: layer for name, layer in wrapped.items() if fnmatchcase(name, select)}
    if not selected:
        groups = sorted({layer.group for layer in wrapped.values()}, key=GROUPS.index)
        raise ValueError(
            f"no layer is selected by {select!r}: choose one of {', '.join(groups)}, or a pattern of names such as "
            f"{next(iter(wrapped))!r}"
        )
    return selected


def check_prior(layers: dict[str, Bottleneck]) -> None:
    """Raises a ValueError if a layer has no empirical prior."""
    for name, layer in layers.items():
        if not int(layer.count):
            raise ValueError(f"the layer {name!r} has no prior yet: call pf.nvib.fit_priors(model, batches) first")
