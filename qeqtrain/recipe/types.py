"""Types of arguments, made from annotations in source files, and values held against them."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterable, Mapping
from functools import cache, reduce
from types import GenericAlias, NoneType, UnionType
from typing import Any, Literal, TypedDict, Union, get_args, get_origin, is_typeddict

from pydantic import ConfigDict, TypeAdapter, ValidationError

from qeqtrain.errors import nearest
from qeqtrain.recipe.signatures import UnresolvedError, definition

_PLAIN: dict[str, Any] = {
    "int": int,
    "float": float,
    "str": str,
    "bool": bool,
    "list": list,
    "dict": dict,
    "tuple": list,
    "None": None,
    "Sequence": list,
    "Iterable": list,
    "Mapping": dict,
    "MutableMapping": dict,
    "Path": str,
    "PathLike": str,
    "Any": Any,
    "object": Any,
}
_TYPED_DICTS = ConfigDict(extra="forbid")


class _NotPlain:
    """A class whose objects a YAML file cannot hold, such as a tensor."""


def read_type(annotation: ast.expr | None, module: str) -> Any:
    """Evaluate an annotation without importing its module.

    Names that are not found, and types that a YAML file cannot hold, leave ``Any``: what is not
    understood is not refused.
    """
    if annotation is None:
        return Any
    try:
        kind = _evaluate(annotation, module)
    except UnresolvedError:
        return Any
    return Any if kind is _NotPlain else kind


def _evaluate(node: ast.expr, module: str) -> Any:
    if isinstance(node, ast.Constant):
        if isinstance(node.value, str):
            return _evaluate(ast.parse(node.value, mode="eval").body, module)
        return None
    if isinstance(node, ast.BinOp):
        return _union([_evaluate(node.left, module), _evaluate(node.right, module)])
    if isinstance(node, ast.Attribute):
        return _PLAIN.get(node.attr, _NotPlain)
    if isinstance(node, ast.Name):
        return _PLAIN[node.id] if node.id in _PLAIN else _defined(node.id, module)
    if isinstance(node, ast.Subscript):
        return _subscript(node, module)
    raise UnresolvedError(f"an annotation in '{module}' is not understood")


def _subscript(node: ast.Subscript, module: str) -> Any:
    head = node.value.attr if isinstance(node.value, ast.Attribute) else ""
    head = node.value.id if isinstance(node.value, ast.Name) else head
    inner = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
    if head == "Literal":
        return Literal[tuple(ast.literal_eval(value) for value in inner)]
    kinds = [_evaluate(value, module) for value in inner if not _is_ellipsis(value)]
    if head == "Optional":
        return _union([*kinds, None])
    if head == "Union":
        return _union(kinds)
    if head in {"Annotated", "Required", "NotRequired", "Final"}:
        return kinds[0]
    kinds = [Any if kind is _NotPlain else kind for kind in kinds]
    if head in {"list", "List", "Sequence", "Iterable"}:
        return GenericAlias(list, (kinds[0],))
    if head in {"dict", "Dict", "Mapping", "MutableMapping"}:
        return GenericAlias(dict, (kinds[0], kinds[1]))
    if head in {"tuple", "Tuple"}:
        if _is_ellipsis(inner[-1]):
            return GenericAlias(list, (kinds[0],))
        return GenericAlias(tuple, tuple(kinds))
    return _NotPlain


def _is_ellipsis(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is Ellipsis


def _defined(name: str, module: str) -> Any:
    """Type that a module's name stands for: an alias, a TypedDict, or something not plain."""
    where, statement = definition(module, name)
    if isinstance(statement, ast.Assign | ast.AnnAssign) and statement.value is not None:
        return _evaluate(statement.value, where)
    if isinstance(statement, ast.ClassDef):
        bases = [base.id for base in statement.bases if isinstance(base, ast.Name)]
        if "TypedDict" in bases:
            return _typed_dict(statement, where)
    return _NotPlain


def _typed_dict(node: ast.ClassDef, module: str) -> Any:
    fields = {
        s.target.id: read_type(s.annotation, module)
        for s in node.body
        if isinstance(s, ast.AnnAssign) and isinstance(s.target, ast.Name)
    }
    total = not any(
        k.arg == "total" and isinstance(k.value, ast.Constant) and k.value.value is False
        for k in node.keywords
    )
    made = TypedDict(node.name, fields, total=total)  # type: ignore[misc]
    made.__pydantic_config__ = _TYPED_DICTS  # type: ignore[attr-defined]
    return made


def _union(kinds: Iterable[Any]) -> Any:
    plain = [kind for kind in kinds if kind is not _NotPlain]
    if not plain:
        return _NotPlain
    if any(kind is Any for kind in plain):
        return Any
    return reduce(lambda a, b: Union[a, b], plain)  # noqa: UP007 - `a | b` fails on Literal | None


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def options_by_name(kind: Any) -> Mapping[str, Any] | None:
    """Keys and their types, of a mapping from names to mappings with just these keys.

    Returns:
        ``None`` for any other type.
    """
    members = [m for m in _members(kind) if get_origin(m) is dict]
    inner = get_args(members[0])[1] if len(members) == 1 else None
    return inner.__annotations__ if is_typeddict(inner) else None


def type_mistake(value: object, kind: Any) -> str | None:
    """Say what is wrong with a value of a recipe, or ``None``.

    The rules are those of strict JSON: a whole number is also a number, text is neither, and
    true and false are no numbers.
    """
    if kind is Any:
        return None
    try:
        _adapter(kind).validate_json(json.dumps(value, default=str), strict=True)
    except ValidationError as error:
        met = json.dumps(value, default=str, ensure_ascii=False)
        extra = [e for e in error.errors() if e["type"] == "extra_forbidden"]
        if extra and isinstance(value, dict):
            unknown = extra[0]["loc"][-1]
            return f"met {met}, with unknown key '{unknown}'; expected {describe(kind)}"
        hint = nearest(value, _literals(kind)) if isinstance(value, str) else ""
        if isinstance(value, bool | int | float) and _takes_text(kind):
            hint = "; YAML reads this text as something else: put it in quotes"
        return f"met {met}, expected {describe(kind)}{hint}"
    except (TypeError, ValueError):
        return None  # an annotation that pydantic cannot use decides nothing
    return None


def _members(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if get_origin(kind) in {Union, UnionType} else (kind,)


def _literals(kind: Any) -> list[str]:
    members = [m for m in _members(kind) if get_origin(m) is Literal]
    return [value for m in members for value in get_args(m) if isinstance(value, str)]


def _takes_text(kind: Any) -> bool:
    return str in _members(kind) or list[str] in _members(kind)


def describe(kind: Any) -> str:
    """Name a type in words that a user of YAML knows."""
    names = {
        int: "a whole number",
        float: "a number",
        str: "text",
        bool: "true or false",
        None: "null",
        NoneType: "null",
        list: "a list",
        dict: "a mapping",
        Any: "anything",
    }
    if isinstance(kind, type | NoneType) and get_origin(kind) is None and kind in names:
        return names[kind]
    origin, inner = get_origin(kind), get_args(kind)
    if origin in {Union, UnionType}:
        return " or ".join(describe(member) for member in inner)
    if origin is Literal:
        return " or ".join("null" if value is None else str(value) for value in inner)
    if origin is list:
        return f"a list, each item {describe(inner[0])}"
    if origin is tuple:
        return "a list of " + " and ".join(describe(member) for member in inner)
    if origin is dict:
        return f"a mapping, each value {describe(inner[1])}"
    if hasattr(kind, "__annotations__"):
        return "a mapping with " + ", ".join(kind.__annotations__)
    return names.get(kind, str(kind))
