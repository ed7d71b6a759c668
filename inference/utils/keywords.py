"""Options that a function takes as ``**options`` and passes on: named in its signature, and others refused by name."""

from collections.abc import Callable, Collection, Iterable, Mapping
from inspect import Parameter, signature
from typing import Any, TypeVar

from ...models.utils.choices import check_known

__all__ = ["check_options", "with_options_of"]

F = TypeVar("F", bound=Callable[..., Any])


def with_options_of(
    source: Callable[..., Any], leave_out: Collection[str] = (), defaults: Mapping[str, Any] | None = None
) -> Callable[[F], F]:
    """A decorator for a function with ``**options``: its signature names those of ``source``, for help and completion.

    Arguments:
        source: What the decorated function passes its ``**options`` on to.
        leave_out: Arguments of it that are no option.
        defaults: Defaults of options that differ from those of ``source``.

    Examples:
        >>> def draw(*, seed: int = 0, width: int = 8): ...
        >>> @with_options_of(draw, leave_out=["width"], defaults={"seed": None})
        ... def show(title: str, **options): ...
        >>> signature(show)
        <Signature (title: str, *, seed: int = None)>
    """
    changed = defaults or {}
    variable = (Parameter.VAR_KEYWORD, Parameter.VAR_POSITIONAL)

    def decorated(function: F) -> F:
        own = [item for item in signature(function).parameters.values() if item.kind is not Parameter.VAR_KEYWORD]
        taken = {item.name for item in own} | {*leave_out}
        more = [
            item.replace(kind=Parameter.KEYWORD_ONLY, default=changed.get(item.name, item.default))
            for item in signature(source).parameters.values()
            if item.kind not in variable and item.name not in taken
        ]
        setattr(function, "__signature__", signature(function).replace(parameters=[*own, *more]))  # noqa: B010
        return function

    return decorated


def check_options(function: Callable[..., Any], names: Iterable[str], home: str = "pyroformer") -> None:
    """Raises a ValueError for a name that is no argument of a function.

    Arguments:
        function: The function.
        names: The names of the keyword arguments that it was given.
        home: The module that users know it from, for the message.

    Examples:
        >>> check_options(pf.fit, ["step"])
        Traceback (most recent call last):
        ValueError: fit has no option step: did you mean steps? help(pyroformer.fit) lists all.
    """
    name = function.__qualname__
    check_known(name, names, signature(function).parameters, f"help({home}.{name}) lists all.")
