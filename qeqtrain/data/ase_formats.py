"""Everything else that ASE reads: VASP, trajectories, ASE databases, and many more."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from typing import Any

import numpy as np

from qeqtrain.data.frames import RawFrame
from qeqtrain.data.streams import Bad, Piece, Stream
from qeqtrain.errors import UserMistake

_OF_ATOMS = {"forces", "charges", "magmoms", "born_effective_charges"}
_OF_STRUCTURE = {"energy", "free_energy", "stress", "dipole"}
# ASE runs a Python file to get at its atoms; data must not run.
_REFUSED = {"py", "gpw"}
_DATABASES = {"db", "json"}


def from_atoms(atoms: Any, where: str) -> RawFrame:
    """Turn an ``ase.Atoms`` with its results into a frame."""
    info, arrays = dict(atoms.info), dict(atoms.arrays)
    results = dict(atoms.calc.results) if atoms.calc is not None else {}
    for key, value in results.items():
        if value is None:
            continue
        values = np.asarray(value)
        per_atom = values.ndim > 0 and len(values) == len(atoms) and key != "stress"
        if per_atom and key in _OF_ATOMS:
            arrays[key] = values
        elif key in _OF_STRUCTURE:
            info[key] = value
    numbers, positions = arrays.pop("numbers"), arrays.pop("positions")
    return RawFrame(numbers, positions, atoms.cell.array, atoms.pbc, info, arrays, where)


class AseFormat(Stream):
    """Reader through ASE; the file is one piece."""

    def pieces(self, size: int | None = None) -> list[Piece]:
        """Give the whole file."""
        return [Piece(0, -1, 0)]

    def _images(self) -> Iterator[tuple[Any, dict[str, object]]]:
        """Atoms with what stands beside them in a database."""
        import ase.db
        import ase.io
        from ase.io.formats import filetype

        kind = filetype(str(self.path))
        if kind in _REFUSED:
            raise ValueError(f"ASE reads {kind} by running it or its calculator")
        if kind in _DATABASES:
            with ase.db.connect(str(self.path)) as database:
                for row in database.select():
                    yield row.toatoms(), {**row.key_value_pairs, **row.data}
            return
        for atoms in ase.io.iread(str(self.path), index=":"):
            yield atoms, {}

    def read(self, piece: Piece) -> Iterator[RawFrame | Bad]:
        """Read all frames.

        Raises:
            UserMistake: ASE does not understand the file.
        """
        from qeqtrain.data.reading import READS

        index = 0
        images = self._images()
        while True:
            try:
                with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
                    atoms, beside = next(images, (None, {}))
                if atoms is None:
                    return
                raw = from_atoms(atoms, f"{self.path}, frame {index}")
            except Exception as error:  # ASE's readers raise whatever their parsers do
                first = (str(error).splitlines() or [type(error).__name__])[0][:120]
                raise UserMistake(
                    f"{self.path}, frame {index}: no reader understands it ({first}); qeqtrain "
                    f"reads {READS}"
                ) from None
            raw.info |= {k: v for k, v in beside.items() if v is not None}
            raw.index = index
            index += 1
            yield raw
