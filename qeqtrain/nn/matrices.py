r"""Products of 3x3 matrices that are kept as nine components, channel by channel.

The derivatives of an anticommutator are anticommutators again,

.. math:: \langle G, \{A, B\} \rangle: \quad \partial_A = \{G, B^T\}, \quad
          \partial_B = \{G, A^T\}

so that two functions serve energies, forces and training. Both add up their three terms a few
atoms at a time: no tensor of all 27 products is written to memory.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from qeqtrain.physics.function import Function
from qeqtrain.physics.recomputing import slices
from qeqtrain.physics.tracing import traced

ATOMS = 128
"""Whose matrices of 64 channels are multiplied together on a CPU: they stay in its cache."""


def matrix_basis() -> Tensor:
    """List the nine orthonormal 3x3 matrices: trace, antisymmetric, traceless symmetric.

    Returns:
        float64, shape ``(9, 3, 3)``.
    """
    basis = torch.zeros(9, 3, 3, dtype=torch.float64)
    basis[0] = torch.eye(3, dtype=basis.dtype) / math.sqrt(3.0)
    half = math.sqrt(0.5)
    for k, (i, j) in enumerate([(1, 2), (2, 0), (0, 1)]):
        basis[1 + k, i, j], basis[1 + k, j, i] = -half, half
    diagonal = torch.tensor([[1.0, -1.0, 0.0], [-1.0, -1.0, 2.0]], dtype=basis.dtype)
    basis[4:6] = torch.diag_embed(diagonal / diagonal.norm(dim=1, keepdim=True))
    for k, (i, j) in enumerate([(0, 1), (0, 2), (1, 2)]):
        basis[6 + k, i, j] = basis[6 + k, j, i] = half
    return basis


class MatrixProducts(nn.Module):
    """Products of the matrices of every atom and channel, on their components."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("basis", matrix_basis().reshape(9, 9), persistent=False)

    def anticommutator(self, a: Tensor, b: Tensor) -> Tensor:
        """Work out {a, b} = ab + ba, shape ``(N, 9, C)``."""
        a, b = self._matrix(a), self._matrix(b)
        if traced():
            return self._components(_plain(a, b) + _plain(b, a))
        return self._components(_Anticommutator.apply(a, b))

    def square(self, a: Tensor) -> Tensor:
        """Multiply ``(N, 9, C)`` by itself: half of {a, a}."""
        a = self._matrix(a)
        return self._components(_plain(a, a) if traced() else _Square.apply(a))

    def _matrix(self, components: Tensor) -> Tensor:
        """Write out the matrices, ``(N, 3, 3, C)``."""
        return (self.basis.to(components.dtype).T @ components).unflatten(1, (3, 3))

    def _components(self, matrix: Tensor) -> Tensor:
        """Write ``(N, 3, 3, C)`` in the basis."""
        return self.basis.to(matrix.dtype) @ matrix.flatten(1, 2)


def _plain(a: Tensor, b: Tensor) -> Tensor:
    """Multiply matrices, ``(N, 3, 3, C)``."""
    return (a[:, :, :, None] * b[:, None]).sum(dim=2)


def _add_product(a: Tensor, b: Tensor, out: Tensor) -> None:
    """Add the product of matrices, ``(N, 3, 3, C)``, to another."""
    for k in range(3):
        out.addcmul_(a[:, :, k, None], b[:, None, k])


def _parts(a: Tensor) -> list[slice]:
    size = max(1, len(a)) if a.is_cuda else max(1, ATOMS * 64 // a.shape[-1])
    return list(slices(len(a), size))


class _Anticommutator(Function):
    """AB + BA of matrices ``(N, 3, 3, C)``; differentiable any number of times."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(a, b)
        out = torch.empty(a.shape, dtype=a.dtype, device=a.device)
        for part in _parts(a):
            one = out[part].zero_()
            _add_product(a[part], b[part], one)
            _add_product(b[part], a[part], one)
        return out

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        a, b = ctx.saved_tensors
        by_a = _Anticommutator.apply(g, b.transpose(1, 2)) if ctx.needs_input_grad[0] else None
        by_b = _Anticommutator.apply(g, a.transpose(1, 2)) if ctx.needs_input_grad[1] else None
        return by_a, by_b


class _Square(Function):
    """AA of matrices ``(N, 3, 3, C)``; differentiable any number of times."""

    @staticmethod
    def forward(ctx: Any, a: Tensor) -> Tensor:
        ctx.save_for_backward(a)
        out = torch.empty(a.shape, dtype=a.dtype, device=a.device)
        for part in _parts(a):
            _add_product(a[part], a[part], out[part].zero_())
        return out

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (a,) = ctx.saved_tensors
        return _Anticommutator.apply(g, a.transpose(1, 2))
