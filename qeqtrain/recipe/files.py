"""Files that a recipe names: looked for before anything is read."""

from __future__ import annotations

import glob
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from qeqtrain.errors import nearest
from qeqtrain.recipe.schema import GENERATED

PATH_KEYS = ("train", "val", "test", "split_file")
"""Keys of the group ``data`` that hold paths."""


def file_mistakes(data: Mapping[str, Any]) -> list[str]:
    """Name the files of the group ``data`` that do not exist."""
    found = [f"{key}: {missing(path)}" for key, path in _paths(data) if not exists(path)]
    empty = [
        f"{where}.{key}"
        for where, node in _nodes(data)
        for key in PATH_KEYS
        if node.get(key) in ("", [])
    ]
    return found + [f"{key}: names no file" for key in empty]


def with_absolute_paths(data: Mapping[str, Any]) -> dict[str, Any]:
    """Make the paths of the group ``data`` absolute."""
    made = {key: _absolute(value) if key in PATH_KEYS else value for key, value in data.items()}
    if isinstance(data.get("sets"), Mapping):
        made["sets"] = {
            name: with_absolute_paths(node) if isinstance(node, Mapping) else node
            for name, node in data["sets"].items()
        }
    return made


def _absolute(value: Any) -> Any:
    if isinstance(value, list):
        return [_absolute(path) for path in value]
    return str(Path(value).absolute()) if isinstance(value, str) else value


def exists(path: str) -> bool:
    """Whether a path, or any file of a pattern such as ``shards/*.h5``, is there."""
    full = str(Path(path).expanduser())
    return Path(full).exists() or any(True for _ in glob.iglob(full))  # noqa: PTH207 - absolute


def missing(path: str) -> str:
    """Say that a file is not there, and what to do."""
    name, folder = Path(path).name, Path(path).parent
    if name in GENERATED:
        command = f"qeqtrain data generate {GENERATED[name].format(path=path)}"
        return f"{path} does not exist; make it with: {command}"
    if not folder.is_dir():
        return f"{path}: there is no folder {folder}"
    return f"{path}: no such file{nearest(name, (p.name for p in folder.iterdir()))}"


def _nodes(data: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Nodes that hold paths: the group itself, and the data sets in it, if there are any."""
    yield "data", data
    sets = data.get("sets")
    for name, node in sets.items() if isinstance(sets, Mapping) else ():
        if isinstance(node, Mapping):
            yield f"data.sets.{name}", node


def _paths(data: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for where, node in _nodes(data):
        for key in PATH_KEYS:
            value = node.get(key)
            for path in value if isinstance(value, list) else [value]:
                if isinstance(path, str) and path:
                    yield f"{where}.{key}", path
