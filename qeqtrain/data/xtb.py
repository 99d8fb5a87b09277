"""GFN1-xTB and GFN2-xTB labels by tblite, in worker processes of one thread each.

Kept free of torch and of the rest of the package, so that a worker starts in a moment.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from qeqtrain.units import BOHR, HARTREE

METHODS = ("GFN1-xTB", "GFN2-xTB")
"""Methods that label, the first unless another is asked for."""
ACCURACY = 0.1  # of the SCF, in tblite's scale; 1 is its default
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)


@dataclass(frozen=True)
class Geometry:
    """What is to be labelled.

    Attributes:
        numbers: atomic numbers, shape ``(n,)``.
        positions: A, shape ``(n, 3)``.
        cell: rows, A, shape ``(3, 3)``, of a crystal; ``None`` for a cluster.
        total_charge: e.
        source_id, group: as in a frame.
    """

    numbers: np.ndarray
    positions: np.ndarray
    cell: np.ndarray | None
    total_charge: int
    source_id: str
    group: str


def unpaired_electrons(numbers: np.ndarray, total_charge: int) -> int:
    """Fewest unpaired electrons that the number of electrons allows: 0 or 1."""
    return int(numbers.sum() - total_charge) % 2


def start_worker() -> None:
    """Make a worker quiet: tblite prints from compiled code, and Ctrl-C is the parent's."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)


def label(geometry: Geometry, method: str = METHODS[0]) -> Mapping[str, np.ndarray] | None:
    """Label one geometry: energy, forces, charges, and dipole or stress, in eV, A and e.

    The dipole is tblite's, about the coordinate origin. Charges are Mulliken's in the basis of
    the method: those of two methods are different quantities.

    Args:
        geometry: what to label.
        method: one of :data:`METHODS`.

    Returns:
        Labels by name; ``None`` if the self-consistent field did not converge.
    """
    from tblite.exceptions import TBLiteRuntimeError
    from tblite.interface import Calculator

    lattice: dict[str, np.ndarray] = {}
    if geometry.cell is not None:
        lattice = {"lattice": geometry.cell / BOHR, "periodic": np.ones(3, dtype=bool)}
    try:
        calculator = Calculator(
            method,
            geometry.numbers,
            geometry.positions / BOHR,
            charge=float(geometry.total_charge),
            uhf=unpaired_electrons(geometry.numbers, geometry.total_charge),
            **lattice,
        )
        calculator.set("verbosity", 0)
        calculator.set("accuracy", ACCURACY)
        result = calculator.singlepoint()
    except TBLiteRuntimeError:
        return None
    labels = {
        "energy": np.float64(result.get("energy") * HARTREE),
        "forces": -result.get("gradient") * (HARTREE / BOHR),
        "charges": result.get("charges"),
    }
    if geometry.cell is not None:
        # tblite's virial is dE/dstrain.
        volume = abs(np.linalg.det(geometry.cell))
        stress = result.get("virial") * (HARTREE / volume)
        labels["stress"] = 0.5 * (stress + stress.T)
    else:
        labels["dipole"] = result.get("dipole") * BOHR
    if not all(np.isfinite(v).all() for v in labels.values()):
        return None
    return labels
