"""MODEL on the command line: a path first, then the name of a foundation model.

Beside it stands what is allowed of it, the same option for every command.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from pathlib import Path

from qeqtrain.cli.arguments import Parser
from qeqtrain.errors import nearest
from qeqtrain.recipe.signatures import UnresolvedError, definition

POLICIES = ("error", "allow")
"""Of charge states that a model reads and never met; as in qeqtrain.models.charge_states."""


def add_policy(parser: Parser) -> None:
    """Let charge states be allowed that the model never met."""
    parser.add_argument(
        "--unseen-charge-states",
        metavar="P",
        help="error or allow: total charges (and multiplicities) that the model reads and was "
        "not trained on; as in its recipe unless given",
    )


def policy_mistakes(policy: str | None) -> list[str]:
    """Say what is wrong with the value of that option."""
    if policy is None or policy in POLICIES:
        return []
    return [
        f"--unseen-charge-states {policy}: expected {' or '.join(POLICIES)}"
        f"{nearest(policy, POLICIES)}"
    ]


def foundation_names() -> list[str]:
    """Names of foundation models, read from source: torch need not be imported to say them."""
    try:
        _, statement = definition("qeqtrain.models.foundation", "FOUNDATION_MODELS")
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
        f"model '{model}': no such checkpoint, exported file or run folder, and no foundation "
        f"model of that name ({', '.join(names)}){close}"
    ]


def path_mistakes(paths: Sequence[str]) -> list[str]:
    """Name the data files that do not exist."""
    from qeqtrain.recipe.files import exists, missing

    return [missing(path) for path in paths if not exists(path)]
