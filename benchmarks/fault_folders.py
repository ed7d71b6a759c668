"""Faults of run folders: files that are missing, cut, replaced or hostile."""

import pickle
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import yaml
from fault_runner import Case, Ending, Workplace, in_process

from pyroformer.inference.cli.main import main

__all__ = ["folder_cases"]

READERS = ("sample {run} -n 1", "evaluate {run} --limit 1 --num_particles 1", "reconstruct {run} -n 1")
FILES = ("config.yaml", "source.yaml", "metrics.csv", "checkpoints/best.ckpt", "checkpoints/last.ckpt")
MANY = 9
HOSTILE = {
    "bomb": "model: &a0 [x, x]\n"
    + "".join(f"k{i}: &a{i} [{', '.join([f'*a{i - 1}'] * MANY)}]\n" for i in range(1, 10)),
    "python": "model: !!python/object/apply:os.system ['touch executed']\n",
    "deep": "model: " + "[" * 20_000,
    "large": "model: x\n" + "".join(f"k{i}: {i}\n" for i in range(300_000)),
    "merge": "model: {<<: 3}\n",
    "cycle": "model: &a {class_path: *a}\n",
    "date": "model: 2020-01-01\n",
    "tag": "model: !unknown x\n",
    "number": "model: 3\n",
    "nan": "model: .nan\n",
    "top": "- model\n",
    "two": "model: x\n---\nmodel: y\n",
    "utf16": "model: x",
}
CLASSES = ("os.system", "builtins.eval", "subprocess.Popen", "pyroformer.load", "pyroformer.X", "nowhere.Class",
           "pyroformer", "", "..", "pyroformer.inference.cli.main.main", "pyroformer.models.nvae:NVAE",
           "torch.nn.Linear", "pyroformer.VAE", "pyroformer.LanguageModel", "os", "__main__.X",
           "pyroformer.NVAE.__init__",
           "torch.load", 3, None, [], {})  # fmt: skip


class _Code:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("open('executed', 'w').close()",)


def folder_cases(place: Workplace) -> Iterator[Case]:
    """Each file of a run with each damage, under commands that read it: refused, or the answer of the whole run."""
    answers = {
        (model, command): _answer(place, model, command)
        for model, command in (("nvae", READERS[0]), ("nvae", READERS[1]), ("lm", READERS[0]))
    }
    answers |= {("nvae", READERS[2]): _answer(place, "nvae", READERS[2])}
    corpus = [
        f"corpus/{path.relative_to(place.root / 'nvae' / 'corpus')}"
        for path in sorted((place.root / "nvae" / "corpus").rglob("*"))
        if path.is_file()
    ]
    readers = list(answers)
    for place_of_file, name in enumerate([*FILES, *corpus]):
        for turn, (damage, spoil) in enumerate(DAMAGES.items()):
            if name in corpus and (turn + place_of_file) % 3:
                continue  # each damage comes to some of these files, each of them meets some
            model, command = readers[turn % len(readers)] if name in FILES[:1] + FILES[3:4] else readers[-1]
            yield Case(
                "run folders",
                f"{model} {command.split()[0]}, {name} {damage}",
                command,
                _same(answers[model, command]),
                damage=_damage(name, spoil),
                model=model,
            )
    for turn, (name, text) in enumerate(HOSTILE.items()):
        spoil = _damage(
            "config.yaml",
            lambda path, text=text: path.write_text(text, encoding="utf-16" if text == "model: x" else None),
        )
        command = (READERS[0], "fit nvae --out {run} --resume")[turn % 2]
        yield Case("run folders", f"{command.split()[0]}, config {name}", command, damage=spoil)
    for part, paths in {"model": CLASSES, "guide": CLASSES[::3], "objective": CLASSES[1::3]}.items():
        for path in paths:
            if part != "model" and path in ("pyroformer.VAE", None, {}):
                continue
            yield Case("run folders", f"{part} is {path!r}", READERS[1], damage=_with_class(part, path))
    for key, value in {
        "width": -1,
        "layers": 10**9,
        "heads": "x",
        "vocabulary": 3,
        "max_length": 10**12,
        "dropout": float("nan"),
    }.items():
        yield Case("run folders", f"config {key} {value}", READERS[0], damage=_with_network(key, value))
    for model in ("vae", "lm", "della"):
        for name in ("config.yaml", "checkpoints", "corpus/corpus.json"):
            yield Case(
                "run folders",
                f"{name} of a run of {model}",
                READERS[0],
                _same(answers["nvae", READERS[0]]),
                damage=_from(place.root / model, name),
            )


def _zip_with_code(path: Path) -> None:
    torch.save({"state_dict": {}, "global_step": 1, "x": _Code()}, path)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "missing": Path.unlink,
    "empty": lambda path: path.write_bytes(b""),
    "first byte": lambda path: path.write_bytes(path.read_bytes()[:1]),
    "half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "end cut": lambda path: path.write_bytes(path.read_bytes()[:-7]),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "bytes": lambda path: path.write_bytes(bytes(range(256)) * 9),
    "pickle": lambda path: path.write_bytes(pickle.dumps(_Code())),
    "checkpoint of code": _zip_with_code,
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "a broken link": lambda path: (path.unlink(), path.symlink_to("nowhere")),
    "null": lambda path: path.write_text("null\n"),
    "list": lambda path: path.write_text("[1]\n"),
}


def _answer(place: Workplace, model: str, command: str) -> str:
    with_run = Workplace(place.root, place.root, model)
    ending = in_process(lambda: main(with_run.fill(command)))
    assert ending.code == 0, ending.error
    return ending.out


def _same(answer: str) -> Callable[[Ending, Workplace], bool]:
    """Whether the answer is that of the whole run, and no code in it was executed."""

    def test(ending: Ending, place: Workplace) -> bool:
        return _without_paths(ending.out, place) == _without_paths(answer, place) and _nothing_run(ending, place)

    return test


def _without_paths(text: str, place: Workplace) -> str:
    return text.replace(str(place.own / "run"), "").replace(str(place.root / place.model), "")


def _nothing_run(ending: Ending, place: Workplace) -> bool:
    return not (place.own / "executed").exists()


def _damage(name: str, spoil: Callable[[Path], object]) -> Callable[[Path], object]:
    return lambda run: spoil(run / name)


def _with_class(part: str, path: object) -> Callable[[Path], object]:
    return _configured(lambda config: config.update({part: {"class_path": path, "init_args": {}}}))


def _with_network(key: str, value: object) -> Callable[[Path], object]:
    return _configured(lambda config: config["model"]["init_args"]["config"]["init_args"].update({key: value}))


def _configured(
    change: Callable[[dict[str, dict[str, dict[str, dict[str, dict[str, object]]]]]], object],
) -> Callable[[Path], object]:
    def spoil(run: Path) -> None:
        config = yaml.safe_load((run / "config.yaml").read_text())
        change(config)
        (run / "config.yaml").write_text(yaml.safe_dump(config))

    return spoil


def _from(other: Path, name: str) -> Callable[[Path], object]:
    def spoil(run: Path) -> None:
        if (other / name).is_dir():
            shutil.rmtree(run / name)
            shutil.copytree(other / name, run / name)
        else:
            shutil.copy(other / name, run / name)

    return spoil
