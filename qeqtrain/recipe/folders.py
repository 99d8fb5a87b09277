"""Where recipes and their parts lie, and which there are."""

from __future__ import annotations

from pathlib import Path

from qeqtrain.errors import UserMistake, nearest

_PACKAGE = Path(__file__).resolve().parent.parent


def shipped(name: str) -> Path:
    """Find the folder ``configs`` or ``recipes``.

    A checkout (also one installed with ``pip install -e``) wins, so that an edit of its YAML is
    seen; otherwise the copy inside the installed package serves.
    """
    checkout = _PACKAGE.parent
    if (checkout / "pyproject.toml").is_file() and (checkout / name).is_dir():
        return checkout / name
    return _PACKAGE / name


_SWEEPS = "sweep/"
"""Below recipes/, files that say how to vary a recipe and are none themselves."""


def recipe_names() -> list[str]:
    """Names of all shipped recipes, such as ``quickstart`` or ``smoke/qet``."""
    return [name for name in _names_below_recipes() if not name.startswith(_SWEEPS)]


def sweep_names() -> list[str]:
    """Names of all shipped sweep files, such as ``sweep/learning_rate``."""
    return [name for name in _names_below_recipes() if name.startswith(_SWEEPS)]


def _names_below_recipes() -> list[str]:
    root = shipped("recipes")
    found = root.rglob("*.yaml")
    return sorted(path.relative_to(root).with_suffix("").as_posix() for path in found)


def group_names() -> list[str]:
    """Groups of interchangeable parts, such as ``charge``."""
    return sorted(path.name for path in shipped("configs").iterdir() if path.is_dir())


def option_names(group: str, beside: Path | None = None) -> list[str]:
    """Options of a group, such as ``none`` and ``diagonal`` of ``charge``.

    Args:
        group: name of the group.
        beside: folder of the user's own recipe, whose groups are searched as well.
    """
    roots = [shipped("configs"), *([beside] if beside else [])]
    return sorted({p.stem for root in roots for p in (root / group).glob("*.yaml")})


def find_recipe(recipe: str) -> Path:
    """Find the file of a recipe: an existing file first, then a shipped name.

    Raises:
        UserMistake: there is no such file and no such name.
    """
    path = Path(recipe).expanduser()
    if path.is_file():
        return path.resolve()
    if (
        path.suffix in {".yaml", ".yml"}
        and path.with_suffix("").as_posix() not in recipe_names()
    ):
        siblings = [p.name for p in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
        raise UserMistake(f"recipe {recipe}: no such file{nearest(path.name, siblings)}")
    names = recipe_names()
    name = recipe.removesuffix(".yaml").removesuffix(".yml")
    if name in names:
        return shipped("recipes") / f"{name}.yaml"
    if name in sweep_names():
        raise UserMistake(
            f"'{name}' is a sweep of a recipe; run it with: qeqtrain sweep {name}"
        )
    hint = nearest(name, names)
    raise UserMistake(
        f"recipe '{recipe}': expected a path of a YAML file or a shipped name"
        f"{hint or ' (' + ', '.join(names) + ')'}"
    )


def find_sweep(sweep: str) -> Path:
    """Find a sweep file: an existing file first, then a shipped name.

    Raises:
        UserMistake: there is no such file and no such name.
    """
    path = Path(sweep).expanduser()
    if path.is_file():
        return path.resolve()
    names = sweep_names()
    for name in (sweep.removesuffix(".yaml"), f"{_SWEEPS}{sweep.removesuffix('.yaml')}"):
        if name in names:
            return shipped("recipes") / f"{name}.yaml"
    siblings = [p.name for p in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
    hint = nearest(path.name, siblings) or nearest(sweep, names)
    raise UserMistake(
        f"sweep '{sweep}': expected a path of a sweep file or a shipped name"
        f"{hint or ' (' + ', '.join(names) + ')'}"
    )


def recipe_name(path: Path) -> str:
    """Name a recipe after its place among the shipped ones, or after its file."""
    root = shipped("recipes")
    if path.is_relative_to(root):
        return path.relative_to(root).with_suffix("").as_posix()
    return path.stem
