"""What a report says of the model that a run began with, and of what became of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qeqtrain.evaluation.tables import Table, number
from qeqtrain.training.finetuning.origin import ENTRY
from qeqtrain.training.quantities import QUANTITIES

_WORDS = {
    "model": "begun with",
    "name": "published as",
    "sha256": "its sha256",
    "source": "its source",
    "license": "its licence",
    "page": "its page",
}

_TITLES = {
    "val": "Errors on the validation split, before and after",
    "test": "Errors on the test split, before and after",
    "replay": "Forgetting: errors on structures of before",
}


def source_facts(known: Mapping[str, Any], run: Mapping[str, Any]) -> list[str]:
    """Say which model training began with, what its licence is, and what of it moved.

    Args:
        known: what the checkpoint says of itself.
        run: what run.json says.

    Returns:
        Nothing for a model that began with random weights.
    """
    origin = dict(known.get("foundation") or known.get(ENTRY) or {})
    said = [f"{words}: {origin[key]}" for key, words in _WORDS.items() if key in origin]
    settings = (known.get("recipe") or {}).get("finetune")
    if settings:
        said += _changes(settings, dict(run.get(ENTRY) or {}).get("changes") or {})
    return said


def _changes(settings: Mapping[str, Any], changes: Mapping[str, Any]) -> list[str]:
    """Say what moved, and what was changed before the first step."""
    train = settings.get("train", "all")
    moved = {"all": "all weights", "heads": "all but the backbone"}.get(str(train))
    moved = moved or ", ".join(train)
    if settings.get("freeze"):
        moved += f", without {', '.join(settings['freeze'])}"
    if settings.get("rank"):
        moved += f"; matrices by products of rank {settings['rank']}"
    if settings.get("lr_decay", 1.0) != 1.0:
        moved += f"; each layer at {settings['lr_decay']:g} of the next one's rate"
    said = [f"trained further: {moved}"]
    if "elements" in changes:
        said.append(f"elements added: {changes['elements']}")
    if settings.get("charge") == "new":
        said.append("the charge head began anew")
    if (reads := settings.get("conditioning", "keep")) != "keep":
        said.append(f"begins to read: {reads.replace('_', ' ')}")
    if "references" in changes:
        shift = ", ".join(f"{symbol} {e:+.3f}" for symbol, e in changes["references"].items())
        said.append(f"reference energies refitted, by {shift} eV")
    else:
        said.append("reference energies kept")
    if settings.get("replay") and settings.get("replay_share"):
        own = settings.get("replay_labels") == "data"
        said.append(
            f"replayed: {settings['replay_share']:.0%} of the structures of an epoch, on "
            + ("labels of their own" if own else "what the source said of them")
        )
    return said


def source_tables(run: Mapping[str, Any]) -> list[Table]:
    """Make the tables of errors before the first step and of the best checkpoint.

    Args:
        run: what run.json says.

    Returns:
        One for each split, and one of what was forgotten; nothing for a model that began
        with random weights.
    """
    tables = dict(run.get(ENTRY) or {}).get("tables") or {}
    return [_table(_TITLES[split], columns) for split, columns in tables.items()]


def _table(title: str, columns: Mapping[str, Mapping[str, float]]) -> Table:
    """Set errors side by side, a row for every quantity that any column has."""
    rows = []
    for name, quantity in QUANTITIES.items():
        for kind in ("mae", "rmse"):
            key = f"{name}_{kind}"
            if any(key in errors for errors in columns.values()):
                cells = [number(e.get(key, float("nan"))) for e in columns.values()]
                what = f"{name.replace('_', ' ')} {kind.upper()}"
                rows.append([what, quantity.unit, *cells])
    heads = {"refitted": "references refitted"}
    head = ["quantity", "unit", *(heads.get(name, name) for name in columns)]
    return Table(title, head, rows, names=2)
