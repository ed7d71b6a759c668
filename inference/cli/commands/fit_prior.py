"""The command of a second stage of training; its signature and docstring are its help."""

from typing import Any

from ..common import load_run
from ..progress import Progress, say

__all__ = ["fit_prior"]


def fit_prior(
    run: str,
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
    dropout: float | None = None,
    trust: list[str] | None = None,
) -> None:
    """Fit a better prior to the posterior of a run, all else held, so that the bound is tighter.

    Examples:
      pyroformer fit-prior runs/reviews --out runs/refitted --minutes 5
      pyroformer fit-prior runs/reviews --prior mixture --components 64 --out runs/mixture

    Arguments:
        run: The folder that fit wrote.
        prior: A new base measure: autoregressive (vectors in their order), mixture (of Gaussians), gaussian, or the
            import path of a class, as in my_priors.Mine.
        out: The folder of the new run, new or empty.
        resume: Go on with the run in --out.
        steps: Optimizer steps to take.
        minutes: Minutes to train for, in place of or beside --steps; 3 if neither is given.
        batch_size: Texts in a batch (default: 32).
        learning_rate: Peak of the learning rate (default: 0.002).
        patience: Stop after so many looks at held-out texts without improvement (default: 0, never).
        seed: Of the new prior's weights, of batches and noise.
        model_width: Of an autoregressive prior: the size of a hidden state (default: the width of the vectors).
        layers: Of an autoregressive prior: the number of blocks (default: 2).
        heads: Of an autoregressive prior: the number of attention heads (default: 4).
        components: Gaussians of a mixture (default: 16), or of each vector of an autoregressive prior (default: 1).
        dropout: Of an autoregressive prior: probability of dropping an activation (default: 0).
        trust: Classes outside pyroformer that the run may import, such as my_priors.Sticky.
    """
    from ...options import TrainingOptions

    if out is None:
        raise ValueError("fit-prior needs --out FOLDER: the new run is kept there.")
    training = _given(
        steps=steps, minutes=minutes, batch_size=batch_size, learning_rate=learning_rate, patience=patience, seed=seed
    )
    TrainingOptions(**training)  # says what is wrong with them before anything is read

    from ...runs.folder import RunFolder
    from ...training.fit_prior import fit_prior as train
    from ...training.fit_prior import named_prior

    loaded = load_run(run, trust)
    shape = _given(model_width=model_width, layers=layers, heads=heads, components=components, dropout=dropout)
    new = named_prior(loaded, prior, seed=seed, **shape)
    RunFolder(out).prepare(resume)
    count = sum(parameter.numel() for parameter in new.parameters() if parameter.requires_grad)
    say(f"fitting {type(new).__name__}, {count:,} parameters, to the posterior of {run}; all else is held")
    progress = Progress()
    try:
        done = train(loaded, new, out=out, resume=resume, callback=progress, **training)
    finally:
        progress.close()
    say(f"best at step {done.step:,}; run saved in {out}")


def _given(**values: Any) -> dict[str, Any]:
    """What was said of several options."""
    return {name: value for name, value in values.items() if value is not None}
