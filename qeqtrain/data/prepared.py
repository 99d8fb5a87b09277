"""Frames that are divided, checked against what training asks of them, and batched.

Where they come from is another matter: one set of files (:mod:`qeqtrain.data.sets`) or several
(:mod:`qeqtrain.data.mixed`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property
from hashlib import blake2b

import numpy as np

from qeqtrain.data.batching import FrameBatches, StatefulLoader
from qeqtrain.data.budget import Batching
from qeqtrain.data.draws import Draws
from qeqtrain.data.labels import LABELS
from qeqtrain.data.opening import Parts
from qeqtrain.data.plan import BatchPlan
from qeqtrain.data.requirements import (
    born_charge_problems,
    charge_notes,
    charge_problems,
    elements_of,
    field_notes,
    field_problems,
    fragment_notes,
    label_problems,
    leaks,
    partial_notes,
    reach_problems,
    stranger_notes,
)
from qeqtrain.data.source import Source
from qeqtrain.data.statistics import Statistics, neighbor_average, statistics
from qeqtrain.errors import UserMistake
from qeqtrain.neighbors import Reach
from qeqtrain.physics.fields import FieldCoupling

_NEIGHBOR_SAMPLE = 2000  # training frames looked at for the average number of neighbours


def _numbers(cutoffs: Mapping[str, Reach]) -> dict[str, float]:
    """Cutoffs that are the same for all structures, A, by consumer."""
    return {name: reach for name, reach in cutoffs.items() if not callable(reach)}


class PreparedFrames:
    """Training, validation and test frames of a run; what opens them is up to a subclass.

    Args:
        batching: how they are put into batches.
    """

    def __init__(self, batching: Batching) -> None:
        """Open nothing yet."""
        self._batching = batching
        self.workers, self.seed = batching.workers, batching.seed
        self._cutoffs: dict[str, Reach] = {}
        self._labels: tuple[str, ...] = ()
        self._parts: Parts = {}
        self._batches: dict[str, FrameBatches] = {}
        self.notes: list[str] = []

    def _open(self) -> Parts:
        """Open every file and divide; the mistakes of all files come together."""
        raise NotImplementedError

    @property
    def conventions(self) -> dict[str, object]:
        """Conventions as plain values, stored with the model."""
        raise NotImplementedError

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
        self.__dict__.pop("fingerprint", None)
        self._forget_statistics()
        sources = self._sources()
        problems: list[str] = []
        train, frames = self._parts["train"]
        if len(frames) == 0:
            problems.append("no frame is left to train on")
        problems += label_problems(train, frames, asked)
        problems += self._charge_problems()
        if problems:
            raise UserMistake(*problems)
        self.notes = [note for source in sources for note in source.notes]
        for source in sources:
            self.notes += [*charge_notes(source), *field_notes(source)]
            self.notes += fragment_notes(source)
        self.notes += leaks(self._parts) + self._partial_notes(asked)
        self.notes += stranger_notes(self._parts)
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
            self._forget_statistics()
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

    def _sources(self) -> list[Source]:
        """Distinct sources, in the order of the splits."""
        return list({id(source): source for source, _ in self._parts.values()}.values())

    def _charge_problems(self) -> list[str]:
        """Total charges that are not known, and charges that are no net charges."""
        return [text for source in self._sources() for text in charge_problems(source)]

    def _partial_notes(self, asked: list[str]) -> list[str]:
        """Labels that the loss asks for and some frames lack."""
        return partial_notes(self._parts, asked)

    def _draws(self, split: str) -> Draws | None:
        """How often frames come in an epoch, where that is not once."""
        del split
        return None

    def _forget_statistics(self) -> None:
        self.__dict__.pop("statistics", None)

    def _require_prepared(self) -> None:
        if not self._parts:
            raise RuntimeError("DataSets.prepare has not been called")

    def train_parts(self) -> dict[str, tuple[Source, np.ndarray]]:
        """Source and training frames by data set; one without a name where there is one."""
        return {"": self.source_of("train")}

    def source_of(self, split: str) -> tuple[Source, np.ndarray]:
        """Source of a split, and which of its frames belong to it."""
        self._require_prepared()
        return self._parts[split]

    @property
    def elements(self) -> tuple[int, ...]:
        """Atomic numbers of all splits, sorted."""
        self._require_prepared()
        return tuple(sorted({z for part in self._parts.values() for z in elements_of(*part)}))

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
        return self._fingerprint()

    def _fingerprint(self, *words: str) -> str:
        """Fingerprint of frames, division, and what else matters."""
        self._require_prepared()
        state = blake2b("".join(words).encode(), digest_size=16)
        for name, (source, frames) in self._parts.items():
            state.update(f"{name}:{source.fingerprint}:".encode() + frames.tobytes())
        return state.hexdigest()

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
        consumer, counts = self._counted_consumer(), self._pair_counts()
        if counts is not None:
            average = 2.0 * float(counts.sum()) / float(source.sizes[frames].sum())
        elif consumer is not None:
            average = neighbor_average(source, frames, _numbers(self._cutoffs)[consumer])
        return statistics(source, frames, average)

    def _counted_consumer(self) -> str | None:
        """Consumer whose neighbours are counted, if any has a cutoff that is a number."""
        fixed = _numbers(self._cutoffs)
        return "backbone" if "backbone" in fixed else next(iter(fixed), None)

    def _pair_counts(self) -> np.ndarray | None:
        """Pairs of every training frame, ``(n,)``, if they are few enough to find them all."""
        consumer, (_, frames) = self._counted_consumer(), self._parts["train"]
        if consumer is None or len(frames) > _NEIGHBOR_SAMPLE:
            return None
        return self.batches("train").pair_counts(consumer)

    def plan(self, split: str, ranks: int = 1) -> BatchPlan:
        """Batches of a split: shuffled for training, in order otherwise."""
        kind, budget = self._batching.budget
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
        draws = self._draws(split)
        return BatchPlan(costs, float(budget), self.seed, ranks, shuffle, work, draws)

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
