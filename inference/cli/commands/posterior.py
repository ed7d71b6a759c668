"""The command that keeps a posterior; its signature and docstring are its help."""

from ..common import given_texts, load_run
from ..progress import say

__all__ = ["posterior"]


def posterior(
    run: str,
    *,
    out: str | None = None,
    text: list[str] | None = None,
    data: str | None = None,
    field: str | None = None,
    condition: str | None = None,
    n: int = 8,
    draws: int = 100,
    predictive: int = 0,
    sites: list[str] | None = None,
    seed: int = 0,
    trust: list[str] | None = None,
) -> None:
    """Draw from the posterior of some texts and keep it as NetCDF, for ArviZ.

    Without --text and --data it takes held-out texts of the run.

    Example:
      pyroformer posterior runs/reviews --out posterior.nc --draws 200

    Arguments:
        run: The folder that fit wrote.
        out: The file to write, such as posterior.nc.
        text: Texts to encode.
        data: A file of texts to encode.
        field: The key of a .jsonl file, or the column of a .tsv file, that holds the text.
        condition: For a run on pairs: what --text answers to, or the key or column of --data that holds it.
        n: At most so many texts: every draw of their latents is kept.
        draws: Draws of each text's latents.
        predictive: From how many of the draws a text is written.
        sites: Latent sites to keep, such as weights (default: all).
        seed: Of the draws.
        trust: Classes outside pyroformer that the run may import, such as my_priors.Sticky.
    """
    from ...data.pairs import unzip_pairs
    from ...diagnostics import LEAST_DRAWS, khat
    from ...posterior.export import posterior as drawn

    if out is None:
        raise ValueError("posterior needs --out FILE, such as posterior.nc.")
    if text and data:
        raise ValueError("both --text and --data say what to encode: give one of them.")
    if n < 1:
        raise ValueError(f"-n is {n}: give a positive whole number.")
    if condition is not None and not (text or data):
        raise ValueError(f"--condition is {condition!r}, but of no text: give --text or --data with it.")
    given = None if data is None else given_texts(data, field, condition)
    if text:
        given = text if condition is None else [(condition, one) for one in text]
    loaded = load_run(run, trust)
    texts, conditions = unzip_pairs(loaded.corpus.entries("test", n) if given is None else given[:n])
    found = drawn(loaded, texts[:], conditions, draws, predictive=predictive, sites=sites, seed=seed)
    try:
        found.to_netcdf(out)
    except OSError as error:
        raise ValueError(f"{out} cannot be written: {error.strerror or error}. Choose another --out.") from error
    said = f"{draws} draws of {len(texts)} texts in {out}"
    if draws >= LEAST_DRAWS:
        said += f"; k-hat of log p - log q: median {float(khat(found).median()):.2f}"
    say(said)
