"""Listed pairs of a batch as vectors, and the way back onto positions and cells.

Vectors are kept as ``(3, P)``: on a CPU three gathers from contiguous rows take a tenth of the
time of one gather of rows of three.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from qeqtrain.errors import UserMistake
from qeqtrain.physics.function import Function
from qeqtrain.physics.placing import place
from qeqtrain.structures import Structures


@dataclass(frozen=True, eq=False)
class PairList:
    """Pairs of a batch, structure by structure; nothing here has a gradient.

    Attributes:
        sender: shape ``(P,)``.
        receiver: shape ``(P,)``.
        structure: index of the structure of every pair, shape ``(P,)``.
        bounds: where the pairs of every structure begin and end, shape ``(B + 1,)``.
        extent: the bounds once more, where the host can read them.
        shift: cells between the two atoms, ``(3, P)``, or ``None`` if nothing is periodic.
        slices: index, begin and end of every periodic structure that has pairs.
        n_atoms: N.
        vectors: from sender to receiver, A, shape ``(3, P)``.
        squares: of the distances, A^2, shape ``(P,)``.
    """

    sender: Tensor
    receiver: Tensor
    structure: Tensor
    bounds: Tensor
    extent: list[int]
    shift: Tensor | None
    slices: list[tuple[int, int, int]]
    n_atoms: int
    vectors: Tensor
    squares: Tensor

    def __len__(self) -> int:
        """Count the pairs, P."""
        return self.sender.shape[0]

    @property
    def n_structures(self) -> int:
        """Count the structures, B."""
        return self.bounds.shape[0] - 1

    @classmethod
    def of(cls, structures: Structures, periodic: list[bool]) -> PairList:
        """Take the list made for the charges.

        Args:
            structures: with edges for ``charge``, joined structure by structure.
            periodic: which structures have images, B values.

        Raises:
            UserMistake: no such list.
        """
        if "charge" not in structures.edges:
            raise UserMistake(
                f"neighbour lists {sorted(structures.edges)} without 'charge'; make them with "
                "with_pairs(structure, potential.cutoffs)"
            )
        edges = structures.edges["charge"]
        owner = structures.batch.index_select(0, edges.sender)
        senders = structures.on_host("edges.charge")
        known = structures.on_host("batch").index_select(0, senders)
        bounds, extent, slices = _extent(known, periodic)
        shift = edges.shift.T.contiguous() if slices else None
        rows = structures.positions.detach().T.contiguous()
        vectors = rows.new_empty((3, len(owner)))
        _spread(rows, edges.sender, edges.receiver, vectors)
        if shift is not None:
            _shift(vectors, structures.cell.detach(), shift, slices)
        return cls(
            edges.sender,
            edges.receiver,
            owner,
            place(bounds, owner.device),
            extent,
            shift,
            slices,
            structures.n_atoms,
            vectors,
            dot(vectors, vectors),
        )

    def keep(self, kept: Tensor | None, periodic: list[bool]) -> PairList:
        """Choose pairs, in an order that is good for sums onto atoms of a CPU.

        Args:
            kept: shape ``(P,)``; ``None`` for all. Elsewhere than on a CPU all are kept, since
                the host would have to wait for their number; they must be as good as left out.
            periodic: which structures have images, B values.
        """
        if not len(self) or self.squares.device.type != "cpu":
            return self
        owner, bounds, extent, slices = self.structure, self.bounds, self.extent, self.slices
        chosen = None
        if kept is not None:
            chosen = torch.nonzero(kept).squeeze(-1)
            owner = owner.index_select(0, chosen)
            bounds, extent, slices = _extent(owner, periodic)
        order = _interleaved(list(pairwise(extent)), owner.device)
        if chosen is not None:
            order = chosen.index_select(0, order)
        shift, vectors = self.shift, self.vectors
        return PairList(
            self.sender.index_select(0, order),
            self.receiver.index_select(0, order),
            owner,
            bounds,
            extent,
            None if shift is None else torch.stack([r.index_select(0, order) for r in shift]),
            slices,
            self.n_atoms,
            torch.stack([row.index_select(0, order) for row in vectors]),
            self.squares.index_select(0, order),
        )

    def between(self, positions: Tensor, cell: Tensor) -> Tensor:
        """From sender to receiver, A, ``(3, P)``; with their history if one is recorded."""
        if torch.is_grad_enabled():
            vectors: Tensor = _Vectors.apply(positions, cell, self)
            return vectors
        return self.vectors

    def differences(self, positions: Tensor, cell: Tensor) -> Tensor:
        """Differences of any vectors of atoms, and of cells, ``(3, P)``; differentiable."""
        between: Tensor = _Differences.apply(positions, cell, self)
        return between

    def gathered(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Adjoint of :meth:`differences`: onto positions, ``(N, 3)``, and cells, (B, 3, 3)."""
        ends: tuple[Tensor, Tensor] = _Ends.apply(vectors, self)
        return ends


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner products of two sets of vectors ``(3, P)``."""
    return torch.addcmul(torch.addcmul(a[0] * b[0], a[1], b[1]), a[2], b[2])


def _spread(rows: Tensor, sender: Tensor, receiver: Tensor, out: Tensor) -> None:
    for row, into in zip(rows, out, strict=True):
        torch.sub(row.index_select(0, receiver), row.index_select(0, sender), out=into)


def _shift(
    vectors: Tensor, cell: Tensor, shift: Tensor, slices: list[tuple[int, int, int]]
) -> None:
    for b, start, stop in slices:
        vectors[:, start:stop].addmm_(cell[b].T, shift[:, start:stop])


def _extent(
    owner: Tensor, periodic: list[bool]
) -> tuple[Tensor, list[int], list[tuple[int, int, int]]]:
    """Where the pairs of every structure lie: bounds, twice, and slices of periodic ones."""
    counts = torch.bincount(owner, minlength=len(periodic))
    bounds = torch.cat([counts.new_zeros(1), counts.cumsum(0)])  # (B + 1,)
    extent: list[int] = bounds.tolist()
    slices = [
        (b, start, stop)
        for b, (start, stop) in enumerate(pairwise(extent))
        if periodic[b] and stop > start
    ]
    return bounds, extent, slices


def _interleaved(ranges: list[tuple[int, int]], device: torch.device) -> Tensor:
    """Order in which neighbouring pairs of a structure belong to different atoms, ``(P,)``.

    A list is sorted by sender; sums onto one and the same atom wait for each other, which
    takes three times as long as sums onto different ones.
    """
    parts = []
    for start, stop in ranges:
        count = stop - start
        step = max(int(0.618 * count), 1)
        while math.gcd(step, count) > 1:
            step += 1
        parts.append(start + torch.arange(count, device=device) * step % max(count, 1))
    return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.int64, device=device)


class _Vectors(Function):
    """Vectors of all pairs from the positions and cells that the list was made for."""

    @staticmethod
    def forward(ctx: Any, positions: Tensor, cell: Tensor, pairs: PairList) -> Tensor:
        ctx.pairs = pairs
        return pairs.vectors.detach()  # an alias: the kept one stays off the graph

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        return *_Ends.apply(gradient, ctx.pairs), None


class _Differences(Function):
    """The same map for any vectors of atoms and cells: it is linear."""

    @staticmethod
    def forward(ctx: Any, positions: Tensor, cell: Tensor, pairs: PairList) -> Tensor:
        ctx.pairs = pairs
        rows = positions.T.contiguous()
        out = rows.new_empty((3, len(pairs)))
        _spread(rows, pairs.sender, pairs.receiver, out)
        if pairs.shift is not None:
            _shift(out, cell, pairs.shift, pairs.slices)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        return *_Ends.apply(gradient, ctx.pairs), None


class _Ends(Function):
    """The adjoint of :class:`_Differences`, whose adjoint is :class:`_Differences` again."""

    @staticmethod
    def forward(ctx: Any, vectors: Tensor, pairs: PairList) -> tuple[Tensor, Tensor]:
        ctx.pairs = pairs
        out = vectors.new_zeros((3, pairs.n_atoms))
        for row, into in zip(vectors, out, strict=True):
            into.index_add_(0, pairs.receiver, row)
            into.index_add_(0, pairs.sender, row, alpha=-1)
        cell = vectors.new_zeros((pairs.n_structures, 3, 3))
        if pairs.shift is not None:
            for b, start, stop in pairs.slices:
                torch.mm(pairs.shift[:, start:stop], vectors[:, start:stop].T, out=cell[b])
        return out.T, cell

    @staticmethod
    def backward(ctx: Any, at_positions: Tensor, at_cell: Tensor) -> tuple[Tensor, None]:
        return _Differences.apply(at_positions, at_cell, ctx.pairs), None
