r"""The smooth, long-range part of Ewald's sum, over wave vectors.

.. math:: u^T A_k v = \frac{8\pi}{V} \sum_{k}^{\mathrm{half}}
          \frac{e^{-w_0^2 k^2}}{k^2}\, \mathrm{Re}\, \rho_u(k)^* \rho_v(k), \qquad
          \rho_u(k) = \sum_i u_i e^{-s_i k^2/2}\, e^{-i k \cdot r_i}

of Gaussian densities of widths :math:`w_i`, with :math:`s_i = w_i^2 - w_0^2` and the narrowest
:math:`w_0` of a structure. With
:math:`T = e^{-s_i k^2/2}\, [\cos k \cdot r_i \mid \sin k \cdot r_i]`, shape ``(n, 2K)``, the
structure factors are :math:`T^T u`, the potential is :math:`T g T^T u` and the matrix
:math:`T g T^T`. The phases are products of fractional coordinates and integers; a derivative
of T in a fractional coordinate is T again with cosines and sines exchanged, one in s or
:math:`k^2` is T with a factor of its row or column. So :class:`_Analysis` (:math:`T^T x`) and
its adjoint :class:`_Synthesis` (:math:`T y`) are each other's backward, to any order, and one
table serves them all: no cosine is worked out twice and no gradient of a table ever exists.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from qeqtrain.physics.buckets import Bucket
from qeqtrain.physics.function import Function, wanted
from qeqtrain.physics.placing import place

_ROWS = 96
"""Rows of the matrix worked out together; above that many, the upper triangle is skipped."""


@dataclass(frozen=True)
class Lattice:
    """Cells of several structures with what follows from them.

    Attributes:
        cell: three vectors each, rows, A, float64, shape ``(b, 3, 3)``.
        inverse: shape ``(b, 3, 3)``.
        volume: A^3, shape ``(b,)``.
    """

    cell: Tensor
    inverse: Tensor
    volume: Tensor

    @classmethod
    def of(cls, cell: Tensor) -> Lattice:
        """Invert cells by cross products: an LU and its derivatives take ten times as long."""
        rolled = torch.roll(cell, -1, dims=1)
        across = torch.linalg.cross(rolled, torch.roll(rolled, -1, dims=1))  # b x c, ...
        volume = (cell[:, 0] * across[:, 0]).sum(-1)
        return cls(cell, across.mT / volume[:, None, None], volume.abs())

    def take(self, structures: Tensor) -> Lattice:
        """Choose some of the structures."""
        if structures.shape[0] == self.volume.shape[0] == 1:
            return self
        parts = (self.cell, self.inverse, self.volume)
        return Lattice(*(t.index_select(0, structures) for t in parts))


@dataclass(frozen=True)
class _Point:
    """What a table was made from, with the history that is recorded of it.

    Attributes:
        fractions: positions in units of the cell vectors, shape ``(b, n, 3)``.
        spread: s of every atom, A^2, ``(b, n)``, or ``None`` where all are zero and stay so.
        squares: k^2, cosines and sines, 1/A^2, shape ``(b, 2K)``; not read without a spread.
    """

    fractions: Tensor
    spread: Tensor | None
    squares: Tensor | None


class WaveSum:
    """Sum over half of the wave vectors for the structures of one bucket.

    Args:
        bucket: b structures of up to n atoms.
        positions: A, float64, shape ``(N, 3)``.
        lattice: of the b structures, three vectors each.
        width: of every density in this sum, A, shape ``(N,)``.
        narrowest: least of these in each structure, A, shape ``(b,)``.
        longest: wave number at which each structure's sum ends, 1/A, shape ``(b,)``, on the
            host.
        box: the lattice on the host, which decides what waves there are.
        equal: whether within each structure all widths are the narrowest, and constants.
    """

    def __init__(
        self,
        bucket: Bucket,
        positions: Tensor,
        lattice: Lattice,
        width: Tensor,
        narrowest: Tensor,
        longest: Tensor,
        box: Lattice,
        *,
        equal: bool,
    ) -> None:
        self.bucket = bucket
        self._lattice = lattice
        device = positions.device
        chosen, counted = _wave_vectors(box, longest)  # (b, K, 3) integers, (b, K)
        vectors, kept = place(chosen, device), place(counted, device)
        self._vectors = vectors
        self._padding = (~kept).double()
        self._kept = 8.0 * math.pi * kept.double()
        self._least = (narrowest * narrowest)[:, None]
        self._equal = equal
        #: 2 pi times the integers, once for the cosines and once for the sines, (b, 2K, 3).
        self.phase_factors = (2.0 * math.pi) * torch.cat([vectors, vectors], dim=1)
        b, n = bucket.shape
        half = vectors.shape[1]
        table = positions.new_empty((b, n, 2 * half))
        phase = torch.bmm(self._fractions(positions, lattice), vectors.mT).mul_(2.0 * math.pi)
        torch.cos(phase, out=table[..., :half])
        torch.sin(phase, out=table[..., half:])
        squares = self._squares(lattice)
        if not equal:
            factors = _form_factors(self._spread(width), squares)  # (b, n, K)
            table.view(b, n, 2, half).mul_(factors[:, :, None, :])
        if not bucket.full:
            table.mul_(bucket.mask[..., None])
        self.table = table
        self._here = self._weights(lattice, squares)

    def energy(
        self, u: Tensor, v: Tensor, positions: Tensor, lattice: Lattice, width: Tensor
    ) -> Tensor:
        """Bilinear form of every structure of the bucket, e^2/A, shape ``(b,)``.

        Args:
            u: charges, e, shape ``(N,)``.
            v: other charges, or the same.
            positions: with the values this sum was made for, ``(N, 3)``; differentiable.
            lattice: the same, of the b structures.
            width: the same, ``(N,)``.
        """
        squares = self._squares(lattice)
        weight = self._weights(lattice, squares)
        at = _Point(
            self._fractions(positions, lattice),
            None if self._equal else self._spread(width),
            None if self._equal else torch.cat([squares, squares], dim=-1),
        )
        if u is v:
            factor = _analyse(self.bucket.gather(u)[..., None], at, self)
            own: Tensor = (weight * (factor * factor).squeeze(-1)).sum(-1)
            return own
        both = torch.stack([self.bucket.gather(u), self.bucket.gather(v)], dim=-1)
        factors = _analyse(both, at, self)  # (b, 2K, 2)
        total: Tensor = (weight * factors[..., 0] * factors[..., 1]).sum(-1)
        return total

    def fill(self, matrix: Tensor) -> None:
        """Add the lower triangle of T g T^T to a stack ``(b, n, n)``; no gradient."""
        scaled = self.table * self._here.sqrt()[:, None, :]
        n = matrix.shape[1]
        for start in range(0, n, _ROWS):
            stop = min(start + _ROWS, n)
            rows = scaled[:, start:stop]
            matrix[:, start:stop, :stop].baddbmm_(rows, scaled[:, :stop].mT)

    def _fractions(self, positions: Tensor, lattice: Lattice) -> Tensor:
        """Positions in units of the cell vectors, shape ``(b, n, 3)``."""
        atoms = self.bucket.atoms
        gathered = positions.index_select(0, atoms.flatten()).view(*atoms.shape, 3)
        return torch.bmm(gathered, lattice.inverse)

    def _spread(self, width: Tensor) -> Tensor:
        """What the squares of the widths have beyond the narrowest, A^2, shape ``(b, n)``."""
        return self.bucket.gather(width * width) - self._least * self.bucket.mask

    def _squares(self, lattice: Lattice) -> Tensor:
        """Squares of the wave vectors, 1/A^2, shape ``(b, K)``; not zero in the padding."""
        k = torch.bmm(self._vectors, (2.0 * math.pi) * lattice.inverse.mT)
        return (k * k).sum(-1) + self._padding

    def _weights(self, lattice: Lattice, squares: Tensor) -> Tensor:
        r"""Factors :math:`8\pi e^{-w_0^2 k^2} / (V k^2)`, for cosines and sines, (b, 2K)."""
        damped = torch.exp(-self._least * squares) / squares
        weight = self._kept * damped / lattice.volume[:, None]
        return torch.cat([weight, weight], dim=-1)


def _turned(factors: Tensor) -> Tensor:
    """Exchange cosines and sines as a derivative in the phase does; ``(b, 2K, r)``."""
    cosines, sines = factors.chunk(2, dim=1)
    return torch.cat([sines, -cosines], dim=1)


def _gradients(
    x: Tensor, y: Tensor, at: _Point, waves: WaveSum, asked: list[bool]
) -> tuple[Tensor | None, ...]:
    """Derivatives of x.T.y in fractional coordinates, spread and squares, if asked for.

    Args:
        x: shape ``(b, n, r)``.
        y: shape ``(b, 2K, r)``.
        at: what T was made from.
        waves: keeps T.
        asked: three of them.
    """
    in_fractions = in_spread = in_squares = None
    if asked[0]:
        columns = _turned(y)[..., None] * waves.phase_factors[:, :, None, :]  # (b, 2K, r, 3)
        slopes = _synthesise(columns.flatten(2), at, waves)
        in_fractions = (x[..., None] * slopes.view(*x.shape, 3)).sum(2)
    if at.spread is not None and at.squares is not None:
        if asked[1]:
            in_spread = -0.5 * (x * _synthesise(at.squares[..., None] * y, at, waves)).sum(-1)
        if asked[2]:
            in_squares = -0.5 * (y * _analyse(at.spread[..., None] * x, at, waves)).sum(-1)
    return in_fractions, in_spread, in_squares


def _analyse(x: Tensor, at: _Point, waves: WaveSum) -> Tensor:
    """Structure factors of r columns of charges: (b, n, r) -> (b, 2K, r)."""
    factors: Tensor = _Analysis.apply(x, at.fractions, at.spread, at.squares, waves)
    return factors


def _synthesise(y: Tensor, at: _Point, waves: WaveSum) -> Tensor:
    """Waves summed at the atoms: (b, 2K, r) -> (b, n, r)."""
    sums: Tensor = _Synthesis.apply(y, at.fractions, at.spread, at.squares, waves)
    return sums


class _Analysis(Function):
    """The product T^T x."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        fractions: Tensor,
        spread: Tensor | None,
        squares: Tensor | None,
        waves: WaveSum,
    ) -> Tensor:
        ctx.save_for_backward(x, fractions, spread, squares)
        ctx.waves = waves
        # As rows, which a product with few of them is two to four times as fast with.
        return torch.bmm(x.mT.contiguous(), waves.table).mT

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, *point = ctx.saved_tensors
        at, asked = _Point(*point), wanted(ctx)
        in_x = _synthesise(gradient, at, ctx.waves) if asked[0] else None
        return in_x, *_gradients(x, gradient, at, ctx.waves, asked[1:]), None


class _Synthesis(Function):
    """The product T y."""

    @staticmethod
    def forward(
        ctx: Any,
        y: Tensor,
        fractions: Tensor,
        spread: Tensor | None,
        squares: Tensor | None,
        waves: WaveSum,
    ) -> Tensor:
        ctx.save_for_backward(y, fractions, spread, squares)
        ctx.waves = waves
        return torch.bmm(y.mT.contiguous(), waves.table.mT).mT

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        y, *point = ctx.saved_tensors
        at, asked = _Point(*point), wanted(ctx)
        in_y = _analyse(gradient, at, ctx.waves) if asked[0] else None
        return in_y, *_gradients(gradient, y, at, ctx.waves, asked[1:]), None


def _form_factors(spread: Tensor, squares: Tensor) -> Tensor:
    """Work out :math:`e^{-s_i k^2/2}`, ``(b, n, K)``, of s, ``(b, n)``, and k^2, ``(b, K)``."""
    if spread.device.type != "cpu":
        return torch.exp(-0.5 * spread[:, :, None] * squares[:, None, :])
    # There are few different widths: one exponential for each. A GPU would have to count them.
    kinds, which = torch.unique(spread, return_inverse=True)
    each = torch.exp((-0.5 * kinds)[:, None] * squares[:, None, :])  # (b, kinds, K)
    rows = which + len(kinds) * torch.arange(len(spread))[:, None]
    factors = each.flatten(0, 1).index_select(0, rows.flatten())
    return factors.view(*spread.shape, squares.shape[-1])


@lru_cache(maxsize=64)
def _half_grid(bounds: tuple[int, int, int]) -> Tensor:
    """Integer triples within bounds, one of every pair m, -m, without zero; (M, 3)."""
    axes = [torch.arange(-m, m + 1, dtype=torch.float64) for m in bounds]
    axes[0] = axes[0][bounds[0] :]
    grid = torch.cartesian_prod(*axes)
    first, second, third = grid.unbind(-1)
    ahead = (first > 0) | ((first == 0) & ((second > 0) | ((second == 0) & (third > 0))))
    return grid[ahead]


def _wave_vectors(lattice: Lattice, longest: Tensor) -> tuple[Tensor, Tensor]:
    """Integer triples of every structure up to its longest wave vector, on the host.

    Args:
        lattice: of b structures.
        longest: 1/A, shape ``(b,)``.

    Returns:
        The triples, ``(b, K, 3)``, and which of them count rather than pad, ``(b, K)``.
    """
    # k.a = 2 pi m for a cell vector a, hence |m| <= |k| |a| / 2 pi.
    reach = longest[:, None] * lattice.cell.norm(dim=-1) / (2.0 * math.pi)
    bounds = [int(m) for m in reach.amax(dim=0).tolist()]
    grid = _half_grid((bounds[0], bounds[1], bounds[2]))  # (M, 3)
    k = (2.0 * math.pi) * (grid @ lattice.inverse.mT)  # (b, M, 3)
    inside = (k * k).sum(-1) <= longest[:, None] ** 2
    if longest.shape[0] == 1:
        triples = grid[inside[0]][None]
        return triples, inside.new_ones(triples.shape[:2])
    most = int(inside.sum(-1).max())
    order = torch.argsort(inside.to(torch.int8), dim=-1, descending=True)[:, :most]
    return grid[order], torch.gather(inside, 1, order)
