"""The options of classes and functions with their help, read from source: help does not wait for torch."""

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

BY_FOLDER = {"TextEncoder": str}  # classes whose folder, or name on a hub, is typed on the command line


class Option(NamedTuple):
    """A parameter as an option; ``kind`` is its type, or None if that is known only after an import."""

    name: str
    kind: Any
    default: Any
    help: str


def options(path: str, skip: Collection[str] = (), importing: bool = False) -> list[Option]:
    """The parameters of a class or function, with their help from its docstring.

    The fields of a TypedDict that a function takes by ``**options: Unpack[SharedOptions]`` follow its own parameters.

    Arguments:
        path: ``package.module:Class`` or ``package.module:function``. A class is a dataclass, a TypedDict or has an
            ``__init__``.
        skip: Parameters to leave out.
        importing: Import the module if the type of a parameter is a class, so that its ``kind`` is that class.

    Examples:
        >>> options("pyroformer.models.nvae:NVAE", skip=["config"])[4][:3]
        ('delta', float | None, None)
        >>> [option.name for option in options("pyroformer.inference.cli.commands.plot:plot")]
        ['out', 'run', 'trust']
    """
    module, _, name = path.partition(":")
    node = _definition(module, name)
    parsed = docstring_parser.parse(ast.get_docstring(node) or "", docstring_parser.DocstringStyle.GOOGLE)
    help_of = {entry.arg_name: entry.description or "" for entry in parsed.params}
    names = _type_names(module)
    described = []
    for parameter, annotation, default in _parameters(node):
        if parameter in skip:
            continue
        try:
            kind = eval(annotation, dict(names))  # the library's own source
        except NameError:
            # In Python a prior may be of several types; on the command line it is a class of the first one.
            kind = eval(annotation.partition(" | ")[0], vars(import_module(module))) | None if importing else None
        described.append(Option(parameter, kind, default, _plain(" ".join(help_of.get(parameter, "").split()))))
    for group in _shared_options(module, node):
        described += options(group, skip, importing)
    return described


def attribute(path: str, name: str) -> Any:
    """A class attribute that is a literal, of the class or else of its bases; None without one.

    Examples:
        >>> attribute("pyroformer.models.language_model:LanguageModel", "network")["positions"]
        'rotary'
        >>> attribute("pyroformer.models.vae:VAE", "network")["positions"]  # of its base class
        'learned'
    """
    module, _, owner = path.partition(":")
    node = _definition(module, owner)
    assert isinstance(node, ast.ClassDef), f"{path} is no class"
    for item in node.body:
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name) and item.target.id == name:
            return _value(item.value)
    homes = _relative_imports(module)
    bases = [base.id for base in node.bases if isinstance(base, ast.Name) and base.id in homes]
    return next((value for base in bases if (value := attribute(f"{homes[base]}:{base}", name)) is not None), None)


def summary(path: str) -> str:
    """The first sentence of a class's or function's docstring.

    Examples:
        >>> summary("pyroformer.models.language_model:LanguageModel")
        'A causal Transformer that predicts each token from those before it.'
    """
    return description(path).partition("\n")[0]


def description(path: str) -> str:
    """The docstring of a class or function without its arguments and what follows them."""
    module, _, name = path.partition(":")
    return _plain(re.split(r"\n+Arguments:", ast.get_docstring(_definition(module, name)) or "")[0])


def _parameters(node: ast.ClassDef | ast.FunctionDef) -> Iterator[tuple[str, str, Any]]:
    """Name, annotation and default of each annotated parameter; a default that is no literal is None."""
    if isinstance(node, ast.ClassDef):
        init = next((item for item in node.body if isinstance(item, ast.FunctionDef) and item.name == "__init__"), None)
        if init is None:
            for item in node.body:
                if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
                    annotation = re.sub(r"^NotRequired\[(.*)\]$", r"\1", ast.unparse(item.annotation))
                    yield item.target.id, annotation, _value(item.value)
            return
        node = init
    signature = node.args
    positional = [*signature.posonlyargs, *signature.args]
    defaults = [None] * (len(positional) - len(signature.defaults)) + signature.defaults + signature.kw_defaults
    for argument, default in zip([*positional, *signature.kwonlyargs], defaults, strict=True):
        if argument.annotation is not None:
            yield argument.arg, ast.unparse(argument.annotation), _value(default)


def _shared_options(module: str, node: ast.ClassDef | ast.FunctionDef) -> list[str]:
    """The paths of the TypedDicts whose fields a function or another TypedDict takes over."""
    if isinstance(node, ast.FunctionDef):
        annotation = node.args.kwarg and node.args.kwarg.annotation
        unpacked = isinstance(annotation, ast.Subscript) and ast.unparse(annotation.value) == "Unpack"
        names = [ast.unparse(annotation.slice)] if isinstance(annotation, ast.Subscript) and unpacked else []
    else:
        names = [base.id for base in node.bases if isinstance(base, ast.Name) and base.id.endswith("Options")]
    return [f"{_relative_imports(module).get(name, module)}:{name}" for name in names]


def _value(node: ast.expr | None) -> Any:
    try:
        return None if node is None else ast.literal_eval(node)
    except ValueError:
        return None


def _plain(text: str) -> str:
    """Text without the markup of a docstring: roles, literals and LaTeX.

    Examples:
        >>> _plain(r"scaled by :math:`\\sqrt P`, see :class:`~pyroformer.models.nvae.NVAE` and ``width``")
        'scaled by sqrt P, see NVAE and width'
    """
    text = re.sub(r":math:`([^`]*)`", lambda match: re.sub(r"\\([a-zA-Z]+)|[\\${}]", r"\1", match[1]), text)
    text = re.sub(r":\w+:`~?(?:[\w.]*\.)?([^`]*)`", r"\1", text)  # :class:`~package.Name` is Name
    return text.replace("``", "")


def _definition(module: str, name: str) -> ast.ClassDef | ast.FunctionDef:
    for node in _tree(module).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
            return node
    raise LookupError(f"{module} defines no {name}")


def _type_names(module: str) -> dict[str, Any]:
    """The names that annotations may use without an import: built-in types, and names of Literals."""
    names = vars(builtins) | {"Literal": Literal, **BY_FOLDER}
    for name, home in _relative_imports(module).items():
        if name in (literals := _own_literals(home)):
            names[name] = literals[name]
    return names | _own_literals(module)


def _relative_imports(module: str) -> dict[str, str]:
    """The modules from which a module imports names relatively."""
    package = module.rpartition(".")[0]
    return {
        alias.name: resolve_name("." * node.level + node.module, package)
        for node in _tree(module).body
        if isinstance(node, ast.ImportFrom) and node.level and node.module
        for alias in node.names
    }


def _own_literals(module: str) -> dict[str, Any]:
    """The Literals that a module names."""
    names: dict[str, Any] = {}
    for node in _tree(module).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            if isinstance(node.value, ast.Subscript) and ast.unparse(node.value.value) == "Literal":
                names[node.targets[0].id] = eval(ast.unparse(node.value), {"Literal": Literal})
    return names


@cache
def _tree(module: str) -> ast.Module:
    """The syntax tree of a module; found by its path, because finding it by import would import its packages."""
    top, *rest = module.split(".")
    spec = find_spec(top)
    assert spec is not None and spec.submodule_search_locations, f"{top} is no package"
    path = Path(spec.submodule_search_locations[0], *rest)
    source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return ast.parse(source.read_text(encoding="utf-8"))
