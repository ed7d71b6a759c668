"""The sections of the page about a run: each is HTML, or empty where the run has nothing to show there."""

import shlex
from collections.abc import Callable, Sequence
from html import escape
from typing import NamedTuple

import numpy as np
import yaml
from matplotlib.figure import Figure

from ...guides.posteriors import TextPosterior
from ...models.base import Model
from ..evaluation.report import Evaluation
from ..evaluation.verdict import validation_rate
from ..generation.interpolation import interpolate, swap_rows
from ..generation.reconstruction import Reconstruction
from ..generation.traversal import traverse
from ..plots import active_units, curves, layer_curves, layer_kl
from ..run import Run
from .document import code, note, pictures, shaded, table, text

__all__ = ["SECTIONS", "PageContext"]

SAMPLES = 8  # texts from the prior
STEPS = 7  # texts on the path of the interpolation
TRAVERSED = 3  # latents that are traversed
PANEL = (5.2, 3.8)  # size of a picture, in inches


class PageContext(NamedTuple):
    """The inputs of the sections.

    Arguments:
        run: The run.
        posterior: The posterior of ``texts``; None if the model has no latents or its guide does not encode.
        texts: Held-out texts.
        conditions: Their conditions, if the run was trained on pairs.
        evaluation: The evaluation on held-out texts.
        seed: Random seed.
    """

    run: Run
    posterior: TextPosterior | None
    texts: Sequence[str]
    conditions: Sequence[str] | None
    evaluation: Evaluation
    seed: int

    @property
    def condition(self) -> str | None:
        """The condition of the first text, if the run was trained on pairs."""
        return None if self.conditions is None else self.conditions[0]

    @property
    def folder(self) -> str:
        """The folder of the run, as it is typed in any folder."""
        return shlex.quote(str(self.run.folder.path.resolve()))


def training(context: PageContext) -> str:
    """The training curves, and the KL of each latent where the latents belong to layers."""
    panels = [Figure(PANEL, layout="constrained") for _ in range(2)]
    drawn = curves(context.run, axes=[panel.subplots() for panel in panels])
    words = ["Training curves: the objective", "Training curves: the bound and its KL terms"]
    shown = list(zip(words, panels, strict=True))[: len(drawn)]
    if context.posterior is not None and context.posterior.layers:
        shown.append(("KL of each latent over the training", Figure(PANEL, layout="constrained")))
        layer_curves(context.run, ax=shown[-1][1].subplots())
    return pictures(shown)


def metrics(context: PageContext) -> str:
    """The table of ``evaluate``."""
    evaluation = context.evaluation
    hint = f"all held-out texts, with more draws: pyroformer evaluate {context.folder}"
    return code(evaluation.table().removesuffix(evaluation.verdict).rstrip()) + note(hint)


def latents(context: PageContext) -> str:
    """The KL and the active units of each latent, where the evaluation has them."""
    evaluation = context.evaluation
    shown = []
    if evaluation.latents and all(f"marginal_kl_{latent}" in evaluation for latent in evaluation.latents):
        shown.append(("KL of each latent and its parts", Figure(PANEL, layout="constrained")))
        layer_kl(evaluation, ax=shown[-1][1].subplots())
    if any(name.startswith("active_") for name in evaluation):
        shown.append(("Active units of each latent", Figure(PANEL, layout="constrained")))
        active_units(evaluation, ax=shown[-1][1].subplots())
    return pictures(shown) if shown else ""


def samples(context: PageContext) -> str:
    """Texts from the prior, or of a language model, and the rate beside which they are to be read."""
    run = context.run
    drawn = run.sample(SAMPLES, seed=context.seed, condition=context.condition)
    rows = [(f"{number}", text(item)) for number, item in enumerate(drawn, 1)]
    rate = validation_rate(run)
    beside = "" if rate is None else f"; rate, KL of all latents on validation texts: {rate:,.2f} nats/token"
    source = "latents from the prior, tokens from the decoder"
    hint = note(f"{source if run.model.latents else 'each token given those before it'}{beside}")
    return _of_condition(context) + table(rows) + hint + note(f"more: pyroformer sample {context.folder} -n 20")


def reconstructions(context: PageContext) -> str:
    """Held-out texts, shaded by their posterior weights if they have some, above what they decode to."""
    if context.posterior is None:
        return ""
    results = context.run.reconstruct(list(context.texts), conditions=context.conditions, seed=context.seed)
    tables = "".join(_reconstruction(result) for result in results)
    if results[0].token_weights is None:
        return tables
    scale = "the largest of its text, or to twice their mean"
    return tables + note(f"shades: the posterior mean weight of each token, relative to {scale}")


def _reconstruction(result: Reconstruction) -> str:
    original, weights = text(result.original), result.token_weights
    if weights is not None:
        original = shaded(result.tokens, weights) + _aside(f"and the prior, {result.prior_weight:.2g}")
    return table([("text", original), ("reconstruction", text(result.text) + _aside("exact" if result.exact else ""))])


def interpolation(context: PageContext) -> str:
    """The texts on the path between two held-out texts, if the model defines one."""
    run = context.run
    defined = type(run.model).interpolate is not Model.interpolate
    if context.posterior is None or not defined or len(context.texts) < 2:
        return ""
    first, second, *_ = context.texts
    path = interpolate(run, first, second, STEPS, seed=context.seed, condition=context.condition)
    between = [(f"t = {step.t:.2f}", step.text) for step in path]
    rows = [("first text", text(first)), *_unlike_above(between), ("second text", text(second))]
    return _of_condition(context) + table(rows)


def traversals(context: PageContext) -> str:
    """A held-out text with one entry of a latent at several values, for latents that form a table."""
    moments = None if context.posterior is None else context.posterior.moments()
    if moments is None:
        return ""
    first, tables = context.texts[0], []
    count = moments[0].shape[-2] if context.posterior and context.posterior.layers else 1
    for latent in sorted({int(place) for place in np.linspace(1, count, TRAVERSED)}):
        result = traverse(context.run, first, latent, seed=context.seed, condition=context.condition)
        labels = [(f"{value:+.2f}{' (mean)' if at_mean else ''}", item) for value, item, at_mean in result.rows()]
        tables.append(table(_unlike_above(labels), f"latent {latent}, entry {result.dimension}"))
    return _of_condition(context) + table([("text", text(first))]) + "".join(tables)


def exchanges(context: PageContext) -> str:
    """A held-out text with the latent of each layer taken from another, for latents that belong to layers."""
    if context.posterior is None or not context.posterior.layers or len(context.texts) < 2:
        return ""
    first, second, *_ = context.texts
    rows = swap_rows(context.run, first, second, seed=context.seed, condition=context.condition)
    given, (_, unchanged), swapped = rows[:2], rows[2], rows[3:]
    cells = [(name, text(item)) for name, item in [*given, rows[2]]]
    cells += [(name, text(item, faded=item == unchanged)) for name, item in swapped]
    return _of_condition(context) + table(cells)


def origin(context: PageContext) -> str:
    """The command that began the run, how to open it, and its configuration."""
    run = context.run
    command = run.folder.read_source().get("command")
    made = "" if not isinstance(command, str) else note("The command that began the run:") + code(command)
    opened = f"import pyroformer as pf\n\nrun = pf.load({str(run.folder.path.resolve())!r})"
    written = yaml.safe_dump(dict(run.config), sort_keys=False, width=100, allow_unicode=True)
    configuration = f"<details><summary>The configuration</summary>{code(written)}</details>\n"
    return made + note("To go on in Python:") + code(opened) + configuration


def _of_condition(context: PageContext) -> str:
    return "" if context.condition is None else f"<p>condition: {text(context.condition)}</p>\n"


def _aside(words: str) -> str:
    return f' <span class="note">({escape(words)})</span>' if words else ""


def _unlike_above(rows: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Labels and texts as cells; a text that equals the one above is faded."""
    cells, above = [], None
    for label, item in rows:
        cells.append((label, text(item, faded=item == above)))
        above = item
    return cells


SECTIONS: dict[str, Callable[[PageContext], str]] = {
    "Training": training,
    "Evaluation": metrics,
    "Latents": latents,
    "Reconstructions": reconstructions,
    "Samples": samples,
    "Interpolation": interpolation,
    "Traversals": traversals,
    "Exchanged latents": exchanges,
    "How it was made": origin,
}
