"""The command that trains a model."""

import shlex
from collections.abc import Collection, Mapping
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from ...utils.processes import rank
from ..options.short_options import with_default_prior, with_short_options
from ..output import print_line, with_flags
from ..training import train_and_report

__all__ = ["fit"]

if TYPE_CHECKING:  # torch is imported when a command runs, not for its help
    from ...options import TrainingOptions
    from ...run import Run
    from ...runs.folder import RunFolder
    from ..prepare import Prepared
    from ..source import Source


class _Typed(NamedTuple):
    """What was typed, besides the folder."""

    name: str
    source: "Source"
    texts: Mapping[str, Any]
    size: str | None
    model: Mapping[str, Any]
    guide: Mapping[str, Any]
    training: Mapping[str, Any]


def fit(
    name: str,
    *,
    data: str | None = None,
    out: str | None = None,
    size: Literal["tiny", "small", "base"] | None = None,
    attention: Literal["softmax", "probabilistic"] | None = None,
    prior: Literal["tokens", "language_model", "codebook", "autoregressive", "mixture", "gaussian"] | None = None,
    init_from: str | None = None,
    train: Literal["all", "latents", "lora"] | None = None,
    delta: float | None = None,
    resume: bool = False,
    tokenizer: Literal["bpe", "bytes", "characters"] | None = None,
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
    """Train a model on texts and save it in a folder, which all other commands read.

    Examples:
      pyroformer fit nvae --data reviews.txt --out runs/reviews --minutes 10
      pyroformer fit lm --data builtin --out runs/lm --size small --steps 5000
      pyroformer fit lm --data reviews.txt --out runs/gpt2 --init_from gpt2
      pyroformer fit della --data reviews.txt --out runs/della --init_from HuggingFaceTB/SmolLM2-135M --train latents
      pyroformer fit della --data reviews.txt --out runs/minilm --guide.encoder sentence-transformers/all-MiniLM-L6-v2
      pyroformer fit nvae --out runs/reviews --resume        goes on after Ctrl-C or a crash

    Arguments:
        name: The model.
        data: A .txt file with one text a line, a .csv or .tsv table, JSON objects in a .jsonl or .json file, any of
            them with .gz or .zst, a .parquet or .arrow table, a folder with train, valid and test files or as datasets
            saves it, or the word builtin: English sentences from Python's own documentation.
        out: The folder of the run, new or empty.
        size: Size of the model (default: tiny): tiny has width 128, 2 layers and 4 heads; small 256, 4 and 4; base 512,
            6 and 8. --model.width and the like change one dimension.
        attention: Self-attention mechanism (default: softmax); short for --model.attention.
        prior: Prior of the vectors, which is trained with the model; short for --model.base_measure. By default tokens,
            a language model of Gaussian tokens; language_model, the pretrained one, with --init_from; and gaussian with
            what belongs to the published NVAE (--objective nvib, --keep, --lambda_d, --lambda_g, --layer_weights,
            --guide.alpha relu) and --model.presence.
        init_from: A pretrained GPT-2, Llama, Mistral or Qwen to start the decoder from: a folder in Hugging Face
            format, or a name on its hub; or a run of fit lm with softmax attention. Sizes and tokenizer are then its
            own, and the learning_rate is 1e-4 by default, or 1e-3 where its weights are frozen.
        train: Which weights are trained (default: all) of a model that starts from another: latents, those that the
            pretrained one lacks; or lora, these and low-rank adapters (of rank 8, or --model.adapter_rank).
        delta: Increase of the prior's concentration with each token, which decides how many vectors a text keeps; short
            for --model.delta. --keep moves it.
        resume: Resume the run in --out, with its texts, model and options.
        tokenizer: Tokens of the texts (default: bpe, sub-words): bytes, or characters of the training texts.
        vocabulary: Number of sub-word tokens, or auto: by the size of the data.
        max_length: Largest length of a text in tokens (default: 64).
        overlong: What to do with texts longer than max_length (default: split; for built-in texts: drop).
        field: Field that holds the text: the key of a JSON object or the column of a table.
        condition: Field that holds the condition (label, question) of each text.
        labels: Whether each condition is one token (default: if they are at most 1,000 different words).
        trust: Modules or classes outside pyroformer that may be imported, such as my_priors.
        model: Options of the model.
        guide: Options of the guide.
        training: Options of the training.
    """
    from ...options import TrainingOptions

    if out is None:
        raise ValueError("fit needs --out FOLDER: the run is kept there.")
    if train not in (None, "all") and init_from is None and not resume:
        raise ValueError(f"--train is {train}, and there are no pretrained weights: give them with --init_from.")
    if data is None and not resume:
        raise ValueError("fit needs --data: a file of texts, a folder with train/valid/test, or the word builtin.")
    if trust and not resume and init_from is None:
        raise ValueError(f"--trust is {' '.join(trust)}, and no run is read whose code needs it: leave it out.")
    model = with_short_options(name, model or {}, attention=attention, prior=prior, delta=delta)
    TrainingOptions(**training)  # validates them before anything is read

    from ...runs.folder import RunFolder
    from ..prepare import prepare_folder
    from ..pretrained_parts import text_encoder_source
    from ..source import Source

    folder = RunFolder(out)
    source = Source(data, field, condition, labels, init_from, text_encoder_source(name, guide or {}), train)
    texts = {"vocabulary": vocabulary, "max_length": max_length, "overlong": overlong, "tokenizer": tokenizer}
    typed = _Typed(name, source, texts, size, model, guide or {}, training)
    # Of processes that train together, the others resume the run that the first one has prepared.
    with prepare_folder(folder, resume) if rank() == 0 else nullcontext():
        if folder.config_file.exists() and (resume or rank() > 0):
            prepared = _resume(folder, typed, trust or ())
            print_line(f"resuming {out}: {prepared.corpus.summary()}")
        else:
            if data is None:
                raise ValueError(f"{out} holds no run to go on with: give --data to begin one.")
            prepared = _begin(folder, data, typed, trust or ())
    settings = TrainingOptions(**prepared.training)
    print_line(_training_line(prepared, settings, "" if resume or init_from else size or "tiny"))
    train_and_report(
        *prepared[:3],
        out=out,
        again=f"pyroformer fit {name} --out {shlex.quote(out)} --resume",
        remark=_verdict,
        resume=resume,
        **prepared.training,
    )


def _resume(folder: "RunFolder", typed: _Typed, trust: Collection[str]) -> "Prepared":
    """The corpus, model and guide of the run in a folder."""
    from ..resume import prepare_resumed

    prepared = prepare_resumed(folder, typed.name, _by_flag(typed), typed.training, trust)
    typed.source.check_same(folder, prepared.corpus)
    return prepared


def _begin(folder: "RunFolder", data: str, typed: _Typed, trust: Collection[str]) -> "Prepared":
    """The corpus, model and guide of a new run, with a line on each."""
    from ...data.corpus import MAX_LENGTH
    from ...utils.registry import MODELS, imported
    from ..prepare import NewModel, check_options, prepare_new
    from ..pretrained_parts import read_backbone, read_text_encoder
    from ..source import read_corpus

    name, source, texts, size, model, guide, training = typed
    imported(MODELS[name].model).check_conditions(source.condition is not None)
    _check_keep(name, guide, training)
    backbone = None if source.init_from is None else read_backbone(source.init_from, size, texts, model, trust)
    model = with_default_prior(name, backbone is not None, model, guide, training)
    if source.encoder is not None:
        guide = {**guide, "encoder": read_text_encoder(name, source.encoder)}
    if backbone is not None:
        longest = min(MAX_LENGTH, backbone.config.max_length)
        given = {key: value for key, value in texts.items() if value is not None}
        texts = {"max_length": longest, **given, "tokenizer": backbone.tokenizer}
    new = NewModel(name, size or "tiny", model, guide, backbone, source.train or "all")
    check_options(new, training, texts, source.condition is not None)
    fields = {"field": source.field, "condition": source.condition, "labels": source.labels}
    corpus = read_corpus(data, folder if rank() == 0 else None, **fields, **texts)
    if rank() == 0:
        folder.keep_source(source.as_dict())
    print_line(f"reading {corpus.summary()}")
    prepared = prepare_new(new, corpus, training)
    if backbone is not None:
        print_line(f"starting from {backbone.summary()}")
    if source.encoder is not None:
        print_line(f"the guide reads texts with {source.encoder}, which is frozen")
    return prepared


def _by_flag(typed: _Typed) -> dict[str, Any]:
    """The options that were typed, besides those of the training, by flag; a size as the dimensions that it sets.

    A pretrained encoder is left out: it is one of the source.
    """
    from ...utils.registry import MODELS, imported

    dimensions = imported(MODELS[typed.name].model).sizes[typed.size] if typed.size else {}
    kinds = {key: value for key, value in typed.guide.items() if key != "encoder" or typed.source.encoder is None}
    flags = {f"--{key}": value for key, value in typed.texts.items() if value not in (None, "auto")}
    flags |= {f"--model.{key}": value for key, value in (dimensions | dict(typed.model)).items()}
    return flags | {f"--guide.{key}": value for key, value in kinds.items()}


def _check_keep(name: str, guide: Mapping[str, Any], training: Mapping[str, Any]) -> None:
    from ...objectives.keep_control import check_switches_off
    from ...utils.registry import MODELS
    from ..options.option_help import options

    own = {option.name: option.default for option in options(path)} if (path := MODELS[name].guide) else {}
    if training.get("keep") is not None and "alpha" in own:
        check_switches_off(guide.get("alpha", own["alpha"]))


def _training_line(prepared: "Prepared", settings: "TrainingOptions", size: str) -> str:
    """The device, the precision, the model and its number of parameters."""
    import torch

    from ...runs.joint_module import joint_module

    if torch.cuda.is_available():
        device = torch.cuda.get_device_name()
    else:
        threads = torch.get_num_threads()
        device = f"cpu ({threads} thread{'s' if threads > 1 else ''})"
    if settings.devices > 1:
        device = f"{settings.devices} x {device}"
    parameters = list(joint_module(prepared.model, prepared.guide).parameters())
    number = _in_millions(sum(parameter.numel() for parameter in parameters))
    trained = sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
    frozen = any(not parameter.requires_grad for parameter in parameters)
    precision = "bfloat16" if settings.precision == "bf16" else "float32"
    model = f"{type(prepared.model).__name__} {size}".strip()
    share = f" ({_in_millions(trained)} are trained)" if frozen else ""
    return f"training on {device}, {precision}, {model}, {number} parameters{share}"


def _in_millions(count: int) -> str:
    return f"{count / 1e6:.1f} M" if count >= 1e5 else f"{count:,}"


def _verdict(run: "Run") -> str | None:
    """Whether the latents carry something, of a model that has some."""
    from ...evaluation.verdict import latent_verdict, validation_rate_per_text

    rate = validation_rate_per_text(run)
    return None if rate is None else with_flags(latent_verdict(rate))
