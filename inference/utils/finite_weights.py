"""The check that weights are finite."""

from collections.abc import Mapping

from torch import Tensor

__all__ = ["check_finite"]


def check_finite(weights: Mapping[str, Tensor], source: str) -> None:
    """Raises a ValueError that names the first of some weights that are not finite.

    Arguments:
        weights: The weights by name.
        source: Where they come from, for the message.
    """
    for name, weight in weights.items():
        if weight.numel() and not all(bound.isfinite() for bound in weight.detach().aminmax()):
            raise ValueError(
                f"{source} has weights that are not finite, {name} the first of them, as after a training that "
                "diverged: fit it anew with a lower learning_rate, or start from other weights."
            )
