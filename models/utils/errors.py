"""Messages of caught errors on one line, for the errors that are raised in their place."""

__all__ = ["first_line", "one_line"]

LONGEST = 200  # characters of a first line


def first_line(error: BaseException) -> str:
    """The first line with text of a library's message, cut to 200 characters; the error's name if there is none.

    Examples:
        >>> first_line(ValueError("the file is cut short\\nat byte 7")), first_line(MemoryError())
        ('the file is cut short', 'MemoryError')
    """
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[0][:LONGEST] if lines else type(error).__name__


def one_line(error: BaseException) -> str:
    """A message as a whole, its line breaks and runs of spaces as one space each.

    Examples:
        >>> one_line(ValueError("the file is cut short\\n  at byte 7"))
        'the file is cut short at byte 7'
    """
    return " ".join(str(error).split())
