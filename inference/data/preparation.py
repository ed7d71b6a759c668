"""The folder in which a corpus is prepared, with what is finished of it."""

import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from hashlib import blake2b
from pathlib import Path
from typing import Any

from ..utils.files import write_atomically
from .shards import ENDING
from .sources.kept import READ, forget_texts
from .stored_texts import encoded_chunks

__all__ = ["preparation", "preparation_key", "take_up"]

_KEY = "key"


@contextmanager
def preparation(corpus: Path) -> Iterator[Path]:
    """A folder inside that of a corpus, which goes when the corpus is finished.

    If the preparation is interrupted, what it has finished stays there: the texts that were read, the tokenizer and
    shards. The next one goes on from them.

    Raises:
        ValueError: If it cannot be written.
    """
    folder = corpus / "preparing"
    new = not corpus.exists()
    try:
        corpus.mkdir(parents=True, exist_ok=True)
        folder.mkdir(exist_ok=True)
        yield folder
    except OSError as error:  # of a full disk, which needs room
        _leave_shards(folder)
        raise ValueError(f"cannot write the corpus into {corpus}: {error.strerror}. Give another folder.") from error
    except ValueError:  # again and again, with these texts and options
        _leave_shards(folder)
        if new:
            shutil.rmtree(corpus, ignore_errors=True)
        raise
    except BaseException:
        _leave_finished(folder)
        raise
    shutil.rmtree(folder, ignore_errors=True)


def preparation_key(splits: Iterable[Sequence[str] | None], options: Mapping[str, Any]) -> str:
    """A hash of all texts and conditions of a corpus and of the options with which it is made."""
    digest = blake2b(repr(sorted(options.items())).encode(), digest_size=16)
    for texts in splits:
        digest.update(b"none" if texts is None else str(len(texts)).encode())
        for chunk in encoded_chunks(texts or ()):
            digest.update(repr([len(text) for text in chunk]).encode())
            digest.update(b"".join(chunk))
    return digest.hexdigest()


def take_up(folder: Path, key: str) -> None:
    """Keeps the finished part of an interrupted preparation of the same corpus; removes that of any other corpus.

    Raises:
        OSError: If it cannot be written.
    """
    file = folder / _KEY
    with suppress(OSError, UnicodeDecodeError):
        if file.read_text() == key:
            return
    file.unlink(missing_ok=True)
    for old in _finished(folder):
        old.unlink()
    write_atomically(file, lambda path: path.write_text(key))


def _finished(folder: Path) -> list[Path]:
    return [path for path in folder.glob("*") if path.suffix in (ENDING, ".json")]


def _leave_finished(folder: Path) -> None:
    """Removes texts of which not all are read, and everything if nothing is finished."""
    if not (folder / READ).exists():
        forget_texts(folder)
    if not _finished(folder) and not (folder / READ).exists():
        shutil.rmtree(folder, ignore_errors=True)


def _leave_shards(folder: Path) -> None:
    """Removes the texts, and everything if no shard is finished."""
    forget_texts(folder)
    if not any(folder.glob(f"*{ENDING}")):
        shutil.rmtree(folder, ignore_errors=True)
