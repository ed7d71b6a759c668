"""Preparation of a training: folder, corpus, model and guide, new or of a run that is resumed."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import fields
from difflib import get_close_matches
from inspect import signature
from pathlib import Path
from typing import Any, NamedTuple, get_args

import torch
from torch import nn

from ...guides.encoders.text_encoder import TextEncoder
from ...models.base import Model
from ...models.batch import EOS
from ...models.serialization import check_trust, from_config, public_path
from ...models.transformer.backbone import ADAPTER_RANK, Backbone, Train
from ...models.transformer.config import TransformerConfig
from ...models.utils.choices import check_choice
from ..data.corpus import Corpus
from ..data.sources.columns import COLUMNAR
from ..pretrained.pretrained import Pretrained
from ..run import load
from ..runs.folder import RunFolder
from ..runs.joint_module import freeze_others, joint_module
from ..training.resumed import MAY_CHANGE, begun_with, effective_options, recorded_options
from ..utils.files import content_fingerprint
from ..utils.registry import MODELS, imported
from .option_help import options
from .parser import NETWORK
from .typed_command import typed_command
from .usage_errors import type_members

__all__ = [
    "Prepared",
    "check_network",
    "check_same_source",
    "described_source",
    "prepare_folder",
    "prepare_new",
    "prepare_resumed",
    "read_backbone",
    "read_config",
    "read_corpus",
    "read_language_model",
    "read_text_encoder",
    "text_encoder_source",
]

# Learning rates: that of training from scratch would destroy what a backbone has learned, unless it is frozen.
FINE_TUNING = {"all": 1e-4, "latents": 1e-3, "lora": 1e-3}
ENCODER = "guide.encoder"  # the option whose value is the folder of a pretrained encoder, or the name of a kind


class Prepared(NamedTuple):
    """Model, guide, corpus and options of a training."""

    model: Model
    guide: nn.Module | None
    corpus: Corpus
    training: dict[str, Any]


@contextmanager
def prepare_folder(folder: RunFolder, resume: bool) -> Iterator[None]:
    """A folder in which a run may be saved, checked before anything is read for it; empty ones go with an error.

    Raises:
        ValueError: If it contains other files or a run that is not to be resumed, or cannot be written.
    """
    new = [path for path in (folder.path, *folder.path.parents) if not path.exists()]
    folder.prepare(resume)
    if not folder.config_file.exists():
        folder.start.unlink(missing_ok=True)
        with suppress(OSError):
            folder.last.parent.rmdir()  # checkpoints without a configuration would count as other files
    try:
        yield
    except BaseException:
        with suppress(OSError):
            for path in new:
                path.rmdir()
        raise


def prepare_new(
    name: str,
    corpus: Corpus,
    *,
    size: str = "tiny",
    model: Mapping[str, Any] | None = None,
    guide: Mapping[str, Any] | None = None,
    training: Mapping[str, Any] | None = None,
    backbone: Backbone | None = None,
    train: Train = "all",
) -> Prepared:
    """A new model by its registered name and its guide, initialized from the seed and the backbone, if any.

    A prior is given as ``{"class_path": ..., "init_args": {...}}``; arguments of its constructor that the model has,
    such as ``width``, are filled in. With a backbone, of which ``train`` says what is trained, the learning rate is
    that of fine-tuning by default.
    """
    classes, model_options = MODELS[name], dict(model or {})
    cls = imported(classes.model)
    check_choice("size", size, cls.sizes)
    dimensions = cls.sizes[size] if backbone is None else backbone.sizes
    sizes = {"vocabulary": corpus.vocabulary, "max_length": corpus.max_length, "eos": EOS}
    known = {**sizes, **dimensions, **model_options}
    if "samples_per_component" not in signature(cls).parameters:
        known["samples_per_component"] = 0  # no component is the prior's own
    priors = [key for key, value in model_options.items() if _names_class(value)]
    if "latent_prior" in priors:  # its sizes follow from the structure of the model
        plain = {key: value for key, value in {**dimensions, **model_options}.items() if key not in priors}
        known |= cls.for_corpus(corpus, size=size, **plain).prior_sizes
    # The messages of the network come before those of a prior with its sizes.
    known["config"] = _network(cls, known, {"adapter_rank": ADAPTER_RANK} if train == "lora" else {})
    torch.manual_seed((training or {}).get("seed", 0))
    model_options = {key: _construct(value, known) for key, value in model_options.items()}
    new: Model = cls.for_corpus(corpus, size=size, backbone=backbone, train=train, **model_options)
    new_guide = imported(classes.guide)(new, **guide or {}) if classes.guide else None
    fine_tuning = {} if backbone is None else {"learning_rate": FINE_TUNING[train]}
    return Prepared(new, new_guide, corpus, fine_tuning | dict(training or {}))


def check_network(name: str, size: str, model: Mapping[str, Any]) -> None:
    """Raises a ValueError if options of a new network do not go together, before texts are read for it."""
    cls = imported(MODELS[name].model)
    check_choice("size", size, cls.sizes)
    _network(cls, {**_SOME_TEXTS, **cls.sizes[size], **model})


def prepare_resumed(
    folder: RunFolder, name: str, requested: Mapping[str, Any], training: Mapping[str, Any], trust: Collection[str] = ()
) -> Prepared:
    """Model, guide, corpus and options of the run in a folder; options that may change are updated.

    Setting one of ``steps`` and ``minutes`` replaces both.

    Arguments:
        folder: The run's folder.
        name: The name of the model.
        requested: Other options that were set and may not change, by flag.
        training: Options of the training that were set.
        trust: Classes outside pyroformer that may be imported.

    Raises:
        ValueError: If the run is of another model, trains only some modules of an earlier run, or has other options.
    """
    config = read_config(folder)
    corpus = Corpus.load(folder.corpus)
    chosen = folder.read_source().get("train") not in (None, "all") or _has_text_encoder(config)
    if config.get("trained") and not chosen:
        raise ValueError(
            f"{folder.path} trains only {', '.join(config['trained'])} of an earlier run: go on with "
            f"pyroformer fit-prior RUN --out {folder.path} --resume."
        )
    settings = recorded_options(folder, config)
    fixed = {f"--{key}": value for key, value in training.items() if key not in MAY_CHANGE}
    try:
        _check_same_options(folder, config, corpus, name, dict(requested) | fixed)
        torch.manual_seed(settings.get("seed", 0))
        if "." in (objective := settings.get("objective") or "") and objective != training.get("objective"):
            check_trust(objective, trust)
        model = from_config(config["model"], trust)
        if not folder.last.exists() and not folder.best.exists():
            _load_start(folder, model)
        guide = from_config(config["guide"], trust, model=model) if config.get("guide") else None
        if chosen:
            modules = joint_module(model, guide)
            modules.load_state_dict(folder.frozen_weights(modules), strict=False)
            freeze_others(modules, config["trained"])
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"{folder.config_file} is damaged ({error}): choose another --out.") from error
    if {"steps", "minutes"} & set(training):
        settings |= {"steps": None, "minutes": None}
    return Prepared(model, guide, corpus, settings | dict(training))


def described_source(
    data: str,
    *,
    field: str | None = None,
    condition: str | None = None,
    labels: bool | None = None,
    init_from: str | None = None,
    train: Train | None = None,
    encoder: str | None = None,
) -> dict[str, Any]:
    """What a run reads, by which a resumed run notices another source, and the command that began it, as plain data."""
    path = Path(data)
    content = _content(path) if data != "builtin" and path.exists() else None
    described = {"data": data, "field": field, "condition": condition, "labels": labels, "init_from": init_from}
    described |= {} if encoder is None else {ENCODER: encoder}
    return described | {"train": train, "content": content, "command": typed_command()}


def check_same_source(
    folder: RunFolder,
    corpus: Corpus,
    *,
    data: str | None = None,
    field: str | None = None,
    condition: str | None = None,
    labels: bool | None = None,
    init_from: str | None = None,
    train: Train | None = None,
    encoder: str | None = None,
) -> None:
    """Raises a ValueError if a resumed run is given other texts, fields or pretrained networks than it began with.

    The file need not be there any more, under the name that it had; under another name it must have the same content.
    """
    source = folder.read_source() or {"data": corpus.name, "labels": bool(corpus.labels)}
    given: dict[str, Any] = {"data": data, "field": field, "condition": condition}
    given |= {"labels": labels, "init_from": init_from, "train": train, ENCODER: encoder}
    for name, value in given.items():
        began = source.get(name)
        if value is None or value == began or name == "labels" and value == bool(corpus.labels):
            same = name != "data" or _same_content(value, source)
        else:
            same = name == "data" and _same_content(value, source, renamed=True)
        if not same:
            what = "with other content" if value == began else f"with {'none' if began is None else began}"
            raise ValueError(
                f"--{name} is {value}, but {folder.path} was begun {what}: leave it out to go on, or choose "
                "another --out."
            )


def _same_content(data: str | None, source: Mapping[str, Any], renamed: bool = False) -> bool:
    """Whether a file or folder of texts is that of a run; one that is not there is, unless its name is another."""
    content, path = source.get("content"), Path(data or "")
    if data is None or data == "builtin" or not path.exists():
        return not renamed
    if content is None:  # of a run from before the content was recorded
        return path.resolve().name == source.get("data")
    return _content(path) == content


def _content(path: Path) -> str:
    """A hash of a file or folder of texts, with the tables in its folders."""
    return content_fingerprint(path, [f"*/*{ending}" for ending in COLUMNAR])


def _load_start(folder: RunFolder, model: Model) -> None:
    """Load the weights that the model of a run without a checkpoint began with; the guide is made after it."""
    if not folder.start.exists():
        raise ValueError(
            f"{folder.path} has no checkpoint and not the weights that it began with: fit anew with another --out."
        )
    weights = folder.start_weights(nn.ModuleDict({"model": model}))
    names = model.state_dict()
    model.load_state_dict({name: weights[f"model.{name}"] for name in names if f"model.{name}" in weights})


def read_config(folder: RunFolder) -> dict[str, Any]:
    """The configuration of a run, checked to contain the class of the model and, if it has one, of the guide.

    Raises:
        ValueError: If there is none, or it is damaged.
    """
    config = folder.read_config()
    for part in ("model", "guide"):
        recipe = config.get(part)
        if not _names_class(recipe) and (part == "model" or recipe):
            raise ValueError(
                f"{folder.config_file} is damaged: its {part} names no class. Fit anew with another --out."
            )
    return config


def read_corpus(data: str, folder: RunFolder | None = None, **arguments: Any) -> Corpus:
    """The corpus of a file, a folder, or Python's documentation (``builtin``), saved in the run's folder if given."""
    arguments = {name: value for name, value in arguments.items() if value is not None}
    target = None if folder is None else folder.corpus
    if data != "builtin":
        return Corpus.from_file(data, folder=target, **arguments)
    for name in ("field", "condition", "labels"):
        if name in arguments:
            raise ValueError(f"the built-in texts have no {name} {arguments[name]!r}: leave --{name} out.")
    return Corpus.builtin(folder=target, **arguments)


def read_backbone(source: str, size: str | None, texts: Mapping[str, Any], model: Mapping[str, Any]) -> Pretrained:
    """A pretrained model or the language model of a run, read before any text is.

    Raises:
        ValueError: If it cannot be read, or an option that it determines is set to another value.
    """
    own = {"size": size, "vocabulary": texts["vocabulary"], "tokenizer": texts.get("tokenizer")}
    for name, value in own.items():
        if value not in (None, "auto"):
            raise ValueError(f"--{name} is {value}, but {source} has one of its own: leave it out.")
    backbone = read_language_model(source)
    backbone.check(**model, max_length=texts["max_length"] or 0)
    return backbone


def read_language_model(source: str) -> Pretrained:
    """A language model by the folder of its run, a folder in Hugging Face format, or a name on its hub."""
    folder = RunFolder(source)
    return load(folder.path).backbone if folder.config_file.exists() else Pretrained.from_pretrained(source)


def text_encoder_source(name: str, guide: Mapping[str, Any]) -> str | None:
    """The folder or the name of a pretrained encoder among the options of a model's guide.

    None if it is the name of a kind of encoder, or there is none.
    """
    value = guide.get("encoder")
    return value if isinstance(value, str) and value not in _encoder_kinds(name) else None


def read_text_encoder(name: str, source: str) -> TextEncoder:
    """A pretrained encoder by its folder, or its name on the Hugging Face hub, read before any text is.

    Raises:
        ValueError: If it cannot be read, or is a kind of encoder with a slip.
    """
    kinds = _encoder_kinds(name)
    near = get_close_matches(source, kinds, n=1)
    if near and not Path(source).exists():
        raise ValueError(
            f"--{ENCODER} is {source!r}: did you mean {near[0]}? Give one of {', '.join(kinds)}, or the folder of a "
            "pretrained encoder."
        )
    return TextEncoder.from_pretrained(source)


def _encoder_kinds(name: str) -> list[str]:
    """The kinds of encoder, by name, that the guide of a model has beside a pretrained one."""
    found = [option.kind for option in options(MODELS[name].guide or "") if option.name == "encoder"]
    return [kind for each in found for member in type_members(each) for kind in get_args(member)]


def _has_text_encoder(config: Mapping[str, Any]) -> bool:
    """Whether the guide of a run has a pretrained encoder, which is frozen whatever is trained."""
    return _names_class(((config.get("guide") or {}).get("init_args") or {}).get("encoder"))


def _names_class(value: Any) -> bool:
    return isinstance(value, Mapping) and isinstance(value.get("class_path"), str)


def _network(
    cls: type[Model], known: Mapping[str, Any], adapters: Mapping[str, Any] | None = None
) -> TransformerConfig:
    """The sizes and options of the network among those of a model."""
    names = {field.name for field in fields(TransformerConfig)}
    chosen = {key: value for key, value in known.items() if key in names}
    return TransformerConfig(**{**cls.network_defaults(chosen), **(adapters or {}), **chosen})


_SOME_TEXTS = {"vocabulary": 1000, "max_length": 64}  # in place of a corpus that is not there yet


def _construct(value: Any, known: Mapping[str, Any]) -> Any:
    """An option of the model; a class that it names is constructed, with known arguments filled in."""
    if not _names_class(value):
        return value
    path, arguments = value["class_path"], dict(value.get("init_args") or {})
    parameters = signature(imported(path)).parameters
    filled = {key: item for key, item in known.items() if key in parameters and key not in arguments}
    return from_config({"class_path": path, "init_args": arguments}, trust=[path], **filled)


def _check_same_options(
    folder: RunFolder, config: Mapping[str, Any], corpus: Corpus, name: str, requested: Mapping[str, Any]
) -> None:
    """Raises a ValueError if a requested option differs from that of the run."""
    classes, path = MODELS[name], config["model"]["class_path"]
    if path != public_path(imported(classes.model)):
        other = next((key for key, item in MODELS.items() if path == public_path(imported(item.model))), path)
        raise ValueError(f"{folder.path} holds a run of the model {other}, not of {name}: choose another --out.")
    own = {f"--{key}": value for key, value in effective_options(folder, config).items()}
    tokens = corpus.requested_vocabulary or corpus.tokenizer.vocabulary
    own |= {"--vocabulary": tokens, "--max_length": corpus.max_length}
    own |= {"--overlong": corpus.overlong, "--tokenizer": corpus.tokenizer.kind}
    own |= _recorded_options("model", classes.model, config["model"])
    own |= _recorded_options("model", NETWORK, config["model"]["init_args"]["config"])
    own |= _recorded_options("guide", classes.guide, config["guide"]) if classes.guide else {}
    for flag, value in requested.items():
        if not _agrees(value, own.get(flag)):
            raise ValueError(
                f"{flag} is {_short(value)}, but {folder.path} was {begun_with(_short(own.get(flag)))}: leave it out "
                "to go on, or choose another --out."
            )


def _recorded_options(part: str, path: str, recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments in a recipe by flag, with the defaults of the others."""
    defaults = {option.name: option.default for option in options(path)}
    return {f"--{part}.{key}": value for key, value in (defaults | recipe["init_args"]).items()}


def _agrees(requested: Any, recorded: Any) -> bool:
    """Whether a requested value is the recorded one; of a class, only the requested arguments are compared."""
    if isinstance(requested, Mapping) and isinstance(recorded, Mapping):
        return all(_agrees(value, recorded.get(key)) for key, value in requested.items())
    return bool(requested == recorded)


def _short(value: Any) -> Any:
    return value.get("class_path", value) if isinstance(value, Mapping) else value
