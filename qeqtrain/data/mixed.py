"""Several data sets that train one model, each with a weight and with conventions of its own.

What differs between sets is the method behind their labels: energies lie on other scales, and
charges of Bader, DDEC6, Hirshfeld or Mulliken are different quantities. Every frame therefore
carries the index of its set, by which a model adds reference energies and makes its charges
those of the set (:mod:`qeqtrain.models.mixture`). How often frames come in an epoch is a matter
of :mod:`qeqtrain.data.draws`; validation and test have each once, whatever the weight.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np

from qeqtrain.data.budget import Batching
from qeqtrain.data.draws import Draws
from qeqtrain.data.labels import plural
from qeqtrain.data.mixed_source import MixedSource
from qeqtrain.data.mixed_statistics import mixed_statistics
from qeqtrain.data.one_set import OneSet, SetOptions, read_set
from qeqtrain.data.opening import Parts
from qeqtrain.data.prepared import PreparedFrames
from qeqtrain.data.requirements import charge_problems, partial_notes
from qeqtrain.data.source import Source
from qeqtrain.data.splits import SPLITS
from qeqtrain.data.statistics import Statistics, neighbor_average, statistics
from qeqtrain.data.sums import Sums
from qeqtrain.errors import UserMistake, nearest


class MixedSets(PreparedFrames):
    """Training, validation and test frames of several data sets.

    Args:
        sets: by name, what :class:`~qeqtrain.data.one_set.SetOptions` says: files, splits and
            conventions as for one set, and ``weight`` (how often its frames come in an epoch;
            1 is once), ``charge_type`` (such as ``bader``: equal words are one kind of charge)
            and ``references`` (energies of elements: ``own``, fitted to the set; ``main``,
            shared with the main set; or given, eV).
        main: whose energies and charges a model gives unless told otherwise; the first by
            default. The charges of its kind are those that are equilibrated.
        batch_structures, batch_atoms, batch_edges: budget of one batch; edges prevail over
            atoms, atoms over structures.
        workers: processes that read ahead; 0 reads in the training process.
        seed: of splits, shuffle and draws.
    """

    def __init__(
        self,
        sets: dict[str, SetOptions],
        main: str | None = None,
        batch_structures: int | None = 8,
        batch_atoms: int | None = None,
        batch_edges: int | None = None,
        workers: int = 0,
        seed: int = 0,
    ) -> None:
        """Check the arguments; no file is opened before :meth:`prepare`."""
        batching = Batching(batch_structures, batch_atoms, batch_edges, workers, seed)
        super().__init__(batching)
        problems = batching.mistakes()
        self.sets: dict[str, OneSet] = {}
        for name, options in (sets or {}).items():
            try:
                self.sets[name] = read_set(str(name), options or {})
            except UserMistake as mistake:
                problems += mistake.problems
        if not sets:
            problems.append(
                "data.sets names no set; expected NAME: {train: FILE, weight: 1, ...} for each"
            )
        self.main = str(main or next(iter(sets or {}), ""))
        if sets and self.main not in sets:
            problems.append(
                f"data.main={main}: there is no such set; expected {', '.join(sets)}"
                f"{nearest(self.main, sets)}"
            )
        if problems:
            raise UserMistake(*problems)
        self._own: dict[str, Parts] = {}

    def prepare(
        self, cutoffs: Mapping[str, Any], labels: Mapping[str, bool] | None = None
    ) -> None:
        """Open, split and check, as for one set; what a set lacks another may have.

        Raises:
            UserMistake: all mistakes of the data together.
        """
        super().prepare(cutoffs, labels)
        if (labels or {}).get("charges"):
            self._refuse_unknown_kinds()
            self.notes += [
                f"{name}: charge_type is {one.charge_type}, but no training frame has charges; "
                "its charges are of the kind that is equilibrated"
                for name, one in self.sets.items()
                if one.charge_type is not None and not self._with_charges(name)
            ]

    def _open(self) -> Parts:
        """Open every set; the mistakes of all come together."""
        self._own, problems = {}, []
        for name, one in self.sets.items():
            try:
                self._own[name] = one.files.open(self.seed, f"{name}: ")
            except UserMistake as mistake:
                problems += [one.said(text) for text in mistake.problems]
        problems += [
            f"data.sets.{name}: no frame is left to train on"
            for name, parts in self._own.items()
            if not len(parts["train"][1])
        ]
        if problems:
            raise UserMistake(*problems)
        mixed = MixedSource({name: self._sources_of(name) for name in self._own})
        return {
            split: (
                mixed,
                np.concatenate(
                    [mixed.first_of(source) + frames for source, frames in self._of(split)]
                ),
            )
            for split in SPLITS
        }

    def _forget_statistics(self) -> None:
        for name in ("statistics", "statistics_by_set", "sums_by_set"):
            self.__dict__.pop(name, None)

    def _of(self, split: str) -> list[tuple[Source, np.ndarray]]:
        """Source and frames of every set in one split."""
        return [parts[split] for parts in self._own.values()]

    def _sources_of(self, name: str) -> list[Source]:
        """Distinct sources of one set, in the order of the splits."""
        return list({id(s): s for s, _ in self._own[name].values()}.values())

    def _sources(self) -> list[Source]:
        """Distinct sources of all sets."""
        return [source for name in self._own for source in self._sources_of(name)]

    def _charge_problems(self) -> list[str]:
        """Total charges that are not known, and charges that are no net charges, by set."""
        return [
            self.sets[name].said(text)
            for name in self._own
            for source in self._sources_of(name)
            for text in charge_problems(source)
        ]

    def _partial_notes(self, asked: list[str]) -> list[str]:
        """Labels that the loss asks for and some frames lack, by set."""
        return [
            f"{name}, {note}"
            for name, parts in self._own.items()
            for note in partial_notes(parts, asked)
        ]

    def _with_charges(self, name: str) -> bool:
        """Whether a training frame of a set has charges."""
        source, frames = self._own[name]["train"]
        return "charges" in source.present and bool(source.present["charges"][frames].any())

    def _refuse_unknown_kinds(self) -> None:
        """Make sure that charges of several sets are not taken for one quantity in silence."""
        charged = [name for name in self._own if self._with_charges(name)]
        silent = [name for name in charged if self.sets[name].charge_type is None]
        if len(charged) > 1 and silent:
            raise UserMistake(
                *(
                    f"data.sets.{name}.charge_type must be given: {', '.join(charged)} have "
                    "charges, which by Bader, DDEC6, Hirshfeld or Mulliken are different "
                    "quantities; say which these are, the same word for the same kind"
                    for name in silent
                )
            )

    @property
    def charge_types(self) -> dict[str, str | None]:
        """Kind of charges by set; ``None``, those of the main set, where it has no charges."""
        self._require_prepared()
        return {
            name: self.sets[name].charge_type if self._with_charges(name) else None
            for name in self._own
        }

    @property
    def conventions(self) -> dict[str, object]:
        """Conventions of the main set, and those of every set under ``sets``; plain values."""
        by_set = {name: one.files.conventions.as_dict() for name, one in self.sets.items()}
        return {**by_set[self.main], "sets": by_set}

    @cached_property
    def fingerprint(self) -> str:
        """Fingerprint of all frames, of their division, and of the order of the sets."""
        return self._fingerprint(",".join(self._own))

    @cached_property
    def sums_by_set(self) -> dict[str, Sums]:
        """What the training frames of every set add up to."""
        self._require_prepared()
        return {name: s.sum_up(frames) for name, (s, frames) in self.train_parts().items()}

    @cached_property
    def statistics_by_set(self) -> dict[str, Statistics]:
        """Statistics of the training frames of every set."""
        self._require_prepared()
        found = {}
        source, chosen = self._parts["train"]
        consumer, counts = self._counted_consumer(), self._pair_counts()
        for k, (name, (own, frames)) in enumerate(self.train_parts().items()):
            average = math.nan
            if counts is not None:
                assert source.owners is not None
                mine = source.owners[chosen] == k
                average = 2.0 * float(counts[mine].sum()) / float(own.sizes[frames].sum())
            elif consumer is not None:
                cutoff = self._cutoffs[consumer]
                assert not callable(cutoff)
                average = neighbor_average(own, frames, cutoff)
            found[name] = statistics(own, frames, average)
        return found

    @cached_property
    def statistics(self) -> Statistics:
        """Statistics of all training frames, each set by its weight.

        Reference energies are those of the main set, completed by elements that it lacks.
        """
        return self.mixed(self.statistics_by_set)

    def mixed(self, by_set: Mapping[str, Statistics]) -> Statistics:
        """Join statistics of all sets by their weights.

        Args:
            by_set: as :attr:`statistics_by_set`; the labels may have lost what is given.
        """
        weights = {name: one.weight for name, one in self.sets.items()}
        kinds = self.charge_types
        first = kinds[self.main] or next((kind for kind in kinds.values() if kind), None)
        alike = [name for name, kind in kinds.items() if kind in (first, None)]
        return mixed_statistics(by_set, self.sums_by_set, weights, self.main, alike)

    def frames_of(self, name: str, split: str) -> np.ndarray:
        """Frames of one set in a split, as indices in :meth:`source_of`."""
        source, frames = self.source_of(split)
        assert source.owners is not None
        mine: np.ndarray = frames[source.owners[frames] == list(self._own).index(name)]
        return mine

    def _draws(self, split: str) -> Draws | None:
        """Let sets come in training as often as their weights say."""
        if split != "train":
            return None
        source, frames = self._parts[split]
        assert source.owners is not None
        weights = [one.weight for one in self.sets.values()]
        return Draws(source.owners[frames].astype(np.int64), weights, self.seed)

    def train_parts(self) -> dict[str, tuple[Source, np.ndarray]]:
        """Source and training frames of every data set."""
        self._require_prepared()
        return {name: parts["train"] for name, parts in self._own.items()}

    @property
    def epoch_counts(self) -> dict[str, int]:
        """Frames of every set in an epoch of training."""
        self._require_prepared()
        draws = self._draws("train")
        assert draws is not None
        return dict(zip(self.sets, draws.counts(), strict=True))

    def told(self) -> dict[str, str]:
        """Say of every set how many frames an epoch has of it, and what it brings."""
        said = {}
        for name, count in self.epoch_counts.items():
            one, found = self.sets[name], self.statistics_by_set[name]
            labels = ", ".join(
                f"{label} {100 * share:.3g} %"
                for label, share in found.coverage.items()
                if share
            )
            kind = self.charge_types[name]
            said[name] = (
                f"{plural(found.n_frames, 'frame')}, {count:,} in an epoch "
                f"(weight {one.weight:g}); {labels or 'no labels'}"
                + (f"; charges are {kind}" if kind else "")
                + ("; main" if name == self.main else "")
            )
        return said
