"""The command that fits a new prior to a trained run."""

import shlex
from collections.abc import Collection, Mapping
from inspect import signature
from typing import TYPE_CHECKING, Any, Unpack

from ..options.shared_options import RunOptions, open_run
from ..output import print_line
from ..training import train_and_report

__all__ = ["fit_prior"]

if TYPE_CHECKING:  # torch is imported when a command runs, not for its help
    from ....models.base import Model
    from ...runs.folder import RunFolder


def fit_prior(
    *,
    prior: str = "autoregressive",
    out: str | None = None,
    resume: bool = False,
    steps: int | None = None,
    minutes: float | None = None,
    batch_size: int | None = None,
    learning_rate: float | None = None,
    patience: int | None = None,
    seed: int = 0,
    model_width: int | None = None,
    layers: int | None = None,
    heads: int | None = None,
    components: int | None = None,
    entries: int | None = None,
    dropout: float | None = None,
    **options: Unpack[RunOptions],
) -> None:
    """Fit a better prior to the posterior of a run, with all other parameters frozen, for a tighter bound.

    For an NVAE or VAE whose prior was not trained with the model; a lower rate does not by itself give readable
    samples.

    Examples:
      pyroformer fit nvae --data reviews.txt --out runs/published --objective nvib     the run to start from
      pyroformer fit-prior runs/published --out runs/refitted --minutes 5
      pyroformer fit-prior runs/published --prior codebook --entries 2048 --out runs/codebook

    Arguments:
        prior: The new base measure: autoregressive (vectors in order), codebook (in order, with Gaussians that all
            places share), mixture (of Gaussians), gaussian, or the import path of a class, as in my_priors.Mine.
        out: The folder of the new run, new or empty.
        resume: Resume the run in --out.
        steps: Number of optimizer steps.
        minutes: Minutes of training, instead of or besides --steps; 3 if neither is set.
        batch_size: Texts per batch (default: 32).
        learning_rate: Peak learning rate (default: 0.002).
        patience: Stop after this many validations without improvement (default: 0, never).
        seed: Random seed.
        model_width: Hidden size of an autoregressive or codebook prior (default: the width of the vectors).
        layers: Number of blocks of an autoregressive or codebook prior (default: 2).
        heads: Number of attention heads of an autoregressive or codebook prior (default: that of the run's decoder).
        components: Number of Gaussians of a mixture (default: 16), or of each vector of an autoregressive prior
            (default: 1).
        entries: Number of Gaussians of a codebook (default: 1024).
        dropout: Dropout probability of an autoregressive or codebook prior (default: that of the run's decoder).
    """
    from ...options import TrainingOptions

    if out is None:
        raise ValueError("fit-prior needs --out FOLDER: the new run is kept there.")
    training = _without_none(
        steps=steps, minutes=minutes, batch_size=batch_size, learning_rate=learning_rate, patience=patience, seed=seed
    )
    TrainingOptions(**training)  # validates them before anything is read

    from ...runs.folder import RunFolder
    from ...training.fit_prior import prior_for_run, second_stage

    possible: dict[str, Any] = {"model_width": model_width, "layers": layers, "heads": heads}
    possible |= {"components": components, "entries": entries, "dropout": dropout}
    sizes = _without_none(**possible)
    _check_has(prior, sizes, possible)
    run = open_run(options)
    new = prior_for_run(run, prior, seed=seed, **sizes)
    modules = second_stage(run, new)
    RunFolder(out).prepare(resume)
    _check_same_prior(RunFolder(out), modules[0], possible)
    count = sum(parameter.numel() for parameter in new.parameters() if parameter.requires_grad)
    print_line(
        f"fitting {type(new).__name__}, {count:,} parameters, to the posterior of {options['run']}; "
        "all other parameters are frozen"
    )
    again = f"pyroformer fit-prior {shlex.quote(str(options['run']))} --out {shlex.quote(out)} --resume"
    again += "" if prior == "autoregressive" else f" --prior {shlex.quote(prior)}"
    again += "".join(f" --{name} {value}" for name, value in sizes.items())
    train_and_report(*modules, run.corpus, out=out, again=again, resume=resume, objective="elbo", **training)


def _check_has(prior: str, sizes: Mapping[str, Any], possible: Collection[str]) -> None:
    """Raises a ValueError if a prior has no such size as was given."""
    from ...training.fit_prior import prior_options

    own = [size for size in possible if size in prior_options(prior)]
    for size, value in sizes.items():
        if size not in own:
            rest = f"give {' or '.join(f'--{each}' for each in own)} or none" if own else "leave it out"
            raise ValueError(f"--{size} is {value}, and the prior {prior} has no {size}: {rest}.")


def _check_same_prior(folder: "RunFolder", model: "Model", possible: Collection[str]) -> None:
    """Raises a ValueError if a run that goes on began with another prior, or with one of other sizes."""
    from ....models.serialization import to_config
    from ..resume import read_config

    if not folder.config_file.exists():
        return
    begun, new = (_named_sizes(config) for config in (read_config(folder)["model"], to_config(model)))
    for option in ("prior", *possible):
        before, now = begun.get(option), new.get(option)
        if begun and before != now:
            raise ValueError(
                f"--{option} is {now}, but {folder.path} was begun with {before}: give --{option} {before}, or choose "
                "another --out."
            )


def _named_sizes(model: Mapping[str, Any]) -> dict[str, Any]:
    """The name of a model's base measure, or of its part for the vectors of tokens, and its arguments; none without."""
    from ....models.priors.named import NAMED
    from ....models.serialization import public_path

    recipe = model["init_args"].get("base_measure")
    recipe = recipe and recipe["init_args"].get("tokens", recipe)
    if not recipe:
        return {}
    names = {public_path(cls): name for name, cls in NAMED.items()}
    name = names.get(recipe["class_path"], recipe["class_path"])
    parameters = signature(NAMED[name]).parameters if name in NAMED else {}
    defaults = {key: parameter.default for key, parameter in parameters.items()}
    return {"prior": name} | defaults | recipe["init_args"]


def _without_none(**values: Any) -> dict[str, Any]:
    """The options that were set."""
    return {name: value for name, value in values.items() if value is not None}
