"""What ``fit`` trains: a new model on texts that are read, or those of the run that it goes on with."""

from collections.abc import Collection, Mapping
from contextlib import suppress
from inspect import signature
from typing import Any, NamedTuple

import torch
from torch import nn

from ...models.base import Model
from ...models.serialization import from_config, public_path
from ...models.transformer.backbone import Backbone
from ..data.corpus import Corpus
from ..pretrained.gpt2 import Pretrained
from ..runs.folder import RunFolder, read_checkpoint
from ..utils.registry import MODELS, imported
from .option_help import options
from .parser import NETWORK

__all__ = ["Prepared", "claim", "prepare_new", "prepare_old", "read_config", "read_corpus", "read_trunk"]

# What may change from one session of a run to the next: how long it is, and the machine.
FREE = {"accumulate_grad_batches", "batch_size", "compile", "devices", "minutes", "patience", "precision", "steps"}
FREE |= {"validations", "validation_texts"}
FINE_TUNING = 1e-4  # learning rate: that of training from nothing would unlearn what a backbone knows


class Prepared(NamedTuple):
    """All that training needs."""

    model: Model
    guide: nn.Module | None
    corpus: Corpus
    training: dict[str, Any]


def claim(folder: RunFolder, resume: bool) -> None:
    """See that a run may be kept in a folder, before anything is read for it.

    Raises:
        ValueError: If it holds something else, or a run that is not to go on, or cannot be written.
    """
    folder.prepare(resume)
    if not folder.config_file.exists():
        folder.start.unlink(missing_ok=True)
        with suppress(OSError):
            folder.last.parent.rmdir()  # checkpoints without a configuration would be taken for somebody else's


def prepare_new(
    name: str,
    corpus: Corpus,
    *,
    size: str = "tiny",
    model: Mapping[str, Any] | None = None,
    guide: Mapping[str, Any] | None = None,
    training: Mapping[str, Any] | None = None,
    backbone: Backbone | None = None,
) -> Prepared:
    """A model of a registered name and its guide, with weights that follow from the seed and the backbone, if any.

    A prior comes as ``{"class_path": ..., "init_args": {...}}``. Where its constructor asks for something that the
    model has, such as ``width``, it is filled in. With a backbone the learning rate is that of fine-tuning unless given.
    """
    classes, asked = MODELS[name], dict(model or {})
    cls = imported(classes.model)
    if size not in cls.sizes:
        raise ValueError(f"size {size!r} is unknown: choose one of {', '.join(cls.sizes)}.")
    sizes = cls.sizes[size] if backbone is None else backbone.sizes
    known = {"vocabulary": corpus.vocabulary, "max_length": corpus.max_length, **sizes, **asked}
    classes_asked = [key for key, value in asked.items() if _is_class(value)]
    if "latent_prior" in classes_asked:  # its sizes follow from the structure, which the model works out
        plain = {key: value for key, value in {**sizes, **asked}.items() if key not in classes_asked}
        known |= cls.for_corpus(corpus, size=size, **plain).prior_sizes
    torch.manual_seed((training or {}).get("seed", 0))
    asked = {key: _made(value, known) for key, value in asked.items()}
    made: Model = cls.for_corpus(corpus, size=size, backbone=backbone, **asked)
    posterior = imported(classes.guide)(made, **guide or {}) if classes.guide else None
    fine_tuning = {} if backbone is None else {"learning_rate": FINE_TUNING}
    return Prepared(made, posterior, corpus, fine_tuning | dict(training or {}))


def prepare_old(
    folder: RunFolder, name: str, asked: Mapping[str, Any], training: Mapping[str, Any], trust: Collection[str] = ()
) -> Prepared:
    """What the run in a folder was begun with. Of the training, what may change is as it is given now.

    Who gives one of ``steps`` and ``minutes`` says how overlong the run is to be, whatever it was to be.

    Arguments:
        folder: The run's folder.
        name: The model that is asked for.
        asked: What else is asked for and may not change, by flag.
        training: Options of the training.
        trust: Classes outside pyroformer that may be imported.

    Raises:
        ValueError: If the run is of another model, holds parts of an earlier run, or what is asked for is not what it
            has.
    """
    config = read_config(folder)
    corpus = Corpus.load(folder.corpus)
    if config.get("trained"):
        raise ValueError(
            f"{folder.path} trains only {', '.join(config['trained'])} of an earlier run: go on with "
            f"pyroformer fit-prior RUN --out {folder.path} --resume."
        )
    before = dict(config.get("training") or {})
    try:
        _check(folder, config, corpus, name, dict(asked) | {f"--{k}": v for k, v in training.items() if k not in FREE})
        torch.manual_seed(before.get("seed", 0))
        model = from_config(config["model"], trust)
        if folder.start.exists() and not folder.last.exists():
            model.load_state_dict(read_checkpoint(folder.start)["state_dict"])
        guide = from_config(config["guide"], trust, model=model) if config.get("guide") else None
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"{folder.config_file} is damaged ({error}): choose another --out.") from error
    if {"steps", "minutes"} & set(training):
        before |= {"steps": None, "minutes": None}
    return Prepared(model, guide, corpus, before | dict(training))


def read_config(folder: RunFolder) -> dict[str, Any]:
    """A run's configuration, which names the class of a model and, if it has one, of a guide.

    Raises:
        ValueError: If there is none, or it was damaged.
    """
    config = folder.read_config()
    for part in ("model", "guide"):
        recipe = config.get(part)
        if not (isinstance(recipe, dict) and isinstance(recipe.get("class_path"), str)) and (part == "model" or recipe):
            raise ValueError(
                f"{folder.config_file} is damaged: its {part} names no class. Fit anew with another --out."
            )
    return config


def read_corpus(data: str, folder: RunFolder | None = None, **asked: Any) -> Corpus:
    """The texts of a file, a folder, or Python's documentation (``builtin``), kept in the run's folder if given."""
    wanted = {name: value for name, value in asked.items() if value is not None}
    home = None if folder is None else folder.corpus
    if data != "builtin":
        return Corpus.from_file(data, folder=home, **wanted)
    for name in ("field", "condition", "labels"):
        if name in wanted:
            raise ValueError(f"the built-in texts have no {name} {wanted[name]!r}: leave --{name} out.")
    return Corpus.builtin(folder=home, **wanted)


def read_trunk(source: str, size: str | None, texts: Mapping[str, Any], model: Mapping[str, Any]) -> Pretrained:
    """A pretrained GPT-2, before any text is read.

    Raises:
        ValueError: If it cannot be read, or something that it decides is asked for otherwise.
    """
    for name, value in {"size": size, "vocabulary": texts["vocabulary"]}.items():
        if value not in (None, "auto"):
            raise ValueError(f"--{name} is {value}, but {source} has one of its own: leave it out.")
    backbone = Pretrained.from_pretrained(source)
    backbone.check(**model, max_length=texts["max_length"] or 0)
    return backbone


def _is_class(value: Any) -> bool:
    return isinstance(value, Mapping) and "class_path" in value


def _made(value: Any, known: Mapping[str, Any]) -> Any:
    """An option of the model; a class that it names is constructed."""
    if not _is_class(value):
        return value
    path = str(value["class_path"])
    given = dict(value.get("init_args") or {})
    wanted = signature(imported(path)).parameters
    filled = {key: item for key, item in known.items() if key in wanted and key not in given}
    return from_config({"class_path": path, "init_args": given}, trust=[path], **filled)


def _check(folder: RunFolder, config: Mapping[str, Any], corpus: Corpus, name: str, asked: Mapping[str, Any]) -> None:
    """See that what is asked for is what the run has."""
    classes, path = MODELS[name], config["model"]["class_path"]
    if path != public_path(imported(classes.model)):
        other = next((known for known, item in MODELS.items() if public_path(imported(item.model)) == path), path)
        raise ValueError(f"{folder.path} holds a run of the model {other}, not of {name}: choose another --out.")
    has = {f"--{key}": value for key, value in (config.get("training") or {}).items()}
    has |= {"--vocabulary": corpus.requested_vocabulary, "--max_length": corpus.max_length, "--overlong": corpus.overlong}
    has |= _recorded("model", classes.model, config["model"])
    has |= _recorded("model", NETWORK, config["model"]["init_args"]["config"])
    has |= _recorded("guide", classes.guide, config["guide"]) if classes.guide else {}
    for flag, value in asked.items():
        if not _agree(value, has.get(flag)):
            raise ValueError(
                f"{flag} is {_shown(value)}, but {folder.path} was begun with {_shown(has.get(flag))}: leave it out to "
                "go on with that, or choose another --out."
            )


def _recorded(part: str, path: str, recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments in a recipe by flag, with the defaults of those that it does not mention."""
    defaults = {option.name: option.default for option in options(path)}
    return {f"--{part}.{key}": value for key, value in (defaults | recipe["init_args"]).items()}


def _agree(asked: Any, has: Any) -> bool:
    """Equality; of a class, only what is asked about it."""
    if isinstance(asked, Mapping) and isinstance(has, Mapping):
        return all(_agree(value, has.get(key)) for key, value in asked.items())
    return bool(asked == has)


def _shown(value: Any) -> str:
    return str(value.get("class_path", value) if isinstance(value, Mapping) else value)
