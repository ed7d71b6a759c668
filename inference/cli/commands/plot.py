"""The command that plots a run."""

from typing import Unpack

from ..options.shared_options import RunOptions, open_run
from ..output import print_line

__all__ = ["plot"]


def plot(*, out: str | None = None, **options: Unpack[RunOptions]) -> None:
    """Plot the training curves and the latents of a run.

    For a mixture: its weights and the decoder's attention on a few held-out texts. For latents in layers: their KL over
    the training, their active units, and a text with latents of another.

    Example:
      pyroformer plot runs/reviews

    Arguments:
        out: The folder for the plots (default: plots in the run's folder).
    """
    from ...plots import save_all

    for path in save_all(open_run(options), out):
        print_line(str(path))
