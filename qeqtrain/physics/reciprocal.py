r"""The smooth, long-range part of Ewald's sum, over wave vectors.

.. math:: u^T A_k v = \frac{8\pi}{V} \sum_{k}^{\mathrm{half}}
          \frac{e^{-\eta^2 k^2/2}}{k^2}\, \mathrm{Re}\, \rho_u(k)^* \rho_v(k), \qquad
          \rho_u(k) = \sum_i u_i e^{-i k \cdot r_i}

With :math:`T = [\cos k \cdot r_i \mid \sin k \cdot r_i]`, shape ``(n, 2K)``, the structure
factors are :math:`T^T u`, the potential is :math:`T w T^T u` and the matrix
:math:`T w T^T`. The phases are products of fractional coordinates and integers; a derivative
of T in a fractional coordinate is T again with cosines and sines exchanged. So
:class:`_Analysis` (:math:`T^T x`) and its adjoint :class:`_Synthesis` (:math:`T y`) are each
other's backward, to any order, and one table serves them all: no cosine is worked out twice
and no gradient of a table ever exists.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from qeqtrain.physics.buckets import Bucket
from qeqtrain.physics.function import Function

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


class WaveSum:
    """Sum over half of the wave vectors for the structures of one bucket.

    Args:
        bucket: b structures of up to n atoms.
        positions: A, float64, shape ``(N, 3)``.
        lattice: of the b structures, three vectors each.
        splitting: width eta, A, shape ``(b,)``.
        longest: wave number at which each structure's sum ends, 1/A, shape ``(b,)``.
    """

    def __init__(
        self,
        bucket: Bucket,
        positions: Tensor,
        lattice: Lattice,
        splitting: Tensor,
        longest: Tensor,
    ) -> None:
        self.bucket = bucket
        self._lattice = lattice
        vectors, kept = _wave_vectors(lattice, longest)  # (b, K, 3) integers, (b, K)
        self._vectors = vectors
        self._padding = (~kept).double()
        self._kept = 8.0 * math.pi * kept.double()
        self._decay = -0.5 * (splitting * splitting)[:, None]
        #: 2 pi times the integers, once for the cosines and once for the sines, (b, 2K, 3).
        self.phase_factors = (2.0 * math.pi) * torch.cat([vectors, vectors], dim=1)
        b, n = bucket.shape
        half = vectors.shape[1]
        table = positions.new_empty((b, n, 2 * half))
        phase = torch.bmm(self._fractions(positions, lattice), vectors.mT).mul_(2.0 * math.pi)
        torch.cos(phase, out=table[..., :half])
        torch.sin(phase, out=table[..., half:])
        self.table = table.mul_(bucket.mask[..., None])

    def energy(self, u: Tensor, v: Tensor, positions: Tensor, lattice: Lattice) -> Tensor:
        """Bilinear form of every structure of the bucket, e^2/A, shape ``(b,)``.

        Args:
            u: charges, e, shape ``(N,)``.
            v: other charges, or the same.
            positions: with the values this sum was made for, ``(N, 3)``; differentiable.
            lattice: the same, of the b structures.
        """
        weight = self._weights(lattice)
        fractions = self._fractions(positions, lattice)
        if u is v:
            factor = _Analysis.apply(self.bucket.gather(u)[..., None], fractions, self)
            own: Tensor = (weight * (factor * factor).squeeze(-1)).sum(-1)
            return own
        both = torch.stack([self.bucket.gather(u), self.bucket.gather(v)], dim=-1)
        factors = _Analysis.apply(both, fractions, self)  # (b, 2K, 2)
        total: Tensor = (weight * factors[..., 0] * factors[..., 1]).sum(-1)
        return total

    def fill(self, matrix: Tensor) -> None:
        """Add the lower triangle of T w T^T to a stack ``(b, n, n)``; no gradient."""
        scaled = self.table * self._weights(self._lattice).sqrt()[:, None, :]
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

    def _weights(self, lattice: Lattice) -> Tensor:
        r"""Factors :math:`8\pi e^{-\eta^2 k^2/2} / (V k^2)`, for cosines and sines, (b, 2K)."""
        k = torch.bmm(self._vectors, (2.0 * math.pi) * lattice.inverse.mT)
        square = (k * k).sum(-1) + self._padding
        damped = torch.exp(self._decay * square) / square
        weight = self._kept * damped / lattice.volume[:, None]
        return torch.cat([weight, weight], dim=-1)


def _turned(factors: Tensor) -> Tensor:
    """Exchange cosines and sines as a derivative in the phase does; ``(b, 2K, r)``."""
    cosines, sines = factors.chunk(2, dim=1)
    return torch.cat([sines, -cosines], dim=1)


def _phase_gradient(x: Tensor, y: Tensor, fractions: Tensor, waves: WaveSum) -> Tensor:
    """Derivative of x.T.y in the fractional coordinates, shape ``(b, n, 3)``.

    Args:
        x: shape ``(b, n, r)``.
        y: shape ``(b, 2K, r)``.
        fractions: what T was made from, shape ``(b, n, 3)``.
        waves: keeps T.
    """
    columns = _turned(y)[..., None] * waves.phase_factors[:, :, None, :]  # (b, 2K, r, 3)
    slopes = _Synthesis.apply(columns.flatten(2), fractions, waves)
    gradient: Tensor = (x[..., None] * slopes.unflatten(2, (-1, 3))).sum(2)
    return gradient


class _Analysis(Function):
    """Structure factors of r columns of charges: (b, n, r) -> (b, 2K, r)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, fractions: Tensor, waves: WaveSum) -> Tensor:
        ctx.save_for_backward(x, fractions)
        ctx.waves = waves
        return torch.bmm(waves.table.mT, x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, fractions = ctx.saved_tensors
        in_x = in_fractions = None
        if ctx.needs_input_grad[0]:
            in_x = _Synthesis.apply(gradient, fractions, ctx.waves)
        if ctx.needs_input_grad[1]:
            in_fractions = _phase_gradient(x, gradient, fractions, ctx.waves)
        return in_x, in_fractions, None


class _Synthesis(Function):
    """Waves summed at the atoms: (b, 2K, r) -> (b, n, r)."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, fractions: Tensor, waves: WaveSum) -> Tensor:
        ctx.save_for_backward(y, fractions)
        ctx.waves = waves
        return torch.bmm(waves.table, y)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        y, fractions = ctx.saved_tensors
        in_y = in_fractions = None
        if ctx.needs_input_grad[0]:
            in_y = _Analysis.apply(gradient, fractions, ctx.waves)
        if ctx.needs_input_grad[1]:
            in_fractions = _phase_gradient(gradient, y, fractions, ctx.waves)
        return in_y, in_fractions, None


@lru_cache(maxsize=64)
def _half_grid(bounds: tuple[int, int, int], device: torch.device) -> Tensor:
    """Integer triples within bounds, one of every pair m, -m, without zero; (M, 3)."""
    axes = [torch.arange(-m, m + 1, dtype=torch.float64) for m in bounds]
    axes[0] = axes[0][bounds[0] :]
    grid = torch.cartesian_prod(*axes)
    first, second, third = grid.unbind(-1)
    ahead = (first > 0) | ((first == 0) & ((second > 0) | ((second == 0) & (third > 0))))
    return grid[ahead].to(device)


def _wave_vectors(lattice: Lattice, longest: Tensor) -> tuple[Tensor, Tensor]:
    """Integer triples of every structure up to its longest wave vector.

    Args:
        lattice: of b structures.
        longest: 1/A, shape ``(b,)``.

    Returns:
        The triples, ``(b, K, 3)``, and which of them count rather than pad, ``(b, K)``.
    """
    # k.a = 2 pi m for a cell vector a, hence |m| <= |k| |a| / 2 pi.
    reach = longest[:, None] * lattice.cell.norm(dim=-1) / (2.0 * math.pi)
    bounds = [int(m) for m in reach.amax(dim=0).tolist()]
    grid = _half_grid((bounds[0], bounds[1], bounds[2]), longest.device)  # (M, 3)
    k = (2.0 * math.pi) * (grid @ lattice.inverse.mT)  # (b, M, 3)
    inside = (k * k).sum(-1) <= longest[:, None] ** 2
    if longest.shape[0] == 1:
        triples = grid[inside[0]][None]
        return triples, inside.new_ones(triples.shape[:2])
    most = int(inside.sum(-1).max())
    order = torch.argsort(inside.to(torch.int8), dim=-1, descending=True)[:, :most]
    return grid[order], torch.gather(inside, 1, order)
