r"""Activations that keep the variance of their input, and the gate that serves tensors.

Scalars pass through a function; a tensor cannot, as its direction must turn with the molecule,
and is multiplied by the activation of a scalar instead. Functions are divided by the root of
their second moment under a normal distribution.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function

from qeqtrain.nn.irreps import SCALAR, Irrep

SILU_GAIN = 1.6791767923989418
r"""About :math:`\langle \mathrm{silu}(z)^2 \rangle^{-1/2}` for normal z: e3nn's value,
drawn from a million samples with a fixed seed (exact: 1.67653), so that weights trained with
e3nn mean the same here."""

JAX_SILU_GAIN = 1.6765620560798837
"""The same as e3nn-jax has it: the mean over the quantiles k / 1000002 of a normal z."""

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
        channels: of every irrep that comes out, C.
        gain: that silu is multiplied by.
    """

    def __init__(self, channels: Mapping[Irrep, int], gain: float = SILU_GAIN) -> None:
        super().__init__()
        self.channels = dict(channels)
        self.gated = [irrep for irrep in channels if irrep.degree > 0]
        self.gain = gain

    def inputs(self, irrep: Irrep) -> int:
        """Count the channels of an irrep that have to come in: of 0e also the gates."""
        gates = sum(self.channels[i] for i in self.gated) if irrep == SCALAR else 0
        return self.channels.get(irrep, 0) + gates

    def forward(self, x: dict[Irrep, Tensor]) -> dict[Irrep, Tensor]:
        """Map ``(N, 2l + 1, inputs)`` by irrep to ``(N, 2l + 1, C)``.

        Of 0e the scalars themselves come first, then the gates in the order of the irreps.
        """
        scalars = self.gain * silu(x[SCALAR])
        sizes = [self.channels[SCALAR], *(self.channels[irrep] for irrep in self.gated)]
        value, *gates = scalars.split(sizes, dim=-1)
        opened = dict(zip(self.gated, gates, strict=True))
        found = {}
        for irrep in self.channels:
            if irrep == SCALAR:
                found[irrep] = value
            elif irrep.degree == 0:
                found[irrep] = TANH_GAIN * torch.tanh(x[irrep])
            else:
                found[irrep] = x[irrep] * opened[irrep]
        return found
