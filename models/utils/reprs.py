"""Short reprs of posteriors, which are made of large tensors."""

from torch import Tensor

__all__ = ["in_words"]


def in_words(posterior: object, vectors: Tensor, mask: Tensor | None = None, name: str = "vectors") -> str:
    """A posterior in a few words in place of its tensors.

    Arguments:
        posterior: The posterior.
        vectors: The means of its latents, vectors on axis -2.
        mask: True for the vectors that a text has; all if None.
        name: What the vectors are called.

    Examples:
        >>> in_words(object(), torch.zeros(3, 5, 8))
        'object(3 texts, 5 vectors of 8 dimensions)'
    """
    *batch, count, dimensions = vectors.shape
    counts = f"{count}"
    if mask is not None and mask.device.type != "meta":
        least, most = int(mask.sum(-1).min()), int(mask.sum(-1).max())
        counts = f"{most}" if least == most else f"{least} to {most}"
    texts = f"{batch[0]} text{'s' if batch[0] != 1 else ''}, " if batch else ""
    return f"{type(posterior).__name__}({texts}{counts} {name} of {dimensions} dimensions)"
