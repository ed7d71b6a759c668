"""The command that writes a page about a run."""

from typing import Unpack

from ..options.shared_options import RunOptions, open_run
from ..output import print_line

__all__ = ["look"]


def look(*, out: str | None = None, limit: int = 32, seed: int = 0, **options: Unpack[RunOptions]) -> None:
    """Write a page about a run, one file of HTML: curves, metrics, samples, reconstructions, latents, configuration.

    Any browser opens it, without network; it can be sent to others as it is.

    Example:
      pyroformer look runs/reviews

    Arguments:
        out: The file to write (default: look.html in the run's folder).
        limit: Largest number of held-out texts that are evaluated; more make the metrics exacter and take longer.
        seed: Random seed.
    """
    from ...pages.look import look as write_page
    from ...utils.outputs import check_output

    if out is not None:
        check_output("--out", out)
    if limit < 1:
        raise ValueError(f"--limit is {limit}: give a positive whole number.")
    print_line(str(write_page(open_run(options), out, limit=limit, seed=seed)))
