"""What each command does; its signature and docstring are its help."""

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from .console import Progress, say

if TYPE_CHECKING:  # torch is imported when a command runs, not for its help
    from .options import TrainingOptions
    from .preparing import Prepared

__all__ = ["fit", "rank"]


def fit(
    name: str,
    *,
    data: str | None = None,
    out: str | None = None,
    size: Literal["tiny", "small", "base"] | None = None,
    resume: bool = False,
    vocabulary: int | Literal["auto"] = "auto",
    window: int | None = None,
    long: Literal["split", "drop"] | None = None,
    field: str | None = None,
    trust: list[str] | None = None,
    model: Mapping[str, Any] | None = None,
    guide: Mapping[str, Any] | None = None,
    **training: Any,
) -> None:
    """Train a model on texts and keep it in a folder, which all other commands read.

    Examples:
      pyroformer fit nvae --data reviews.txt --out runs/reviews --minutes 10
      pyroformer fit lm --data builtin --out runs/lm --size small --steps 5000
      pyroformer fit nvae --out runs/reviews --resume        goes on after Ctrl-C or a crash

    Arguments:
        name: The model.
        data: A .txt, .txt.gz, .jsonl or .tsv file with one text a line, a folder with train, valid and test files, or
            the word builtin: English sentences from Python's own documentation.
        out: The folder of the run, new or empty.
        size: How large the model is (default: tiny); --model.width and the like change one dimension.
        resume: Go on with the run in --out; its texts, model and options are remembered.
        vocabulary: Number of sub-words that texts are cut into, or auto: by the size of the data.
        window: The longest text in tokens (default: 64).
        long: What becomes of longer texts (default: split; of built-in ones: drop).
        field: The key of a .jsonl file, or the column of a .tsv file, that holds the text.
        trust: Classes outside pyroformer that the run to go on with may import, such as my_priors.Sticky.
        model: Options of the model.
        guide: Options of the guide.
        training: Options of the training.
    """
    from .folder import RunFolder
    from .options import TrainingOptions
    from .preparing import claim, prepare_new, prepare_old, read_corpus
    from .training import fit as train

    if out is None:
        raise ValueError("fit needs --out FOLDER: the run is kept there.")
    TrainingOptions(**training)  # says what is wrong with them before anything is read
    folder = RunFolder(out)
    if rank() == 0:
        claim(folder, resume)
    texts = {"vocabulary": vocabulary, "window": window, "long": long}
    if resume and folder.config_file.exists():
        asked = _asked(name, size, texts, model or {}, guide or {})
        prepared = prepare_old(folder, name, asked, training, trust or ())
        say(f"going on with {out}: {prepared.corpus.describe()}")
    else:
        if data is None:
            raise ValueError("fit needs --data: a file of texts, a folder with train/valid/test, or the word builtin.")
        corpus = read_corpus(data, folder if rank() == 0 else None, field=field, **texts)
        say(f"reading {corpus.describe()}")
        prepared = prepare_new(name, corpus, size=size or "tiny", model=model, guide=guide, training=training)
    settings = TrainingOptions(**prepared.training)
    say(_what(prepared, settings, "" if resume else size or "tiny"))
    progress = Progress(_objective(prepared, settings))
    try:
        run = train(*prepared[:3], out=out, resume=resume, report=progress, **prepared.training)
    finally:
        progress.close()
    if progress.done < 1:
        say(f"ended at {100 * progress.done:.0f} %; pyroformer fit {name} --out {out} --resume goes on")
    say(f"best at step {run.step:,}; run saved in {out}")


def rank() -> int:
    """The number of this process among those that train together; only the first one speaks."""
    return int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", 0)))


def _asked(
    name: str, size: str | None, texts: Mapping[str, Any], model: Mapping[str, Any], guide: Mapping[str, Any]
) -> dict[str, Any]:
    """What was asked for besides the training, by flag; a size is the dimensions that it stands for."""
    from .arguments import MODELS, imported

    dimensions = imported(MODELS[name].model).sizes[size] if size else {}
    asked = {f"--{key}": value for key, value in texts.items() if value not in (None, "auto")}
    asked |= {f"--model.{key}": value for key, value in (dimensions | dict(model)).items()}
    return asked | {f"--guide.{key}": value for key, value in guide.items()}


def _what(prepared: "Prepared", settings: "TrainingOptions", size: str) -> str:
    """What is trained, where, and how large it is."""
    import torch

    if torch.cuda.is_available():
        place = torch.cuda.get_device_name()
    else:
        threads = torch.get_num_threads()
        place = f"cpu ({threads} thread{'s' if threads > 1 else ''})"
    if settings.devices > 1:
        place = f"{settings.devices} x {place}"
    parts = [part for part in prepared[:2] if part is not None]
    count = sum(parameter.numel() for part in parts for parameter in part.parameters())
    precision = "bfloat16" if settings.precision == "bf16" else "float32"
    kind = f"{type(prepared.model).__name__} {size}".strip()
    return f"training on {place}, {precision}, {kind}, {count / 1e6:.1f} M parameters"


def _objective(prepared: "Prepared", settings: "TrainingOptions") -> str:
    """What the objective is called; a bound of log p(x) needs no remark."""
    name = settings.objective or prepared.model.objective
    if name != "elbo":
        return f"objective ({name}, not a bound)"
    return "objective" if settings.beta == 1 or not prepared.model.latents else f"objective (beta {settings.beta:g}, not a bound)"
