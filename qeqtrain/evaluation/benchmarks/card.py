"""A card of the model in the schema of matbench-discovery (``tests/model-schema.yml`` there).

What the model file says is filled in; what only its authors know is left to them, each such
line with a remark. Suites that the schema has no place for stand under ``notes``.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from qeqtrain.evaluation.benchmarks.writing import RESULTS
from qeqtrain.models.archive import FOUNDATION_MODELS
from qeqtrain.models.potential import Potential

HEAD = """\
# Model card in the schema of matbench-discovery, written by `qeqtrain benchmark`.
# To be filled in by whoever submits it, as no file of the model says it:
# {todo}.
"""
_LICENSES = ("MIT", "BSD-3-Clause", "Apache-2.0", "CC-BY-4.0")


def write_card(potential: Potential, name: str, folder: Path) -> Path:
    """Write card.yaml from every suite that has results in a folder.

    Args:
        potential: that was measured.
        name: as given on the command line.
        folder: with one folder for each suite.
    """
    results = {
        path.parent.name: json.loads(path.read_text(encoding="utf-8"))
        for path in sorted(folder.glob(f"*/{RESULTS}"))
    }
    card, todo = model_card(potential, name, results)
    target = folder / "card.yaml"
    text = yaml.safe_dump(card, sort_keys=False, allow_unicode=True, width=96)
    target.write_text(HEAD.format(todo=", ".join(todo)) + text, encoding="utf-8")
    return target


def model_card(
    potential: Potential, name: str, results: Mapping[str, Mapping[str, Any]]
) -> tuple[dict[str, Any], list[str]]:
    """Make the card, and the list of entries left to the authors.

    Args:
        potential: that was measured.
        name: path or name of the model.
        results: content of results.json by suite.
    """
    published = FOUNDATION_MODELS.get(name)
    path = Path(name)
    label = published.name if published else path.stem if path.is_file() else path.name
    todo = ["authors", "repo", "doi", "paper", "training_sets", "model_version"]
    checkpoint = "unreleased"
    if published:
        checkpoint = next((x for x in _LICENSES if published.license.startswith(x)), checkpoint)
    else:
        todo.append("license.checkpoint")
    reach = [r for r in potential.cutoffs.values() if not callable(r)]
    layers = (potential.spec.get("backbone") or {}).get("layers")
    metrics: dict[str, Any] = {}
    for found in results.values():
        for group, values in (found.get("card") or {}).items():
            metrics.setdefault(group, {}).update(values)
    card: dict[str, Any] = {
        "model_name": label,
        "model_key": "".join(c if c.isalnum() else "-" for c in label.lower()).strip("-"),
        "model_version": None,
        "dates": {"benchmark_added": None, "paper_published": None},
        "lifecycle": "active",
        "authors": [{"name": "to be filled in"}],
        "repo": None,
        "doi": None,
        "paper": None,
        "pr_url": None,
        "checkpoint_url": f"{published.url}/{next(iter(published.files))}"
        if published
        else None,
        "license": {"code": "MIT", "checkpoint": checkpoint},
        "environment": {
            "dependencies": [f"{p}=={version(p)}" for p in ("torch", "ase", "vesin")],
            "python_version": ".".join(platform.python_version_tuple()[:2]),
        },
        "openness": "OSCD" if published else "CSCD",
        "architecture_types": ["gnn"],
        "train_task": "S2EFS",
        "test_task": "IS2RE-SR",
        "targets": "EFS_G",
        "training_sets": ["to be filled in"],
        "model_params": sum(p.numel() for p in potential.parameters()),
        "hyperparams": {
            "architecture": {
                "graph_construction_radius": max(reach) if reach else None,
                **({"n_layers": int(layers)} if layers else {}),
            }
        },
    }
    if metrics:
        card["metrics"] = metrics
    origin = potential.conventions.get("finetuned_from") or {}
    words = {"model": "Fine-tuned from", "source": "Its source", "license": "Its licence"}
    card["notes"] = {
        "description": f"Measured with qeqtrain {version('qeqtrain')}; charges: "
        f"{'yes' if potential.has_charges else 'no'}."
        + "".join(f" {word}: {origin[key]}." for key, word in words.items() if key in origin),
        "benchmarks": {
            suite: {
                "numbers": found["numbers"],
                "measured": found["measured"],
                "failed": len(found["failed"]),
            }
            for suite, found in results.items()
        },
    }
    if not reach:
        card.pop("hyperparams")
    return card, todo
