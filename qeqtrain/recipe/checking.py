"""Every value of a recipe held against what takes it; all mistakes together."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, get_type_hints

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import InterpolationToMissingValueError, OmegaConfBaseException

from qeqtrain.errors import nearest
from qeqtrain.recipe.composing import Composition
from qeqtrain.recipe.files import file_mistakes
from qeqtrain.recipe.folders import group_names, option_names
from qeqtrain.recipe.schema import (
    ALLOW,
    NESTED,
    NOT_NEGATIVE,
    OTHER_NAMES,
    POSITIVE,
    PREFIXES,
    PotentialSettings,
    RecipeSchema,
    Slot,
    slots,
)
from qeqtrain.recipe.signatures import (
    Signature,
    UnresolvedError,
    defined_names,
    read_signature,
    source_file,
)
from qeqtrain.recipe.types import options_by_name, read_type, type_mistake

_UNSET = object()  # a value that is missing or cannot be resolved, and has been reported


@dataclass
class _Checker:
    made: Composition
    mandatory: bool = True
    mistakes: list[str] = field(default_factory=list)
    known: list[str] = field(default_factory=list)
    said: set[str] = field(default_factory=set)

    def say(self, key: str, text: str) -> None:
        """Keep a mistake; one that a value inherits by reference is told where it stands."""
        if text in self.said and self._refers(key):
            return
        self.said.add(text)
        self.mistakes.append(f"{key}{self.made.place(key)}: {text}")

    def _refers(self, key: str) -> bool:
        """Whether a value, or a node it stands in, is a reference to another."""
        node: Any = self.made.config
        for name in key.split("."):
            if not isinstance(node, DictConfig) or name not in node:
                return False
            if OmegaConf.is_interpolation(node, name):
                return True
            node = node[name]
        return False


def check(made: Composition, *, mandatory: bool = True, files: bool = True) -> dict[str, Any]:
    """Resolve a composed recipe and collect its mistakes in ``made.mistakes``.

    Args:
        made: the composed recipe.
        mandatory: whether a value that must be given (``???``) has to be there.
        files: whether files that the recipe names have to be there.

    Returns:
        The recipe as plain dicts, lists, numbers and text.
    """
    checker = _Checker(made, mandatory)
    settings: dict[str, Any] = _resolve(made.config, "", checker)
    hints = get_type_hints(RecipeSchema)
    schema = [f.name for f in fields(RecipeSchema)]
    parts = slots()
    checker.known = list(_known_keys(settings, schema, parts))
    for name, value in settings.items():
        if name not in schema:
            _say_unknown_top(name, value, schema, checker)
        elif name in parts:
            _check_slot(name, value, parts[name], checker)
        elif name == "potential":
            _check_settings(name, value, PotentialSettings, checker)
        elif value is not _UNSET and (wrong := type_mistake(value, hints[name])):
            checker.say(name, wrong)
        elif name == "seed" and isinstance(value, int) and not 0 <= value < 2**32:
            checker.say(name, f"met {value}, expected a whole number from 0 to {2**32 - 1}")
    checker.mistakes += [f"{name}: is missing" for name in schema if name not in settings]
    if files and isinstance(settings.get("data"), Mapping):
        checker.mistakes += file_mistakes(settings["data"])
    made.mistakes += checker.mistakes
    plain: dict[str, Any] = _plain(settings)
    return plain


def check_node(made: Composition, name: str, target: str) -> dict[str, Any]:
    """Check a single node against the class that takes it.

    Returns:
        The node's values as plain dicts, lists, numbers and text.
    """
    checker = _Checker(made)
    node = _resolve(made.config, "", checker)[name]
    _check_part(name, {**node, "_target_": target}, slots()[name], checker)
    made.mistakes += checker.mistakes
    plain: dict[str, Any] = _plain(node)
    return plain


def _resolve(node: DictConfig | ListConfig, prefix: str, checker: _Checker) -> Any:
    """Turn a config into plain values, one at a time, so that each failure is reported."""
    keys: Sequence[Any] = list(node) if isinstance(node, DictConfig) else range(len(node))
    found = {}
    for key in keys:
        full = f"{prefix}{key}"
        found[key] = _UNSET
        try:
            if OmegaConf.is_missing(node, key):
                if checker.mandatory and full.partition(".")[0] not in checker.made.broken:
                    checker.say(full, f"must be given: {full}=<value>")
                continue
            value = node[key]
        except InterpolationToMissingValueError:
            continue  # the value that it refers to is reported where it stands
        except OmegaConfBaseException as error:
            checker.say(full, f"cannot be resolved: {str(error).splitlines()[0]}")
            continue
        is_node = isinstance(value, DictConfig | ListConfig)
        found[key] = _resolve(value, f"{full}.", checker) if is_node else value
    return found if isinstance(node, DictConfig) else list(found.values())


def _known_keys(
    settings: Mapping[str, Any], schema: Sequence[str], parts: Mapping[str, Slot]
) -> Iterator[str]:
    """Full names of all keys that this recipe could have, for suggestions."""
    yield from schema
    yield from (f"potential.{f.name}" for f in fields(PotentialSettings))
    for name in parts:
        node = settings.get(name)
        if isinstance(node, Mapping) and isinstance(node.get("_target_"), str):
            try:
                yield from (f"{name}.{a}" for a in read_signature(node["_target_"]).arguments)
            except UnresolvedError:
                continue


def _say_unknown_top(name: str, value: Any, valid: Sequence[str], checker: _Checker) -> None:
    """Answer a top-level key that is not there, or the keys below it."""
    hint = nearest(name, [*valid, *group_names()])
    leaves = list(_leaves(f"{name}.", value)) if isinstance(value, Mapping) else []
    if hint and name not in group_names():
        checker.say(name, f"a recipe has no '{name}'{hint}")
    elif leaves:
        for leaf in leaves:
            checker.say(leaf, _unknown(leaf, leaf.rpartition(".")[2], [], "it", checker.known))
    else:
        checker.say(name, _unknown(name, name, valid, "a recipe", checker.known))


def _leaves(prefix: str, node: Mapping[str, Any]) -> Iterator[str]:
    for key, value in node.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(f"{prefix}{key}.", value)
        else:
            yield f"{prefix}{key}"


def _unknown(
    full: str, key: str, valid: Sequence[str], owner: str, known: Sequence[str]
) -> str:
    """Answer a key that is not there with the one that was meant."""
    ours = OTHER_NAMES.get(key)
    elsewhere = [name for name in known if name.rpartition(".")[2] == (ours or key)]
    if ours and ours in valid:
        hint = f"; it is called '{ours}' here"
    elif ours and elsewhere:
        hint = f"; it is called '{elsewhere[0]}' here"
    elif ours:
        hint = f"; it is called '{ours}' here, and {owner} has none"
    elif elsewhere and full not in elsewhere:
        hint = f"; did you mean '{elsewhere[0]}'?"
    else:
        hint = nearest(key, valid)
    if owner == "it":
        return f"a recipe has no '{full.partition('.')[0]}'{hint}"
    takes = f" (it takes: {', '.join(valid)})" if valid else " (it takes nothing)"
    return f"{owner} takes no '{key}'{hint}{takes if not ours or ours not in valid else ''}"


def _check_settings(name: str, value: Any, schema: type, checker: _Checker) -> None:
    hints = get_type_hints(schema)
    if not isinstance(value, Mapping):
        checker.say(name, f"met {value!r}, expected a mapping with {', '.join(hints)}")
        return
    for key, item in value.items():
        full = f"{name}.{key}"
        if key not in hints:
            checker.say(full, _unknown(full, str(key), list(hints), name, checker.known))
        elif item is not _UNSET and (wrong := type_mistake(item, hints[key])):
            checker.say(full, wrong)
    checker.mistakes += [f"{name}.{key}: is missing" for key in hints if key not in value]


def _check_slot(path: str, value: Any, slot: Slot, checker: _Checker) -> None:
    if value is _UNSET or (slot.optional and not value):
        return
    if not isinstance(value, Mapping):
        options = ", ".join(option_names(path)) if "." not in path else ""
        remedy = f"; choose one of its options: {options}" if options else ""
        checker.say(path, f"met {value!r}, expected a mapping with _target_{remedy}")
    elif slot.many:
        one = Slot(slot.prefixes, slot.filled, optional=True)
        for name, part in value.items():
            _check_slot(f"{path}.{name}", part, one, checker)
    else:
        _check_part(path, value, slot, checker)


def _check_part(path: str, part: Mapping[str, Any], slot: Slot, checker: _Checker) -> None:
    target = part.get("_target_", _UNSET)
    if target is _UNSET:
        options = (
            ", ".join(f"{path}={o}" for o in option_names(path)) if "." not in path else ""
        )
        remedy = f"; choose an option first: {options}" if options else ""
        met = ", ".join(map(str, part)) or "nothing"
        checker.say(path, f"met {met} without a _target_{remedy}")
        return
    signature = _signature(f"{path}._target_", target, slot, checker)
    if signature is None:
        return
    filled = {*slot.filled}
    if signature.module.startswith("qeqtrain.nn."):
        filled |= {a.name for a in signature.arguments.values() if a.keyword_only}
    valid = [name for name in signature.arguments if name not in filled]
    for key, value in part.items():
        full = f"{path}.{key}"
        if key == "_target_" or value is _UNSET:
            continue
        if key in filled:
            checker.say(full, "is filled in from the data and the other parts; leave it out")
        elif key not in signature.arguments:
            if not signature.takes_anything or str(key).startswith("_"):
                unknown = _unknown(full, str(key), valid, signature.name, checker.known)
                checker.say(full, unknown)
        elif full in NESTED:
            _check_slot(full, value, NESTED[full], checker)
        elif _holds_target(value):
            checker.say(full, "holds a _target_, and no part belongs here")
        else:
            argument = signature.arguments[key]
            kind = read_type(argument.annotation, argument.module)
            named = options_by_name(kind)
            if named is not None and isinstance(value, Mapping):
                for name, node in value.items():
                    _check_options(f"{full}.{name}", node, named, checker)
                continue
            wrong = type_mistake(_plain(value), kind) or _size_mistake(str(key), value)
            if wrong:
                checker.say(full, wrong)
    for argument in signature.arguments.values():
        name = argument.name
        if argument.required and name not in part and name not in filled:
            checker.say(f"{path}.{name}", f"must be given: {path}.{name}=<value>")


def _check_options(
    path: str, value: Any, options: Mapping[str, Any], checker: _Checker
) -> None:
    """Check one of several mappings that stand by name in an argument of a part."""
    if not isinstance(value, Mapping):
        checker.say(path, f"met {value!r}, expected a mapping with {', '.join(options)}")
        return
    for key, item in value.items():
        if item is _UNSET:
            continue
        full = f"{path}.{key}"
        if key not in options:
            checker.say(full, _unknown(full, str(key), list(options), path, []))
        elif wrong := type_mistake(_plain(item), options[key]):
            checker.say(full, wrong)


def _size_mistake(key: str, value: Any) -> str:
    """Say what is wrong with the size of a part; empty if nothing is."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return ""
    if key in POSITIVE and not 0 < value < math.inf:
        return f"met {value}, expected more than 0" + (", and finite" if value > 0 else "")
    if key in NOT_NEGATIVE and not 0 <= value < math.inf:
        return f"met {value}, expected 0 or more" + (", and finite" if value > 0 else "")
    return ""


def _signature(path: str, target: object, slot: Slot, checker: _Checker) -> Signature | None:
    """Read what a part takes, if it is one that may stand here."""
    added = tuple(os.environ.get(ALLOW, "").split())
    if not isinstance(target, str) or not target.startswith(PREFIXES + added):
        checker.say(
            path,
            f"'{target}' may not be named in a recipe; allowed are {', '.join(PREFIXES)} "
            f"and what the environment variable {ALLOW} adds",
        )
        return None
    try:
        signature = read_signature(target)
    except UnresolvedError as error:
        module = target.rpartition(".")[0]
        names = defined_names(module) if source_file(module) else []
        hint = nearest(target.rpartition(".")[2], names)
        checker.say(path, f"'{target}' cannot be used: {error}{hint}")
        return None
    ours = signature.module + "."
    if ours.startswith(added) and added:
        return signature
    if not ours.startswith(slot.prefixes) or not signature.is_class:
        checker.say(
            path,
            f"'{target}' ({'a class' if signature.is_class else 'a function'} of "
            f"'{signature.module}') does not belong here; expected a class of "
            f"{' or '.join(slot.prefixes)}*",
        )
        return None
    return signature


def _holds_target(value: Any) -> bool:
    if isinstance(value, Mapping):
        return "_target_" in value or any(_holds_target(v) for v in value.values())
    return isinstance(value, list) and any(_holds_target(v) for v in value)


def _plain(value: Any) -> Any:
    """Put ``???`` back where a value is missing."""
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_plain(v) for v in value]
    return "???" if value is _UNSET else value
