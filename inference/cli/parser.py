"""What the command line accepts: one parser for each command, and errors of one line that say the way out."""

import re
from argparse import SUPPRESS, Action, ArgumentError
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from jsonargparse import ArgumentParser, DefaultHelpFormatter

from ..utils.registry import MODELS, ModelClasses
from .option_help import Option, attribute, description, options, summary

__all__ = ["COMMANDS", "NETWORK", "TRAINING", "UsageError", "overview", "parse"]

NETWORK = "pyroformer.models.transformer.config:TransformerConfig"
SIZED = ("width", "layers", "heads")  # what --size decides
FROM_MODEL = ("width", "samples_per_component", "max_length", "heads", "layers", "latent_size", "summary_size")
FROM_CORPUS = (
    "vocabulary",
    "max_length",
    "max_condition_length",
    "pad",
    "bos",
    "eos",
)  # fields of the network that the corpus decides
TRAINING = "pyroformer.inference.options:TrainingOptions"
COMMANDS = {
    name: "pyroformer.inference.cli.commands.{0}:{0}".format(name.replace("-", "_"))
    for name in (
        "fit",
        "fit-prior",
        "evaluate",
        "sample",
        "reconstruct",
        "interpolate",
        "swap",
        "edit",
        "posterior",
        "plot",
        "demo",
    )
}


class UsageError(ValueError):
    """What was typed is not understood; :class:`ValueError` is for what was understood and cannot be done."""


def overview() -> str:
    """The help of the program itself."""
    lines = [f"  {name:<12} {summary(path)}" for name, path in COMMANDS.items()]
    return "\n".join(
        [
            "usage: pyroformer COMMAND ...",
            "",
            "Bayesian Transformers in Pyro: attention as posterior inference, trained by SVI.",
            "",
            "commands:",
            *lines,
            "",
            "pyroformer COMMAND --help says more, with an example. To see everything at once: pyroformer demo",
        ]
    )


def parse(command: str, arguments: Sequence[str]) -> dict[str, Any]:
    """The arguments that were given, and only those, by name; ``--model.x`` and ``--guide.x`` as dictionaries.

    Raises:
        UsageError: If an argument is unknown or has a value of another type.
    """
    rest, name = [_underscored(argument) for argument in arguments], None
    asks_for_help = "-h" in rest or "--help" in rest
    if command == "fit" and not (asks_for_help and rest[0].startswith("-")):
        name, rest = _model(rest)
    # Types that are classes of ours need torch; most commands name none.
    importing = not asks_for_help and any(item.startswith(("--model.", "--guide.", "--config")) for item in rest)
    parser, kinds = _parser(command, name, importing)
    try:
        # With all defaults only where they are to be printed: what was given is what may contradict a run.
        given = parser.parse_args(rest, defaults=any(item.startswith("--print_config") for item in rest))
    except ArgumentError as error:
        raise UsageError(_in_one_line(str(error), parser.prog, parser.usage or "", kinds)) from error
    values = {key: value for key, value in given.as_dict().items() if value is not None and key != "config"}
    for group in ("model", "guide"):
        if group in values:
            values[group] = {key: value for key, value in values[group].items() if value is not None}
    return values if name is None else {"name": name} | values


def _underscored(argument: str) -> str:
    """The flag as Python spells it, where it was written with dashes."""
    flag, equals, value = argument.partition("=")
    return flag[:2] + flag[2:].replace("-", "_") + equals + value if re.fullmatch(r"--[\w.-]+", flag) else argument


def _model(arguments: list[str]) -> tuple[str, list[str]]:
    """The model that ``fit`` was given first, and the rest."""
    if not arguments or arguments[0].startswith("-"):
        raise UsageError(f"fit needs a model first: pyroformer fit {'|'.join(MODELS)} --data FILE --out FOLDER.")
    if arguments[0] not in MODELS:
        raise UsageError(f"model {arguments[0]!r} is unknown: choose one of {', '.join(MODELS)}.")
    return arguments[0], arguments[1:]


def _parser(command: str, model: str | None, importing: bool) -> tuple[ArgumentParser, dict[str, Any]]:
    """The parser of one command, and the type behind each flag; that of ``fit`` has the options of its model."""
    usage = {"fit": f"{model or 'MODEL'} --data FILE --out FOLDER [options]", "demo": "[options]"}
    parser = ArgumentParser(
        prog=f"pyroformer {command}" + (f" {model}" if model else ""),
        usage=f"pyroformer {command} {usage.get(command, 'RUN [options]')}",
        description=description(COMMANDS[command]),
        formatter_class=_HelpFormatter,
        exit_on_error=False,
        allow_abbrev=False,
    )
    kinds = _add(parser, options(COMMANDS[command], skip=["name", "model", "guide"]))
    if command == "fit":
        kinds |= _add(parser.add_argument_group("training"), options(TRAINING))
        if model is None:
            names = "\n".join(f"{name:<6} {summary(MODELS[name].model)}" for name in MODELS)
            more = "pyroformer fit MODEL --help lists the options of a model: --model.width, --guide.alpha ..."
            parser.add_argument_group("models", f"{names}\n\n{more}")
        else:
            kinds |= _add_model(parser, MODELS[model], importing)
        parser.add_argument("--config", action="config", help="A YAML file with any of these options.")
    return parser, kinds


def _add_model(parser: ArgumentParser, classes: ModelClasses, importing: bool) -> dict[str, Any]:
    group = parser.add_argument_group("model", summary(classes.model))
    defaults = dict.fromkeys(SIZED) | (attribute(classes.model, "network") or {})
    network = options(NETWORK, skip=FROM_CORPUS)
    kinds = _add(group, [item._replace(default=defaults.get(item.name, item.default)) for item in network], "model.")
    kinds |= _add(group, options(classes.model, skip=["config"], importing=importing), "model.")
    if classes.guide is not None:
        group = parser.add_argument_group("guide", summary(classes.guide))
        kinds |= _add(group, options(classes.guide, skip=["model"], importing=importing), "guide.")
    return kinds


def _add(group: Any, described: Sequence[Option], prefix: str = "") -> dict[str, Any]:
    """Add an argument for each option: ``run`` by its place, a bool that is off as a flag, the others with a value."""
    kinds = {}
    for name, kind, default, text in described:
        flag = f"-{name}" if len(name) == 1 else f"--{prefix}{name}"
        if name == "run":
            group.add_argument(name, type=str, metavar="RUN", help=text)
            continue
        kinds[flag] = kind
        if kind is bool and default is False:
            group.add_argument(flag, action="store_true", help=text)
        elif list[str] in _parts(kind):
            group.add_argument(flag, type=str, nargs="+", metavar="CLASS" if name == "trust" else "TEXT", help=text)
        else:
            bases = [part for part in _parts(kind) if isinstance(part, type) and part not in _SORTS]
            if bases:  # what a prior wants of the model, such as its width, is filled in when it is made
                names = {
                    "as_group": False,
                    "skip": set(FROM_MODEL),
                    "required": False,
                    "metavar": "CLASS",
                    "help": text,
                }
                group.add_subclass_arguments(bases[0], flag.removeprefix("--"), **names)
                continue
            text += "" if kind is not None else " An import path, as in my_module.MyClass."
            group.add_argument(flag, type=kind or str, default=default, metavar=_metavar(kind), help=text)
    return kinds


class _HelpFormatter(DefaultHelpFormatter):
    """Help in words: no types in Python's notation, and no markup."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=32, width=110)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "".join(indent + line for line in text.splitlines(keepends=True))

    def _get_help_string(self, action: Action) -> str:
        text = action.help or ""
        shown = action.default is not False and action.default not in _UNSAID and "default" not in text
        return f"{text} (default: {action.default})" if shown else text


_UNSAID = (None, SUPPRESS, "")


def _metavar(kind: Any) -> str:
    """What stands for a value in the help: its choices, or the sort of thing that it is."""
    choices = [choice for part in _parts(kind) for choice in (get_args(part) if get_origin(part) is Literal else ())]
    sorts = [_SORTS.get(part, "CLASS") for part in _parts(kind) if get_origin(part) is not Literal]
    return "|".join([*dict.fromkeys(sorts), *map(str, choices)]) or "CLASS"


_SORTS = {int: "N", float: "X", str: "TEXT", bool: "true|false"}
_RULES = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}


def _parts(kind: Any) -> list[Any]:
    """The members of a union but None, or the type itself."""
    union = get_args(kind) if isinstance(kind, UnionType) or get_origin(kind) is Union else (kind,)
    return [part for part in union if part not in (None, NoneType)]


def _rule(kind: Any) -> str:
    """What to give for a type, in words."""
    words = []
    for part in _parts(kind):
        if get_origin(part) is Literal:
            choices = ", ".join(map(str, get_args(part)))
            words.append(f"one of {choices}" if len(get_args(part)) > 1 else choices)
        elif isinstance(part, type):
            words.append(_RULES.get(part) or f"the import path of a {part.__name__}, as in my_module.MyPrior")
    return " or ".join(words) or "a value"


def _in_one_line(message: str, program: str, usage: str, kinds: Mapping[str, Any]) -> str:
    """What jsonargparse says in many lines: the value, the rule and the way out."""
    if found := re.match(r'Parser key "([\w.]+)":(.*)', message, re.DOTALL):
        return _wrong_value(found[1], found[2], kinds)
    if found := re.match(r"unrecognized arguments: (\S+)", message):
        return _unknown(found[1].partition("=")[0], program, kinds)
    if found := re.match(r"Option '([\w.]+)' is not accepted", message):
        return _unknown(f"--{found[1]}", program, kinds)
    if found := re.match(r"argument (\S+): expected", message):
        return f"{found[1]} needs a value: give {_rule(kinds.get(found[1], str))}."
    if found := re.match(r"the following arguments are required: (\w+)", message):
        return f"{program} needs {found[1].upper()}: {usage}."
    if message.startswith("Problems parsing config"):
        return f"the file of --config is not YAML: {_flat(message.partition(':')[2])}."
    if message.startswith("Unexpected config"):
        content = _flat(message.partition(":")[2])
        return f"the file of --config must hold lines of the form 'option: value', not {content!r}."
    return f"{_flat(message).rstrip('.')}. See {program} --help."


def _wrong_value(key: str, details: str, kinds: Mapping[str, Any]) -> str:
    if key == "config":
        return f"the file of --config cannot be read: {_flat(details)}."
    flag = f"-{key}" if len(key) == 1 else f"--{key}"
    rule = _rule(kinds.get(flag, str))
    if found := re.search(r"given class_path '([^']+)':\s*(.*?)\s*(- Expected|Given value|$)", details, re.DOTALL):
        return f"{flag} {found[1]} cannot be used ({_flat(found[2]).rstrip('.')}): give {rule}."
    given = re.search(r"(?:Given|Got) value: (.*)", details)
    return f"{flag} is {given[1].strip() if given else ''!r}: give {rule}."


def _unknown(flag: str, program: str, kinds: Mapping[str, Any]) -> str:
    if not flag.startswith("-"):
        return f"{flag!r} is one argument too many for {program}. See {program} --help."
    near = get_close_matches("--" + flag.lstrip("-").replace("-", "_"), kinds, n=1)
    return f"{program} has no option {flag}{f': did you mean {near[0]}?' if near else '.'} See {program} --help."


def _flat(text: str) -> str:
    return " ".join(text.split())
