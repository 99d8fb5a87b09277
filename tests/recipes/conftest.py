"""Data that every recipe can read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest


def frame(random: np.random.Generator) -> str:
    """One rattled water molecule with made-up labels."""
    water = np.array([[0.0, 0.0, 0.12], [0.0, 0.76, -0.47], [0.0, -0.76, -0.47]])
    rows = water + 0.05 * random.normal(size=(3, 3))
    forces = random.normal(size=(3, 3))
    lines = [
        f"{symbol} {' '.join(map(str, row))} {' '.join(map(str, force))} {charge}"
        for symbol, row, force, charge in zip(
            "OHH", rows, forces, (-0.6, 0.3, 0.3), strict=True
        )
    ]
    head = (
        f"Properties=species:S:1:pos:R:3:forces:R:3:charges:R:1 energy={-14 + random.normal()} "
        'charge=0 spin_multiplicity=1 dipole="0.0 0.0 0.4" pbc="F F F"'
    )
    return "\n".join(("3", head, *lines)) + "\n"


@pytest.fixture
def water(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    path = tmp_path / "water.extxyz"
    path.write_text("".join(frame(random) for _ in range(12)))
    return path
