r"""Activations that keep the variance of their input, and the gate that serves tensors.

Scalars pass through a function; a tensor cannot, as its direction must turn with the molecule,
and is multiplied by the activation of a scalar instead. Functions are divided by the root of
their second moment under a normal distribution.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function

from qeqtrain.nn.irreps import SCALAR, Irrep

SILU_GAIN = 1.6791767923989418
r"""About :math:`\langle \mathrm{silu}(z)^2 \rangle^{-1/2}` for normal z: e3nn's value,
drawn from a million samples with a fixed seed (exact: 1.67653), so that weights trained with
e3nn mean the same here."""

TANH_GAIN = 1.5937334472592695
r"""The same of tanh (exact: 1.59254)."""


def silu(x: Tensor) -> Tensor:
    """Multiply by the logistic function; few passes over memory in both derivatives."""
    return _Silu.apply(x)


class _Silu(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return torch.nn.functional.silu(x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return _SiluSlope.apply(x, g)


class _SiluSlope(Function):
    """Multiply g by the derivative of silu."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, g: Tensor) -> Tensor:
        ctx.save_for_backward(x, g)
        return torch.ops.aten.silu_backward(g, x)

    @staticmethod
    def backward(ctx: Any, v: Tensor) -> tuple[Tensor, Tensor]:
        x, g = ctx.saved_tensors
        if torch.is_grad_enabled():
            return _curvature(x) * g * v, _SiluSlope.apply(x, v)
        return _curvature(x).mul_(g).mul_(v), torch.ops.aten.silu_backward(v, x)


def _curvature(x: Tensor) -> Tensor:
    r"""Differentiate silu twice: :math:`s (1 - s) (2 + x (1 - 2 s))`, finite for every x."""
    s = torch.sigmoid(x)
    return s * (1.0 - s) * (2.0 + x * (1.0 - 2.0 * s))


class Gate(nn.Module):
    """Scalars through a function, every other tensor times the function of its own scalar.

    Even scalars go through silu, odd ones through tanh, which keeps them odd.

    Args:
        irreps: what comes out.
    """

    def __init__(self, irreps: list[Irrep]) -> None:
        super().__init__()
        self.irreps = irreps
        self.gated = [irrep for irrep in irreps if irrep.degree > 0]

    def copies(self, irrep: Irrep) -> int:
        """Count how often the channels of an irrep have to come in: 0e also as the gates."""
        return (irrep in self.irreps) + (len(self.gated) if irrep == SCALAR else 0)

    def forward(self, x: dict[Irrep, Tensor]) -> Tensor:
        """Map ``(N, 2l + 1, copies * C)`` by irrep to the joint tensor ``(N, D, C)``.

        The copies of 0e are the scalars themselves, then the gates in the order of ``irreps``.
        """
        scalars = SILU_GAIN * silu(x[SCALAR])
        value, *gates = scalars.chunk(self.copies(SCALAR), dim=-1)
        opened = dict(zip(self.gated, gates, strict=True))
        parts = []
        for irrep in self.irreps:
            if irrep == SCALAR:
                parts.append(value)
            elif irrep.degree == 0:
                parts.append(TANH_GAIN * torch.tanh(x[irrep]))
            else:
                parts.append(x[irrep] * opened[irrep])
        return torch.cat(parts, dim=1)
