"""Batches that do not fit in memory are worked on in halves, and halves of those."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from qeqtrain.data.labels import LABELS
from qeqtrain.errors import UserMistake
from qeqtrain.models.dividing import chosen
from qeqtrain.training.screen import say

if TYPE_CHECKING:
    from qeqtrain.data.batching import Batch


class Backoff:
    """Knows which batches are too large for the device, and divides them.

    The size of a batch is its number of neighbour pairs, which is what memory grows with. The
    plan of batches stays as it is: what is divided is the work, and the sum is the same.
    """

    def __init__(self) -> None:
        self.limit = float("inf")

    def too_large(self, batch: Batch) -> bool:
        """Whether one as large has failed before, and this one can be divided."""
        return len(batch.ids) > 1 and size(batch) > self.limit

    def did_not_fit(self, batch: Batch) -> None:
        """Remember a batch that ran out of memory.

        Raises:
            UserMistake: it is a single structure.
        """
        if len(batch.ids) == 1:
            raise UserMistake(
                f"{batch.ids[0]}: one structure of {batch.structures.n_atoms:,} atoms does not "
                "fit in the memory of the device; leave it out, take a smaller model or cutoff "
                "(backbone.channels, backbone.cutoff), or trainer.accelerator=cpu"
            )
        if self.limit == float("inf"):
            say(
                f"out of memory with {len(batch.ids)} structures, {batch.structures.n_atoms:,} "
                f"atoms, {size(batch):,} pairs: such batches are worked on in halves"
            )
        self.limit = min(self.limit, size(batch) - 1)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def in_parts(self, batch: Batch, work: Callable[[Batch], None]) -> None:
        """Do some work on all parts of a batch, each as large as fits.

        Args:
            batch: the whole.
            work: leaves nothing behind when it runs out of memory.

        Raises:
            UserMistake: a single structure does not fit.
        """
        todo = [batch]
        while todo:
            part = todo.pop()
            fits = not self.too_large(part)
            if fits:
                try:
                    work(part)
                except torch.OutOfMemoryError:
                    fits = False
                if not fits:  # outside of the handler, which keeps what the work had allocated
                    self.did_not_fit(part)
            if not fits:
                todo += reversed(halves(part))


def size(batch: Batch) -> int:
    """Count the neighbour pairs of a batch; its atoms where it has none."""
    pairs = sum(e.sender.shape[0] for e in batch.structures.edges.values())
    return max(pairs, batch.structures.n_atoms)


def halves(batch: Batch) -> tuple[Batch, Batch]:
    """Divide a batch of several structures in two, of about as many atoms each."""
    ends = batch.structures.atom_counts().cumsum(0)
    middle = int((ends - 0.5 * ends[-1]).abs().argmin()) + 1
    middle = min(max(middle, 1), len(batch.ids) - 1)
    return part(batch, 0, middle), part(batch, middle, len(batch.ids))


def part(batch: Batch, start: int, stop: int) -> Batch:
    """Take the structures from ``start`` to before ``stop`` out of a batch."""
    structures = batch.structures
    atoms = (structures.batch >= start) & (structures.batch < stop)

    def rows(name: str, values: Tensor) -> Tensor:
        return values[atoms] if LABELS[name].per_atom else values[start:stop]

    return replace(
        batch,
        structures=chosen(structures, torch.arange(start, stop, device=atoms.device)),
        labels={name: rows(name, values) for name, values in batch.labels.items()},
        present={name: values[start:stop] for name, values in batch.present.items()},
        ids=batch.ids[start:stop],
    )
