r"""Gaussian charges pair by pair: what is left of their interaction at short range.

Two unit charges with Gaussian densities of widths :math:`\sigma_i, \sigma_j` interact as
:math:`\mathrm{erf}(\sqrt a\, r)/r` with :math:`a = 1/(2\gamma_{ij}^2)`,
:math:`\gamma_{ij}^2 = \sigma_i^2 + \sigma_j^2`. In a periodic structure Ewald's method takes
away the interaction of two charges of the splitting width :math:`\eta`, with
:math:`b = 1/(2\eta^2)`; what remains falls off like a Gaussian:

.. math:: f(x) = \frac{\mathrm{erf}\sqrt{a x} - \mathrm{erf}\sqrt{b x}}{\sqrt x}, \qquad
          x = r^2 .

A molecule has b = 0. Every derivative in x follows from the one before it,

.. math:: 2x f^{(n+1)} = c_a (-a)^n - c_b (-b)^n - (2n + 1) f^{(n)}, \qquad
          c_a = 2 \sqrt{a/\pi}\, e^{-a x},

so that forces and the gradients of a force loss need no further error function or exponential.
Vectors are kept as ``(3, P)``: on a CPU three gathers from contiguous rows take a tenth of the
time of one gather of rows of three.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from qeqtrain.physics.function import Function
from qeqtrain.structures import Structures


class PairSum:
    r"""Short-range interaction of all listed pairs, without the Coulomb constant, 1/A.

    Args:
        structures: with edges for ``charge``, joined structure by structure.
        width: standard deviation of every atom's density, A, float64, shape ``(N,)``.
        inverse_splitting: b of every structure, 1/A^2, shape ``(B,)``; 0 for a molecule.
        periodic: which structures have images, host, B values.
    """

    def __init__(
        self,
        structures: Structures,
        width: Tensor,
        inverse_splitting: Tensor,
        periodic: list[bool],
    ) -> None:
        edges = structures.edges["charge"]
        self.n_structures = len(structures)
        self.n_atoms = structures.n_atoms
        owner = structures.batch.index_select(0, edges.sender)
        counts = torch.bincount(owner, minlength=len(structures))
        self.bounds = torch.cat([counts.new_zeros(1), counts.cumsum(0)])  # (B + 1,)
        ends: list[int] = self.bounds.tolist()
        ranges = list(pairwise(ends))
        order = _interleaved(ranges, owner.device)
        self.sender = edges.sender.index_select(0, order)
        self.receiver = edges.receiver.index_select(0, order)
        self.structure = owner
        self.slices = [
            (b, start, stop)
            for b, (start, stop) in enumerate(ranges)
            if periodic[b] and stop > start
        ]
        if self.slices:
            shift = edges.shift.T.contiguous()
            self.shift = torch.stack([row.index_select(0, order) for row in shift])  # (3, P)
        vectors = self._vectors(structures.positions.detach(), structures.cell.detach())
        self._between = vectors
        self._squared = _dot(vectors, vectors)
        a = self._inverse_spread(width.detach())
        root = self._squared.sqrt()
        value = torch.erf(a.sqrt() * root)
        self._rates = [a]
        if self.slices:
            b = inverse_splitting.index_select(0, self.structure)
            value = value - torch.erf(b.sqrt() * root)
            self._rates.append(b)
        self._derivatives = [value / root]
        self._gaussians = [
            2.0 * (rate / math.pi).sqrt() * torch.exp(-rate * self._squared)
            for rate in self._rates
        ]

    @property
    def squared_distances(self) -> Tensor:
        """Of every pair, A^2, shape ``(P,)``."""
        return self._squared

    @property
    def values(self) -> Tensor:
        """Interaction of every pair of unit charges, 1/A, shape ``(P,)``; no gradient."""
        return self._derivatives[0]

    def derivative(self, order: int) -> Tensor:
        """Derivative of f in x = r^2, from the one before it; shape ``(P,)``."""
        while len(self._derivatives) <= order:
            n = len(self._derivatives) - 1
            rest = self._gaussians[0] * (-self._rates[0]) ** n if n else self._gaussians[0]
            if len(self._rates) > 1:
                far = self._gaussians[1] * (-self._rates[1]) ** n if n else self._gaussians[1]
                rest = rest - far
            known = (2 * n + 1) * self._derivatives[n]
            self._derivatives.append(0.5 * (rest - known) / self._squared)
        return self._derivatives[order]

    def energy(
        self, u: Tensor, v: Tensor, positions: Tensor, cell: Tensor, width: Tensor
    ) -> Tensor:
        """Bilinear form u.f.v of every structure, shape ``(B,)``; differentiable in all.

        Args:
            u: charges, e, shape ``(N,)``.
            v: other charges, or the same.
            positions: with the values this sum was made for, A, shape ``(N, 3)``.
            cell: the same, A, shape ``(B, 3, 3)``.
            width: the same, A, shape ``(N,)``.
        """
        s, r = self.sender, self.receiver
        if u is v:
            product = 2.0 * (u.index_select(0, s) * u.index_select(0, r))
        else:
            product = u.index_select(0, s) * v.index_select(0, r)
            product = product + u.index_select(0, r) * v.index_select(0, s)
        a = self._inverse_spread(width) if width.requires_grad else self._rates[0]
        energy: Tensor = _Energy.apply(product, positions, cell, a, self)
        return energy

    def potential(self, charges: Tensor) -> Tensor:
        """Potential at every atom, e/A, shape ``(N,)``; differentiable in the charges."""
        s, r, f = self.sender, self.receiver, self.values
        zero = torch.zeros_like(charges)
        out = zero.index_add(0, r, f * charges.index_select(0, s))
        return out.index_add(0, s, f * charges.index_select(0, r))

    def vectors(self, positions: Tensor, cell: Tensor) -> Tensor:
        """From sender to receiver, A, ``(3, P)``; with their history if one is recorded."""
        if torch.is_grad_enabled():
            between: Tensor = _Vectors.apply(positions, cell, self)
            return between
        return self._between

    def squares(self, positions: Tensor, cell: Tensor) -> Tensor:
        """Squared distances, A^2, ``(P,)``; with their history if one is recorded."""
        if torch.is_grad_enabled():
            d = self.vectors(positions, cell)
            return _dot(d, d)
        return self._squared

    def _inverse_spread(self, width: Tensor) -> Tensor:
        square = width * width
        spread = square.index_select(0, self.sender) + square.index_select(0, self.receiver)
        return 0.5 / spread

    def _vectors(self, positions: Tensor, cell: Tensor) -> Tensor:
        """From sender to receiver, A, shape ``(3, P)``."""
        rows = positions.T.contiguous()
        out = rows.new_empty((3, len(self.sender)))
        for row, into in zip(rows, out, strict=True):
            torch.sub(
                row.index_select(0, self.receiver), row.index_select(0, self.sender), out=into
            )
        for b, start, stop in self.slices:
            out[:, start:stop].addmm_(cell[b].T, self.shift[:, start:stop])
        return out

    def _ends(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Adjoint of :meth:`_vectors`: onto positions, ``(N, 3)``, and cells, ``(B, 3, 3)``."""
        out = vectors.new_zeros((3, self.n_atoms))
        for row, into in zip(vectors, out, strict=True):
            into.index_add_(0, self.receiver, row)
            into.index_add_(0, self.sender, row, alpha=-1)
        cell = vectors.new_zeros((self.n_structures, 3, 3))
        for b, start, stop in self.slices:
            torch.mm(self.shift[:, start:stop], vectors[:, start:stop].T, out=cell[b])
        return out.T, cell


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


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner products of two sets of vectors ``(3, P)``."""
    return torch.addcmul(torch.addcmul(a[0] * b[0], a[1], b[1]), a[2], b[2])


class _Energy(Function):
    """Sum of weight times f over the pairs of every structure, ``(B,)``."""

    @staticmethod
    def forward(
        ctx: Any, weight: Tensor, positions: Tensor, cell: Tensor, a: Tensor, pairs: PairSum
    ) -> Tensor:
        ctx.save_for_backward(weight, positions, cell, a)
        ctx.pairs = pairs
        if not pairs.n_structures:
            return weight.new_zeros(0)
        return torch.segment_reduce(weight * pairs.values, "sum", offsets=pairs.bounds)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        weight, positions, cell, a = ctx.saved_tensors
        pairs: PairSum = ctx.pairs
        each = gradient.index_select(0, pairs.structure)
        in_weight = in_positions = in_cell = in_a = None
        if ctx.needs_input_grad[0]:
            x = pairs.squares(positions, cell)
            in_weight = each * _Kernel.apply(x, a, 0, pairs)
        if ctx.needs_input_grad[1] or ctx.needs_input_grad[2]:
            in_positions, in_cell = _Slopes.apply(each * weight, positions, cell, a, pairs)
        if ctx.needs_input_grad[3]:
            in_a = each * weight * _slope_in_a(pairs.squares(positions, cell), a, 0)
        return in_weight, in_positions, in_cell, in_a, None


class _Slopes(Function):
    """Gradient of :class:`_Energy` in positions and cells: 2 weight f' d, gathered."""

    @staticmethod
    def forward(
        ctx: Any, weight: Tensor, positions: Tensor, cell: Tensor, a: Tensor, pairs: PairSum
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(weight, positions, cell, a)
        ctx.pairs = pairs
        scale = weight * pairs.derivative(1)
        return pairs._ends(pairs._between * scale.mul_(2.0))

    @staticmethod
    def backward(ctx: Any, at_positions: Tensor, at_cell: Tensor) -> tuple[Tensor | None, ...]:
        weight, positions, cell, a = ctx.saved_tensors
        pairs: PairSum = ctx.pairs
        d, x = pairs.vectors(positions, cell), pairs.squares(positions, cell)
        towards = _Vectors.apply(at_positions, at_cell, pairs)  # (3, P)
        along = 2.0 * _dot(d, towards)
        first = _Kernel.apply(x, a, 1, pairs)
        in_weight = in_positions = in_cell = in_a = None
        if ctx.needs_input_grad[0]:
            in_weight = first * along
        if ctx.needs_input_grad[1] or ctx.needs_input_grad[2]:
            second = _Kernel.apply(x, a, 2, pairs)
            vectors = (2.0 * weight) * (first * towards + (second * along) * d)
            in_positions, in_cell = _Ends.apply(vectors, pairs)
        if ctx.needs_input_grad[3]:
            in_a = weight * along * _slope_in_a(x, a, 1)
        return in_weight, in_positions, in_cell, in_a, None


def _slope_in_a(x: Tensor, a: Tensor, order: int) -> Tensor:
    r"""Derivative of :math:`f^{(n)}` in a: :math:`(-a)^n e^{-a x} / \sqrt{\pi a}`."""
    return torch.exp(-a * x) * (-a) ** order / (math.pi * a).sqrt()


class _Vectors(Function):
    """Vectors of all pairs, linear in positions and cells."""

    @staticmethod
    def forward(ctx: Any, positions: Tensor, cell: Tensor, pairs: PairSum) -> Tensor:
        ctx.pairs = pairs
        return pairs._vectors(positions, cell)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        return *_Ends.apply(gradient, ctx.pairs), None


class _Ends(Function):
    """The adjoint of :class:`_Vectors`, whose adjoint is :class:`_Vectors` again."""

    @staticmethod
    def forward(ctx: Any, vectors: Tensor, pairs: PairSum) -> tuple[Tensor, Tensor]:
        ctx.pairs = pairs
        return pairs._ends(vectors)

    @staticmethod
    def backward(ctx: Any, at_positions: Tensor, at_cell: Tensor) -> tuple[Tensor, None]:
        return _Vectors.apply(at_positions, at_cell, ctx.pairs), None


class _Kernel(Function):
    """A derivative of f in x: its own derivative is the next one."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, a: Tensor, order: int, pairs: PairSum) -> Tensor:
        ctx.save_for_backward(x, a)
        ctx.order, ctx.pairs = order, pairs
        return pairs.derivative(order).detach()  # an alias: the kept one stays off the graph

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        x, a = ctx.saved_tensors
        in_x = in_a = None
        if ctx.needs_input_grad[0]:
            in_x = gradient * _Kernel.apply(x, a, ctx.order + 1, ctx.pairs)
        if ctx.needs_input_grad[1]:
            in_a = gradient * _slope_in_a(x, a, ctx.order)
        return in_x, in_a, None, None
