"""MODEL on the command line: a path first, then the name of a foundation model.

Beside it stands what is allowed of it, the same option for every command.
"""

from __future__ import annotations

import ast
import zipfile
from collections.abc import Sequence
from pathlib import Path

from qeqtrain.cli.arguments import Parser
from qeqtrain.errors import UserMistake, nearest
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


def add_compiled(parser: Parser) -> None:
    """Let predictions go through compiled code."""
    parser.add_argument(
        "--compiled",
        action="store_true",
        help="predict through compiled code: that beside an exported model, which runs code of "
        "its maker; else made here first, in minutes",
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


def is_model(word: str) -> bool:
    """Whether a word names a model rather than data; told without importing torch.

    A folder with checkpoints, a file that ``torch.save`` or ``qeqtrain export`` wrote, or,
    where no such path exists, a foundation model's name.
    """
    path = Path(word)
    if path.is_dir():
        return (path / "checkpoints").is_dir()
    if not path.is_file():
        return not path.exists() and (word in foundation_names() or path.suffix == ".ckpt")
    with path.open("rb") as file:
        head = file.read(9)
    if head[:2] == b"PK" and zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as content:
            return any(name.endswith("/data.pkl") for name in content.namelist())
    length = int.from_bytes(head[:8], "little")  # of the header of an exported file
    return path.suffix == ".ckpt" or (head[8:] == b"{" and 0 < length < path.stat().st_size)


def take_models(first: str, words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Separate the models from the data that follow them.

    Args:
        first: the first word, a model in any case.
        words: plain ones after it.

    Returns:
        Models, and data.

    Raises:
        UserMistake: a model after data, or the same model twice.
    """
    models, rest = [first], list(words)
    while rest and is_model(rest[0]):
        models.append(rest.pop(0))
    late = [word for word in rest if is_model(word)]
    twice = sorted({m for m in models if models.count(m) > 1})
    problems = [f"{word}: is a model, and models come before the data" for word in late]
    problems += [f"{word}: the same model twice" for word in twice]
    if problems:
        raise UserMistake(*problems)
    return models, rest


def path_mistakes(paths: Sequence[str]) -> list[str]:
    """Name the data files that do not exist."""
    from qeqtrain.recipe.files import exists, missing

    return [missing(path) for path in paths if not exists(path)]
