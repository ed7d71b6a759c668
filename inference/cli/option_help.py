"""The options of a class or function, read from its source: help must not wait for torch to be imported."""

import ast
import builtins
import re
from collections.abc import Collection, Iterator
from functools import cache
from importlib import import_module
from importlib.util import find_spec, resolve_name
from pathlib import Path
from typing import Any, Literal, NamedTuple

import docstring_parser

__all__ = ["Option", "attribute", "description", "options", "summary"]


class Option(NamedTuple):
    """A parameter as a command line shows it; ``kind`` is None where only importing its module can tell."""

    name: str
    kind: Any
    default: Any
    help: str


def options(path: str, skip: Collection[str] = (), importing: bool = False) -> list[Option]:
    """The parameters of a class or function, with the help that its docstring has for them.

    Arguments:
        path: ``package.module:Class`` or ``package.module:function``. A class is a dataclass or has an ``__init__``.
        skip: Parameters to leave out.
        importing: Import the module where a parameter's type is a class, so that its ``kind`` is that class.

    Examples:
        >>> options("pyroformer.models.nvae:NVAE", skip=["config"])[-1][:3]
        ('kappa', <class 'int'>, 1)
    """
    module, _, name = path.partition(":")
    node = _find(module, name)
    parsed = docstring_parser.parse(ast.get_docstring(node) or "", docstring_parser.DocstringStyle.GOOGLE)
    help_of = {entry.arg_name: entry.description or "" for entry in parsed.params}
    known = _literals(module)
    found = []
    for parameter, annotation, default in _parameters(node):
        if parameter in skip:
            continue
        try:
            kind = eval(annotation, dict(known))  # our own source
        except NameError:
            # A prior may be many things in Python; on a command line it is a class of the role named first.
            kind = eval(annotation.partition(" | ")[0], vars(import_module(module))) | None if importing else None
        found.append(Option(parameter, kind, default, _plain(" ".join(help_of.get(parameter, "").split()))))
    return found


def attribute(path: str, name: str) -> Any:
    """A class attribute that is a literal, or None where the class itself defines none of that name.

    Examples:
        >>> attribute("pyroformer.models.language_model:LanguageModel", "network")["positions"]
        'learned'
    """
    module, _, owner = path.partition(":")
    for item in _find(module, owner).body:
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name) and item.target.id == name:
            return _value(item.value)
    return None


def summary(path: str) -> str:
    """The first sentence of a class's or function's docstring.

    Examples:
        >>> summary("pyroformer.models.language_model:LanguageModel")
        'A causal Transformer that predicts each token from those before it.'
    """
    return description(path).partition("\n")[0]


def description(path: str) -> str:
    """The docstring of a class or function up to its arguments."""
    module, _, name = path.partition(":")
    return _plain(re.split(r"\n+Arguments:", ast.get_docstring(_find(module, name)) or "")[0])


def _parameters(node: ast.ClassDef | ast.FunctionDef) -> Iterator[tuple[str, str, Any]]:
    """Name, annotation and default of each parameter that has an annotation; a default that is no literal is None."""
    if isinstance(node, ast.ClassDef):
        init = next((item for item in node.body if isinstance(item, ast.FunctionDef) and item.name == "__init__"), None)
        if init is None:
            for item in node.body:
                if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
                    yield item.target.id, ast.unparse(item.annotation), _value(item.value)
            return
        node = init
    given = node.args
    arguments = [*given.posonlyargs, *given.args, *given.kwonlyargs]
    without = len(given.posonlyargs) + len(given.args) - len(given.defaults)
    for argument, default in zip(arguments, [None] * without + given.defaults + given.kw_defaults, strict=True):
        if argument.annotation is not None:
            yield argument.arg, ast.unparse(argument.annotation), _value(default)


def _value(node: ast.expr | None) -> Any:
    try:
        return None if node is None else ast.literal_eval(node)
    except ValueError:
        return None


def _plain(text: str) -> str:
    """Text without the markup of a docstring."""
    text = re.sub(r":\w+:`~?(?:[\w.]*\.)?([^`]*)`", r"\1", text)  # :class:`~package.Name` is Name
    return text.replace("``", "")


def _find(module: str, name: str) -> ast.ClassDef | ast.FunctionDef:
    for node in _tree(module).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
            return node
    raise LookupError(f"{module} defines no {name}")


def _literals(module: str) -> dict[str, Any]:
    """What annotations may name without an import: built-in types, and names for Literals, also of modules beside."""
    names = vars(builtins) | {"Literal": Literal}
    for node in _tree(module).body:
        if isinstance(node, ast.ImportFrom) and node.level and node.module:
            theirs = _own_literals(resolve_name("." * node.level + node.module, module.rpartition(".")[0]))
            names |= {item.asname or item.name: theirs[item.name] for item in node.names if item.name in theirs}
    return names | _own_literals(module)


def _own_literals(module: str) -> dict[str, Any]:
    """Names that a module gives to Literals."""
    names: dict[str, Any] = {}
    for node in _tree(module).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            if isinstance(node.value, ast.Subscript) and ast.unparse(node.value.value) == "Literal":
                names[node.targets[0].id] = eval(ast.unparse(node.value), {"Literal": Literal})
    return names


@cache
def _tree(module: str) -> ast.Module:
    spec = find_spec(module)
    assert spec is not None and spec.origin is not None, f"{module} has no source"
    return ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
