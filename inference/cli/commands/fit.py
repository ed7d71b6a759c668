"""pyroformer fit."""

import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from ..common import rank
from ..progress import Progress, say

__all__ = ["fit"]

if TYPE_CHECKING:  # torch is imported when a command runs, not for its help
    from ...options import TrainingOptions
    from ..prepare import Prepared


def fit(
    name: str,
    *,
    data: str | None = None,
    out: str | None = None,
    size: Literal["tiny", "small", "base"] | None = None,
    attention: Literal["softmax", "probabilistic"] | None = None,
    init_from: str | None = None,
    resume: bool = False,
    vocabulary: int | Literal["auto"] = "auto",
    max_length: int | None = None,
    overlong: Literal["split", "drop"] | None = None,
    field: str | None = None,
    condition: str | None = None,
    labels: bool | None = None,
    trust: list[str] | None = None,
    model: Mapping[str, Any] | None = None,
    guide: Mapping[str, Any] | None = None,
    **training: Any,
) -> None:
    """Train a model on texts and keep it in a folder, which all other commands read.

    Examples:
      pyroformer fit nvae --data reviews.txt --out runs/reviews --minutes 10
      pyroformer fit lm --data builtin --out runs/lm --size small --steps 5000
      pyroformer fit lm --data reviews.txt --out runs/gpt2 --init_from gpt2
      pyroformer fit nvae --out runs/reviews --resume        goes on after Ctrl-C or a crash

    Arguments:
        name: The model.
        data: A .txt, .txt.gz, .jsonl or .tsv file with one text a line, a folder with train, valid and test files, or
            the word builtin: English sentences from Python's own documentation.
        out: The folder of the run, new or empty.
        size: How large the model is (default: tiny); --model.width and the like change one dimension.
        attention: What every sequence attends to itself by (default: softmax); short for --model.attention.
        init_from: A pretrained GPT-2 that the decoder starts from: a folder in Hugging Face format, or a name on its
            hub. Sizes, tokenizer and dropout are then GPT-2's, and the learning_rate is 1e-4 by default.
        resume: Go on with the run in --out; its texts, model and options are remembered.
        vocabulary: Number of sub-words that texts are cut into, or auto: by the size of the data.
        max_length: The longest text in tokens (default: 64).
        overlong: What becomes of longer texts (default: split; of built-in ones: drop).
        field: The key of a .jsonl file, or the column of a .tsv file, that holds the text.
        condition: The key or the column that holds what each text is written for, such as a label or a question.
        labels: Whether each condition is one token (default: if they are at most 1,000 different words).
        trust: Classes outside pyroformer that the run to go on with may import, such as my_priors.Sticky.
        model: Options of the model.
        guide: Options of the guide.
        training: Options of the training.
    """
    from ...options import TrainingOptions

    if out is None:
        raise ValueError("fit needs --out FOLDER: the run is kept there.")
    if data is None and not resume:
        raise ValueError("fit needs --data: a file of texts, a folder with train/valid/test, or the word builtin.")
    model = dict(model or {}) | ({} if attention is None else {"attention": attention})
    TrainingOptions(**training)  # says what is wrong with them before anything is read

    from ...runs.folder import RunFolder
    from ...training.fit import fit as train
    from ...utils.registry import MODELS, imported
    from ..prepare import claim, prepare_new, prepare_old, read_corpus, read_trunk

    folder = RunFolder(out)
    if rank() == 0:
        claim(folder, resume)
    texts = {"vocabulary": vocabulary, "max_length": max_length, "overlong": overlong}
    # Of processes that train together, those that the first one starts find what it has made.
    if folder.config_file.exists() and (resume or rank() > 0):
        asked = _asked(name, size, texts, model, guide or {})
        prepared = prepare_old(folder, name, asked, training, trust or ())
        say(f"going on with {out}: {prepared.corpus.describe()}")
    else:
        if data is None:
            raise ValueError(f"{out} holds no run to go on with: give --data to begin one.")
        imported(MODELS[name].model).check_conditions(condition is not None)
        backbone = None if init_from is None else read_trunk(init_from, size, texts, model)
        fields: dict[str, Any] = {"field": field, "condition": condition, "labels": labels}
        fields["tokenizer"] = None if backbone is None else backbone.tokenizer
        corpus = read_corpus(data, folder if rank() == 0 else None, **fields, **texts)
        say(f"reading {corpus.describe()}")
        prepared = prepare_new(
            name, corpus, size=size or "tiny", model=model, guide=guide, training=training, backbone=backbone
        )
        if backbone is not None:
            say(f"starting from {backbone.describe()}")
            if rank() == 0:
                folder.keep_start(prepared.model)
    settings = TrainingOptions(**prepared.training)
    say(_what(prepared, settings, "" if resume or init_from else size or "tiny"))
    progress = Progress(_objective(prepared, settings))
    try:
        run = train(*prepared[:3], out=out, resume=resume, callback=progress, **prepared.training)
    finally:
        progress.close()
    if progress.done < 1:
        say(f"ended at {100 * progress.done:.0f} %; pyroformer fit {name} --out {shlex.quote(out)} --resume goes on")
    say(f"best at step {run.step:,}; run saved in {out}")


def _asked(
    name: str, size: str | None, texts: Mapping[str, Any], model: Mapping[str, Any], guide: Mapping[str, Any]
) -> dict[str, Any]:
    """What was asked for besides the training, by flag; a size is the dimensions that it stands for."""
    from ...utils.registry import MODELS, imported

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
    parameters = {parameter for part in parts for parameter in part.parameters()}  # a guide shares some of its model's
    count = sum(parameter.numel() for parameter in parameters)
    precision = "bfloat16" if settings.precision == "bf16" else "float32"
    kind = f"{type(prepared.model).__name__} {size}".strip()
    number = f"{count / 1e6:.1f} M" if count >= 1e5 else f"{count:,}"
    return f"training on {place}, {precision}, {kind}, {number} parameters"


def _objective(prepared: "Prepared", settings: "TrainingOptions") -> str:
    """What the objective is called; a bound of log p(x) needs no remark."""
    from ...objectives.registry import describe_objective, in_words

    words = in_words(describe_objective(prepared.model, settings))
    return f"objective ({words})" if words else "objective"
