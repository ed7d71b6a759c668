"""The size of an attention head."""

__all__ = ["head_width"]


def head_width(width: int, heads: int) -> int:
    """The number of dimensions of each of the heads that a width is divided into.

    Raises:
        ValueError: If the width is not a multiple of the number of heads.

    Examples:
        >>> head_width(128, heads=4)
        32
    """
    if width % heads:
        raise ValueError(f"width is {width}, which is not a multiple of heads = {heads}: choose another width or heads")
    return width // heads
