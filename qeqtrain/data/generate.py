"""Labelled data from nothing: ionic clusters in three charge states, and ionic crystals.

Every geometry follows from (seed, index) alone (:mod:`qeqtrain.data.salts`) and every label is
worked out by one thread, so that a file is the same, bit for bit, however many workers made it.
"""

from __future__ import annotations

import multiprocessing
import sys
import time
from collections.abc import Collection
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TextIO

import numpy as np

from qeqtrain.data.frames import Frame, center_of_mass
from qeqtrain.data.labels import Conventions
from qeqtrain.data.progress import Progress
from qeqtrain.data.salts import FAMILIES, Salt
from qeqtrain.data.workers import cancelled_on_error, one_thread
from qeqtrain.data.writing import write_extxyz, write_store
from qeqtrain.data.xtb import METHODS, Geometry, label, start_worker, unpaired_electrons
from qeqtrain.errors import UserMistake, nearest
from qeqtrain.structures import Structure


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


def _checked(
    family: str, out: Path, count: int, workers: int, method: str, elements: Collection[str]
) -> tuple[Salt, ...]:
    problems = []
    salts: tuple[Salt, ...] = ()
    if family not in FAMILIES:
        problems.append(
            f"there is no family '{family}'{nearest(family, FAMILIES)} "
            f"(there are {', '.join(FAMILIES)})"
        )
    else:
        try:
            salts = FAMILIES[family].made_of(elements)
        except UserMistake as mistake:
            problems += mistake.problems
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
    return salts


def generate(
    family: str,
    out: str | Path,
    count: int,
    seed: int = 0,
    workers: int = 1,
    stream: TextIO | None = None,
    method: str = METHODS[0],
    elements: Collection[str] = (),
) -> Generated:
    """Make a labelled data set.

    Worker processes import the main module anew: a script calls this under
    ``if __name__ == "__main__"``.

    Args:
        family: one of :data:`~qeqtrain.data.salts.FAMILIES`.
        out: store (``.h5``) or extended XYZ (``.extxyz``); replaced if it exists.
        count: samples; those that do not converge are dropped.
        seed: the same seed gives the same file.
        workers: processes.
        stream: where progress is shown; standard error by default.
        method: one of :data:`~qeqtrain.data.xtb.METHODS`.
        elements: symbols; only salts made of them are drawn. All of the family unless given.

    Raises:
        UserMistake: an argument is wrong, tblite is missing, or no sample converged.
    """
    path = Path(out).expanduser()
    salts = _checked(family, path, count, workers, method, elements)
    start = time.perf_counter()
    geometries = [FAMILIES[family].sample(i, seed, salts) for i in range(count)]
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
