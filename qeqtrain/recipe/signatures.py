"""Signatures of classes, read from their source files without importing anything.

A recipe names classes of this package, of torch and of Lightning. Importing those takes seconds
and runs code; parsing the one file that defines a class takes milliseconds.
"""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

_DEPTH = 12  # re-exports and bases followed before giving up


class UnresolvedError(LookupError):
    """A dotted name is not a class or function that a source file defines."""


@dataclass(frozen=True)
class Argument:
    """One argument of a signature.

    Attributes:
        name: as written.
        annotation: expression of its type, or ``None``.
        module: where the annotation's names are to be looked up.
        required: has no default.
        keyword_only: stands behind ``*``.
    """

    name: str
    annotation: ast.expr | None
    module: str
    required: bool
    keyword_only: bool = False


@dataclass(frozen=True)
class Signature:
    """What a class or function takes.

    Attributes:
        name: of the class or function.
        module: that defines it, re-exports followed.
        is_class: a class, not a function.
        arguments: by name, ``self`` left out.
        takes_anything: has ``**kwargs``.
    """

    name: str
    module: str
    is_class: bool
    arguments: Mapping[str, Argument] = field(default_factory=dict)
    takes_anything: bool = False


@cache
def _root(package: str) -> Path | None:
    """Folder or file of a top-level package; looking for it imports nothing."""
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    for folder in spec.submodule_search_locations or ():
        if (Path(folder) / "__init__.py").is_file():
            return Path(folder)
    return Path(spec.origin) if spec.origin and spec.origin.endswith(".py") else None


@cache
def source_file(module: str) -> Path | None:
    """Source file of a module, or ``None``."""
    package, *inner = module.split(".")
    place = _root(package)
    if place is None or not all(part.isidentifier() for part in inner):
        return None
    if place.suffix == ".py":
        return place if not inner else None
    place = place.joinpath(*inner)
    if (place / "__init__.py").is_file():
        return place / "__init__.py"
    file = place.with_suffix(".py")
    return file if inner and file.is_file() else None


@cache
def _statements(module: str) -> tuple[ast.stmt, ...]:
    file = source_file(module)
    if file is None:
        raise UnresolvedError(f"there is no module '{module}'")
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError, OSError) as error:
        raise UnresolvedError(f"module '{module}' cannot be read: {error}") from error
    return tuple(_flattened(tree.body))


def _flattened(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements of a module, those within ``if`` and ``try`` included."""
    for statement in body:
        yield statement
        if isinstance(statement, ast.If):
            yield from _flattened(statement.body + statement.orelse)
        elif isinstance(statement, ast.Try):
            yield from _flattened(statement.body + statement.orelse)
            for handler in statement.handlers:
                yield from _flattened(handler.body)


def _imported_from(statement: ast.ImportFrom, module: str) -> str:
    """Absolute name of the module that a ``from ... import`` reads."""
    if not statement.level:
        return statement.module or ""
    file = source_file(module)
    is_package = file is not None and file.name == "__init__.py"
    parts = module.split(".")
    kept = len(parts) - statement.level + (1 if is_package else 0)
    return ".".join(parts[:kept] + ([statement.module] if statement.module else []))


def definition(module: str, name: str, depth: int = _DEPTH) -> tuple[str, ast.stmt]:
    """Find the statement that defines a name of a module, through re-exports.

    Returns:
        The module that holds the definition, and the class, function or assignment.

    Raises:
        UnresolvedError: nothing of that name is defined there.
    """
    if depth == 0:
        raise UnresolvedError(f"'{module}.{name}' is imported in a ring")
    stars = []
    for statement in reversed(_statements(module)):
        if isinstance(statement, ast.ClassDef | ast.FunctionDef) and statement.name == name:
            return module, statement
        if isinstance(statement, ast.Assign) and any(
            isinstance(t, ast.Name) and t.id == name for t in statement.targets
        ):
            return module, statement
        if (
            isinstance(statement, ast.AnnAssign)
            and isinstance(statement.target, ast.Name)
            and statement.target.id == name
        ):
            return module, statement
        if isinstance(statement, ast.ImportFrom):
            for alias in statement.names:
                if (alias.asname or alias.name) == name:
                    return definition(_imported_from(statement, module), alias.name, depth - 1)
                if alias.name == "*":
                    stars.append(_imported_from(statement, module))
    for star in stars:
        try:
            return definition(star, name, depth - 1)
        except UnresolvedError:
            continue
    raise UnresolvedError(f"module '{module}' defines no '{name}'")


def defined_names(module: str) -> list[str]:
    """Classes that a module defines or re-exports, for suggestions."""
    try:
        statements = _statements(module)
    except UnresolvedError:
        return []
    names = [s.name for s in statements if isinstance(s, ast.ClassDef)]
    for statement in statements:
        if isinstance(statement, ast.ImportFrom):
            names += [a.asname or a.name for a in statement.names]
    return [name for name in names if name[:1].isupper()]


@cache
def read_signature(target: str) -> Signature:
    """Read what a class or function takes.

    Args:
        target: dotted name, as in ``_target_``.

    Raises:
        UnresolvedError: it is not the name of a class or function at the top of a module.
    """
    module, _, name = target.rpartition(".")
    if not module or source_file(module) is None:
        raise UnresolvedError(f"there is no module '{module or target}'")
    where, statement = definition(module, name)
    if isinstance(statement, ast.FunctionDef):
        arguments, anything = _arguments(statement, where, method=False)
        return Signature(statement.name, where, False, arguments, anything)
    if isinstance(statement, ast.ClassDef):
        return replace(
            _class_signature(where, statement, _DEPTH), name=statement.name, module=where
        )
    raise UnresolvedError(f"'{target}' is neither a class nor a function")


def _class_signature(module: str, node: ast.ClassDef, depth: int) -> Signature:
    for statement in node.body:
        if isinstance(statement, ast.FunctionDef) and statement.name == "__init__":
            arguments, anything = _arguments(statement, module, method=True)
            return Signature(node.name, module, True, arguments, anything)
    inherited: dict[str, Argument] = {}
    anything = False
    is_dataclass = any(_name(d).split(".")[-1] == "dataclass" for d in node.decorator_list)
    for base in reversed(node.bases) if depth else ():
        try:
            where, found = _base(module, base)
        except UnresolvedError:
            continue  # object, Generic and the like take nothing
        if isinstance(found, ast.ClassDef):
            signature = _class_signature(where, found, depth - 1)
            inherited.update(signature.arguments)
            anything = signature.takes_anything
    if is_dataclass:
        keyword_only = any(
            isinstance(d, ast.Call)
            and any(k.arg == "kw_only" and _is_true(k.value) for k in d.keywords)
            for d in node.decorator_list
        )
        inherited.update(_dataclass_fields(node, module, keyword_only))
    return Signature(node.name, module, True, inherited, anything)


def _base(module: str, base: ast.expr) -> tuple[str, ast.stmt]:
    expression = base.value if isinstance(base, ast.Subscript) else base
    dotted = _name(expression)
    if "." not in dotted:
        return definition(module, dotted)
    front, _, name = dotted.rpartition(".")
    for statement in _statements(module):
        if isinstance(statement, ast.Import):
            for alias in statement.names:
                if alias.asname == front or alias.name == front:
                    return definition(alias.name, name)
    raise UnresolvedError(f"base '{dotted}' of a class in '{module}' is not found")


def _dataclass_fields(node: ast.ClassDef, module: str, kw_only: bool) -> dict[str, Argument]:
    fields = {}
    for statement in node.body:
        if not isinstance(statement, ast.AnnAssign) or not isinstance(
            statement.target, ast.Name
        ):
            continue
        annotation = statement.annotation
        if _name(annotation).split(".")[-1] == "KW_ONLY":
            kw_only = True
            continue
        if isinstance(annotation, ast.Subscript) and _name(annotation.value).endswith(
            "ClassVar"
        ):
            continue
        required = statement.value is None
        if isinstance(statement.value, ast.Call) and _name(statement.value.func) == "field":
            given = {k.arg: k.value for k in statement.value.keywords}
            if "init" in given and not _is_true(given["init"]):
                continue
            required = not {"default", "default_factory"} & set(given)
        name = statement.target.id
        fields[name] = Argument(name, annotation, module, required, kw_only)
    return fields


def _arguments(
    function: ast.FunctionDef, module: str, *, method: bool
) -> tuple[dict[str, Argument], bool]:
    given = function.args
    positional = given.posonlyargs + given.args
    without_default = len(positional) - len(given.defaults)
    found = {}
    for index, arg in enumerate(positional):
        if not (method and index == 0):
            required = index < without_default
            found[arg.arg] = Argument(arg.arg, arg.annotation, module, required)
    for arg, default in zip(given.kwonlyargs, given.kw_defaults, strict=True):
        found[arg.arg] = Argument(arg.arg, arg.annotation, module, default is None, True)
    return found, given.kwarg is not None


def _name(node: ast.expr) -> str:
    """Dotted name of an expression such as ``a.b`` or ``a.b(...)``; empty if it is none."""
    if isinstance(node, ast.Call):
        return _name(node.func)
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        front = _name(node.value)
        return f"{front}.{node.attr}" if front else ""
    return ""


def _is_true(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is True
