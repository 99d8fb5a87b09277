"""MODEL on the command line: a path first, then the name of a foundation model."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from pathlib import Path

from qeqtrain.errors import nearest
from qeqtrain.recipe.signatures import UnresolvedError, definition


def foundation_names() -> list[str]:
    """Names of foundation models, read from source: torch need not be imported to say them."""
    try:
        _, statement = definition("qeqtrain.models.archive", "FOUNDATION_MODELS")
    except UnresolvedError:
        return []
    table = statement.value if isinstance(statement, ast.Assign | ast.AnnAssign) else None
    keys = table.keys if isinstance(table, ast.Dict) else []
    return [str(key.value) for key in keys if isinstance(key, ast.Constant)]


def model_mistakes(model: str) -> list[str]:
    """Say what is wrong with MODEL, as far as can be told without reading it."""
    path, names = Path(model), foundation_names()
    if path.exists() or model in names:
        return []
    siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    close = nearest(model, names) or nearest(path.name, siblings)
    return [
        f"model '{model}': no such checkpoint or run folder, and no foundation model of that "
        f"name ({', '.join(names)}){close}"
    ]


def path_mistakes(paths: Sequence[str]) -> list[str]:
    """Name the data files that do not exist."""
    from qeqtrain.recipe.files import exists, missing

    return [missing(path) for path in paths if not exists(path)]
