"""pyroformer plot."""

from ..common import load_run
from ..progress import say

__all__ = ["plot"]


def plot(run: str, *, out: str | None = None, trust: list[str] | None = None) -> None:
    """Draw the training curves and what there is to see of latents.

    Of a mixture, its weights and the decoder's attention for a few held-out texts; of latents in layers, their KL over
    the training, their active units, and a text with latents of another.

    Example:
      pyroformer plot runs/reviews

    Arguments:
        run: The folder that fit wrote.
        out: The folder for the pictures; plots in the run's folder if not given.
        trust: Classes outside pyroformer that the run may import, such as my_priors.Sticky.
    """
    from ...plots import save_all

    for path in save_all(load_run(run, trust), out):
        say(str(path))
