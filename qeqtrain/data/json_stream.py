"""JSON files of documents, plain or compressed, read one document at a time."""

from __future__ import annotations

import json
import zlib
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar, cast

import msgspec
import numpy as np

from qeqtrain.data.elements import ATOMIC_NUMBERS
from qeqtrain.data.frames import RawFrame
from qeqtrain.data.json_scan import Member, blocks_of, cuts, members
from qeqtrain.data.labels import Conventions
from qeqtrain.data.streams import PIECE_BYTES, Bad, Piece, Stream
from qeqtrain.data.text_stream import is_compressed, open_bytes
from qeqtrain.errors import UserMistake
from qeqtrain.units import EV_PER_A3_TO_GPA

KBAR = -0.1 / EV_PER_A3_TO_GPA
"""Factor from VASP's stress (kbar, compression positive) to ours (eV/A^3, tension positive)."""

Vector = tuple[float, float, float]
Document = TypeVar("Document", bound=msgspec.Struct)

_UNREADABLE = (msgspec.MsgspecError, RecursionError)


class Species(msgspec.Struct, gc=False):
    """What stands on a site."""

    element: str
    occu: float = 1.0


class Site(msgspec.Struct, gc=False):
    """A site of a pymatgen structure; fractions are looked at only where ``xyz`` is absent."""

    species: list[Species]
    xyz: Vector | None = None
    abc: msgspec.Raw = msgspec.Raw()


class Lattice(msgspec.Struct, gc=False):
    """Rows of the cell, A."""

    matrix: tuple[Vector, Vector, Vector]
    pbc: tuple[bool, bool, bool] = (True, True, True)


class PymatgenStructure(msgspec.Struct, gc=False):
    """A structure as pymatgen writes it; whatever else stands there is passed over."""

    lattice: Lattice
    sites: list[Site]
    charge: float | None = None


def _refuse_disorder(species: list[list[Species]]) -> None:
    """Refuse sites that hold less or more than one atom.

    Raises:
        ValueError: there is one.
    """
    for kinds in species:
        if len(kinds) != 1 or abs(kinds[0].occu - 1.0) > 1e-6:
            shown = ", ".join(f"{s.element} {s.occu:g}" for s in kinds) or "nothing"
            raise ValueError(
                f"a site holds {shown}: partial occupancy is no geometry; order the structure"
            )


def geometry(structure: PymatgenStructure) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Read a pymatgen structure.

    Returns:
        Atomic numbers ``(n,)``, positions ``(n, 3)`` and cell ``(3, 3)``, A.

    Raises:
        ValueError: an element that is none, a site that is partly occupied or shared.
    """
    cell = np.array(structure.lattice.matrix)
    sites = structure.sites
    species = [site.species for site in sites]
    if {len(s) for s in species} - {1} or {s[0].occu for s in species} - {1.0}:
        _refuse_disorder(species)
    try:
        numbers = [ATOMIC_NUMBERS[s[0].element] for s in species]
    except KeyError as error:
        raise ValueError(f"{error.args[0]!r} is no element") from None
    places: list[Any] = [site.xyz for site in sites]
    if None in places:
        places = [
            np.array(msgspec.json.decode(site.abc or b"null", type=Vector)) @ cell
            if site.xyz is None
            else site.xyz
            for site in sites
        ]
    positions = np.array(places, dtype=np.float64).reshape(-1, 3)
    return np.array(numbers, dtype=np.int64), positions, cell


def _with_nan(text: bytes) -> Any:
    """Read a document with NaN or Infinity, which is no JSON, but Python writes it."""
    document = json.loads(text)
    structure = document.get("structure")
    sites = structure.get("sites") if isinstance(structure, dict) else None
    for site in sites if isinstance(sites, list) else []:
        if isinstance(site, dict) and site.get("xyz") is not None:
            site.pop("abc", None)  # left as text otherwise, which this is no longer
    return document


def reason(error: BaseException) -> str:
    """Say in one line what is wrong with a document."""
    if isinstance(error, RecursionError):
        return "objects are nested too deeply"
    return str(error).splitlines()[0][:200]


class JsonStream(Stream, Generic[Document]):
    """A JSON file whose documents stand ``depth`` objects deep.

    Attributes:
        depth: objects around a document: 2 for ``{material: {frame: document}}``, 1 for
            ``{name: document}``, 0 for a list or documents one after the other.
    """

    document: ClassVar[type[msgspec.Struct]]

    def __init__(self, path: Path, conventions: Conventions, depth: int) -> None:
        """Keep how the documents are nested."""
        super().__init__(path, conventions)
        self.depth = depth
        self._cut = min(depth, 1)  # objects that are open where the file may be cut

    def pieces(self, size: int | None = None) -> list[Piece]:
        """Cut the file between its outer members; a compressed file is one piece."""
        if is_compressed(self.path):
            return [Piece(0, -1)]
        with self.path.open("rb") as file, self._named():
            ends = cuts(blocks_of(file), self._cut, size or PIECE_BYTES)
        return [Piece(a, b) for a, b in pairwise(ends)]

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Turn what makes a file unreadable into the user's mistake."""
        try:
            yield
        except (ValueError, EOFError, OSError, zlib.error) as error:
            raise UserMistake(
                f"{self.path}: not read as JSON documents: {reason(error)}; copy the file "
                "again from its origin"
            ) from None

    def read(self, piece: Piece) -> Iterator[RawFrame | Bad]:
        """Read the documents of a piece."""
        decoder = msgspec.json.Decoder(self.document)
        with open_bytes(self.path) as file:
            file.seek(piece.start)
            stop = None if piece.stop < 0 else piece.stop
            part = not (piece.start == 0 and stop in (None, self.path.stat().st_size))
            start = self._cut if piece.start else 0
            found = members(blocks_of(file, stop), self.depth, start, part)
            while True:
                with self._named():
                    member = next(found, None)
                if member is None:
                    return
                yield self._one(member, decoder)

    def _one(self, member: Member, decoder: msgspec.json.Decoder[Any]) -> RawFrame | Bad:
        name = "/".join(member.keys)
        try:
            try:
                document = decoder.decode(member.text)
            except msgspec.ValidationError:
                raise
            except msgspec.DecodeError:
                document = msgspec.convert(_with_nan(member.text), self.document)
            return self.frame(cast("Document", document), member.keys)
        except (*_UNREADABLE, ValueError) as error:
            return Bad(name or f"{self.path}: {member.text[:40]!r}", reason(error))

    @abstractmethod
    def frame(self, document: Document, keys: tuple[str, ...]) -> RawFrame | Bad:
        """Understand a document.

        Raises:
            ValueError: it is no frame.
        """


def filled(values: object, n_atoms: int, name: str) -> np.ndarray:
    """Make an array of values of the atoms.

    Raises:
        ValueError: it has another length than there are atoms.
    """
    array = np.array(values, dtype=np.float64)
    if array.ndim == 0 or len(array) != n_atoms:
        raise ValueError(f"{name} has {array.size} values for {n_atoms} atoms")
    return array
