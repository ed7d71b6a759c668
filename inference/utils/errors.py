"""Error messages of one line."""

__all__ = ["first_line"]


def first_line(error: BaseException) -> str:
    """The first line of a library's message, cut to 120 characters; the name of the error if it has no message.

    Examples:
        >>> first_line(ValueError("the file is cut short\\nat byte 7"))
        'the file is cut short'
    """
    lines = str(error).splitlines()
    return lines[0][:120] if lines else type(error).__name__
