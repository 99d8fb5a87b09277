"""Batches of labelled structures, and a loader that goes on exactly where it stopped."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qeqtrain.data.columns import compact_pairs
from qeqtrain.data.frames import Frame
from qeqtrain.data.gathering import Gathering
from qeqtrain.data.labels import LABELS
from qeqtrain.data.plan import BatchPlan
from qeqtrain.data.source import Source
from qeqtrain.data.transfer import Sender, new_reader, receive
from qeqtrain.data.workers import end_with_parent
from qeqtrain.errors import UserMistake
from qeqtrain.neighbors import Reach, with_pairs
from qeqtrain.structures import Edges, Pairs, Structures, collate

_PAIR_MEMORY = 2**29  # bytes of neighbour lists kept in one process


@dataclass(frozen=True)
class Batch:
    """Structures with their labels.

    Attributes:
        structures: B structures, N atoms.
        labels: float64, per structure ``(B, ...)`` or per atom ``(N, ...)``; zero where absent.
        present: by label, which structures carry it, bool, shape ``(B,)``.
        ids: source id of each structure.
    """

    structures: Structures
    labels: dict[str, Tensor]
    present: dict[str, Tensor]
    ids: tuple[str, ...]

    def __len__(self) -> int:
        """Count the structures, B."""
        return len(self.ids)

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Batch:
        """Move every tensor to a device."""
        return Batch(
            self.structures.to(device, non_blocking=non_blocking),
            {k: v.to(device, non_blocking=non_blocking) for k, v in self.labels.items()},
            {k: v.to(device, non_blocking=non_blocking) for k, v in self.present.items()},
            self.ids,
        )

    def pin_memory(self) -> Batch:
        """Copy into page-locked memory, for transfers to a GPU that do not wait."""
        return Batch(
            self.structures.pin_memory(),
            {k: v.pin_memory() for k, v in self.labels.items()},
            {k: v.pin_memory() for k, v in self.present.items()},
            self.ids,
        )


def _no_structures(cutoffs: Mapping[str, Reach]) -> Structures:
    """Zero structures, with an empty neighbour list for each consumer."""
    edges = {}
    for name, reach in cutoffs.items():
        index = torch.zeros(0, dtype=torch.int64)
        cutoff = math.inf if callable(reach) else reach  # all zero pairs are there
        edges[name] = Edges(index, index, torch.zeros(0, 3, dtype=torch.float64), cutoff)
    return replace(collate([]), edges=edges)


def collate_frames(
    frames: Sequence[Frame], labels: Sequence[str], cutoffs: Mapping[str, Reach] | None = None
) -> Batch:
    """Join frames into one batch.

    Args:
        frames: with total charges known and neighbour lists attached; there may be none.
        labels: names of the labels that the batch carries.
        cutoffs: A, or rules, by consumer; only needed where there may be no frame.

    Raises:
        ValueError: a total charge is missing, or consumers differ.
    """
    sizes = [len(f) for f in frames]
    if frames:
        structures = collate([f.structure for f in frames])
    else:
        structures = _no_structures(cutoffs or {})
    values: dict[str, Tensor] = {}
    present: dict[str, Tensor] = {}
    for name in labels:
        label = LABELS[name]
        there = [name in f.labels for f in frames]
        present[name] = torch.tensor(there, dtype=torch.bool)
        if label.per_atom and all(there) and frames:
            parts = [f.labels[name] for f in frames]
            values[name] = torch.from_numpy(np.concatenate(parts))
            continue
        shape = (sum(sizes) if label.per_atom else len(frames), *label.shape)
        array = np.zeros(shape)
        row = 0
        for i, frame in enumerate(frames):
            if label.per_atom:
                if there[i]:
                    array[row : row + sizes[i]] = frame.labels[name]
                row += sizes[i]
            elif there[i]:
                array[i] = frame.labels[name]
        values[name] = torch.from_numpy(array)
    return Batch(structures, values, present, tuple(f.source_id for f in frames))


class FrameBatches:
    """Frames of a source as batches, gathered from its flat arrays.

    Neighbour lists come from the source where it holds them; others are found once and kept,
    if their cutoff is a number, as a backbone's. Where a rule gives the cutoff of every
    structure (the Coulomb sum of a crystal), lists are long and are made for each batch.

    Args:
        source: frames; sent to worker processes as its path or its arrays.
        labels: names that a batch carries.
        cutoffs: A, or rules, by consumer (``Potential.cutoffs``).
        origins: which frames of the source, by the index that the plan uses.
    """

    def __init__(
        self,
        source: Source,
        labels: Sequence[str],
        cutoffs: Mapping[str, Reach],
        origins: np.ndarray | None = None,
    ) -> None:
        """Remember what to read; read nothing."""
        self.source = source
        self.labels = tuple(labels)
        self.cutoffs = dict(cutoffs)
        self.origins = np.arange(len(source)) if origins is None else np.asarray(origins)
        self._pairs: dict[tuple[int, float], Pairs] = {}
        self._bytes = 0

    def __len__(self) -> int:
        """Count the frames."""
        return len(self.origins)

    def _list(self, origin: int, cutoff: float, frame: Frame | None = None) -> Pairs:
        """Neighbour list of a frame of the source, kept where it had to be found."""
        known = self._pairs.get((origin, cutoff))
        if known is None:
            known = compact_pairs(self.source.pairs(origin, cutoff, frame))
            holds = self.source.pairs_cutoff
            if (holds is None or holds < cutoff) and self._bytes < _PAIR_MEMORY:
                self._pairs[origin, cutoff] = known
                self._bytes += 500 + 7 * len(known)
        return known

    def frame(self, i: int) -> Frame:
        """Frame with the neighbour lists that are kept or stored."""
        origin = int(self.origins[int(i)])
        frame = self.source[origin]
        pairs = {
            consumer: self._list(origin, cutoff, frame)
            for consumer, cutoff in self.cutoffs.items()
            if not callable(cutoff)
        }
        return replace(frame, structure=replace(frame.structure, pairs=pairs))

    def complete(self, i: int) -> Frame:
        """Frame with all neighbour lists that the model asks for."""
        frame = self.frame(i)
        return replace(frame, structure=with_pairs(frame.structure, self.cutoffs))

    def batch(self, indices: Sequence[int] | np.ndarray) -> Batch:
        """Batch of the frames with these indices."""
        if len(indices) == 0 or any("fragment" in p.columns for p in self.source.parts):
            # Fragments are numbered anew in every structure, which takes it as a whole.
            frames = [self.complete(i) for i in indices]
            return collate_frames(frames, self.labels, self.cutoffs)
        origins = self.origins[np.asarray(indices, dtype=np.int64)]
        gathering = Gathering(self.source, origins)
        structures = gathering.structures(self.cutoffs, self._list)
        labels, present = gathering.labels(self.labels)
        ids = self.source.source_ids
        return Batch(structures, labels, present, tuple(ids[i] for i in origins.tolist()))

    def pair_counts(self, consumer: str) -> np.ndarray:
        """Neighbour pairs of every frame, each counted once, shape ``(n,)``.

        Args:
            consumer: one whose cutoff is a number.
        """
        cutoff = self.cutoffs[consumer]
        assert not callable(cutoff)
        stored = self.source.pair_counts(cutoff)
        if stored is not None:
            return stored[self.origins]
        counts = (len(self._list(i, cutoff)) for i in self.origins.tolist())
        return np.fromiter(counts, dtype=np.int64, count=len(self))

    def __getitems__(self, indices: list[int]) -> Batch:
        """Batch for a torch DataLoader, in a worker process."""
        return self.batch(indices)

    def __getitem__(self, i: int) -> Batch:
        """Batch of one frame."""
        return self.batch([i])

    def __getstate__(self) -> dict[str, object]:
        """Leave the kept lists behind when sent to another process."""
        return {**self.__dict__, "_pairs": {}, "_bytes": 0}


class _Parcel:
    """A batch on its way; what is unpickled at the other end is the batch."""

    def __init__(self, batch: Batch, sender: Sender) -> None:
        others = {"labels": batch.labels, "present": batch.present}
        self.sent = sender.send(batch.structures, others)
        self.ids = batch.ids

    def __reduce__(self) -> tuple[object, ...]:
        return _received, (self.ids, *self.sent)


def _received(ids: tuple[str, ...], *sent: Any) -> Batch:
    structures, others = receive(*sent)
    return Batch(structures, others.get("labels", {}), others.get("present", {}), ids)


class _Packing:
    """Where a worker's batches go when they are made (a torch ``collate_fn``)."""

    def __init__(self, reader: str) -> None:
        self._sender = Sender(reader)

    def __call__(self, batch: Batch) -> _Parcel:
        return _Parcel(batch, self._sender)


def _begin_worker(_: int) -> None:
    end_with_parent()


class _Remaining:
    """What is left of an epoch for one rank, as lists of indices (a torch batch sampler).

    It knows the place but not the loader: a loader that a cycle kept alive would be collected
    together with its workers, in an order that makes torch wait for them in vain.
    """

    def __init__(self, plan: BatchPlan, rank: int) -> None:
        self.plan, self.rank = plan, rank
        self.epoch = 0
        self.position = 0

    def __len__(self) -> int:
        return len(self.plan)

    def __iter__(self) -> Iterator[list[int]]:
        for batch in self.plan.epoch(self.epoch)[self.position :]:
            yield self.plan.share(batch, self.rank).tolist()


class StatefulLoader:
    """Batches of one rank, epoch after epoch; resumes in the middle of an epoch.

    ``state_dict`` says how many batches were handed out; after ``load_state_dict`` the next
    iteration begins there, once. Lightning calls ``set_epoch`` on ``loader.sampler`` only,
    which is why the loader is its own sampler.

    Args:
        batches: frames to batch.
        plan: of global batches.
        rank: whose share of each is handed out.
        workers: processes that read ahead; 0 reads in this one.
    """

    def __init__(
        self, batches: FrameBatches, plan: BatchPlan, rank: int = 0, workers: int = 0
    ) -> None:
        """Start at the first batch of epoch 0."""
        self.batches, self.plan, self.rank, self.workers = batches, plan, rank, workers
        self._remaining = _Remaining(plan, rank)
        self._resumed = False
        self._parallel: torch.utils.data.DataLoader[Batch] | None = None

    def __len__(self) -> int:
        """Batches of an epoch, the same in every one."""
        return len(self.plan)

    @property
    def sampler(self) -> StatefulLoader:
        """What Lightning tells the epoch to."""
        return self

    @property
    def epoch(self) -> int:
        """Epoch whose batches are handed out."""
        return self._remaining.epoch

    @property
    def position(self) -> int:
        """Batches of this epoch that were handed out."""
        return self._remaining.position

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch; another one than that resumed starts at its first batch."""
        if epoch != self.epoch:
            self._remaining.epoch, self._remaining.position = epoch, 0
            self._resumed = False

    def _open(self) -> Iterator[Batch]:
        if self.workers == 0:
            return (self.batches.batch(indices) for indices in self._remaining)
        if self._parallel is None:
            # A forked process must not inherit HDF5 handles or threads.
            self._parallel = torch.utils.data.DataLoader(
                self.batches,  # type: ignore[arg-type]  # has __getitems__, which is all it needs
                batch_sampler=self._remaining,
                num_workers=self.workers,
                collate_fn=_Packing(new_reader(self)),
                multiprocessing_context="forkserver",
                persistent_workers=True,
                worker_init_fn=_begin_worker,
            )
        return iter(self._parallel)

    def __iter__(self) -> Iterator[Batch]:
        """Hand out the batches of the epoch, from the resumed position if there is one."""
        if not self._resumed:
            self._remaining.position = 0
        self._resumed = False
        for batch in self._open():
            self._remaining.position += (
                1  # counted when handed out: it is trained before the next call
            )
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Where the loader stands, and what the plan depends on."""
        return {
            "epoch": self.epoch,
            "position": self.position,
            "batches": len(self.plan),
            "frames": len(self.batches),
            "seed": self.plan.seed,
        }

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on where another loader of the same plan stood.

        Raises:
            UserMistake: the plan is another one and the epoch is not at its end.
        """
        self._remaining.epoch = int(state["epoch"])
        self._remaining.position = int(state["position"])
        expected = {
            "batches": len(self.plan),
            "frames": len(self.batches),
            "seed": self.plan.seed,
        }
        different = [
            f"{name} was {state[name]}, is {now}"
            for name, now in expected.items()
            if name in state and int(state[name]) != now
        ]
        if different and 0 < self.position < int(state.get("batches", self.position + 1)):
            raise UserMistake(
                f"the run stopped in the middle of epoch {self.epoch} and cannot go on: "
                f"{'; '.join(different)}; resume with the same data, seed, batch size and "
                "number of devices"
            )
        if different:
            self._remaining.position = 0
        self._resumed = True
