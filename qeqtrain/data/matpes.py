"""MatPES: a list of documents, or documents by name, in JSON.

Kaplan et al., arXiv 2503.04070 (2025). Energies eV, forces eV/A; stress is VASP's, kbar,
compression positive, in the order xx yy zz yz xz xy. DDEC6 and CM5 charges are net charges;
``bader_charges`` are counts of electrons, and net charges are the valence electrons of the
potential less those. A charge analysis that failed is null, and absent here.
"""

from __future__ import annotations

import msgspec
import numpy as np

from qeqtrain.data.elements import SYMBOLS, formula
from qeqtrain.data.frames import RawFrame
from qeqtrain.data.json_stream import KBAR, JsonStream, PymatgenStructure, filled, geometry
from qeqtrain.data.valences import MATPES

NET_CHARGES = "bader_net_charges"
_OFF = 0.5  # e; counts that miss the valence electrons by more belong to other potentials


class Provenance(msgspec.Struct, gc=False):
    """Where a structure comes from."""

    original_mp_id: str | None = None


class Ddec6(msgspec.Struct, gc=False):
    """A DDEC6 analysis."""

    partial_charges: list[float] | None = None
    spin_moments: list[float] | None = None


class Document(msgspec.Struct, gc=False):
    """One static calculation."""

    structure: PymatgenStructure
    matpes_id: str | None = None
    energy: float | None = None
    forces: list[tuple[float, float, float]] | None = None
    stress: list[float | list[float]] | None = None
    bader_charges: list[float] | None = None
    bader_magmoms: list[float] | None = None
    cm5_partial_charges: list[float] | None = None
    ddec6: Ddec6 | None = None
    provenance: Provenance | None = None


class Matpes(JsonStream[Document]):
    """Reader of MatPES; frames of one material of the Materials Project are a group."""

    document = Document

    def frame(self, document: Document, keys: tuple[str, ...]) -> RawFrame:
        """Convert a document."""
        numbers, positions, cell = geometry(document.structure)
        name = document.matpes_id or "/".join(keys)
        info: dict[str, object] = {"source_id": name} if name else {}
        if document.provenance is not None and document.provenance.original_mp_id:
            info["group"] = document.provenance.original_mp_id
        if document.structure.charge is not None:
            info["charge"] = document.structure.charge
        if document.energy is not None:
            info["energy"] = document.energy
        if document.stress is not None:
            info["stress"] = np.array(document.stress, dtype=np.float64) * KBAR
        ddec6 = document.ddec6 or Ddec6()
        found = {
            "forces": document.forces,
            "bader_charges": document.bader_charges,
            "bader_magmoms": document.bader_magmoms,
            "cm5_charges": document.cm5_partial_charges,
            "ddec6_charges": ddec6.partial_charges,
            "ddec6_spin_moments": ddec6.spin_moments,
        }
        arrays = {k: filled(v, len(numbers), k) for k, v in found.items() if v is not None}
        if "bader_charges" in arrays and self._wants_net_charges():
            arrays[NET_CHARGES] = self._net_charges(
                numbers, arrays["bader_charges"], document.structure.charge or 0.0
            )
        pbc = np.array(document.structure.lattice.pbc)
        return RawFrame(
            numbers, positions, cell, pbc, info, arrays, f"{self.path}, {name or 'a document'}"
        )

    def _wants_net_charges(self) -> bool:
        aliases = self.conventions.aliases
        return aliases.get("charges", NET_CHARGES) == NET_CHARGES

    def _net_charges(
        self, numbers: np.ndarray, counts: np.ndarray, total_charge: float
    ) -> np.ndarray:
        """Turn counts of electrons into net charges, e.

        Raises:
            ValueError: the valence electrons of an element are not known, or do not add up
                to the counts.
        """
        remedy = (
            "say data.valences.{}=N, or leave these charges out with data.aliases.charges=null"
        )
        table = {**MATPES, **self.conventions.valences}
        symbols = [SYMBOLS[z] for z in numbers]
        for symbol in symbols:
            if symbol not in table:
                raise ValueError(
                    f"bader_charges counts electrons, and how many valence electrons the "
                    f"potential of {symbol} has is not known; {remedy.format(symbol)}"
                )
        net = np.array([table[s] for s in symbols]) - counts
        if abs(net.sum() - total_charge) > _OFF:
            raise ValueError(
                f"{formula(numbers)}: bader_charges counts {counts.sum():.3f} electrons, the "
                f"potentials are taken to have {net.sum() + counts.sum():g}; "
                + remedy.format("X")
            )
        return net
