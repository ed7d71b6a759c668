"""What a run reads: its texts, and the pretrained networks that it starts from."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...models.transformer.backbone import Train
from ..data.corpus import Corpus
from ..data.sources.columns import COLUMNAR
from ..runs.folder import RunFolder
from ..training.resumed import changed_option
from ..utils.files import content_fingerprint
from .typed import typed_command

__all__ = ["ENCODER", "Source", "read_corpus"]

ENCODER = "guide.encoder"  # the option whose value is the folder of a pretrained encoder, or the name of a kind


@dataclass(frozen=True)
class Source:
    """The options that say what a run reads; None where one was not set, or a run that is resumed has its own."""

    data: str | None = None
    field: str | None = None
    condition: str | None = None
    labels: bool | None = None
    init_from: str | None = None
    encoder: str | None = None
    train: Train | None = None

    def as_dict(self) -> dict[str, Any]:
        """The options and the content of the texts, by which a resumed run notices another source; and the command."""
        described = {name: value for name, value in self._options().items() if name != ENCODER or value is not None}
        return described | {"content": _content(self.data), "command": typed_command()}

    def check_same(self, folder: RunFolder, corpus: Corpus) -> None:
        """Raises a ValueError if a resumed run is given another source than the one in its folder.

        The texts need not be there any more, under the name that they had; under another name they must be the same.
        """
        began = folder.read_source() or {"data": corpus.name, "labels": bool(corpus.labels)}
        for name, value in self._options().items():
            same = value is None or value == began.get(name) or name == "labels" and value == bool(corpus.labels)
            if name == "data" and value is not None:
                same = _same_content(value, began, renamed=not same)
            if not same:
                other = "none" if began.get(name) is None else began[name]
                begun = "other content" if value == began.get(name) else other
                raise changed_option(folder, f"--{name}", value, f"with {begun}")

    def _options(self) -> dict[str, Any]:
        """The options by their names on the command line."""
        return {ENCODER if name == "encoder" else name: value for name, value in vars(self).items()}


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


def _same_content(data: str, began: Mapping[str, Any], renamed: bool) -> bool:
    """Whether texts are those that a run began with; texts that no longer exist are compared by name alone."""
    content = _content(data)
    if content is None:
        return not renamed
    if began.get("content") is None:  # of a run from before the content was recorded
        return Path(data).resolve().name == began.get("data")
    return bool(content == began["content"])


def _content(data: str | None) -> str | None:
    """A hash of a file or folder of texts, with the tables in its folders; None where there is none."""
    if data is None or data == "builtin" or not Path(data).exists():
        return None
    return content_fingerprint(Path(data), [f"*/*{ending}" for ending in COLUMNAR])
