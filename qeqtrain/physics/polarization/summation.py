"""Sums over many pairs, a block at a time, differentiable to any order in little memory.

A cell of 1700 atoms has half a million pairs, and cores and shells need some hundred
intermediate numbers for each. A block of pairs that fits the cache is worked out,
added up over atoms, and forgotten; a backward pass works it out again and differentiates it
there. That pass is such a sum itself, so that every order of derivative has the same small
memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from qeqtrain.physics.function import Function, wanted
from qeqtrain.physics.pairs import PairList

BLOCK = 16384
"""Pairs worked out together: some hundred kB per number, the size of a core's cache."""


@dataclass(frozen=True, eq=False)
class Block:
    """Some pairs of a batch.

    Attributes:
        sender: shape ``(P,)``.
        receiver: shape ``(P,)``.
        structure: index of the structure of every pair, shape ``(P,)``.
        shift: cells between the two atoms, ``(3, P)``, or ``None`` if nothing is periodic.
        only: the structure that all pairs belong to, or ``None`` for several.
    """

    sender: Tensor
    receiver: Tensor
    structure: Tensor
    shift: Tensor | None
    only: int | None

    def vectors(self, positions: Tensor, cell: Tensor) -> list[Tensor]:
        """From receiver's atom back to sender's, A: three rows of shape ``(P,)``."""
        rows = [self.at_receiver(row) - self.at_sender(row) for row in positions.unbind(-1)]
        if self.shift is None:
            return rows
        if self.only is not None:
            images = cell[self.only].T @ self.shift
            return [row + image for row, image in zip(rows, images, strict=True)]
        each = cell.index_select(0, self.structure)
        images = torch.einsum("cp,pcx->xp", self.shift, each)
        return [row + image for row, image in zip(rows, images, strict=True)]

    def at_sender(self, values: Tensor) -> Tensor:
        """Take values of atoms, ``(N,)``, to the pairs."""
        return values.index_select(0, self.sender)

    def at_receiver(self, values: Tensor) -> Tensor:
        """Take values of atoms, ``(N,)``, to the pairs."""
        return values.index_select(0, self.receiver)

    def onto_atoms(self, senders: Tensor, receivers: Tensor, n_atoms: int) -> Tensor:
        """Add up values of either end of the pairs over atoms, ``(N,)``."""
        total = senders.new_zeros(n_atoms).index_add(0, self.sender, senders)
        return total.index_add(0, self.receiver, receivers)

    def onto_structures(self, values: Tensor, count: int) -> Tensor:
        """Add up values of the pairs over structures, ``(B,)``."""
        if count == 1:
            return values.sum(0, keepdim=True)
        return values.new_zeros(count).index_add(0, self.structure, values)


PairFunction = Callable[..., tuple[Tensor, ...]]
"""From a block and tensors of atoms and structures to sums over atoms and structures."""


def blocks_of(pairs: PairList) -> list[Block]:
    """Cut a list of pairs into blocks."""
    first = pairs.extent
    found = []
    for start in range(0, len(pairs), BLOCK):
        stop = min(start + BLOCK, len(pairs))
        alone = [b for b in range(len(first) - 1) if first[b] <= start and stop <= first[b + 1]]
        part = slice(start, stop)
        found.append(
            Block(
                pairs.sender[part],
                pairs.receiver[part],
                pairs.structure[part],
                None if pairs.shift is None else pairs.shift[:, part],
                alone[0] if alone else None,
            )
        )
    return found


def sum_over_blocks(
    function: PairFunction, blocks: Sequence[Block], *inputs: Tensor
) -> tuple[Tensor, ...]:
    """Add up a function of pairs; differentiable to any order in all inputs.

    Args:
        function: of a block and the inputs; its outputs are added up over blocks.
        blocks: at least one.
        *inputs: tensors of atoms or structures.
    """
    found: tuple[Tensor, ...] = _Sum.apply(*inputs, function, tuple(blocks))
    return found


def slopes_over_blocks(
    function: PairFunction,
    blocks: Sequence[Block],
    which: int,
    cotangent: Tensor,
    *inputs: Tensor,
) -> Tensor:
    """Add up the derivative of the first output in one input; differentiable as well.

    Args:
        function: of a block and the inputs.
        blocks: at least one.
        which: the input.
        cotangent: what the first output is multiplied by before its elements are added up.
        *inputs: tensors of atoms or structures.
    """
    slopes = _Slopes(function, len(inputs), (which,), (0,))
    (found,) = sum_over_blocks(slopes, blocks, *inputs, cotangent)
    return found


class _Sum(Function):
    """The sum over blocks, and as its derivative another one."""

    @staticmethod
    def forward(ctx: Any, *given: Any) -> tuple[Tensor, ...]:
        *inputs, function, blocks = given
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs)
        ctx.function, ctx.blocks = function, blocks
        total: list[Tensor] = []
        for block in blocks:
            part = function(block, *inputs)
            if total:
                for whole, more in zip(total, part, strict=True):
                    whole += more
            else:
                total = [t.detach().clone() for t in part]
        return tuple(total)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        inputs = ctx.saved_tensors
        asked = wanted(ctx)
        which = tuple(i for i, w in enumerate(asked) if w)
        outputs = tuple(i for i, c in enumerate(cotangents) if c is not None)
        found: list[Tensor | None] = [None] * (len(inputs) + 2)
        if which and outputs:
            given = [c for c in cotangents if c is not None]
            function = _Slopes(ctx.function, len(inputs), which, outputs)
            slopes = sum_over_blocks(function, ctx.blocks, *inputs, *given)
            for i, slope in zip(which, slopes, strict=True):
                found[i] = slope
        return tuple(found)


@dataclass(frozen=True)
class _Slopes:
    """Derivative of a function of pairs, as a function of pairs.

    Attributes:
        function: what is differentiated.
        count: how many of the inputs are its own; cotangents follow.
        which: the inputs whose derivative is wanted.
        outputs: the outputs that have a cotangent.
    """

    function: PairFunction
    count: int
    which: tuple[int, ...]
    outputs: tuple[int, ...]

    def __call__(self, block: Block, *given: Tensor) -> tuple[Tensor, ...]:
        inputs, cotangents = given[: self.count], given[self.count :]
        again = torch.is_grad_enabled()
        with torch.enable_grad():
            here = [
                t.view_as(t)
                if again and t.requires_grad
                else t.detach().requires_grad_(i in self.which)
                for i, t in enumerate(inputs)
            ]
            values = self.function(block, *here)
            return torch.autograd.grad(
                [values[i] for i in self.outputs],
                [here[i] for i in self.which],
                list(cotangents),
                create_graph=again,
                materialize_grads=True,
            )
