"""The command that fits a new prior to a trained run."""

import shlex
from typing import Any, Unpack

from ..output import print_line
from ..shared_options import RunOptions, open_run
from ..training import train_and_report

__all__ = ["fit_prior"]


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

    run = open_run(options)
    sizes = _without_none(
        model_width=model_width, layers=layers, heads=heads, components=components, entries=entries, dropout=dropout
    )
    new = prior_for_run(run, prior, seed=seed, **sizes)
    modules = second_stage(run, new)
    RunFolder(out).prepare(resume)
    count = sum(parameter.numel() for parameter in new.parameters() if parameter.requires_grad)
    print_line(
        f"fitting {type(new).__name__}, {count:,} parameters, to the posterior of {options['run']}; "
        "all other parameters are frozen"
    )
    again = f"pyroformer fit-prior {shlex.quote(str(options['run']))} --out {shlex.quote(out)} --resume"
    again += "" if prior == "autoregressive" else f" --prior {shlex.quote(prior)}"
    again += "".join(f" --{name} {value}" for name, value in sizes.items())
    train_and_report(*modules, run.corpus, out=out, again=again, resume=resume, objective="elbo", **training)


def _without_none(**values: Any) -> dict[str, Any]:
    """The options that were set."""
    return {name: value for name, value in values.items() if value is not None}
