from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "qeqtrain"
FILES = sorted(PACKAGE.rglob("*.py"))

FLOORS = (
    ("units", "structures", "errors"),
    ("neighbors", "physics", "fragments"),
    ("nn",),
    ("models", "data"),
    ("training", "calculator", "interfaces"),
    ("evaluation", "testing"),
    ("recipe",),
    ("sweeps",),
    ("cli",),
)
"""Bottom to top. A module imports lower floors and its own part, never a sibling."""

SAME_FLOOR = {("structures", "units"), ("structures", "errors"), ("physics", "neighbors")}
"""Foundations of the lowest floors that may know each other, in this direction."""

HOMES = {
    "pytorch_lightning": {"training"},
    "hydra": {"recipe"},
    "wandb": {"training", "sweeps"},
    "optuna": {"sweeps"},
}
"""Libraries, and the only parts of the package that may import them."""


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def floor_of(part: str) -> int:
    return next(level for level, parts in enumerate(FLOORS) if part in parts)


def imports(path: Path) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute"
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return found


def test_every_part_of_the_package_has_a_floor() -> None:
    parts = {part_of(path) for path in FILES} - {"__init__", "__main__"}
    assert parts <= {part for parts in FLOORS for part in parts}


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_a_module_imports_lower_floors_only(path: Path) -> None:
    part = part_of(path)
    if part in {"__init__", "__main__"}:
        return
    for name in imports(path):
        if not name.startswith("qeqtrain."):
            continue
        other = name.split(".")[1]
        if other in {part, "__version__"} or (part, other) in SAME_FLOOR:
            continue
        assert floor_of(other) < floor_of(part), f"{part} must not import {name}"


@pytest.mark.parametrize("library", HOMES)
def test_a_library_is_imported_where_it_belongs(library: str) -> None:
    users = {
        part_of(path)
        for path in FILES
        if any(name.split(".")[0] == library for name in imports(path))
    }
    assert users <= HOMES[library]


def modules_after(code: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    return {name.split(".")[0] for name in done.stdout.split()}


def test_importing_the_package_imports_nothing_heavy() -> None:
    heavy = {"torch", "numpy", "ase", "hydra", "pytorch_lightning", "wandb", "h5py", "pydantic"}
    assert not modules_after("import qeqtrain") & heavy


def test_a_model_loads_in_a_bare_torch_process() -> None:
    loaded = modules_after("from qeqtrain import QeqCalculator, load; import qeqtrain.testing")
    assert "torch" in loaded
    assert not loaded & {"hydra", "omegaconf", "pytorch_lightning", "wandb", "pydantic", "h5py"}
