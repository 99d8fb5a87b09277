"""MPtrj: relaxations of the Materials Project, ``{material: {frame: document}}`` in one JSON.

Deng et al., Nat. Mach. Intell. 5, 1031 (2023). Energies are VASP's, with and without the
corrections of the Materials Project; forces eV/A; stress is VASP's, in kbar, compression
positive. What is null is absent.
"""

from __future__ import annotations

import msgspec
import numpy as np

from qeqtrain.data.frames import RawFrame
from qeqtrain.data.json_stream import KBAR, JsonStream, PymatgenStructure, filled, geometry


class Document(msgspec.Struct, gc=False):
    """One frame of a relaxation."""

    structure: PymatgenStructure
    uncorrected_total_energy: float | None = None
    corrected_total_energy: float | None = None
    energy: float | None = None
    force: list[tuple[float, float, float]] | None = None
    forces: list[tuple[float, float, float]] | None = None
    stress: list[list[float]] | None = None
    magmom: list[float] | None = None


class Mptrj(JsonStream[Document]):
    """Reader of MPtrj; a material is a group, its frames are named ``material/frame``."""

    document = Document

    def frame(self, document: Document, keys: tuple[str, ...]) -> RawFrame:
        """Convert a frame."""
        numbers, positions, cell = geometry(document.structure)
        material, name = keys
        info: dict[str, object] = {"source_id": f"{material}/{name}", "group": material}
        arrays: dict[str, np.ndarray] = {}
        if document.structure.charge is not None:
            info["charge"] = document.structure.charge
        for key in ("uncorrected_total_energy", "corrected_total_energy", "energy"):
            value = getattr(document, key)
            if value is not None:
                info[key] = value
        if document.stress is not None:
            info["stress"] = np.array(document.stress) * KBAR
        for key in ("force", "forces", "magmom"):
            values = getattr(document, key)
            if values is not None:
                arrays[key] = filled(values, len(numbers), key)
        pbc = np.array(document.structure.lattice.pbc)
        return RawFrame(numbers, positions, cell, pbc, info, arrays, f"{self.path}, {name}")
