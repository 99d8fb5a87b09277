"""Small frames made here, and the reference data where they are at hand."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from qeqtrain.data.frames import Frame
from qeqtrain.structures import Structure

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    folder = Path(os.environ.get("QEQTRAIN_SHARED", ROOT.parent / "shared")) / "data"
    if not folder.is_dir():
        pytest.skip(f"reference data are not at {folder}; set QEQTRAIN_SHARED to their folder")
    return folder


def molecule(seed: int = 0, charge: float | None = 0.0, n: int = 4, **kwargs: object) -> Frame:
    random = np.random.default_rng(seed)
    positions = np.arange(n)[:, None] * 1.1 + random.uniform(-0.1, 0.1, (n, 3))
    charges = random.normal(size=n)
    structure = Structure(
        numbers=np.array([8, 1, 11, 17])[np.arange(n) % 4],
        positions=positions,
        cell=np.zeros((3, 3)),
        pbc=np.zeros(3, dtype=bool),
        total_charge=charge,
        spin=1.0,
    )
    labels = {
        "energy": np.float64(-1480190.136160 - seed * 1e-3),
        "forces": random.normal(size=(n, 3)),
        "charges": charges - charges.mean() + (charge or 0.0) / n,
        "dipole": random.normal(size=3),
    }
    source_id = str(kwargs.get("source_id", f"made/{seed}/{charge}"))
    return Frame(structure, labels, source_id, kwargs.get("group"))


def crystal(seed: int = 0, n_side: int = 2) -> Frame:
    random = np.random.default_rng([seed, 1])
    grid = np.stack(np.meshgrid(*[np.arange(n_side)] * 3, indexing="ij"), -1).reshape(-1, 3)
    cell = 2.8 * n_side * (np.eye(3) + 0.03 * random.normal(size=(3, 3)))
    stress = random.normal(size=(3, 3))
    structure = Structure(
        numbers=np.array([11, 17])[grid.sum(1) % 2],
        positions=grid / n_side @ cell + 0.05 * random.normal(size=grid.shape),
        cell=cell,
        pbc=np.ones(3, dtype=bool),
        total_charge=0.0,
    )
    labels = {
        "energy": np.float64(random.normal()),
        "forces": random.normal(size=(len(grid), 3)),
        "stress": stress + stress.T,
    }
    return Frame(structure, labels, f"crystal/{seed}", None)


@pytest.fixture
def frames() -> list[Frame]:
    return [molecule(i, charge=float(i % 3 - 1), n=3 + i % 4) for i in range(12)] + [
        crystal(i) for i in range(4)
    ]


@pytest.fixture
def make_molecule() -> Callable[..., Frame]:
    return molecule


@pytest.fixture
def make_crystal() -> Callable[..., Frame]:
    return crystal
