"""One page about a run: a file of HTML that needs no server, no network and no script."""

from pathlib import Path

from ...guides.base import encodes
from ...models.utils.numbers import declared_number
from ..data.pairs import unzip_pairs
from ..evaluation.summary import run_summary
from ..run import Run
from ..runs.fitted import check_run
from ..utils.files import as_path
from ..utils.outputs import check_output, write_output
from .document import document, note, table, text
from .sections import SECTIONS, PageContext

__all__ = ["look"]

TEXTS = 4  # test texts that are reconstructed; the first two are the ends of the interpolation
PARTICLES = 8  # draws of the importance-weighted bound


def look(
    run: Run, path: str | Path | None = None, *, limit: int = 32, seed: int = 0, progress: bool | None = None
) -> Path:
    """Write a page about a run: one file of HTML, which any browser opens, without network and scripts.

    It has the curves of the training, what the latents cost, the metrics on a few held-out texts, texts from the
    prior, reconstructions with each token shaded by its posterior weight, an interpolation, traversals of single
    latents, the configuration, and the command that began the run. What the run has no posterior for is left out.

    Arguments:
        run: Any run.
        path: The file; by default ``look.html`` in the run's folder. An existing page is overwritten.
        limit: Largest number of held-out texts that are evaluated.
        seed: Random seed of everything that is drawn; the same seed gives the same page.
        progress: Whether to show progress bars on standard error; by default in a terminal and in notebooks.

    Returns:
        The path of the file.

    Raises:
        ValueError: If the file cannot be written or belongs to a run, the run's folder is temporary and there is no
            ``path``, ``limit`` is below 1, or ``run`` is no run.

    Examples:
        >>> import tempfile
        >>> model = pf.LanguageModel.for_corpus(run.corpus, width=8, layers=1, heads=2)
        >>> small = pf.fit(model, None, run.corpus, steps=1)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     page = look(small, f"{folder}/look.html", limit=1)
        ...     page.name, page.read_text()[:15]
        ('look.html', '<!DOCTYPE html>')
    """
    check_run(run)
    limit, seed = declared_number("limit", limit, int), declared_number("seed", seed, int)
    if path is None and run.folder.owner is not None:
        raise ValueError("the folder of this run is temporary: give the path of the page, such as 'look.html'.")
    path = run.folder.path / "look.html" if path is None else as_path(path, "path")
    check_output("path", str(path))
    content = _page(run, limit, seed, progress)
    try:
        write_output(str(path), content)
    except OSError as error:
        raise ValueError(f"{path} cannot be written ({error.strerror or error}): choose another file.") from error
    return path


def _page(run: Run, limit: int, seed: int, progress: bool | None) -> bytes:
    """The page in UTF-8."""
    evaluation = run.evaluate(limit=limit, num_particles=PARTICLES, seed=seed, progress=progress)
    texts, conditions = unzip_pairs(run.corpus.entries("test", TEXTS))
    posterior = run.encode(texts, conditions) if encodes(run.guide) else None
    context = PageContext(run, posterior, texts, conditions, evaluation, seed)
    sections = [(title, body) for title in SECTIONS if (body := _section(title, context))]
    rows = [(name, text(value)) for name, value in run_summary(run).items() if name != "latents"]
    verdict = f'<p class="verdict">{text(evaluation.verdict)}</p>\n' if evaluation.verdict else ""
    return document(run.folder.path.resolve().name, verdict + table(rows), sections)


def _section(title: str, context: PageContext) -> str:
    """A section, or in its place what the library says of a run that lacks what it needs."""
    try:
        return SECTIONS[title](context)
    except ValueError as error:
        return note(str(error))
