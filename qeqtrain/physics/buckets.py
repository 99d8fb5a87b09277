"""Structures of similar size side by side: padded blocks for dense linear algebra.

Flat tensors of a batch are gathered into ``(b, n)`` blocks, worked on as a stack of small dense
problems, and scattered back. Padding to the largest of a bucket wastes n^2 to n^3 work, so only
small structures share a bucket with larger ones; above :data:`PADDED_BELOW` atoms only equal
sizes do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from qeqtrain.physics.placing import place

PADDED_BELOW = 150
"""Atoms up to which padding costs less than a bucket more (measured on a CPU)."""

OVERHEAD_BELOW = 24
"""Atoms below which calling an operation costs more than running it: always padded."""

STRETCH = 1.25
"""Largest over smallest structure of a bucket."""

LARGEST = 4_000_000
"""Elements of all matrices of a bucket, 32 MB in float64: memory stays bounded."""


@dataclass(frozen=True)
class Bucket:
    """b structures padded to n atoms each.

    Attributes:
        structures: their indices in the batch, int64, shape ``(b,)``.
        atoms: indices of their atoms in the batch, int64, shape ``(b, n)``; the padding
            repeats a structure's first atom.
        mask: 1 for atoms, 0 for padding, float64, shape ``(b, n)``.
        full: whether there is no padding.
        members: the structures once more, where the host can read them.
    """

    structures: Tensor
    atoms: Tensor
    mask: Tensor
    full: bool
    members: tuple[int, ...] = ()

    @property
    def shape(self) -> tuple[int, int]:
        """How many structures, and atoms of the largest."""
        return self.atoms.shape[0], self.atoms.shape[1]

    def gather(self, values: Tensor) -> Tensor:
        """Take values of atoms, ``(N,)``, into the block ``(b, n)``; zero in the padding."""
        block = values.index_select(0, self.atoms.flatten()).view(self.atoms.shape)
        return block if self.full else block * self.mask

    def scatter(self, block: Tensor, into: Tensor) -> Tensor:
        """Add a block ``(b, n)`` to values of atoms, ``(N,)``; its padding is left out."""
        kept = block if self.full else torch.where(self.mask > 0, block, 0.0)
        return into.index_add(0, self.atoms.flatten(), kept.flatten())


def buckets_by_size(
    counts: Sequence[int], kinds: Sequence[int], device: torch.device
) -> list[tuple[int, Bucket]]:
    """Sort the structures of a batch into buckets of one kind and similar size.

    Args:
        counts: atoms of each structure, B of them; those without atoms are in no bucket.
        kinds: only structures of equal kind share a bucket.
        device: where the indices are wanted.

    Returns:
        The kind of each bucket, and the bucket.
    """
    order = sorted((k, n, i) for i, (k, n) in enumerate(zip(kinds, counts, strict=True)) if n)
    runs: list[list[tuple[int, int, int]]] = []
    for kind, n, i in order:
        run = runs[-1] if runs else []
        if run and run[0][0] == kind and _fits(run[0][1], n, len(run)):
            run.append((kind, n, i))
        else:
            runs.append([(kind, n, i)])
    offsets = [0]
    for n in counts:
        offsets.append(offsets[-1] + n)
    found = []
    for run in runs:
        members = torch.tensor([i for _, _, i in run])
        sizes = torch.tensor([n for _, n, _ in run])
        first = torch.tensor([offsets[i] for _, _, i in run])
        column = torch.arange(run[-1][1])
        real = column < sizes[:, None]
        atoms = torch.where(real, first[:, None] + column, first[:, None])
        bucket = Bucket(
            place(members, device),
            place(atoms, device),
            place(real.double(), device),
            full=run[0][1] == run[-1][1],
            members=tuple(i for _, _, i in run),
        )
        found.append((run[0][0], bucket))
    return found


def _fits(smallest: int, n: int, members: int) -> bool:
    """Whether a structure of n atoms joins a bucket; sizes come in rising order."""
    if (members + 1) * n * n > LARGEST:
        return False
    if n > PADDED_BELOW:
        return n == smallest
    return n <= max(OVERHEAD_BELOW, STRETCH * smallest)
