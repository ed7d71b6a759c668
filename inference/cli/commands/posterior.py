"""The command that saves posterior draws for ArviZ."""

from typing import Unpack

from ..input_texts import check_all_fit, fitting_texts, require_text, texts_to_encode
from ..options.shared_options import RunOptions, open_run
from ..output import print_line
from ..typed import as_typed

__all__ = ["posterior"]


def posterior(
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
    fix_global: bool = False,
    seed: int = 0,
    **options: Unpack[RunOptions],
) -> None:
    """Draw from the posterior of texts and save the draws as NetCDF, for ArviZ.

    Without --text and --data it takes held-out texts of the run.

    Example:
      pyroformer posterior runs/reviews --out posterior.nc --draws 200

    Arguments:
        out: The file to write, such as posterior.nc.
        text: Texts to encode.
        data: A file of texts to encode.
        field: Field that holds the text: the key of a JSON object or the column of a table.
        condition: For a run on pairs: the condition of --text, or the field of --data that holds the conditions.
        n: Largest number of texts; every draw of their latents is saved.
        draws: Draws of each text's latents.
        predictive: Number of the draws from which a text is generated.
        sites: Latent sites to save, such as weights (default: all).
        fix_global: Draw once what all texts share, such as hyper-priors; the texts then have a k-hat.
        seed: Random seed.
    """
    from ...data.pairs import unzip_pairs
    from ...diagnostics.khat import LEAST_DRAWS, khat, khat_verdict
    from ...posterior.export import posterior as draw_posterior
    from ...posterior.netcdf import netcdf_bytes
    from ...utils.counts import counted
    from ...utils.outputs import check_output, write_output
    from ..parser import flags

    if out is None:
        raise ValueError("posterior needs --out FILE, such as posterior.nc.")
    check_output("--out", out, [data])
    entries = texts_to_encode([require_text("--text", item) for item in text or ()], data, field, condition, n)
    run = open_run(options)
    texts, conditions = unzip_pairs(run.corpus.entries("test", n) if entries is None else entries)
    texts, conditions, left_out = fitting_texts(run, texts, conditions)
    tree = draw_posterior(
        run, texts, conditions, draws, predictive=predictive, sites=sites, fix_global=fix_global, seed=seed
    )
    content = netcdf_bytes(tree)
    try:
        write_output(out, content)
    except OSError as error:
        raise ValueError(f"{out} cannot be written: {error.strerror or error}. Choose another --out.") from error
    line = f"{counted(draws, 'draw')} of {counted(len(texts), 'text')} in {out}"
    if draws >= LEAST_DRAWS:
        try:
            line += f"; k-hat of log p - log q: {khat_verdict(khat(tree).values)}"
        except ValueError as reason:
            line += f"; no k-hat: {as_typed(str(reason), flags('posterior'))}"
    print_line(line)
    check_all_fit(left_out)
