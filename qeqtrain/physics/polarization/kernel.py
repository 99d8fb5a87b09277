r"""Tapered interaction of Gaussian charges as a function of the squared distance.

.. math:: g(x) = f(x)\, T(x), \qquad f(x) = \frac{\mathrm{erf}\sqrt{a x}}{\sqrt x}, \qquad
          T = 1 - 35 t^4 + 84 t^5 - 70 t^6 + 20 t^7, \quad t = \sqrt x / r_c

with :math:`a = 1/(2(\sigma_i^2 + \sigma_j^2))`. The taper falls from 1 to 0 with three
vanishing derivatives at either end. Derivatives of f in x follow from one another,

.. math:: 2x f^{(n+1)} = 2 \sqrt{a/\pi}\, (-a)^n e^{-a x} - (2n + 1) f^{(n)} ,

except within a density (:math:`a x < 1`, a shell may get there), where that loses digits and
:math:`f^{(n)} = 2\sqrt{a/\pi}\, (-a)^n F_n(a x)` with the series of Boys' function is used.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from qeqtrain.physics.function import Function, wanted

TAPER = {0: 1.0, 4: -35.0, 5: 84.0, 6: -70.0, 7: 20.0}
"""Coefficients of the taper by power of t."""

WITHIN = 1.0
"""a x below which the series is used; 18 terms of it are exact to rounding there."""


class TaperedKernel:
    """g and its derivatives for some pairs, each worked out once; nothing here has a gradient.

    Args:
        x: squared distances, A^2, shape ``(P,)``.
        rate: a of every pair, 1/A^2, shape ``(P,)``.
        cutoff: r_c, A.
        masked: whether g is zero beyond r_c; else the polynomial goes on.
    """

    def __init__(self, x: Tensor, rate: Tensor, cutoff: float, *, masked: bool) -> None:
        self.x, self.rate = x.detach(), rate.detach()
        self.cutoff, self.masked = cutoff, masked
        self._root = self.x.sqrt()
        self._t = self._root / cutoff
        self._bare: list[Tensor] = []
        self._taper: list[Tensor] = []
        self._inside: Tensor | None = None
        self._prefactor = self._gaussian = self.x  # made when a derivative is asked for

    def derivative(self, order: int) -> Tensor:
        """Derivative of g in x, shape ``(P,)``."""
        found = self._bare_derivative(order) * self._taper_derivative(0)
        for m in range(order):
            factors = self._bare_derivative(m) * self._taper_derivative(order - m)
            found.add_(factors, alpha=math.comb(order, m))
        return found.masked_fill_(self._t >= 1.0, 0.0) if self.masked else found

    def _taper_derivative(self, order: int) -> Tensor:
        while len(self._taper) <= order:
            n = len(self._taper)
            self._taper.append(taper_derivative(self._t, n).mul_(self.cutoff ** (-2 * n)))
        return self._taper[order]

    def _bare_derivative(self, order: int) -> Tensor:
        if not self._bare:
            self._bare.append(torch.erf(self.rate.sqrt() * self._root).div_(self._root))
            inside = self.rate * self.x < WITHIN
            on_cpu = inside.device.type == "cpu"
            self._inside = torch.nonzero(inside).squeeze(-1) if on_cpu else inside
            self._patch(0)
        if order and len(self._bare) == 1:
            self._prefactor = (self.rate * (4.0 / math.pi)).sqrt()
            self._gaussian = self._prefactor * torch.exp(-self.rate * self.x)
        while len(self._bare) <= order:
            n = len(self._bare) - 1
            rest = self._gaussian * (-self.rate) ** n if n else self._gaussian
            known = torch.sub(rest, self._bare[n], alpha=2 * n + 1)
            self._bare.append(known.div_(self.x).mul_(0.5))
            self._patch(n + 1)
        return self._bare[order]

    def _patch(self, order: int) -> None:
        """Replace what the recursion spoils within a density."""
        inside = self._inside
        if inside is None or not len(inside):
            return
        if inside.dtype == torch.bool:  # a GPU works all of them out rather than count a few
            near = torch.where(inside, self.rate * self.x, 0.0)
            front = (self.rate * (4.0 / math.pi)).sqrt() * (-self.rate) ** order
            self._bare[order] = torch.where(
                inside, front * boys(near, order), self._bare[order]
            )
            return
        a, x = self.rate.index_select(0, inside), self.x.index_select(0, inside)
        value = (a * (4.0 / math.pi)).sqrt() * (-a) ** order * boys(a * x, order)
        self._bare[order].index_copy_(0, inside, value)

    def of(self, x: Tensor, rate: Tensor, order: int = 0) -> Tensor:
        """Give a derivative of g with the history of ``x`` and ``rate``."""
        if not torch.is_grad_enabled() or not (x.requires_grad or rate.requires_grad):
            return self.derivative(order)
        value: Tensor = _Kernel.apply(x, rate, order, self)
        return value

    def slope_in_rate(self, x: Tensor, rate: Tensor, order: int) -> Tensor:
        r"""Derivative of :math:`g^{(n)}` in a; differentiable in both.

        .. math:: \partial_a f^{(n)} = (-a)^n e^{-a x} / \sqrt{\pi a}
        """
        t = x.sqrt() / self.cutoff
        total = torch.zeros_like(x)
        for m in range(order + 1):
            taper = taper_derivative(t, order - m) * self.cutoff ** (-2 * (order - m))
            total = total + math.comb(order, m) * taper * (-rate) ** m
        total = total * torch.exp(-rate * x) / (math.pi * rate).sqrt()
        return torch.where(t < 1.0, total, 0.0) if self.masked else total


class _Kernel(Function):
    """A derivative of g in x: its own derivative is the next one."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rate: Tensor, order: int, kernel: TaperedKernel) -> Tensor:
        ctx.save_for_backward(x, rate)
        ctx.order, ctx.kernel = order, kernel
        return kernel.derivative(order)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, rate = ctx.saved_tensors
        kernel: TaperedKernel = ctx.kernel
        asked = wanted(ctx)
        in_x = in_rate = None
        if asked[0]:
            in_x = gradient * kernel.of(x, rate, ctx.order + 1)
        if asked[1]:
            in_rate = gradient * kernel.slope_in_rate(x, rate, ctx.order)
        return in_x, in_rate, None, None


def taper_derivative(t: Tensor, order: int) -> Tensor:
    r"""Derivative of the taper in :math:`t^2`, a polynomial in t, shape as ``t``.

    Each takes :math:`t^p` to :math:`(p/2)\, t^{p-2}`.
    """
    powers = dict(TAPER)
    for _ in range(order):
        powers = {p - 2: c * p / 2 for p, c in powers.items() if p}
    lowest, highest = min(powers), max(powers)
    found = torch.full_like(t, powers[highest])
    for p in range(highest - 1, lowest - 1, -1):
        found = found * t
        if p in powers:
            found = found + powers[p]
    return found * t**lowest if lowest else found


def boys(y: Tensor, order: int) -> Tensor:
    r"""Boys' function :math:`F_n(y) = \int_0^1 t^{2n} e^{-y t^2} dt` for :math:`y \le 1`."""
    total = torch.zeros_like(y)
    for k in range(18, -1, -1):  # the sum of (-y)^k / (k! (2n + 2k + 1)), from its end
        total = 1.0 / (2 * order + 2 * k + 1) - y * total / (k + 1)
    return total
