r"""Components that weigh next to nothing leave a mixture, so that a decoder does not pay for them at every token."""

from dataclasses import replace

import torch

from .components import expanded, normalised, selected
from .mixture import Mixture

__all__ = ["compacted"]


def compacted(mixture: Mixture, threshold: float, keep: int = 1) -> Mixture:
    r"""The mixture of the components that weigh at least a threshold, gathered to the front.

    .. math:: \{ n : \pi_n \ge \epsilon \ \text{or} \ n < \text{keep} \}

    What is left has as many components as the text that keeps most of them; others are filled up with absent ones. The
    weights are normalised again. Where what left weighed nothing, attention is what it was.

    The number of components is one that the device has to tell: this waits for it, once.

    Arguments:
        mixture: The mixture, of any batch shape.
        threshold: :math:`\epsilon`, from 0 to below 1, for weights that sum to one. At 0 only absent components leave.
        keep: How many of the first components stay whatever they weigh: those of the prior.

    Raises:
        ValueError: If the threshold is out of its range, or ``keep`` is less than 1 or more than there are.

    Examples:
        >>> mixture = Mixture(torch.tensor([[0.1, 0.6, 0.0, 0.3]]).log(), torch.arange(4.0).reshape(1, 4, 1))
        >>> compacted(mixture, 0.2).vectors.flatten().tolist()
        [0.0, 1.0, 3.0]
    """
    if not 0 <= threshold < 1:
        raise ValueError(f"the threshold is {threshold}: give a weight from 0 to below 1")
    if not 1 <= keep <= mixture.components:
        raise ValueError(f"keep is {keep}: give how many of the {mixture.components} components stay, at least 1")
    mixture = expanded(mixture)
    present = mixture.present
    first = torch.arange(mixture.components, device=present.device) < keep
    kept = present & (first | (normalised(mixture.log_weights, present).exp() >= threshold))
    count = kept.sum(-1)
    most = max(keep, int(count.max())) if count.numel() else keep
    index = (~kept).byte().argsort(dim=-1, stable=True)[..., :most]
    found = selected(mixture, index)
    there = torch.arange(most, device=present.device) < count[..., None]
    return replace(found, log_weights=normalised(found.log_weights, there), mask=there)
