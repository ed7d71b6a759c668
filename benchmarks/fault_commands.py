"""Faults of what a command line is given: files of texts, options, paths, texts and prompts."""

import gzip
import json
import math
import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, get_origin

import numpy as np
import xarray
from fault_runner import TINY, Case, Ending, Workplace

import pyroformer as pf
from pyroformer.inference.cli.options.option_help import options
from pyroformer.inference.cli.parser import COMMANDS, FROM_CORPUS, NETWORK, TRAINING
from pyroformer.inference.cli.usage_errors import type_members
from pyroformer.inference.utils.registry import MODELS

__all__ = ["file_cases", "option_cases", "path_cases", "text_cases"]

Works = Callable[[Ending, Workplace], bool]
LINES = "\n".join(f"Number {i} is a number, and {i + 1} is another." for i in range(60))
OBJECTS = "\n".join(json.dumps({"text": line}) for line in LINES.splitlines())
TABLE = "a,b\n" + "\n".join(f"x{i},Number {i}." for i in range(60))
FIT = f"fit lm --out {{new}} --steps 1 --validations 1 {TINY}"

# Files that are refused, by name: their bytes.
REFUSED: dict[str, bytes] = {
    "empty.txt": b"",
    "blank.txt": b"\n \n\t\n" * 30,
    "spaces.txt": " \u2003\u00a0\n".encode() * 30,
    "one.txt": b"one\n",
    "same.txt": b"the same text\n" * 50,
    "zeros.txt": b"\0" * 1000,
    "nul.txt": LINES.encode() + b"\na text\0with a zero",
    "utf16.txt": LINES.encode("utf-16"),
    "utf16le.txt": LINES.encode("utf-16-le"),
    "utf32.txt": LINES.encode("utf-32"),
    "latin.txt": ("Größe\n" * 40).encode("latin-1"),
    "cut.txt": LINES.encode() + "ö".encode()[:1],
    "surrogate.txt": LINES.encode() + b"\n\xed\xa0\x80",
    "overlong.txt": LINES.encode() + b"\n\xc0\xaf",
    "picture.jpg": b"\xff\xd8\xff\xe0" * 100,
    "page.pdf": b"%PDF-1.4\n" * 100,
    "words.docx": b"PK\x03\x04" * 100,
    "noend": LINES.encode(),
    "upper.TXT~": LINES.encode(),
    "notgzip.txt.gz": LINES.encode(),
    "empty.txt.gz": b"",
    "nothing.txt.gz": gzip.compress(b""),
    "twice.txt.gz": gzip.compress(gzip.compress(LINES.encode())),
    "binary.txt.gz": gzip.compress(bytes(range(256)) * 20),
    "only.gz": gzip.compress(LINES.encode()),
    "empty.jsonl": b"",
    "single.jsonl": LINES.encode(),
    "numbers.jsonl": b"1\n" * 40,
    "lists.jsonl": b"[1, 2]\n" * 40,
    "null.jsonl": b"null\n" * 40,
    "nan.jsonl": b"NaN\n" * 40,
    "textnumber.jsonl": b'{"text": 3}\n' * 40,
    "textnull.jsonl": b'{"text": null}\n' * 40,
    "textlist.jsonl": b'{"text": ["a"]}\n' * 40,
    "textdict.jsonl": b'{"text": {"text": "a"}}\n' * 40,
    "body.jsonl": b'{"body": "a"}\n' * 40,
    "python.jsonl": b"{'text': 'a'}\n" * 40,
    "deep.jsonl": b"[" * 100_000 + b"\n",
    "bigint.jsonl": b'{"text": ' + b"9" * 10_000 + b"}\n",
    "bom16.jsonl": OBJECTS.encode("utf-16"),
    "empty.json": b"",
    "object.json": b"{}",
    "list.json": b"[]",
    "string.json": b'"text"',
    "deep.json": b"[" * 100_000,
    "deepobject.json": b'{"a":' * 100_000,
    "cut.json": b'[{"text": "a"}, ',
    "mixed.json": b'[{"text": "a"}, 3]',
    "empty.csv": b"",
    "header.csv": b"a,b\n",
    "ragged.csv": TABLE.encode() + b"\nx\n",
    "long.csv": TABLE.encode() + b"\nx,y,z\n",
    "quote.csv": TABLE.encode() + b'\n"x,y\n',
    "latin.csv": TABLE.encode() + "\nx,ö\n".encode("latin-1"),
    "empty.tsv": b"",
    "ragged.tsv": b"a\tb\n" * 30 + b"a\n",
    "xls.xls": b"\xd0\xcf\x11\xe0" * 100,
    "parquet.parquet": b"PAR1" * 100,
    "rows.db": b"SQLite format 3\0" * 100,
}
EMOJI = [f"{i} 👩‍👩‍👧‍👦 漢字 e\u0301 \u202eright" for i in range(60)]
CONTROLS = [f"{i} \x01\x02\x1b[31m \x7f" for i in range(60)]
SEPARATORS = [f"{i} a\u2028b\u0085c\x0cd" for i in range(60)]
TEXTS = LINES.splitlines()
SEMICOLONS = "score;text\n" + "\n".join(f"{i},5;{text}" for i, text in enumerate(TEXTS))
# Files that are read, however unusual: their bytes, and the texts in them.
READ: dict[str, tuple[bytes, list[str]]] = {
    "bom.txt": (b"\xef\xbb\xbf" + LINES.encode(), TEXTS),
    "dos.txt": (LINES.replace("\n", "\r\n").encode(), TEXTS),
    "noend.txt": (LINES.encode().rstrip(), TEXTS),
    "blanks.txt": (LINES.replace("\n", "\n\n\n").encode(), TEXTS),
    "long.txt": (LINES.encode() + b"\n" + b"word " * 20_000, [*TEXTS, "word " * 20_000]),
    "unbroken.txt": (LINES.encode() + b"\n" + b"x" * 20_000, [*TEXTS, "x" * 20_000]),
    "emoji.txt": ("\n".join(EMOJI).encode(), EMOJI),
    "controls.txt": ("\n".join(CONTROLS).encode(), CONTROLS),
    "separators.txt": ("\n".join(SEPARATORS).encode(), SEPARATORS),
    "good.txt.gz": (gzip.compress(LINES.encode()), TEXTS),
    "parts.txt.gz": (gzip.compress(LINES.encode()) + gzip.compress(b"\n" + LINES.encode()), TEXTS * 2),
    "good.jsonl": (OBJECTS.encode(), TEXTS),
    "blanks.jsonl": (OBJECTS.replace("\n", "\n\n").encode(), TEXTS),
    "bom.jsonl": (b"\xef\xbb\xbf" + OBJECTS.encode(), TEXTS),
    "good.json": (f"[{OBJECTS.replace(chr(10), ',')}]".encode(), TEXTS),
    "texts.csv.gz": (gzip.compress(b"text\n" + LINES.replace(",", "").encode()), LINES.replace(",", "").splitlines()),
    "semicolons.csv": (SEMICOLONS.encode(), TEXTS),
}


def file_cases() -> Iterator[Case]:
    """Files that hold no texts, or texts as few expect them, for ``fit``, ``evaluate`` and ``reconstruct``."""
    evaluate = "evaluate {root}/lm --num_particles 1 --json {new}.json"
    for name, content in REFUSED.items():
        one = name in ("one.txt", "same.txt")  # which is enough to evaluate on
        yield Case("files", f"fit {name}", _on_file(FIT, name, _bytes(content)))
        if one or name.startswith(("empty", "u", "n", "z", "d")):
            works = _evaluated(len(content.split(b"\n")) - 1) if one else None
            yield Case("files", f"evaluate {name}", _on_file(evaluate, name, _bytes(content)), works, must_work=one)
    for name, (content, texts) in READ.items():
        yield Case("files", f"fit {name}", _on_file(FIT, name, _bytes(content)), _holds(texts), must_work=True)
    special: dict[str, Callable[[Path], object]] = {
        "folder.txt": Path.mkdir,
        "broken-link.txt": lambda path: path.symlink_to("nowhere"),
        "loop.txt": lambda path: path.symlink_to(path),
        "null.txt": lambda path: path.symlink_to("/dev/null"),
        "zero.txt": lambda path: path.symlink_to("/dev/zero"),
        "missing.txt": lambda path: None,
        "bad\nname.txt": lambda path: path.write_bytes(b""),
    }
    yield Case("files", "fit a pipe", _on_file(FIT, "pipe.txt", _pipe), _holds(TEXTS), must_work=True)
    commands = FIT, "evaluate {root}/lm", "reconstruct {root}/nvae"
    for index, (name, make) in enumerate(special.items()):
        for command in {commands[0], commands[index % 3]}:
            yield Case("files", f"{command.split()[0]} {name!r}", _on_file(command, name, make))
    paths = "/dev/null", "/dev/zero", "/dev/stdin", "/proc/self/mem", "-", "", ".", "~", "\\", "a" * 5000
    for path in paths:
        yield Case("files", f"fit --data {path[:20]!r}", f"{FIT} --data '{path}'")
    for split in ("train", "valid", "test"):
        for wrong in (None, b"", b"\xff"):
            whole = wrong is None and split != "train"  # then it is taken from train
            works = _holds(TEXTS * 2) if whole else None
            yield Case("files", f"folder with {split} {wrong!r}", _on_folder(split, wrong), works, must_work=whole)


def option_cases() -> Iterator[Case]:
    """Each option with something that it cannot be, in turn the kinds of wrong values; and words that are no option."""
    turns: dict[str, int] = {}
    for command, flag, kind in _flags():
        name, bad = _bad_values(flag, kind)
        if flag == "--seed" and not command.startswith("fit"):  # any whole number is one there
            bad = [value for value in bad if value != "-1"]
        if not bad:
            continue
        turn = turns.setdefault(name, 0)
        turns[name] += 1
        every = flag in ("--steps", "--learning_rate", "--num_particles", "--temperature", "--precision")
        for value in bad if every else [bad[turn % len(bad)]]:
            yield Case("options", f"{command} {flag}={value!r}", f"{command} '{flag}={value}'")
    wrong = "--unknown 3", "---", "--=3", "-x", "extra more", "--seed", "--config nowhere", "--seed=1 --sed 2"
    fit = "fit lm --data {root}/good.txt --out {new}"
    for index, command in enumerate((fit, *(f"{name} {{run}}" for name in COMMANDS if name != "fit"))):
        for words in wrong if command == fit else (wrong[index % len(wrong)], wrong[(index + 3) % len(wrong)]):
            yield Case("options", f"{command} {words}", f"{command} {words}")


def _bad_values(flag: str, kind: Any) -> tuple[str, list[str]]:
    """The kind of an option, and values that none of that kind can have; none where anything is allowed."""
    members = type_members(kind)
    if int in members:
        return "int", ["", "x", "nan", "1.5", "-1", str(2**64)]
    if float in members:
        return "float", ["", "x", "nan", "inf", "1e-320", *([] if "log_variance" in flag else ["-1"])]
    if any(get_origin(member) is Literal for member in members) and str not in members:
        return "choice", ["", "x", "none", "ELBO", "-1"]
    return "other", []


def path_cases() -> Iterator[Case]:
    """Outputs that cannot be written, and outputs over files of a run."""
    bad = ["/proc/x", "/dev/full", "/dev/null/x", "{root}", "{root}/good.txt/x", "", "\\x/y", "a" * 300, "{own}/none/x"]
    mine = [
        f"{{run}}/{name}"
        for name in (
            "config.yaml",
            "metrics.csv",
            "source.yaml",
            "checkpoints/best.ckpt",
            "checkpoints/last.ckpt",
            "corpus/train.tokens.npy",
            "corpus",
            "checkpoints",
        )
    ]
    commands = {"evaluate {run} --limit 2 --num_particles 1 --json": bad[:-3] + bad[-2:] + mine,
                "posterior {run} -n 1 --draws 2 --out": bad + mine,
                "plot {run} --out": ["/proc/x", "/dev/full", "/dev/null/x", "{root}/good.txt", "a" * 300, *mine[:6]],
                "fit-prior {run} --steps 1 --out": ["/proc/x", "/dev/null/x", "{root}/good.txt", "{run}", "{root}",
                                                    *mine],
                FIT.replace("{new}", "{{0}}").replace("--out {{0}}", "--data {root}/good.txt") + " --out":
                    ["/proc/x", "/dev/null/x", "{root}/good.txt", "{run}", "{root}", "", "a" * 300, *mine]}  # fmt: skip
    for command, paths in commands.items():
        for path in paths:
            yield Case(
                "outputs", f"{command.split()[0]} to {path[:60]!r}", f"{command} '{path}'", damage=lambda run: None
            )


def text_cases() -> Iterator[Case]:
    """Texts and prompts that are empty, too long or made of bytes that no one writes, and numbers of vectors."""
    texts = {"empty": "", "blank": " \t ", "newline": "\n", "long": "word " * 500, "unbroken": "x" * 5000}
    odd = {
        "nul": "a\0b",
        "emoji": "👩‍👩‍👧",
        "surrogate": "a\udcff",
        "controls": "\x1b[2J",
        "right to left": "\u202e",
        "rare": "\U0010ffff",
    }
    commands = {"reconstruct {run}": _original, "edit {run} --drop 1": _original,
                "interpolate {run} --other One --steps 2": _two_lines,
                "posterior {run} --draws 2 --out {new}.nc": _labeled}  # fmt: skip
    for name, text in (texts | odd).items():
        for command, right in commands.items():
            works = right(text) if name in odd else None
            yield Case("texts", f"{command.split()[0]} {name}", _with(command, "--text", text), works)
    for name, text in {"long": "word " * 500, "unbroken": "x" * 5000}.items():
        for model in ("lm", "nvae", "vae", "della"):
            yield Case(
                "texts", f"sample {model} --prompt {name}", _with("sample {run} -n 1", "--prompt", text), model=model
            )
    for name, text in odd.items():
        yield Case("texts", f"sample --prompt {name}", _with("sample {run} -n 1", "--prompt", text), _begins(text))
    for flag, values in {
        "--drop": ["0", "99", "x", "2-1", "1,,2", "-1", "1-", "1-99", "9" * 30],
        "--scale": ["1", "1=", "1=0", "1=-1", "1=nan", "1=inf", "99=1", "x=1", "1=1,1=2", "1=1e400"],
        "--swap": ["1=2", "1", "x=1", "1=x"],
    }.items():
        for value in values:
            yield Case("texts", f"edit {flag} {value}", f"edit {{run}} --text 'Number 3' '{flag}={value}'")
    for layers in ("0", "3", "x", "2-1", "1,,2", "-1", "", "1-99999"):
        yield Case(
            "texts",
            f"swap --layers {layers}",
            f"swap {{run}} --text One --other Two '--layers={layers}'",
            model="della",
        )
        yield Case(
            "texts",
            f"interpolate --layers {layers}",
            f"interpolate {{run}} --text One --other Two '--layers={layers}'",
            model="della",
        )
    for command in (
        "reconstruct {run} --text One",
        "interpolate {run} --text One --other Two",
        "posterior {run} --text One --out {new}.nc",
        "edit {run} --text One",
        "swap {run} --text One --other Two",
        "fit-prior {run} --steps 1 --out {new}",
    ):
        yield Case("texts", f"{command.split()[0]} of an lm", command, model="lm")
    for command in ("sample {run}", "reconstruct {run} --text One", "interpolate {run} --text One --other Two"):
        yield Case("texts", f"{command.split()[0]} with a condition", f"{command} --condition good")


def _flags() -> Iterator[tuple[str, str, Any]]:
    """Each option of each command, with a command line that would work without it and be over soon."""
    for name, classes in MODELS.items():
        fit = f"fit {name} --data {{root}}/good.txt --out {{new}} --steps 1 --validations 1 --vocabulary 270"
        if name == "nvae":
            for option in [
                *options(COMMANDS["fit"], skip=["name", "model", "guide", "data", "out"]),
                *options(TRAINING),
            ]:
                yield fit, f"--{option.name}", option.kind
            for option in options(NETWORK, skip=FROM_CORPUS):
                yield fit, f"--model.{option.name}", option.kind
        for option in options(classes.model, skip=["config"]):
            yield fit, f"--model.{option.name}", option.kind
        if classes.guide is not None:
            for option in options(classes.guide, skip=["model"]):
                yield fit, f"--guide.{option.name}", option.kind
    needs = {"evaluate": "--limit 2 --num_particles 2", "interpolate": "--text One --other Two", "edit": "--text One",
             "posterior": "--out {new}.nc -n 1 --draws 2", "fit-prior": "--out {new} --steps 1",
             "demo": "--out {new} --minutes 0.01",
             "reconstruct": "-n 2"}  # fmt: skip
    for command, path in COMMANDS.items():
        if command in ("fit", "swap", "plot"):
            continue
        start = f"{command} {'' if command == 'demo' else '{run}'} {needs.get(command, '')}"
        for option in options(path, skip=["run", "trust", "out"]):
            yield start, f"-{option.name}" if len(option.name) == 1 else f"--{option.name}", option.kind


def _pipe(path: Path) -> None:
    """A pipe that somebody writes texts into."""
    os.mkfifo(path)
    if not os.fork():
        path.write_text(LINES)
        os._exit(0)


def _bytes(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


def _holds(texts: list[str]) -> Works:
    """Whether a run was trained on these texts: long ones are in pieces, and nothing else is lost or added."""

    def test(ending: Ending, place: Workplace) -> bool:
        corpus = pf.load(place.new).corpus
        read = [text for split in (corpus.train, corpus.valid, corpus.test) for text in split]
        return Counter("".join("".join(read).split())) == Counter("".join("".join(texts).split()))

    return test


def _evaluated(count: int) -> Works:
    """Whether an evaluation was of so many texts, and its bound is a number."""

    def test(ending: Ending, place: Workplace) -> bool:
        written = json.loads(Path(f"{place.new}.json").read_text())
        bound = written["metrics"]["bound"]["units"]["nats/text"]["value"]
        return written["about"]["texts"] == count and math.isfinite(bound)

    return test


def _command(place: Workplace, arguments: list[str]) -> None:
    """A command inside a call, whose code and lines are passed on."""
    from pyroformer.inference.cli.main import main

    raise SystemExit(main(arguments))


def _on_file(command: str, name: str, make: Callable[[Path], object]) -> Callable[[Workplace], None]:
    def act(place: Workplace) -> None:
        make(place.own / name)
        _command(place, [*place.fill(command), "--data", str(place.own / name)])

    return act


def _on_folder(split: str, content: bytes | None) -> Callable[[Workplace], None]:
    def act(place: Workplace) -> None:
        folder = place.own / "texts"
        folder.mkdir()
        for each in ("train", "valid", "test"):
            (folder / f"{each}.txt").write_text(LINES)
        (folder / f"{split}.txt").unlink()
        if content is not None:
            (folder / f"{split}.txt").write_bytes(content)
        _command(place, [*place.fill(FIT), "--data", str(folder)])

    return act


def _with(command: str, flag: str, text: str) -> Callable[[Workplace], None]:
    return lambda place: _command(place, [*place.fill(command), f"{flag}={text}"])


def _original(text: str) -> Works:
    """Whether the last line has the text itself beside what was made of it."""
    return lambda ending, place: json.loads(ending.out.splitlines()[-1])["original"] == text


def _two_lines(text: str) -> Works:
    return lambda ending, place: [json.loads(line)["t"] for line in ending.out.splitlines()] == [0.0, 1.0]


def _begins(text: str) -> Works:
    return lambda ending, place: json.loads(ending.out)["text"].startswith(text)


def _labeled(text: str) -> Works:
    """Whether the posterior of one text has its name and finite densities."""

    def test(ending: Ending, place: Workplace) -> bool:
        stats = xarray.open_dataset(f"{place.new}.nc", group="sample_stats")
        label = text.replace("\0", r"\x00")
        return stats["text"].values.tolist() == [label] and bool(np.isfinite(stats["log_p"]).all())

    return test
