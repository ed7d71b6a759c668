"""The parser of each command, and the overview of all."""

import re
from argparse import SUPPRESS, Action, ArgumentError
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Literal, Union, get_args, get_origin

from jsonargparse import ArgumentParser, DefaultHelpFormatter

from ..utils.registry import MODELS, ModelClasses
from ..utils.terminal import filled, listed, terminal_columns
from .options.option_help import Option, attribute, description, options, summary
from .typed import Flag
from .usage_errors import UsageError, check_typed, type_members, usage_message

__all__ = ["COMMANDS", "NETWORK", "TRAINING", "flags", "overview", "parse", "with_underscores"]

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
        "look",
        "demo",
    )
}
NETWORK = "pyroformer.models.transformer.config:TransformerConfig"
TRAINING = "pyroformer.inference.options:TrainingOptions"
SIZED = ("width", "layers", "heads")  # set by --size
FROM_CORPUS = ("vocabulary", "max_length", "max_condition_length", "pad", "bos", "eos")  # set by the corpus
# Arguments of a prior's constructor that the model fills in.
FROM_MODEL = ("width", "samples_per_component", "max_length", "heads", "layers", "latent_size", "summary_size")


def overview() -> str:
    """The help of the program itself."""
    width = terminal_columns()
    commands = listed(((name, summary(path)) for name, path in COMMANDS.items()), width)
    return "\n".join(
        [
            "usage: pyroformer COMMAND ...",
            "",
            filled("Bayesian Transformers in Pyro: attention as posterior inference, trained by SVI.", width),
            "",
            "commands:",
            commands,
            "",
            filled("pyroformer COMMAND --help lists the options of a command, with an example.", width),
            "To see all of it at work:",
            "  pyroformer demo",
        ]
    )


def flags(command: str, typed: Mapping[str, Any] | None = None) -> dict[str, list[Flag]]:
    """The flags of the options of a command by their names in Python, with the values that were typed.

    Examples:
        >>> flags("fit", {"name": "nvae", "model": {"delta": 0.1}})["delta"]
        [Flag(name='--delta', choices=(), value=None), Flag(name='--model.delta', choices=(), value=0.1)]
    """
    typed, found = typed or {}, dict[str, list[Flag]]()
    for prefix, item, values in _all_options(command, typed):
        value = values.get(item.name)
        choices = [word for kind in type_members(item.kind) if get_origin(kind) is Literal for word in get_args(kind)]
        name = value.get("class_path") if isinstance(value, Mapping) else value
        found.setdefault(item.name, []).append(Flag(_flag(prefix + item.name), tuple(choices), name))
        for argument, given in ((value.get("init_args") or {}) if isinstance(value, Mapping) else {}).items():
            found.setdefault(argument, []).append(Flag(f"--{prefix}{item.name}.{argument}", (), given))
    if "prior" in typed and "base_measure" in found:  # it is short for that
        found["base_measure"].insert(0, Flag("--prior", (), typed["prior"]))
    return found


def _all_options(command: str, typed: Mapping[str, Any]) -> Iterator[tuple[str, Option, Mapping[str, Any]]]:
    """The prefix of each option of a command, the option, and the values of its group that were typed."""
    parts: list[tuple[str, str, Collection[str]]] = [("", COMMANDS[command], ["run", "name", "model", "guide"])]
    if command == "fit":
        classes = MODELS[typed["name"]]
        parts += [("", TRAINING, []), ("model.", NETWORK, FROM_CORPUS), ("model.", classes.model, ["config"])]
        parts += [("guide.", classes.guide, ["model"])] if classes.guide else []
    for prefix, path, skip in parts:
        group = typed.get(prefix.removesuffix("."), {}) if prefix else typed
        for item in options(path, skip=skip):
            yield prefix, item, group


def parse(command: str, arguments: Sequence[str]) -> dict[str, Any]:
    """The arguments that were typed, and only those, by name; ``--model.x`` and ``--guide.x`` as dictionaries.

    Raises:
        UsageError: If an argument is unknown or has a value of another type.
    """
    rest, name = [with_underscores(argument) for argument in arguments], None
    wants_help = "-h" in rest or "--help" in rest
    if command == "fit" and not (wants_help and rest[0].startswith("-")):
        name, rest = _model(rest)
    # Types that are classes of the library need torch; most commands use none.
    importing = not wants_help and any(item.startswith(("--model.", "--guide.", "--config")) for item in rest)
    parser, kinds = _parser(command, name, importing)
    try:
        # With all defaults only where they are to be printed: only what was typed may contradict a run.
        namespace = parser.parse_args(rest, defaults=any(item.startswith("--print_config") for item in rest))
    except ArgumentError as error:
        raise UsageError(usage_message(str(error), parser.prog, parser.usage or "", kinds)) from error
    values = {key: value for key, value in namespace.as_dict().items() if value is not None and key != "config"}
    for group in ("model", "guide"):
        if group in values:
            values[group] = {key: value for key, value in values[group].items() if value is not None}
    return values if name is None else {"name": name} | values


def with_underscores(argument: str) -> str:
    """A flag as Python spells it, if it was typed with dashes."""
    flag, equals, value = argument.partition("=")
    return flag[:2] + flag[2:].replace("-", "_") + equals + value if re.fullmatch(r"--[\w.-]+", flag) else argument


def _model(arguments: list[str]) -> tuple[str, list[str]]:
    """The model, which is the first argument of ``fit``, and the rest."""
    if not arguments or arguments[0].startswith("-"):
        raise UsageError(f"fit needs a model first: pyroformer fit {'|'.join(MODELS)} --data FILE --out FOLDER.")
    check_typed("model", arguments[0], MODELS)
    return arguments[0], arguments[1:]


def _parser(command: str, model: str | None, importing: bool) -> tuple[ArgumentParser, dict[str, Any]]:
    """The parser of a command, and the type of each flag; that of ``fit`` has the options of its model."""
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
            names = listed(((name, summary(MODELS[name].model)) for name in MODELS), terminal_columns() - 2)
            more = "pyroformer fit MODEL --help lists the options of a model: --model.width, --guide.alpha ..."
            parser.add_argument_group("models", f"{names}\n\n{more}")
        else:
            kinds |= _add_model(parser, MODELS[model], importing)
        parser.add_argument("--config", action="config", help="A YAML file with any of these options.")
    return parser, kinds


def _add_model(parser: ArgumentParser, classes: ModelClasses, importing: bool) -> dict[str, Any]:
    group = parser.add_argument_group("model", summary(classes.model))
    defaults = attribute(classes.model, "network") or {}
    network = [
        item._replace(default=None, help=f"{item.help.rstrip('.')} (default: that of --size).")
        if item.name in SIZED
        else item._replace(default=defaults.get(item.name, item.default))
        for item in options(NETWORK, skip=FROM_CORPUS)
    ]
    kinds = _add(group, network, "model.")
    own = options(classes.model, skip=["config"], importing=importing)
    kinds |= _add(group, [_with_names(item) if importing else item for item in own], "model.")
    if classes.guide is not None:
        group = parser.add_argument_group("guide", summary(classes.guide))
        kinds |= _add(group, options(classes.guide, skip=["model"], importing=importing), "guide.")
    return kinds


def _with_names(option: Option) -> Option:
    """The prior of the vectors with the names that stand for some; any other option unchanged."""
    from ...models.priors.named import NAMED

    return option._replace(kind=Literal[*NAMED] | option.kind) if option.name == "base_measure" else option


def _add(group: Any, described: Sequence[Option], prefix: str = "") -> dict[str, Any]:
    """Adds an argument for each option and returns their types by flag.

    ``run`` is positional, a bool that is off by default a flag without a value, or of a model also with one, and every
    other option a flag with one.
    """
    kinds = {}
    for name, kind, default, text in described:
        flag = _flag(f"{prefix}{name}")
        if name == "run":
            group.add_argument(name, type=str, metavar="RUN", help=text)
            continue
        kinds[flag] = kind
        if kind is bool and default is False and not prefix:
            group.add_argument(flag, action="store_true", help=text)
        elif kind is bool and default is False:
            group.add_argument(flag, type=bool, nargs="?", const=True, default=False, metavar="true|false", help=text)
        elif list[str] in type_members(kind):
            group.add_argument(flag, type=str, nargs="+", metavar="CLASS" if name == "trust" else "TEXT", help=text)
        elif list[float] in type_members(kind):
            group.add_argument(flag, type=float, nargs="+", metavar="X", help=text)
        elif roles := [part for part in type_members(kind) if isinstance(part, type) and part not in _METAVARS]:
            _add_class(group, flag, roles[0], [part for part in type_members(kind) if part is not roles[0]], text)
        else:
            text += "" if kind is not None else " An import path, as in my_module.MyClass."
            group.add_argument(flag, type=kind or str, default=default, metavar=_metavar(kind), help=text)
    return kinds


def _add_class(group: Any, flag: str, role: type, names: list[Any], text: str) -> None:
    """Adds an argument whose value is a class derived from ``role``, with arguments of its own, or one of the names."""
    skip, shown = set(FROM_MODEL), {"metavar": "CLASS", "help": text}
    if names:
        group.add_argument(flag, type=Union[*names, role], sub_configs=True, **shown).sub_add_kwargs = {"skip": skip}
    else:
        group.add_subclass_arguments(role, flag.removeprefix("--"), as_group=False, skip=skip, required=False, **shown)


def _flag(name: str) -> str:
    return f"-{name}" if len(name) == 1 else f"--{name}"


class _HelpFormatter(DefaultHelpFormatter):
    """Help in plain English: no types in Python's notation, no markup."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=32, width=terminal_columns())

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "".join(indent + line for line in filled(text, width).splitlines(keepends=True))

    def _get_help_string(self, action: Action) -> str:
        text, default = action.help or "", action.default
        switch = action.nargs == 0  # a flag without a value
        if switch or default in (None, SUPPRESS, "") or "default" in text:
            return text
        return f"{text} (default: {str(default).lower() if isinstance(default, bool) else default})"


_METAVARS = {int: "N", float: "X", str: "TEXT", bool: "true|false"}


def _metavar(kind: Any) -> str:
    """The placeholder of a value in the help: its choices, or a letter for its type."""
    members = type_members(kind)
    choices = [choice for member in members if get_origin(member) is Literal for choice in get_args(member)]
    types = [_METAVARS.get(member, "CLASS") for member in members if get_origin(member) is not Literal]
    return "|".join([*dict.fromkeys(types), *map(str, choices)]) or "CLASS"
