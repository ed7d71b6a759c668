"""The built-in corpus: English sentences from the documentation in every Python installation."""

import ast
import inspect
import os
import re
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

from ....models.utils.garbage import garbage_collection_paused

__all__ = ["sentences"]

SKIPPED = {
    "dist-packages",
    "encodings",
    "ensurepip",
    "idlelib",
    "lib2to3",
    "site-packages",
    "test",
    "tests",
    "turtledemo",
}
MAX_WORDS = 40
MIN_SENTENCES = 1000  # with fewer, the standard library's sources are not there


def sentences() -> list[str]:
    r"""English sentences from the standard library's docstrings and from the language reference in ``pydoc_data``.

    Source files are parsed, never imported, so that no code runs. Sentences are unique and in the order of the files;
    they differ a little between Python versions. Their license is Python's (PSF).

    Raises:
        ValueError: If this Python has no standard library sources to read.
    """
    root = Path(sysconfig.get_paths()["stdlib"])
    with garbage_collection_paused():  # the syntax trees have no cycles
        unique = dict.fromkeys(sentence for text in _documentation(root) for sentence in _english_sentences(text))
    if len(unique) < MIN_SENTENCES:
        raise ValueError(
            f"{root} holds {len(unique)} sentences, the built-in corpus needs the standard library's sources: "
            "give a text file instead."
        )
    return list(unique)


def _documentation(root: Path) -> Iterator[str]:
    """Docstrings of all modules, classes and functions, and the topics of ``help()``."""
    for path in _sources(root):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about escapes in the sources
                tree = ast.parse(path.read_bytes())
        except (OSError, SyntaxError, ValueError):  # templates and broken links are skipped
            continue
        if path.parts[-2:] == ("pydoc_data", "topics.py"):
            yield from (text for text in _strings(tree) if " " in text)
        else:
            yield from _docstrings(tree)


def _sources(root: Path) -> Iterator[Path]:
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(set(folders) - SKIPPED)
        yield from (Path(folder, name) for name in sorted(files) if name.endswith(".py"))


def _docstrings(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[str]:
    yield ast.get_docstring(node) or ""
    for child in node.body:
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _docstrings(child)


def _strings(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield inspect.cleandoc(node.value)


_MARKUP = re.compile(r"``|[`*“”]|:[a-z]+:(?=`)|\(see [^)]*\)|\s*\[\d+\]")
_END = re.compile(r"(?<=[\w)'\"][.!?])\s+(?=[\w\"'(])|(?<=[a-z)]:)\s*\n")
_ABBREVIATION = re.compile(r"\b(?:e\.g|i\.e|a\.k\.a|etc|vs|cf|Dr|Mr|al|resp|approx|incl|Inc|No|St)\.$")
_SENTENCE = re.compile(r"[\"(]?[A-Z][\w ,;:'\"()!?./–—-]*[.!?][\")]?", re.ASCII)
_WORD = re.compile(r"[\"'(]*(?:[A-Z]?[a-z]+(?:['/-][a-z]+)*|A|I|I/O|e\.g\.|i\.e\.|[0-9]+)[\"')]*[,;:.!?]*[\")]*")
_NAME = re.compile(r"[\"'(]*(?:[A-Za-z]\w*|__\w+__)(?:\.[A-Za-z]\w*)*(?:\(\))?[\"')]*[,;:.!?]*[\")]*", re.ASCII)
_CODE = re.compile(
    r"\.\.|--|''|\"\"|\bXXX|\bTODO|[A-Z]{2,} [A-Z]{2,}|\b(?:self|cls|None|True|False)\.(?=\w)|\([A-Z]\w+,|: [A-Z]\w+:"
)


def _english_sentences(text: str) -> Iterator[str]:
    """The English sentences in the paragraphs of a docstring."""
    for paragraph in re.split(r"\n\s*\n", text):
        lines = paragraph.splitlines()
        if not lines or any(re.match(r"\s*(>>>|\.\.\.|\.\. |[-+|=~^]{2,}|:\w+|@\w+|#)", line) for line in lines):
            continue
        for block in _blocks(lines):
            plain = _MARKUP.sub("", block).replace("’", "'")
            yield from filter(_is_english, _cut_at_ends(plain))


def _blocks(lines: list[str]) -> Iterator[str]:
    """Consecutive lines of one indentation, without bullets: deeper lines are examples or belong to another item."""
    block: list[str] = []
    indent = None
    for line in lines:
        bullet = re.match(r"\s*([*+-]|\(?\w[.)]) +", line)
        start = bullet.end() if bullet else len(line) - len(line.lstrip())
        if block and (bullet or start != indent):
            yield "\n".join(block)
            block = []
        block.append(line[start:].strip())
        indent = start
    if block:
        yield "\n".join(block)


def _cut_at_ends(text: str) -> Iterator[str]:
    start = 0
    for end in _END.finditer(text):
        if not _ABBREVIATION.search(text[start : end.start()]):
            yield " ".join(text[start : end.start()].split())
            start = end.end()
    yield " ".join(text[start:].split())


def _is_english(sentence: str) -> bool:
    """Whether a sentence reads as English prose."""
    words = sentence.split()
    if not 3 <= len(words) <= MAX_WORDS or not _SENTENCE.fullmatch(sentence) or _CODE.search(sentence):
        return False
    plain = sum(_WORD.fullmatch(word) is not None for word in words)
    if plain < 0.8 * len(words) or not all(_NAME.fullmatch(word) or _WORD.fullmatch(word) for word in words):
        return False
    return sentence.count("(") == sentence.count(")") and sentence.count('"') % 2 == 0
