"""The `data` part of a recipe: files, splits, conventions and batches, put together once."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property
from hashlib import blake2b
from typing import Literal, get_args

import numpy as np

from qeqtrain.data.batching import FrameBatches, StatefulLoader
from qeqtrain.data.elements import SYMBOLS
from qeqtrain.data.labels import (
    LABELS,
    BornOrder,
    Conventions,
    DipoleOrigin,
    NanPolicy,
    TotalChargePolicy,
)
from qeqtrain.data.plan import BatchPlan
from qeqtrain.data.requirements import (
    born_charge_problems,
    charge_notes,
    charge_problems,
    field_notes,
    field_problems,
    fragment_notes,
    label_problems,
    leaks,
    reach_problems,
)
from qeqtrain.data.sources import Source, open_source
from qeqtrain.data.splits import SPLITS, split_from_file, split_indices
from qeqtrain.data.statistics import Statistics, neighbor_average, statistics
from qeqtrain.errors import UserMistake
from qeqtrain.neighbors import Reach
from qeqtrain.physics.fields import FieldCoupling

DEFAULT_SPLIT = {"val": 0.1, "test": 0.1}
"""Fractions of the frames where neither validation nor test frames were given."""

_NEIGHBOR_SAMPLE = 2000  # training frames looked at for the average number of neighbours


def _numbers(cutoffs: Mapping[str, Reach]) -> dict[str, float]:
    """Cutoffs that are the same for all structures, A, by consumer."""
    return {name: reach for name, reach in cutoffs.items() if not callable(reach)}


class DataSets:
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
        self._files = {"train": train, "val": val, "test": test}
        if split is None and not (val or test):
            split = DEFAULT_SPLIT
        self._split = {} if split_file else dict(split or {})
        self._split = {k: v for k, v in self._split.items() if not self._files.get(k)}
        self._split_by, self._split_file = split_by, split_file
        self._options = Conventions(
            total_charge,
            nan,
            aliases=dict(aliases or {}),
            dipole_origin=dipole_origin,
            born_charges_order=born_charges_order,
            valences=dict(valences or {}),
            hdf5=dict(hdf5 or {}),
        )
        self._budgets = {
            "structures": batch_structures,
            "atoms": batch_atoms,
            "edges": batch_edges,
        }
        self.workers, self.seed = workers, seed
        self._cutoffs: dict[str, Reach] = {}
        self._labels: tuple[str, ...] = ()
        self._parts: dict[str, tuple[Source, np.ndarray]] = {}
        self._batches: dict[str, FrameBatches] = {}
        self.notes: list[str] = []
        problems = self._mistakes()
        if problems:
            raise UserMistake(*problems)

    def _mistakes(self) -> list[str]:
        problems = []
        if self._split_by not in get_args(Literal["random", "group"]):
            problems.append(f"data.split_by is {self._split_by!r}; expected random | group")
        if self._split_file and (self._files["val"] or self._files["test"]):
            problems.append("data.split_file says all; leave out data.val and data.test")
        problems += [
            f"data.batch_{name} is {value}; expected a positive number"
            for name, value in self._budgets.items()
            if value is not None and value <= 0
        ]
        if all(v is None for v in self._budgets.values()):
            problems.append(
                "set one of data.batch_structures, data.batch_atoms, data.batch_edges"
            )
        if not 0 <= self.seed < 2**32:
            problems.append(
                f"data.seed is {self.seed}; expected a number from 0 to {2**32 - 1}"
            )
        if self.workers < 0:
            problems.append(f"data.workers is {self.workers}; expected 0 or more")
        return problems

    @property
    def _budget(self) -> tuple[str, int]:
        """Kind and size of the budget; edges prevail over atoms, atoms over structures."""
        for kind in ("edges", "atoms", "structures"):
            value = self._budgets[kind]
            if value is not None:
                return kind, value
        raise AssertionError  # the constructor has refused this

    def prepare(
        self, cutoffs: Mapping[str, Reach], labels: Mapping[str, bool] | None = None
    ) -> None:
        """Open the files, split them, and check that they hold what training asks for.

        Args:
            cutoffs: A, or rules, by consumer (``Potential.cutoffs``).
            labels: by label, whether the loss asks for it.

        Raises:
            UserMistake: all mistakes of the data together.
        """
        self._cutoffs = dict(cutoffs)
        asked = [name for name, wanted in (labels or {}).items() if wanted]
        self._parts = self._open()
        self._batches = {}
        for name in ("statistics", "fingerprint"):
            self.__dict__.pop(name, None)
        sources = self._sources()
        problems: list[str] = []
        train, frames = self._parts["train"]
        if len(frames) == 0:
            problems.append("no frame is left to train on")
        problems += label_problems(train, frames, asked)
        problems += [text for source in sources for text in charge_problems(source)]
        if problems:
            raise UserMistake(*problems)
        self.notes = [note for source in sources for note in source.notes]
        for source in sources:
            self.notes += [*charge_notes(source), *field_notes(source)]
            self.notes += fragment_notes(source)
        self.notes += leaks(self._parts) + self._partial(asked) + self._strangers()
        carried = {name for source in sources for name in source.present}
        self._labels = tuple(
            name
            for name in LABELS
            if name in asked or (name in carried and name not in {"born_charges", "magmoms"})
        )

    def train_on(self, source: Source, frames: np.ndarray) -> None:
        """Train on other frames from now on; statistics and fingerprint stay as they are.

        Args:
            source: may hold the frames so far and others.
            frames: indices of those that count.
        """
        for name in ("statistics", "fingerprint"):
            getattr(self, name)
        self._parts["train"] = (source, frames)
        self._batches.pop("train", None)

    def use_cutoffs(self, cutoffs: Mapping[str, Reach]) -> None:
        """Take the cutoffs of the model itself, once it is built for these data.

        A rule may depend on the elements, which are not known before :meth:`prepare`. Lists
        that were found already are kept where the numbers are the same.

        Args:
            cutoffs: A, or rules, by consumer (``Potential.cutoffs``).

        Raises:
            UserMistake: a rule refuses frames, naming them.
        """
        problems = [
            f"{split}: {text}"
            for split, (source, frames) in self._parts.items()
            for text in reach_problems(source, frames, cutoffs)
        ]
        if problems:
            raise UserMistake(*problems)
        if _numbers(cutoffs) != _numbers(self._cutoffs):
            self._batches = {}
            self.__dict__.pop("statistics", None)
        self._cutoffs = dict(cutoffs)
        for batches in self._batches.values():
            batches.cutoffs = dict(cutoffs)

    def refuse_fields(self, coupling: FieldCoupling) -> None:
        """Make sure that the model has an answer to fields, and Born charges where asked.

        Args:
            coupling: what of the model follows a field (``Potential.field``).

        Raises:
            UserMistake: naming split, frame, field and remedy.
        """
        problems = [
            f"{split}: {text}"
            for split, (source, frames) in self._parts.items()
            for text in field_problems(source, frames, coupling)
        ]
        if "born_charges" in self._labels:
            problems += born_charge_problems(*self._parts["train"], coupling)
        if problems:
            raise UserMistake(*problems)

    def _open(self) -> dict[str, tuple[Source, np.ndarray]]:
        """Open every file and divide; the mistakes of all files come together."""
        problems: list[str] = []
        opened: dict[str, Source] = {}
        for name, files in self._files.items():
            if files:
                try:
                    opened[name] = open_source(files, self._options)
                except UserMistake as mistake:
                    problems += [f"data.{name}: {text}" for text in mistake.problems]
        if problems:
            raise UserMistake(*problems)
        source = opened["train"]
        if self._split_file:
            chosen = split_from_file(source, self._split_file)
        else:
            chosen = split_indices(source, self._split, self._split_by, self.seed)
        parts = {name: (source, chosen[name]) for name in SPLITS}
        for name in ("val", "test"):
            if name in opened:
                parts[name] = (opened[name], np.arange(len(opened[name])))
        return parts

    def _sources(self) -> list[Source]:
        """Distinct sources, in the order of the splits."""
        return list({id(source): source for source, _ in self._parts.values()}.values())

    def _partial(self, asked: list[str]) -> list[str]:
        notes = []
        for split, (source, frames) in self._parts.items():
            for label in asked:
                count = (
                    int(source.present[label][frames].sum()) if label in source.present else 0
                )
                if count < len(frames):
                    notes.append(
                        f"{split}: {count:,} of {len(frames):,} frames have {label}; "
                        "the others count for nothing there"
                    )
        return notes

    def _strangers(self) -> list[str]:
        """Elements that are tested but never trained."""
        known = set(self._elements_of("train"))
        notes = []
        for split in ("val", "test"):
            new = sorted(set(self._elements_of(split)) - known)
            if new:
                symbols = ", ".join(SYMBOLS[z] for z in new)
                notes.append(f"{split} has elements that no training frame has: {symbols}")
        return notes

    def _elements_of(self, split: str) -> list[int]:
        source, frames = self._parts[split]
        mask = np.zeros(len(source), dtype=bool)
        mask[frames] = True
        return [int(z) for z in np.unique(source.numbers[np.repeat(mask, source.sizes)])]

    def _require_prepared(self) -> None:
        if not self._parts:
            raise RuntimeError("DataSets.prepare has not been called")

    def source_of(self, split: str) -> tuple[Source, np.ndarray]:
        """Source of a split, and which of its frames belong to it."""
        self._require_prepared()
        return self._parts[split]

    @property
    def elements(self) -> tuple[int, ...]:
        """Atomic numbers of all splits, sorted."""
        self._require_prepared()
        return tuple(sorted({z for split in SPLITS for z in self._elements_of(split)}))

    @property
    def split_ids(self) -> dict[str, list[str]]:
        """Source ids of every split."""
        self._require_prepared()
        return {
            name: [source.source_ids[i] for i in frames]
            for name, (source, frames) in self._parts.items()
        }

    @cached_property
    def fingerprint(self) -> str:
        """Fingerprint of all frames and of their division."""
        self._require_prepared()
        state = blake2b(digest_size=16)
        for name, (source, frames) in self._parts.items():
            state.update(f"{name}:{source.fingerprint}:".encode() + frames.tobytes())
        return state.hexdigest()

    @property
    def conventions(self) -> dict[str, object]:
        """Conventions as plain values, stored with the model."""
        return self._options.as_dict()

    def batches(self, split: str) -> FrameBatches:
        """Frames of a split with neighbour lists, ready to be batched."""
        self._require_prepared()
        if split not in self._batches:
            source, frames = self._parts[split]
            self._batches[split] = FrameBatches(source, self._labels, self._cutoffs, frames)
        return self._batches[split]

    @cached_property
    def statistics(self) -> Statistics:
        """Statistics of the training frames, worked out once."""
        self._require_prepared()
        source, frames = self._parts["train"]
        average = math.nan
        if fixed := _numbers(self._cutoffs):
            consumer = "backbone" if "backbone" in fixed else next(iter(fixed))
            if len(frames) <= _NEIGHBOR_SAMPLE:
                pairs = self.batches("train").pair_counts(consumer).sum()
                average = 2.0 * float(pairs) / float(source.sizes[frames].sum())
            else:
                average = neighbor_average(source, frames, fixed[consumer])
        return statistics(source, frames, average)

    def plan(self, split: str, ranks: int = 1) -> BatchPlan:
        """Batches of a split: shuffled for training, in order otherwise."""
        kind, budget = self._budget
        source, frames = self.source_of(split)
        sizes = source.sizes[frames].astype(np.float64)
        if kind == "structures":
            costs = np.ones(len(frames))
        elif kind == "atoms":
            costs = sizes
        else:
            costs = self._edges(split)
        # Ranks share a batch by its work, which edges tell best (a dense charge solve adds less
        # than a tenth to a step of 432 atoms), and atoms where edges are many to count.
        longest = max(_numbers(self._cutoffs).values(), default=None)
        cheap = longest is not None and (
            len(frames) <= _NEIGHBOR_SAMPLE or source.pair_counts(longest) is not None
        )
        work = self._edges(split) if kind == "edges" or (cheap and ranks > 1) else sizes
        shuffle = split == "train"
        return BatchPlan(costs, float(budget), self.seed, ranks, shuffle, weights=work)

    def _edges(self, split: str) -> np.ndarray:
        """Count the directed edges of every frame within the longest fixed cutoff."""
        fixed = _numbers(self._cutoffs)
        longest = max(fixed, key=lambda name: fixed[name])
        return np.maximum(2.0 * self.batches(split).pair_counts(longest), 1.0)

    def _loader(self, split: str, rank: int, ranks: int) -> StatefulLoader:
        workers = self.workers
        return StatefulLoader(self.batches(split), self.plan(split, ranks), rank, workers)

    def train_loader(self, rank: int = 0, ranks: int = 1) -> StatefulLoader:
        """Training batches of one rank, shuffled anew in every epoch."""
        return self._loader("train", rank, ranks)

    def val_loader(self, rank: int = 0, ranks: int = 1) -> StatefulLoader:
        """Validation batches of one rank, in order."""
        return self._loader("val", rank, ranks)

    def test_loader(self, rank: int = 0, ranks: int = 1) -> StatefulLoader:
        """Test batches of one rank, in order."""
        return self._loader("test", rank, ranks)
