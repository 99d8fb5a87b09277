"""Small files in the layouts of published data sets, made for the tests."""

from __future__ import annotations

import gzip
import json
import zlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest


def pymatgen(seed: int, n: int = 3, **changes: Any) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    cell = 5.0 * np.eye(3) + random.normal(scale=0.1, size=(3, 3))
    places = (np.arange(n)[:, None] + random.uniform(0.1, 0.3, (n, 3))) / n
    sites = [
        {
            "species": [{"element": ("Na", "Cl", "B")[i % 3], "occu": 1}],
            "abc": place.tolist(),
            "properties": {"label": 'a } in "quotes" \\'},
            "xyz": (place @ cell).tolist(),
        }
        for i, place in enumerate(places)
    ]
    lattice = {"matrix": cell.tolist(), "pbc": [True, True, True]}
    return {"charge": 0.0, "lattice": lattice, "sites": sites, **changes}


def mptrj_document(seed: int, n: int = 3, **changes: Any) -> dict[str, Any]:
    random = np.random.default_rng([seed, 1])
    return {
        "structure": pymatgen(seed, n),
        "uncorrected_total_energy": float(random.normal()),
        "corrected_total_energy": None,
        "force": random.normal(size=(n, 3)).tolist(),
        "stress": (np.eye(3) * 10.0).tolist(),
        "magmom": random.normal(size=n).tolist(),
        "bandgap": None,
        **changes,
    }


def mptrj(path: Path, materials: int = 4, frames: int = 3) -> Path:
    document = {
        f'mp-{i} {{"': {f"mp-{i}-0-{j}": mptrj_document(10 * i + j) for j in range(frames)}
        for i in range(materials)
    }
    path.write_text(json.dumps(document))
    return path


def matpes_document(seed: int, n: int = 3, **changes: Any) -> dict[str, Any]:
    random = np.random.default_rng([seed, 2])
    net = np.array([0.8, -0.7, -0.1] * n)[:n]
    return {
        "structure": pymatgen(seed, n),
        "matpes_id": f"matpes-{seed}",
        "energy": float(random.normal()),
        "forces": random.normal(size=(n, 3)).tolist(),
        "stress": [10.0, 20.0, 30.0, 4.0, 5.0, 6.0],
        "bader_charges": (np.array([7.0, 7.0, 3.0] * n)[:n] - net).tolist(),
        "bader_magmoms": None,
        "provenance": {"original_mp_id": f"mp-{seed % 2}"},
        **changes,
    }


def matpes(path: Path, count: int = 5, **changes: Any) -> Path:
    text = json.dumps([matpes_document(i, **changes) for i in range(count)]).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path


def encoded(values: np.ndarray) -> dict[str, Any]:
    return {"__ndarray__": [list(values.shape), str(values.dtype), values.ravel().tolist()]}


def aselmdb_row(seed: int, n: int = 3, **changes: Any) -> dict[str, Any]:
    random = np.random.default_rng([seed, 3])
    return {
        "numbers": encoded(np.array([11, 17, 5] * n)[:n]),
        "positions": encoded(np.arange(3.0 * n).reshape(n, 3) + random.random((n, 3))),
        "pbc": encoded(np.ones(3, dtype=bool)),
        "cell": encoded(9.0 * np.eye(3)),
        "energy": float(random.normal()),
        "forces": encoded(random.normal(size=(n, 3))),
        "stress": encoded(np.arange(6.0)),
        "data": {"sid": f"made-{seed}"},
        **changes,
    }


def aselmdb(path: Path, rows: int = 30, **changes: Any) -> Path:
    lmdb = pytest.importorskip("lmdb")
    with (
        lmdb.open(str(path), subdir=False, map_size=2**26) as file,
        file.begin(write=True) as t,
    ):
        for i in range(rows):
            text = json.dumps(aselmdb_row(i, **changes)).encode()
            t.put(str(i + 1).encode(), zlib.compress(text))
        t.put(b"nextid", zlib.compress(str(rows + 1).encode()))
    return path


def grouped_hdf5(path: Path, frames: int = 6) -> Path:
    random = np.random.default_rng(4)
    with h5py.File(path, "w") as file:
        for n in (2, 3):
            group = file.create_group(f"{n:03d}")
            group["numbers"] = np.tile(np.array([8, 1, 1][:n]), (frames, 1))
            group["coord"] = np.arange(3.0 * n).reshape(n, 3) + random.random((frames, n, 3))
            group["energy"] = random.normal(size=frames)
            group["forces"] = random.normal(size=(frames, n, 3))
            group["charge"] = np.zeros(frames)
    return path


def runner(path: Path, frames: int = 4) -> Path:
    block = (
        "begin\nlattice 10 0 0\nlattice 0 10 0\nlattice 0 0 10\n"
        "atom 0.0 0.0 0.{i} Na 0.7 0.0 0.1 0.0 0.0\natom 4.0 0.0 0.0 Cl -0.7 0.0 -0.1 0.0 0.0\n"
        "energy -620.{i}\ncharge -0.0\nend\n"
    )
    path.write_text("".join(block.format(i=i) for i in range(frames)))
    return path


def extxyz(path: Path, frames: int = 4) -> Path:
    block = (
        '2\nLattice="9 0 0 0 9 0 0 0 9" Properties=species:S:1:pos:R:3:forces:R:3 charge=0 '
        'energy=-{i}.5 dipole="_JSON [0.1, 0.2, 0.3]" source_id=f{i}\n'
        "Na 0.0 0.0 0.{i} 0.1 0.0 0.0\nCl 2.4 0.0 0.0 -0.1 0.0 0.0\n"
    )
    path.write_text("".join(block.format(i=i) for i in range(frames)))
    return path


FORMATS = {
    "mptrj.json": mptrj,
    "matpes.json": matpes,
    "matpes.json.gz": matpes,
    "rows.aselmdb": aselmdb,
    "groups.h5": grouped_hdf5,
    "input.data": runner,
    "frames.extxyz": extxyz,
}
"""A maker by the name of its file."""
