"""The `data` part of a recipe: files, splits, conventions and batches, put together once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from qeqtrain.data.budget import Batching
from qeqtrain.data.labels import (
    BornOrder,
    Conventions,
    DipoleOrigin,
    NanPolicy,
    TotalChargePolicy,
)
from qeqtrain.data.opening import DataFiles, Parts
from qeqtrain.data.prepared import PreparedFrames
from qeqtrain.errors import UserMistake


class DataSets(PreparedFrames):
    """Training, validation and test frames of a run.

    Args:
        train: file, pattern or folder of stores, or several.
        val, test: the same; without them, ``split`` takes frames from ``train``.
        split: fraction (below 1) or number of frames, for those of ``val`` and ``test`` that
            have no file of their own and are not in ``split_file``; ``None`` is a tenth for
            each where neither has a file, and nothing otherwise.
        split_by: ``group`` keeps frames of one material, trajectory or geometry together;
            ``random`` does not.
        split_file: JSON with source ids under train, val and test, as a run's ``splits.json``.
        total_charge: meaning of an absent total charge.
        nan: meaning of a label that is not a number.
        aliases: key of the files to read for a label, ``{"charges": "hirsh_charges"}``.
        dipole_origin: about which point the dipoles of charged frames were taken.
        born_charges_order: which index of Born charges comes first.
        valences: valence electrons by element, where charges are counts of electrons.
        hdf5: where a foreign HDF5 file keeps what, ``{"positions": "xyz bohr"}``.
        batch_structures, batch_atoms, batch_edges: budget of one batch; edges prevail over
            atoms, atoms over structures. Edges are directed, within the longest cutoff that
            is the same for all structures.
        workers: processes that read ahead; 0 reads in the training process.
        seed: of split and shuffle.
    """

    def __init__(
        self,
        train: str | list[str],
        val: str | list[str] | None = None,
        test: str | list[str] | None = None,
        split: Mapping[str, float] | None = None,
        split_by: Literal["random", "group"] = "group",
        split_file: str | None = None,
        total_charge: TotalChargePolicy = "error",
        nan: NanPolicy = "error",
        aliases: dict[str, str | None] | None = None,
        dipole_origin: DipoleOrigin | None = None,
        born_charges_order: BornOrder | None = None,
        valences: dict[str, float] | None = None,
        hdf5: dict[str, str] | None = None,
        batch_structures: int | None = 8,
        batch_atoms: int | None = None,
        batch_edges: int | None = None,
        workers: int = 0,
        seed: int = 0,
    ) -> None:
        """Check the arguments; no file is opened before :meth:`prepare`."""
        conventions = Conventions(
            total_charge,
            nan,
            aliases=dict(aliases or {}),
            dipole_origin=dipole_origin,
            born_charges_order=born_charges_order,
            valences=dict(valences or {}),
            hdf5=dict(hdf5 or {}),
        )
        self._files = DataFiles(train, val, test, split, split_by, split_file, conventions)
        batching = Batching(batch_structures, batch_atoms, batch_edges, workers, seed)
        super().__init__(batching)
        problems = [*self._files.mistakes(), *batching.mistakes()]
        if problems:
            raise UserMistake(*problems)

    def _open(self) -> Parts:
        """Open every file and divide; the mistakes of all files come together."""
        return self._files.open(self.seed)

    @property
    def conventions(self) -> dict[str, object]:
        """Conventions as plain values, stored with the model."""
        return self._files.conventions.as_dict()
