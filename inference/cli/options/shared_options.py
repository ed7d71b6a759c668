"""Options that several commands share, with their help; imported without torch."""

from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

__all__ = ["DecodingOptions", "RunOptions", "decoding_strategy", "open_run"]

if TYPE_CHECKING:  # torch is imported when a command runs, not for its help
    from ...generation.decoding import Decoding
    from ...run import Run


class RunOptions(TypedDict):
    """Options of commands that open a run.

    Arguments:
        run: The folder that fit wrote.
        trust: Modules or classes outside pyroformer that may be imported, such as my_priors.
    """

    run: str
    trust: NotRequired[list[str] | None]


class DecodingOptions(RunOptions):
    """Options of commands that generate texts from a run.

    Arguments:
        seed: Random seed (default: 0).
        temperature: Below 1 sharpens the distribution of each token, above 1 flattens it.
        top_k: Sample from this many most probable tokens; 0 for all.
        top_p: Sample from the most probable tokens that together have this probability.
    """

    seed: NotRequired[int]
    temperature: NotRequired[float | None]
    top_k: NotRequired[int | None]
    top_p: NotRequired[float | None]


def open_run(options: RunOptions) -> "Run":
    """The run in a folder, on the GPU if there is one."""
    import torch

    from ...run import load
    from ...runs.folder import RunFolder
    from ..resume import read_config

    path = options["run"]
    read_config(RunFolder(path))
    return load(path, trust=options.get("trust") or (), device="cuda" if torch.cuda.is_available() else "cpu")


def decoding_strategy(options: DecodingOptions, *, greedy: bool | None = None) -> "Decoding":
    """The decoding strategy, validated before a run is opened.

    Arguments:
        options: The options that were typed.
        greedy: Whether the most probable tokens are taken; None for: unless temperature, top_k or top_p is set.
    """
    from ...generation.decoding import Decoding

    values = {name: options.get(name) for name in ("temperature", "top_k", "top_p")}
    given: dict[str, Any] = {name: value for name, value in values.items() if value is not None}
    return Decoding(**given, greedy=not given if greedy is None else greedy)
