"""Numbers of things in words."""

__all__ = ["counted"]


def counted(number: int | float, noun: str) -> str:
    """A number of things, of which one is in the singular.

    Examples:
        >>> counted(1, "text"), counted(2000, "text"), counted(0.5, "nat")
        ('1 text', '2,000 texts', '0.5 nats')
    """
    words = f"{number:,}" if isinstance(number, int) else f"{number:g}"
    return f"{words} {noun}{'' if number == 1 else 's'}"
