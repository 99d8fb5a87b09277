"""Files found and parsed: which reader a file needs, and what to say when there is none."""

from __future__ import annotations

import difflib
import glob
import zlib
from pathlib import Path

from qeqtrain.data.aselmdb import SUFFIX, check_folder
from qeqtrain.data.extxyz import Extxyz
from qeqtrain.data.json_scan import documents_depth
from qeqtrain.data.labels import Conventions
from qeqtrain.data.runner import Runner, is_runner
from qeqtrain.data.streams import Stream
from qeqtrain.data.text_stream import open_bytes
from qeqtrain.errors import UserMistake

READS = (
    "extxyz (.extxyz, .xyz), RuNNer input.data, HDF5 (.h5, .hdf5: our store, groups by size, "
    "flat arrays), JSON of MPtrj and MatPES, .aselmdb, and what ASE reads"
)
_HEAD = 2**16  # bytes by which a format is told
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


def places(path: str | Path) -> list[Path]:
    """Files and folders that a path or a pattern names.

    Raises:
        UserMistake: nothing matches the pattern.
    """
    plain = Path(path).expanduser()
    if plain.is_dir() or not any(c in str(path) for c in "*?["):
        return [plain]
    matches = sorted(Path(p) for p in glob.glob(str(plain)))  # noqa: PTH207
    if matches:
        return matches
    raise UserMistake(f"{path}: no file matches this pattern")


def expand(path: str | Path) -> list[Path]:
    """Files that a path stands for: itself, the matches of a pattern, the stores of a folder.

    Raises:
        UserMistake: it stands for none.
    """
    return [file for place in places(path) for file in contents(place)]


def contents(place: Path) -> list[Path]:
    """A file, or the stores or databases of a folder.

    Raises:
        UserMistake: the folder holds neither.
    """
    if not place.is_dir():
        return [place]
    shards = sorted(place.glob("*.h5"))
    if shards:
        return shards
    databases = sorted(place.rglob(f"*{SUFFIX}"))
    for folder in dict.fromkeys(file.parent for file in databases):
        check_folder(folder, [file for file in databases if file.parent == folder])
    if databases:
        return databases
    inside = ", ".join(sorted(p.name for p in place.iterdir())[:6]) or "nothing"
    raise UserMistake(
        f"{place} is a folder without stores (*.h5) or databases (*{SUFFIX}); it holds {inside}"
    )


def _looks_like_xyz(head: str) -> bool:
    lines = head.splitlines()
    return bool(lines) and lines[0].strip().isdigit() and len(lines) > 1


def _head(path: Path) -> bytes:
    """First bytes of a file, uncompressed."""
    try:
        with open_bytes(path) as file:
            return file.read(_HEAD)
    except (EOFError, OSError, zlib.error) as error:
        if isinstance(error, PermissionError | IsADirectoryError):
            raise
        raise UserMistake(
            f"{path} cannot be uncompressed ({error}); copy it again from its origin"
        ) from None


def _json_reader(path: Path, conventions: Conventions, head: bytes) -> Stream:
    """Tell documents from each other by how they are nested."""
    from qeqtrain.data.matpes import Matpes
    from qeqtrain.data.mptrj import Mptrj

    depth = documents_depth(head)
    if depth == 2:
        return Mptrj(path, conventions, depth)
    if depth is not None:
        return Matpes(path, conventions, depth)
    if b'"numbers"' in head and b'"positions"' in head:
        from qeqtrain.data.ase_formats import AseFormat

        return AseFormat(path, conventions)
    raise UserMistake(
        f"{path}: this JSON holds no documents with a structure (MPtrj: material, frame, "
        f"structure; MatPES: a list or names, structure); qeqtrain reads {READS}"
    )


def find_reader(path: Path, conventions: Conventions) -> Stream:
    """Find the reader of a file by looking at it.

    Raises:
        UserMistake: there is no such file, or no reader understands it.
    """
    if not path.exists():
        raise missing(path)
    if path.is_dir():
        raise UserMistake(f"{path} is a folder; name the files in it")
    head = _head(path)
    suffix = Path(path.name.lower().removesuffix(".gz")).suffix
    if head.startswith(_HDF5_MAGIC):
        from qeqtrain.data.hdf5 import Hdf5

        return Hdf5(path, conventions)
    if suffix in {".h5", ".hdf5"}:
        raise UserMistake(f"{path} is not HDF5, or its beginning is damaged; write it again")
    if not head:
        raise UserMistake(f"{path} is empty; expected frames")
    if suffix == SUFFIX:
        from qeqtrain.data.aselmdb import Aselmdb

        return Aselmdb(path, conventions)
    text = head.decode(errors="ignore")
    if is_runner(text):
        return Runner(path, conventions)
    if suffix in {".xyz", ".extxyz"} or (b"\0" not in head and _looks_like_xyz(text)):
        return Extxyz(path, conventions)
    if suffix in {".json", ".jsonl"}:
        return _json_reader(path, conventions, head)
    from qeqtrain.data.ase_formats import AseFormat

    return AseFormat(path, conventions)
