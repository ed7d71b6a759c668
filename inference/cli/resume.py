"""A run that goes on: its model, guide, corpus and options, as they are in its folder."""

from collections.abc import Collection, Mapping
from typing import Any

import torch

from ...models.serialization import check_trust, from_config, public_path
from ..data.corpus import Corpus
from ..runs.folder import RunFolder
from ..runs.joint_module import freeze_others, joint_module
from ..training.resumed import begun_with, changed_option, load_start, resumed_options
from ..utils.registry import MODELS, imported
from .options.option_help import options
from .parser import NETWORK
from .prepare import Prepared, names_class

__all__ = ["prepare_resumed", "read_config"]


def prepare_resumed(
    folder: RunFolder, name: str, requested: Mapping[str, Any], training: Mapping[str, Any], trust: Collection[str] = ()
) -> Prepared:
    """Model, guide, corpus and options of the run in a folder; options that may change are updated.

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
    try:
        _check_same_options(folder, config, corpus, name, requested)
        settings = resumed_options(folder, training)
        torch.manual_seed(settings.get("seed", 0))
        if "." in (objective := settings.get("objective") or "") and objective != training.get("objective"):
            check_trust(objective, trust)
        model = from_config(config["model"], trust)
        if not folder.last.exists() and not folder.best.exists():
            load_start(folder, joint_module(model, None))  # the guide is made after it
        guide = from_config(config["guide"], trust, model=model) if config.get("guide") else None
        if chosen:
            modules = joint_module(model, guide)
            modules.load_state_dict(folder.frozen_weights(modules), strict=False)
            freeze_others(modules, config["trained"])
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"{folder.config_file} is damaged ({error}): choose another --out.") from error
    return Prepared(model, guide, corpus, settings)


def read_config(folder: RunFolder) -> dict[str, Any]:
    """The configuration of a run, checked to contain the class of the model and, if it has one, of the guide.

    Raises:
        ValueError: If there is none, or it is damaged.
    """
    config = folder.read_config()
    for part in ("model", "guide"):
        recipe = config.get(part)
        if not names_class(recipe) and (part == "model" or recipe):
            raise ValueError(
                f"{folder.config_file} is damaged: its {part} names no class. Fit anew with another --out."
            )
    return config


def _has_text_encoder(config: Mapping[str, Any]) -> bool:
    """Whether the guide of a run has a pretrained encoder, which is frozen whatever is trained."""
    return names_class(((config.get("guide") or {}).get("init_args") or {}).get("encoder"))


def _check_same_options(
    folder: RunFolder, config: Mapping[str, Any], corpus: Corpus, name: str, requested: Mapping[str, Any]
) -> None:
    """Raises a ValueError if a requested option of the model, the guide or the corpus differs from that of the run."""
    classes, path = MODELS[name], config["model"]["class_path"]
    if path != public_path(imported(classes.model)):
        other = next((key for key, item in MODELS.items() if path == public_path(imported(item.model))), path)
        raise ValueError(f"{folder.path} holds a run of the model {other}, not of {name}: choose another --out.")
    tokens = corpus.requested_vocabulary or corpus.tokenizer.vocabulary
    own: dict[str, Any] = {"--vocabulary": tokens, "--max_length": corpus.max_length}
    own |= {"--overlong": corpus.overlong, "--tokenizer": corpus.tokenizer.kind}
    own |= _recorded_options("model", classes.model, config["model"])
    own |= _recorded_options("model", NETWORK, config["model"]["init_args"]["config"])
    own |= _recorded_options("guide", classes.guide, config["guide"]) if classes.guide else {}
    for flag, value in requested.items():
        if not _agrees(value, own.get(flag)):
            raise changed_option(folder, flag, _short(value), begun_with(_short(own.get(flag))))


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
