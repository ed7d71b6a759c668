"""All plots of a run as files."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from matplotlib.figure import Figure

from ...guides.base import encodes
from ...models.attention.mixture import Mixture
from ...models.transformer.memory import Context
from ...models.transformer.text_distribution import AutoregressiveText
from ..data.entries import TextSource, as_texts
from ..data.pairs import unzip_pairs
from ..run import Run
from ..runs.fitted import check_run
from ..utils.files import as_path, write_atomically
from .attention_map import attention_of_layers, decoder_attention, figure_size
from .latent_layers import active_units, layer_curves, swap_table
from .training_curves import HEIGHT, WIDTH, curves
from .weight_strip import INCHES, weights

__all__ = ["save_all"]

TEXTS = 3  # number of test texts that are drawn by default
EVALUATED = 256  # test texts for active units
DPI = 150


def save_all(run: Run, folder: str | Path | None = None, texts: TextSource | None = None) -> list[Path]:
    """Save every plot of a run as PNG: ``curves``, and those of its latents.

    For a mixture, ``weights-1``, ``attention-1`` and so on for each text (a VAE has only the latter); for latents of
    layers, ``layers`` (KL over training), ``units`` (active units) and ``swap`` (the first text with latents of the
    second; both with the condition of the first, if the run was trained on pairs).

    Arguments:
        run: Any run.
        folder: The folder to write to; ``plots`` in the run's folder by default. Existing files are overwritten.
        texts: The texts to draw; by default three test texts. For a run trained on pairs there is no ``swap`` of
            other texts, whose conditions are unknown.

    Returns:
        The paths of the files.

    Raises:
        ValueError: If the folder cannot be written, or a text is longer than the model's max_length.

    Examples:
        >>> import tempfile
        >>> model = pf.LanguageModel.for_corpus(run.corpus, width=8, layers=1, heads=2)
        >>> small = pf.fit(model, None, run.corpus, steps=1)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     sorted(path.name for path in save_all(small, folder))
        ['curves.png']
    """
    check_run(run)
    folder = run.folder.path / "plots" if folder is None else as_path(folder, "folder")
    conditions: Sequence[str] | None = None
    if texts is None:
        drawn, conditions = unzip_pairs(run.corpus.entries("test", TEXTS))
    else:
        drawn = as_texts(texts)
    figures = {"curves": _curves(run)}
    if encodes(run.guide):
        figures |= _latents(run, drawn, conditions)
    return [_save(figure, folder / f"{name}.png") for name, figure in figures.items()]


def _curves(run: Run) -> Figure:
    panels = 2 if run.model.latents else 1
    figure = Figure((WIDTH * panels, HEIGHT), layout="constrained")
    curves(run, axes=figure.subplots(1, panels, squeeze=False)[0])
    return figure


def _latents(run: Run, texts: Sequence[str], conditions: Sequence[str] | None) -> dict[str, Figure]:
    """The plots of the latents that the posterior supports."""
    posterior = run.encode(*unzip_pairs(run.corpus.entries("train", 1)))
    memory, figures = posterior.memory(), dict[str, Figure]()
    if isinstance(memory, Context) and memory.latents is not None:
        figures |= _layers(run)
    if posterior.layers and len(texts) > 1 and (conditions is not None or not run.corpus.conditional):
        figures["swap"] = _swap(run, texts[0], texts[1], None if conditions is None else conditions[0])
    attends = isinstance(memory, Mixture) and isinstance(run.model.likelihood(memory), AutoregressiveText)
    for number, text in enumerate(texts, 1):
        if posterior.token_weights() is not None:
            figures[f"weights-{number}"] = _weights(run, text)
        if attends:
            figures[f"attention-{number}"] = _attention(run, text)
    return figures


def _layers(run: Run) -> dict[str, Figure]:
    figures = {"layers": Figure((WIDTH, HEIGHT), layout="constrained")}
    layer_curves(run, ax=figures["layers"].subplots())
    evaluation = run.evaluate(limit=EVALUATED, num_particles=1, reconstructions=1)
    if evaluation.latents:
        figures["units"] = Figure((WIDTH, HEIGHT), layout="constrained")
        active_units(evaluation, ax=figures["units"].subplots())
    return figures


def _swap(run: Run, text: str, other: str, condition: str | None) -> Figure:
    figure = Figure((1.4 * WIDTH, 0.45 * (len(run.model.latents) + 4)))
    swap_table(run, text, other, condition=condition, ax=figure.add_axes((0, 0, 1, 1)))
    return figure


def _weights(run: Run, text: str) -> Figure:
    figure = Figure((INCHES, 2 * INCHES))  # higher than needed: empty space is cropped
    weights(run, text, ax=figure.add_axes((0, 0, 1, 1)))
    return figure


def _attention(run: Run, text: str) -> Figure:
    result = decoder_attention(run, text)
    figure = Figure(figure_size(result.generated, result.inputs), layout="constrained")
    attention_of_layers(result, ax=figure.subplots())
    return figure


def _save(figure: Figure, path: Path) -> Path:
    write = partial(figure.savefig, format="png", dpi=DPI, bbox_inches="tight", pad_inches=0.1)
    try:
        write_atomically(path, write)
    except OSError as error:
        raise ValueError(f"{path} cannot be written ({error.strerror}): choose another folder.") from error
    return path
