"""Labelled data from nothing: ionic clusters in three charge states, and ionic crystals.

Every geometry follows from (seed, index) alone and every label is worked out by one thread, so
that a file is the same, bit for bit, however many workers made it.
"""

from __future__ import annotations

import multiprocessing
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TextIO

import numpy as np

from qeqtrain.data.elements import ATOMIC_NUMBERS
from qeqtrain.data.frames import Frame, center_of_mass
from qeqtrain.data.labels import Conventions
from qeqtrain.data.progress import Progress
from qeqtrain.data.workers import cancelled_on_error, one_thread
from qeqtrain.data.writing import write_extxyz, write_store
from qeqtrain.data.xtb import METHODS, Geometry, label, start_worker, unpaired_electrons
from qeqtrain.errors import UserMistake, nearest
from qeqtrain.structures import Structure

# Rock-salt distances between cation and anion, A, near the minimum of GFN1-xTB.
SALTS: dict[tuple[str, str], float] = {
    ("Li", "F"): 1.95,
    ("Li", "Cl"): 2.45,
    ("Na", "F"): 2.30,
    ("Na", "Cl"): 2.75,
    ("K", "Cl"): 3.05,
}
CHARGES = (0, 1, -1)  # e; the order in which the charge states of one geometry come
_BLOCKS = ((2, 2, 4), (2, 3, 3), (2, 2, 5))  # 16, 18 and 20 atoms
_CLOSEST = 0.75  # of the salt's distance; nearer atoms are drawn again


def _salt(random: np.random.Generator) -> tuple[str, str, float]:
    names = list(SALTS)
    cation, anion = names[int(random.integers(len(names)))]
    return cation, anion, SALTS[cation, anion]


def _grid(shape: tuple[int, int, int]) -> np.ndarray:
    axes = np.meshgrid(*(np.arange(n) for n in shape), indexing="ij")
    return np.stack(axes, axis=-1).reshape(-1, 3)


def _elements(grid: np.ndarray, cation: str, anion: str) -> np.ndarray:
    """Cations and anions in turn, as on a chessboard."""
    kinds = np.array([ATOMIC_NUMBERS[cation], ATOMIC_NUMBERS[anion]])
    return kinds[grid.sum(axis=1) % 2]


def alkali_halide_cluster(index: int, seed: int) -> Geometry:
    """Sample ``index`` of the clusters: three in a row are one geometry at charge 0, +1, -1.

    A piece of rock salt of 16 to 20 atoms, stretched or compressed along each axis and rattled.
    """
    number, state = divmod(index, len(CHARGES))
    random = np.random.default_rng([seed, number, 1])
    cation, anion, distance = _salt(random)
    grid = _grid(_BLOCKS[int(random.integers(len(_BLOCKS)))])
    while True:
        stretch = random.uniform(0.96, 1.10) * random.uniform(0.97, 1.03, size=3)
        rattle = random.normal(scale=random.uniform(0.03, 0.09), size=grid.shape)
        positions = distance * (grid * stretch + rattle)
        gaps = np.linalg.norm(positions[:, None] - positions[None], axis=-1)
        if gaps[np.triu_indices(len(grid), 1)].min() > _CLOSEST * distance:
            break
    charge = CHARGES[state]
    name = f"alkali_halide_clusters/{seed}/{number}"
    return Geometry(
        numbers=_elements(grid, cation, anion),
        positions=positions - positions.mean(axis=0),
        cell=None,
        total_charge=charge,
        source_id=f"{name}/{charge:+d}" if charge else f"{name}/0",
        group=name,
    )


def alkali_halide_crystal(index: int, seed: int) -> Geometry:
    """Sample ``index`` of the crystals: a cubic cell of 8 atoms, strained and rattled."""
    random = np.random.default_rng([seed, index, 2])
    cation, anion, distance = _salt(random)
    grid = _grid((2, 2, 2))
    strain = random.uniform(-0.04, 0.04, size=(3, 3))
    deformation = random.uniform(0.96, 1.08) * (np.eye(3) + 0.5 * (strain + strain.T))
    cell = 2.0 * distance * deformation
    rattle = random.normal(scale=random.uniform(0.01, 0.06), size=grid.shape)
    name = f"alkali_halides/{seed}/{index}"
    return Geometry(
        numbers=_elements(grid, cation, anion),
        positions=(grid / 2.0) @ cell + distance * rattle,
        cell=cell,
        total_charge=0,
        source_id=name,
        group=name,
    )


@dataclass(frozen=True)
class Family:
    """A kind of data that can be generated.

    Attributes:
        sample: geometry of an index and a seed.
        meaning: one line for ``--help``.
    """

    sample: Callable[[int, int], Geometry]
    meaning: str


FAMILIES: dict[str, Family] = {
    "alkali_halide_clusters": Family(
        alkali_halide_cluster,
        "pieces of rock salt, 16 to 20 atoms, each geometry at total charge 0, +1 and -1",
    ),
    "alkali_halides": Family(
        alkali_halide_crystal, "periodic cells of 8 atoms, strained and rattled, with stress"
    ),
}


@dataclass(frozen=True)
class Generated:
    """What came of it.

    Attributes:
        path: of the file.
        frames: number written.
        dropped: number whose label did not converge.
        seconds: wall time.
    """

    path: Path
    frames: int
    dropped: int
    seconds: float


def _frame(geometry: Geometry, labels: dict[str, np.ndarray]) -> Frame:
    structure = Structure(
        numbers=geometry.numbers,
        positions=geometry.positions,
        cell=np.zeros((3, 3)) if geometry.cell is None else geometry.cell,
        pbc=np.full(3, geometry.cell is not None),
        total_charge=float(geometry.total_charge),
        spin=1.0 + unpaired_electrons(geometry.numbers, geometry.total_charge),
    )
    if "dipole" in labels:
        labels["dipole"] = labels["dipole"] - geometry.total_charge * center_of_mass(structure)
    return Frame(structure, labels, geometry.source_id, geometry.group)


def _check(family: str, out: Path, count: int, workers: int, method: str) -> None:
    problems = []
    if family not in FAMILIES:
        problems.append(
            f"there is no family '{family}'{nearest(family, FAMILIES)} "
            f"(there are {', '.join(FAMILIES)})"
        )
    if out.suffix not in {".h5", ".hdf5", ".xyz", ".extxyz"}:
        problems.append(f"{out}: expected a name that ends in .h5 (store) or .extxyz")
    if method not in METHODS:
        problems.append(
            f"--method is {method}; expected {' or '.join(METHODS)}{nearest(method, METHODS)}"
        )
    if count < 1:
        problems.append(f"--count is {count}; expected 1 or more")
    if workers < 1:
        problems.append(f"--workers is {workers}; expected 1 or more")
    if find_spec("tblite") is None:
        problems.append("tblite, which works out the labels, is missing; pip install tblite")
    if problems:
        raise UserMistake(*problems)


def generate(
    family: str,
    out: str | Path,
    count: int,
    seed: int = 0,
    workers: int = 1,
    stream: TextIO | None = None,
    method: str = METHODS[0],
) -> Generated:
    """Make a labelled data set.

    Worker processes import the main module anew: a script calls this under
    ``if __name__ == "__main__"``.

    Args:
        family: one of :data:`FAMILIES`.
        out: store (``.h5``) or extended XYZ (``.extxyz``); replaced if it exists.
        count: samples; those that do not converge are dropped.
        seed: the same seed gives the same file.
        workers: processes.
        stream: where progress is shown; standard error by default.
        method: one of :data:`~qeqtrain.data.xtb.METHODS`.

    Raises:
        UserMistake: an argument is wrong, tblite is missing, or no sample converged.
    """
    path = Path(out).expanduser()
    _check(family, path, count, workers, method)
    start = time.perf_counter()
    geometries = [FAMILIES[family].sample(i, seed) for i in range(count)]
    progress = Progress(f"labelling {family}", count, stream or sys.stderr)
    frames: list[Frame] = []
    dropped = 0
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(workers, count), context, initializer=start_worker)
    work = partial(label, method=method)
    with one_thread(), cancelled_on_error(pool):
        chunk = max(min(count // (8 * workers), 8), 1)
        for geometry, labels in zip(
            geometries, pool.map(work, geometries, chunksize=chunk), strict=True
        ):
            if labels is None:
                dropped += 1
            else:
                frames.append(_frame(geometry, dict(labels)))
            progress.advance()
    progress.close()
    if not frames:
        raise UserMistake(f"none of the {count} samples converged; try another seed")
    if path.suffix in {".h5", ".hdf5"}:
        note = f"{family}, seed {seed}: {method} (tblite), {dropped} of {count} not converged"
        write_store(path, frames, Conventions(dipole_origin="center_of_mass"), [note])
    else:
        write_extxyz(path, frames)
    return Generated(path, len(frames), dropped, time.perf_counter() - start)
