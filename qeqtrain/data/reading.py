"""Files found and parsed: which reader a file needs, and what to say when there is none."""

from __future__ import annotations

import difflib
import glob
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from qeqtrain.data.extxyz import read_extxyz
from qeqtrain.data.frames import RawFrame
from qeqtrain.data.labels import Conventions
from qeqtrain.data.runner import is_runner, read_runner
from qeqtrain.data.streams import Bad, Piece, Stream
from qeqtrain.errors import UserMistake

READS = (
    "extxyz (.extxyz, .xyz), RuNNer input.data, HDF5 (.h5, .hdf5: our store, groups by size, "
    "flat arrays), and what ASE reads"
)
_HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"


def short_name(path: Path) -> str:
    """Name a file by its folder and its stem: ``xtb_nacl_clusters/train``."""
    parent = path.absolute().parent.name
    return f"{parent}/{path.stem}" if parent else path.stem


def missing(path: Path) -> UserMistake:
    """Say that a file is missing, and what there is of a similar name."""
    folder = path.parent
    while not folder.exists():
        folder = folder.parent
    names = sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []
    wanted = path.relative_to(folder).parts[0] if path.is_relative_to(folder) else path.name
    close = difflib.get_close_matches(wanted, names, n=1, cutoff=0.5)
    hint = (
        f"; did you mean '{folder / close[0]}'?" if close else "; give the path of a data file"
    )
    return UserMistake(f"{path}: there is no such file{hint}")


def expand(path: str | Path) -> list[Path]:
    """Files that a path stands for: itself, the matches of a pattern, the stores of a folder.

    Raises:
        UserMistake: it stands for none.
    """
    plain = Path(path).expanduser()
    if plain.is_dir():
        shards = sorted(plain.glob("*.h5"))
        if shards:
            return shards
        inside = ", ".join(sorted(p.name for p in plain.iterdir())[:6]) or "nothing"
        raise UserMistake(f"{path} is a folder without stores (*.h5); it holds {inside}")
    if any(c in str(path) for c in "*?["):
        matches = sorted(Path(p) for p in glob.glob(str(plain)))  # noqa: PTH207
        if matches:
            return matches
        raise UserMistake(f"{path}: no file matches this pattern")
    return [plain]


def _read_with_ase(path: Path) -> list[RawFrame]:
    """Read anything that ASE knows.

    Raises:
        UserMistake: ASE does not know it either.
    """
    import ase.io

    try:
        images = ase.io.read(path, index=":")
    except Exception as error:  # ASE's readers raise whatever their parsers do
        first = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise UserMistake(
            f"{path}: no reader understands it ({first}); qeqtrain reads {READS}"
        ) from None
    raws = []
    for index, atoms in enumerate(images):
        info, arrays = dict(atoms.info), dict(atoms.arrays)
        results = dict(atoms.calc.results) if atoms.calc is not None else {}
        for key, value in results.items():
            values = np.asarray(value)
            per_atom = values.ndim > 0 and len(values) == len(atoms) and key != "stress"
            if per_atom and key in {"forces", "charges", "magmoms", "born_effective_charges"}:
                arrays[key] = values
            elif key in {"energy", "free_energy", "stress", "dipole"}:
                info[key] = value
        numbers, positions = arrays.pop("numbers"), arrays.pop("positions")
        cell, where = atoms.cell.array, f"{path}, frame {index}"
        raws.append(RawFrame(numbers, positions, cell, atoms.pbc, info, arrays, where))
    return raws


class _Whole(Stream):
    """A file that is read in one piece."""

    def pieces(self, size: int | None = None) -> list[Piece]:
        """Give the whole file."""
        return [Piece(0, -1, 0)]

    def read(self, piece: Piece) -> Iterator[RawFrame | Bad]:
        """Read all frames."""
        for index, raw in enumerate(read_raw(self.path)):
            raw.index = index
            yield raw


def find_reader(path: Path, conventions: Conventions) -> Stream:
    """Find the reader of a file by looking at it.

    Raises:
        UserMistake: there is no such file, or no reader understands it.
    """
    if not path.exists():
        raise missing(path)
    return _Whole(path, conventions)


def _looks_like_xyz(head: str) -> bool:
    lines = head.splitlines()
    return bool(lines) and lines[0].strip().isdigit() and len(lines) > 1


def read_raw(path: Path) -> list[RawFrame]:
    """Parse any file that is not a store.

    Raises:
        UserMistake: no reader understands the file.
    """
    with path.open("rb") as file:
        start = file.read(4096)
    if start.startswith(_HDF5_MAGIC):
        from qeqtrain.data.hdf5 import read_hdf5

        return read_hdf5(path)
    if path.suffix in {".h5", ".hdf5"}:
        raise UserMistake(f"{path} is not HDF5, or its beginning is damaged; write it again")
    if not start:
        raise UserMistake(f"{path} is empty; expected frames")
    try:
        head = start.decode(errors="strict" if len(start) < 4096 else "ignore")
    except UnicodeDecodeError:
        head = ""
    suffix = path.suffix.lower()
    if is_runner(head):
        return read_runner(path)
    if suffix in {".xyz", ".extxyz"} or _looks_like_xyz(head):
        try:
            return list(read_extxyz(path))
        except UnicodeDecodeError:
            raise UserMistake(f"{path} is no text; qeqtrain reads {READS}") from None
    # ASE's own JSON begins with the number of its first row; others are not ASE's to read.
    json = ".json" in path.suffixes and not head.startswith('{"1":')
    if json or suffix == ".aselmdb":
        raise UserMistake(f"{path}: {suffix} is not read; qeqtrain reads {READS}")
    return _read_with_ase(path)
