"""Preparation of a training: the folder of its run, and a new model with its guide."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from inspect import signature
from types import SimpleNamespace
from typing import Any, Literal, NamedTuple

import torch
from torch import nn

from ...guides.base import Guide
from ...guides.encoders.text_encoder import TextEncoder
from ...models.base import NETWORK, Model
from ...models.batch import EOS, Batch
from ...models.serialization import from_config
from ...models.transformer.backbone import Train
from ...models.utils.choices import check_choice
from ..data.building import CorpusOptions
from ..data.corpus import MAX_LENGTH, Corpus
from ..objectives.registry import make_objective
from ..options import TrainingOptions
from ..pretrained.pretrained import Pretrained
from ..runs.folder import RunFolder
from ..training.checks import check_free_bits
from ..training.defaults import with_defaults
from ..utils.registry import MODELS, imported

__all__ = ["NewModel", "Prepared", "check_options", "names_class", "prepare_folder", "prepare_new"]

CONDITION_LENGTH = 8  # of conditions that have not been read


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


@dataclass(frozen=True)
class NewModel:
    """A model that is to be made, with its guide.

    A prior among its options is ``{"class_path": ..., "init_args": {...}}``; arguments of its constructor that the
    model has, such as ``width``, are filled in.

    Arguments:
        name: The registered name of the model.
        size: Its size.
        model: Its options.
        guide: Those of its guide.
        backbone: What the decoder starts from, if anything.
        train: Which weights are then trained.
    """

    name: str
    size: str
    model: Mapping[str, Any]
    guide: Mapping[str, Any]
    backbone: Pretrained | None = None
    train: Train = "all"

    def make(self, corpus: Any, seed: int) -> tuple[Model, nn.Module | None]:
        """The model and its guide for the texts of a corpus, or for ``_SomeTexts``, initialized from the seed."""
        classes, options = MODELS[self.name], self.model
        cls = imported(classes.model)
        check_choice("size", self.size, cls.sizes)
        if self.backbone is not None:
            cls.check_start(self.backbone, self.train, options)
        # The messages of the network come before those of a prior with its sizes.
        config = cls.network_for(corpus, self.size, options, self.backbone, self.train)
        known = {field.name: getattr(config, field.name) for field in fields(config)} | {**options, "config": config}
        if "samples_per_component" not in signature(cls).parameters:
            known["samples_per_component"] = 0  # no component is the prior's own
        priors = [key for key, value in options.items() if names_class(value)]
        if "latent_prior" in priors:  # its sizes follow from the structure of the model
            plain = {key: value for key, value in options.items() if key not in priors}
            known |= cls(config, **{key: value for key, value in plain.items() if key not in NETWORK}).prior_sizes
        torch.manual_seed(seed)
        arguments = {key: _construct(value, known) for key, value in options.items()}
        start: dict[str, Any] = {"backbone": self.backbone, "train": self.train}
        new: Model = cls.for_corpus(corpus, size=self.size, **start, **arguments)
        if classes.guide is None:
            return new, None
        guide_class: type[Guide] = imported(classes.guide)
        guide_class.check_new(new, self.guide)
        return new, guide_class(new, **self.guide)


def prepare_new(new: NewModel, corpus: Corpus, training: Mapping[str, Any]) -> Prepared:
    """A new model, its guide and the options of its training."""
    model, guide = new.make(corpus, training.get("seed", 0))
    return Prepared(model, guide, corpus, with_defaults(model, training))


class _SomeTexts(NamedTuple):
    """What a new model asks of a corpus, in place of one that is not there yet."""

    vocabulary: int = 1000
    max_length: int = 64
    conditional: bool = False
    max_condition_length: int = 0
    labels: tuple[str, ...] = ()
    tokenizer: Any = None

    @property
    def train(self) -> Any:
        """Texts of all lengths."""
        return SimpleNamespace(lengths=range(1, self.max_length + 1))

    def batch(self) -> Batch:
        """One of the texts."""
        return Batch.pad([[EOS + 1, EOS]], conditions=[[EOS + 1]] if self.conditional else None)


def check_options(new: NewModel, training: Mapping[str, Any], texts: Mapping[str, Any], conditional: bool) -> None:
    """Raises a ValueError if options do not go together, before texts are read: makes model, guide and objective.

    Arguments:
        new: The model.
        training: The options of the training.
        texts: Those of the texts: ``vocabulary``, ``max_length``, ``overlong`` and ``tokenizer``.
        conditional: Whether the texts have conditions.
    """
    chosen: dict[str, Any] = {"max_length": MAX_LENGTH, "overlong": "split", "tokenizer": None}
    chosen |= {name: value for name, value in texts.items() if value is not None}
    CorpusOptions(**chosen)  # checks the sizes before a network has them
    some = _some_texts(chosen["vocabulary"], chosen["max_length"], conditional, new.backbone)
    model, guide = new.make(some, seed=0)
    objective = make_objective(model, guide, TrainingOptions(**with_defaults(model, training)), data_size=1)
    if not any(isinstance(part, TextEncoder) for part in objective.modules()):  # one reads texts by their tokenizer
        check_free_bits(objective, some.batch())


def _some_texts(
    vocabulary: int | Literal["auto"], max_length: int, conditional: bool, backbone: Pretrained | None
) -> _SomeTexts:
    """Texts with these options, in place of a corpus that is not there yet."""
    condition = CONDITION_LENGTH if conditional else 0
    tokenizer = None
    if backbone is not None:
        vocabulary, tokenizer = backbone.config.vocabulary, backbone.tokenizer
        max_length = max(1, min(max_length, backbone.config.max_length - condition))
    sizes: dict[str, Any] = {"max_length": max_length} | ({} if vocabulary == "auto" else {"vocabulary": vocabulary})
    return _SomeTexts(**sizes, conditional=conditional, max_condition_length=condition, tokenizer=tokenizer)


def names_class(value: Any) -> bool:
    """Whether a value is the recipe of an object: ``{"class_path": ...}``, with or without arguments."""
    return isinstance(value, Mapping) and isinstance(value.get("class_path"), str)


def _construct(value: Any, known: Mapping[str, Any]) -> Any:
    """An option of the model; a class that it names is constructed, with known arguments filled in."""
    if not names_class(value):
        return value
    path, arguments = value["class_path"], dict(value.get("init_args") or {})
    parameters = signature(imported(path)).parameters
    filled = {key: item for key, item in known.items() if key in parameters and key not in arguments}
    return from_config({"class_path": path, "init_args": arguments}, trust=[path], **filled)
