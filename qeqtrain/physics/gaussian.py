r"""Gaussian charges pair by pair: what is left of their interaction at short range.

Two unit charges with Gaussian densities of widths :math:`\sigma_i, \sigma_j` interact as
:math:`\mathrm{erf}(\sqrt a\, r)/r` with :math:`a = 1/(2\gamma_{ij}^2)`,
:math:`\gamma_{ij}^2 = \sigma_i^2 + \sigma_j^2`. In a periodic structure narrow densities are
widened for the sum over waves, to :math:`w_i \ge \sigma_i` (:mod:`ewald`); pairs carry the
difference, with :math:`b = 1/(2 (w_i^2 + w_j^2))`,

.. math:: f(x) = \frac{\mathrm{erf}\sqrt{a x} - \mathrm{erf}\sqrt{b x}}{\sqrt x}, \qquad
          x = r^2 ,

which is zero where neither was widened and falls off like a Gaussian where one was. A molecule
has b = 0. Every derivative in x follows from the one before it,

.. math:: 2x f^{(n+1)} = c_a (-a)^n - c_b (-b)^n - (2n + 1) f^{(n)}, \qquad
          c_a = 2 \sqrt{a/\pi}\, e^{-a x},

so that forces and the gradients of a force loss need no further error function or exponential.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from qeqtrain.physics.function import Function, wanted
from qeqtrain.physics.pairs import PairList, dot


class PairSum:
    r"""Short-range interaction of pairs, without the Coulomb constant, 1/A.

    Args:
        pairs: those that are within reach of each other.
        width: standard deviation of every atom's density, A, float64, shape ``(N,)``.
        widened: that of the density in the sum over waves, A, shape ``(N,)``.
        images: 1 for atoms of periodic structures, 0 for those of molecules, shape ``(N,)``;
            ``None`` if all are molecules.
    """

    def __init__(
        self, pairs: PairList, width: Tensor, widened: Tensor, images: Tensor | None
    ) -> None:
        self.pairs = pairs
        self._images = None if images is None else images.index_select(0, pairs.sender)
        root = pairs.squares.sqrt()
        self._rates = self.rates(width.detach(), widened.detach())
        value = torch.erf(self._rates[0].sqrt() * root)
        if len(self._rates) > 1:
            value = value - torch.erf(self._rates[1].sqrt() * root)
        self._derivatives = [value / root]
        self._gaussians: list[Tensor] = []

    @property
    def values(self) -> Tensor:
        """Interaction of every pair of unit charges, 1/A, shape ``(P,)``; no gradient."""
        return self._derivatives[0]

    def rates(self, width: Tensor, widened: Tensor) -> tuple[Tensor, ...]:
        """Work out a, and b unless all structures are molecules, 1/A^2, shape ``(P,)``."""
        a = 0.5 / self._sum_at_ends(width * width)
        if self._images is None:
            return (a,)
        return a, 0.5 * self._images / self._sum_at_ends(widened * widened)

    def derivative(self, order: int) -> Tensor:
        """Derivative of f in x = r^2, from the one before it; shape ``(P,)``."""
        x = self.pairs.squares
        if order and not self._gaussians:
            self._gaussians = [
                (rate * (4.0 / math.pi)).sqrt() * torch.exp(-rate * x) for rate in self._rates
            ]
        while len(self._derivatives) <= order:
            n = len(self._derivatives) - 1
            rest = self._gaussians[0] * (-self._rates[0]) ** n if n else self._gaussians[0]
            if len(self._rates) > 1:
                far = self._gaussians[1] * (-self._rates[1]) ** n if n else self._gaussians[1]
                rest = rest - far
            known = torch.sub(rest, self._derivatives[n], alpha=2 * n + 1)
            self._derivatives.append(known.div_(x).mul_(0.5))
        return self._derivatives[order]

    def energy(
        self,
        u: Tensor,
        v: Tensor,
        positions: Tensor,
        cell: Tensor,
        width: Tensor,
        widened: Tensor,
    ) -> Tensor:
        """Bilinear form u.f.v of every structure, shape ``(B,)``; differentiable in all.

        Args:
            u: charges, e, shape ``(N,)``.
            v: other charges, or the same.
            positions: with the values this sum was made for, A, shape ``(N, 3)``.
            cell: the same, A, shape ``(B, 3, 3)``.
            width: the same, A, shape ``(N,)``.
            widened: the same, A, shape ``(N,)``.
        """
        s, r = self.pairs.sender, self.pairs.receiver
        if u is v:
            product = 2.0 * (u.index_select(0, s) * u.index_select(0, r))
        else:
            product = u.index_select(0, s) * v.index_select(0, r)
            product = product + u.index_select(0, r) * v.index_select(0, s)
        rates = self.rates(width, widened) if width.requires_grad else self._rates
        far = rates[1] if len(rates) > 1 else None
        energy: Tensor = _Energy.apply(product, positions, cell, rates[0], far, self)
        return energy

    def squares(self, positions: Tensor, cell: Tensor) -> Tensor:
        """Squared distances, A^2, ``(P,)``; with their history if one is recorded."""
        if torch.is_grad_enabled():
            d = self.pairs.between(positions, cell)
            return dot(d, d)
        return self.pairs.squares

    def _sum_at_ends(self, values: Tensor) -> Tensor:
        s, r = self.pairs.sender, self.pairs.receiver
        return values.index_select(0, s) + values.index_select(0, r)


class _Energy(Function):
    """Sum of weight times f over the pairs of every structure, ``(B,)``."""

    @staticmethod
    def forward(
        ctx: Any,
        weight: Tensor,
        positions: Tensor,
        cell: Tensor,
        a: Tensor,
        b: Tensor | None,
        sums: PairSum,
    ) -> Tensor:
        ctx.save_for_backward(weight, positions, cell, a, b)
        ctx.sums = sums
        pairs = sums.pairs
        if not pairs.n_structures:
            return weight.new_zeros(0)
        return torch.segment_reduce(weight * sums.values, "sum", offsets=pairs.bounds)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        weight, positions, cell, a, b = ctx.saved_tensors
        sums: PairSum = ctx.sums
        asked = wanted(ctx)
        each = gradient.index_select(0, sums.pairs.structure)
        found: list[Tensor | None] = [None] * 6
        if asked[0]:
            x = sums.squares(positions, cell)
            found[0] = each * _Kernel.apply(x, a, b, 0, sums)
        if asked[1] or asked[2]:
            found[1:3] = _Slopes.apply(each * weight, positions, cell, a, b, sums)
        for index, rate, sign in ((3, a, 1.0), (4, b, -1.0)):
            if rate is not None and asked[index]:
                x = sums.squares(positions, cell)
                found[index] = sign * each * weight * _slope_in_rate(x, rate, 0)
        return tuple(found)


class _Slopes(Function):
    """Gradient of :class:`_Energy` in positions and cells: 2 weight f' d, gathered."""

    @staticmethod
    def forward(
        ctx: Any,
        weight: Tensor,
        positions: Tensor,
        cell: Tensor,
        a: Tensor,
        b: Tensor | None,
        sums: PairSum,
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(weight, positions, cell, a, b)
        ctx.sums = sums
        scale = weight * sums.derivative(1)
        return sums.pairs.gathered(sums.pairs.vectors * scale.mul_(2.0))

    @staticmethod
    def backward(ctx: Any, at_positions: Tensor, at_cell: Tensor) -> tuple[Tensor | None, ...]:
        weight, positions, cell, a, b = ctx.saved_tensors
        sums: PairSum = ctx.sums
        asked = wanted(ctx)
        d, x = sums.pairs.between(positions, cell), sums.squares(positions, cell)
        towards = sums.pairs.differences(at_positions, at_cell)  # (3, P)
        along = 2.0 * dot(d, towards)
        first = _Kernel.apply(x, a, b, 1, sums)
        found: list[Tensor | None] = [None] * 6
        if asked[0]:
            found[0] = first * along
        if asked[1] or asked[2]:
            second = _Kernel.apply(x, a, b, 2, sums)
            vectors = (2.0 * weight) * (first * towards + (second * along) * d)
            found[1:3] = sums.pairs.gathered(vectors)
        for index, rate, sign in ((3, a, 1.0), (4, b, -1.0)):
            if rate is not None and asked[index]:
                found[index] = sign * weight * along * _slope_in_rate(x, rate, 1)
        return tuple(found)


def _slope_in_rate(x: Tensor, rate: Tensor, order: int) -> Tensor:
    r"""Derivative of :math:`f^{(n)}` in a: :math:`(-a)^n e^{-a x} / \sqrt{\pi a}`; 0 at 0."""
    there = rate > 0.0
    rate = torch.where(there, rate, 1.0)
    slope = torch.exp(-rate * x) * (-rate) ** order / (math.pi * rate).sqrt()
    return torch.where(there, slope, 0.0)


class _Kernel(Function):
    """A derivative of f in x: its own derivative is the next one."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, a: Tensor, b: Tensor | None, order: int, sums: PairSum
    ) -> Tensor:
        ctx.save_for_backward(x, a, b)
        ctx.order, ctx.sums = order, sums
        return sums.derivative(order).detach()  # an alias: the kept one stays off the graph

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, a, b = ctx.saved_tensors
        asked = wanted(ctx)
        found: list[Tensor | None] = [None] * 5
        if asked[0]:
            found[0] = gradient * _Kernel.apply(x, a, b, ctx.order + 1, ctx.sums)
        for index, rate, sign in ((1, a, 1.0), (2, b, -1.0)):
            if rate is not None and asked[index]:
                found[index] = sign * gradient * _slope_in_rate(x, rate, ctx.order)
        return tuple(found)
