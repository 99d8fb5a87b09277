"""ReaxNet's three files as its authors write them, with any weights."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

SETTINGS: dict[str, Any] = {
    "use_sc": True,
    "nonlinearities": {"e": "raw_swish", "o": "tanh"},
    "num_basis": 8,
    "radial_net_nonlinearity": "raw_swish",
    "radial_net_n_layers": 2,
    "scalar_mlp_std": 4.0,
    "shift": 0.0,
    "scale": 1.0,
}


def nested(flat: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Turn ``a/b`` into dictionaries; a ``/`` never stands in a name itself."""
    tree: dict[str, Any] = {}
    for name, value in flat.items():
        *outer, last = name.split("/")
        at = tree
        for key in outer:
            at = at.setdefault(key, {})
        at[last] = value
    return tree


def write_reaxnet(
    folder: Path,
    arrays: Mapping[str, np.ndarray],
    config: Mapping[str, Any],
    elements: Sequence[int],
    protocol: int | None = None,
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    content = pickle.dumps(nested(arrays), protocol=protocol)
    (folder / "params.pickle").write_bytes(content)
    (folder / "model_config.yaml").write_text(yaml.safe_dump({**SETTINGS, **config}))
    mapping = {z: k for k, z in enumerate(sorted(elements), start=1)}
    (folder / "mapping.yaml").write_text(yaml.safe_dump(mapping))
    return folder
