"""Composition by Hydra, lenient enough to go on after a mistake and report the next."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from qeqtrain.errors import UserMistake, nearest
from qeqtrain.recipe.folders import group_names, option_names, shipped

_REPAIRED = "recipe_without_its_mistakes"


@dataclass
class Composition:
    """A recipe after composition, before its values are checked.

    Attributes:
        config: every key with its value; interpolations stand as written.
        mistakes: met so far.
        typed: keys given on the command line.
        broken: groups without a valid option, whose values say nothing.
        lines: line of every key of the recipe's own file.
        path: that file.
    """

    config: DictConfig
    path: Path
    mistakes: list[str] = field(default_factory=list)
    typed: set[str] = field(default_factory=set)
    broken: set[str] = field(default_factory=set)
    lines: dict[str, int] = field(default_factory=dict)

    def place(self, key: str) -> str:
        """Say where a key was given: empty for the command line and the shipped parts."""
        if key in self.typed or key not in self.lines:
            return ""
        return f" ({self.path.name}, line {self.lines[key]})"


def compose_leniently(path: Path, overrides: Sequence[str]) -> Composition:
    """Compose a recipe and what the command line changes in it.

    Args:
        path: file of the recipe.
        overrides: in Hydra's grammar.

    Raises:
        UserMistake: the file cannot be read at all.
    """
    content = _read(path)
    made = Composition(OmegaConf.create(), path)
    made.lines = _lines(path)
    parsed = parse(overrides, made.mistakes)
    complete = _is_complete(content)
    groups: list[str] = []
    values: list[Override] = []
    for override in parsed:
        if override.key_or_group in group_names() and _is_choice(override):
            groups += _group_choice(override, made)
        else:
            values.append(override)
    if complete:
        content.setdefault("finetune", {})  # files from before this group
        made.config = _with_options(content, groups, made)
    else:
        made.config = _by_hydra(path, _mended_defaults(content, made), groups, made.mistakes)
    apply_values(values, made)
    return made


def _read(path: Path) -> DictConfig:
    try:
        content = OmegaConf.load(path)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else "?"
        raise UserMistake(f"{path}:{line}: not valid YAML: {error.problem}") from error
    except (yaml.YAMLError, UnicodeDecodeError, OmegaConfBaseException) as error:
        raise UserMistake(f"{path}: not a YAML file: {_first_line(error)}") from error
    except OSError as error:
        raise UserMistake(f"{path}: cannot be read: {error.strerror}") from error
    if not isinstance(content, DictConfig):
        raise UserMistake(
            f"{path}: expected keys and values, beginning with "
            "'defaults: [base, override /data: files, _self_]'"
        )
    return content


def _lines(path: Path) -> dict[str, int]:
    found: dict[str, int] = {}

    def walk(node: yaml.Node | None, prefix: str) -> None:
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                name = f"{prefix}{key.value}"
                found[name] = key.start_mark.line + 1
                walk(value, f"{name}.")

    with suppress(yaml.YAMLError):
        walk(yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader), "")
    return found


def _is_complete(content: DictConfig) -> bool:
    """Whether a file is a resolved recipe, as a run keeps it and ``show`` prints it."""
    return "defaults" not in content and "backbone" in content and "data" in content


def parse(overrides: Sequence[str], mistakes: list[str]) -> list[Override]:
    """Read overrides in Hydra's grammar; those that cannot be read are mistakes."""
    parser = OverridesParser.create()
    parsed = []
    for text in overrides:
        try:
            (override,) = parser.parse_overrides([text])
        except HydraException:
            remedy = "expected key=value; quote text with special characters: \"key='a,b'\""
            mistakes.append(f"override '{text}' cannot be read; {remedy}")
            continue
        key = override.key_or_group
        if override.is_sweep_override():
            mistakes.append(f"override '{text}': one value was expected; a list is {key}=[a,b]")
        elif override.package is not None or key.startswith("hydra"):
            mistakes.append(f"override '{text}': expected key=value or group=option")
        else:
            parsed.append(override)
    return parsed


def _is_choice(override: Override) -> bool:
    return not isinstance(override.value(), dict)


def _group_choice(override: Override, made: Composition) -> list[str]:
    group, option = override.key_or_group, override.value()
    shown = "null" if option is None else option
    if override.is_delete():
        made.mistakes.append(f"~{group}: a group cannot be left out; choose {group}=<option>")
    elif mistake := _option_mistake(group, shown, made.path.parent):
        made.mistakes.append(f"{group}={shown}: {mistake}")
        made.broken.add(group)
    else:
        return [f"{group}={option}"]
    return []


def _with_options(content: DictConfig, groups: Sequence[str], made: Composition) -> DictConfig:
    """Replace whole groups of a resolved recipe, which has no defaults list for Hydra."""
    for choice in groups:
        group, _, option = choice.partition("=")
        if group == "model":
            made.mistakes.append(
                f"{choice}: {made.path.name} is a resolved recipe; choose the bundle's parts "
                "(backbone, charge, coupling) one by one"
            )
            continue
        node = {"defaults": [{group: option}]}
        ConfigStore.instance().store(name=_REPAIRED, node=node)
        content[group] = _compose(made.path.parent, _REPAIRED, [])[group]
    return content


def _option_mistake(group: str, option: object, folder: Path) -> str | None:
    known = option_names(group, folder)
    if isinstance(option, str) and option in known:
        return None
    hint = nearest("none" if option == "null" else str(option), known)
    if group == "data" and not hint:
        hint = "; files are given by data.train=PATH"
    return f"group '{group}' has no option '{option}'{hint} (options: {', '.join(known)})"


def _mended_defaults(content: DictConfig, made: Composition) -> DictConfig:
    """Check a recipe's own defaults list, and leave out what is wrong in it."""
    written = OmegaConf.to_container(content).get("defaults")  # type: ignore[union-attr]
    file, mistakes = made.path.name, made.mistakes
    before = len(mistakes)
    if not isinstance(written, list):
        met = "no 'defaults' list" if written is None else "'defaults' that are not a list"
        mistakes.append(f"{file}: {met}; begin with 'defaults: [base, _self_]'")
        written = []
    kept: list[Any] = []
    for entry in written:
        if isinstance(entry, str):
            if _is_recipe(entry, made.path.parent):
                kept.append(entry)
            else:
                bases = ["base", "_self_", *(p.stem for p in made.path.parent.glob("*.yaml"))]
                mistakes.append(f"{file}: defaults: unknown '{entry}'{nearest(entry, bases)}")
        elif isinstance(entry, dict) and len(entry) == 1:
            (words, option), *_ = entry.items()
            if mistake := _default_mistake(str(words), option, made.path.parent):
                mistakes.append(f"{file}: defaults: {words}: {option}: {mistake}")
                made.broken.add(str(words).rpartition("/")[2])
            else:
                kept.append(entry)
        else:
            mistakes.append(
                f"{file}: defaults: expected 'override /group: option', met {entry}"
            )
    if "_self_" not in kept:
        mistakes.append(
            f"{file}: defaults: '_self_' must come last, or the values below are lost"
        )
        kept.append("_self_")
    if not [entry for entry in kept if isinstance(entry, str) and entry != "_self_"]:
        mistakes.append(f"{file}: defaults: must begin with 'base' or another recipe")
        kept.insert(0, "base")
    if len(mistakes) == before:
        return content
    mended = content.copy()
    mended["defaults"] = kept
    return mended


def _is_recipe(entry: str, folder: Path) -> bool:
    name = entry.lstrip("/")
    if name == "_self_":
        return True
    roots = (folder, shipped("configs"), shipped("recipes"))
    return any((root / f"{name}.yaml").is_file() for root in roots)


def _default_mistake(words: str, option: object, folder: Path) -> str | None:
    *front, group = words.split()
    group = group.lstrip("/")
    known = group_names()
    if group not in known:
        return (
            f"unknown group '{group}'{nearest(group, known) or '; groups: ' + ', '.join(known)}"
        )
    if "override" not in front:
        return f"write 'override /{group}: {option}'"
    return _option_mistake(group, option, folder)


def _by_hydra(
    path: Path, content: DictConfig, groups: Sequence[str], mistakes: list[str]
) -> DictConfig:
    name = path.name.removesuffix(".yaml")
    if mistakes or path.suffix != ".yaml":
        ConfigStore.instance().store(name=_REPAIRED, node=content)
        name = _REPAIRED
    try:
        return _compose(path.parent, name, groups)
    except (HydraException, OmegaConfBaseException, yaml.YAMLError) as error:
        mistakes.append(f"{path.name}: cannot be composed: {_one_line(error)}")
        raise UserMistake(*mistakes) from error
    except RecursionError as error:
        mistakes.append(f"{path.name}: its defaults lead back to itself; leave that entry out")
        raise UserMistake(*mistakes) from error


def _compose(folder: Path, name: str, groups: Sequence[str]) -> DictConfig:
    """Compose a config of a folder, with the shipped parts and recipes on the search path.

    ``hydra.searchpath`` finds groups and defaults but never the primary config, which is why
    the recipe's own folder is the main one.
    """
    folders = ",".join(_quoted(shipped(name)) for name in ("configs", "recipes"))
    with initialize_config_dir(str(folder), version_base="1.3"):
        config = compose(name, overrides=[*groups, f"hydra.searchpath=[{folders}]"])
    OmegaConf.set_struct(config, False)
    return config


def _quoted(path: Path) -> str:
    text = path.as_posix().replace("\\", "\\\\").replace("'", "\\'")
    return f"'file://{text}'"


def apply_values(overrides: Sequence[Override], made: Composition) -> None:
    """Set single keys, also ones that are not there: the check finds those misspelt."""
    for override in overrides:
        key = override.key_or_group
        try:
            if override.is_delete():
                _delete(made.config, key)
            else:
                OmegaConf.update(made.config, key, override.value(), merge=True, force_add=True)
                made.typed.add(key)
        except KeyError:
            made.mistakes.append(f"~{key}: there is no such key to leave out")
        except (OmegaConfBaseException, HydraException) as error:
            made.mistakes.append(f"{key}: cannot be set: {_first_line(error)}")


def _delete(config: DictConfig, key: str) -> None:
    parent, _, last = key.rpartition(".")
    node = OmegaConf.select(config, parent) if parent else config
    if not isinstance(node, DictConfig) or last not in node:
        raise KeyError(key)
    with open_dict(node):
        del node[last]


def _one_line(error: BaseException) -> str:
    """Say everything an error says, in one line: Hydra gives the reason last."""
    return " ".join(str(error).split()) or type(error).__name__


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
