"""Dense matrices of a batch, filled pair by pair: unknowns of atoms side by side in buckets."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from qeqtrain.physics.buckets import Bucket
from qeqtrain.structures import Structures


class DenseMatrices:
    """Square matrices of every bucket, zero to begin with, laid end to end.

    An atom has ``per_atom`` unknowns; a bucket of b structures padded to n atoms has matrices
    ``(b, per_atom n, per_atom n)``, in which all first unknowns precede all second ones.

    Args:
        buckets: structures of similar size.
        structures: the batch.
        per_atom: unknowns of an atom.
    """

    def __init__(
        self, buckets: Sequence[Bucket], structures: Structures, per_atom: int = 1
    ) -> None:
        self.buckets, self.per_atom = buckets, per_atom
        device = structures.positions.device
        count = len(structures)
        # Row r, column c of a structure's matrix lies at base + r stride + c.
        self._base, self._atoms, self._first = (
            torch.zeros(count, dtype=torch.int64, device=device) for _ in "abc"
        )
        self._sizes = []
        offset = 0
        for bucket in buckets:
            b, n = bucket.shape
            size = (per_atom * n) ** 2
            start = offset + torch.arange(b, device=device) * size
            self._base[bucket.structures] = start
            self._atoms[bucket.structures] = n
            self._first[bucket.structures] = bucket.atoms[:, 0]
            self._sizes.append(b * size)
            offset += b * size
        self.flat = structures.positions.new_zeros(offset)

    def add(
        self,
        rows: Tensor,
        columns: Tensor,
        structure: Tensor,
        values: Tensor,
        kinds: tuple[int, int] = (0, 0),
    ) -> None:
        """Add values to elements.

        Args:
            rows: atoms of the batch, shape ``(P,)``.
            columns: atoms of the same structures, shape ``(P,)``.
            structure: the one of every pair, shape ``(P,)``.
            values: shape ``(P,)``.
            kinds: which of the atoms' unknowns, row and column.
        """
        n = self._atoms.index_select(0, structure)
        first = self._first.index_select(0, structure)
        row = rows - first + kinds[0] * n
        column = columns - first + kinds[1] * n
        where = self._base.index_select(0, structure) + row * (self.per_atom * n) + column
        self.flat.index_add_(0, where, values)

    def split(self) -> list[Tensor]:
        """Give the matrices of every bucket."""
        found = []
        for bucket, part in zip(self.buckets, torch.split(self.flat, self._sizes), strict=True):
            b, n = bucket.shape
            found.append(part.view(b, self.per_atom * n, self.per_atom * n))
        return found
