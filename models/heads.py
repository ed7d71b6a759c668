"""The size of an attention head."""

from .utils.numbers import check_at_least

__all__ = ["head_width"]


def head_width(width: int, heads: int) -> int:
    """The number of dimensions of each of the heads that a width is divided into.

    Raises:
        ValueError: If they are not whole numbers of at least 1, or the width is not a multiple of the number of heads.

    Examples:
        >>> head_width(128, heads=4)
        32
    """
    check_at_least(1, width=width, heads=heads)
    if width % heads:
        raise ValueError(f"width is {width}, which is no multiple of heads = {heads}: choose another width or heads.")
    return width // heads
