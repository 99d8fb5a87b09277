r"""The form behind messages of tensors and its derivatives, each in one pass through the pairs.

With tensors x of the sender, weights w and directions Y of the edge and any tensors g of the
receiver, a message contracted with g,

.. math:: \Psi(x, w, Y, g) = \sum_{ij} \sum_{pkc} g_{i, pk, c}\, w_{ij, pc}
    \sum_{k_1} M(Y_{ij})_{pk, k_1}\, x_{j, k_1 c}

is linear in each of the four. The message is its derivative by g; those by the others are the
backward pass; differentiated once more they are sums of the same four kinds. Each of the three
levels goes through the pairs once, in blocks that stay in a CPU's cache, so that no tensor of
all edges with all components, the bulk of such a network's memory traffic, is ever held.

A pair is listed once and counts both ways: weights are shared, and direction tensors of odd
degree change their sign.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function

from qeqtrain.nn.blocks import pairs_at_once
from qeqtrain.physics.tracing import traced

BLOCK = 1 << 13
"""Numbers per component and direction in a block on a CPU: 256 pairs with 32 channels."""


class Ways(NamedTuple):
    """How the outputs of a product lie in memory, and the couplings behind them.

    Attributes:
        couple: from direction tensors to the matrix of an edge, ``(Y, K * D)``.
        collect: from the transpose of such a matrix back, ``(D * K, Y)``.
        parity: of direction tensors, ``(Y,)``.
        path: that each output belongs to, ``(K,)``.
        blocks: for each output irrep its components and its paths. Components come first in
            memory, so that a path's weight meets rows that lie side by side.
    """

    couple: Tensor
    collect: Tensor
    parity: Tensor
    path: Tensor
    blocks: tuple[tuple[int, int], ...]

    @property
    def paths(self) -> int:
        """Count the weights per channel."""
        return sum(n for _, n in self.blocks)

    def split(self, outputs: Tensor) -> list[Tensor]:
        """Cut ``(N, K, C)`` into ``(N, 2l+1, n, C)``, one for every output irrep."""
        parts = outputs.split([d * n for d, n in self.blocks], dim=1)
        return [p.unflatten(1, (d, n)) for p, (d, n) in zip(parts, self.blocks, strict=True)]


def tensor_messages(
    x: Tensor, w: Tensor, y: Tensor, sender: Tensor, receiver: Tensor, ways: Ways
) -> Tensor:
    """Sum what every atom receives.

    Args:
        x: shape ``(N, D, C)``.
        w: weights of every pair and path, shape ``(P, paths, C)``.
        y: direction tensors of the pairs, sender to receiver, shape ``(P, Y)``.
        sender: one end of every pair, shape ``(P,)``.
        receiver: the other; a pair counts in both directions.
        ways: the couplings.

    Returns:
        Shape ``(N, K, C)``; differentiable any number of times.
    """
    if traced():
        every = EdgeBlock(ways, sender, receiver, slice(None))
        out = product(every.matrix(y), x.index_select(0, every.start))
        out = every.weighted(out, every.widen(w))
        total = x.new_zeros((x.shape[0], len(ways.path), x.shape[-1]))
        return total.index_add(0, every.end, out)
    return _Message.apply(x, w, y, sender, receiver, ways)


def _blocks(pairs: int, like: Tensor) -> Iterator[slice]:
    """Cut the pairs into blocks; a GPU takes them all at once."""
    size = pairs_at_once(pairs, like, BLOCK)
    for start in range(0, pairs, size):
        yield slice(start, min(pairs, start + size))


class EdgeBlock:
    """The edges, in both directions, of one block of pairs.

    The first half of all its tensors are edges from sender to receiver, the second half those
    from receiver to sender. Forms of the operations are those that a CPU is fastest at: no sum
    over short dimensions, no transposed copies, and what is not needed any more is overwritten
    (its place is in the cache; with two threads, memory is what they wait for).
    """

    def __init__(self, ways: Ways, s: Tensor, r: Tensor, part: slice) -> None:
        self.ways = ways
        self.start = torch.cat([s[part], r[part]])
        self.end = torch.cat([r[part], s[part]])
        self.part = part

    def matrix(self, y: Tensor) -> Tensor:
        """Build the matrices of all edges, ``(E, K, D)``."""
        y = y[self.part]
        y = torch.cat([y, y * self.ways.parity])
        return (y @ self.ways.couple).unflatten(1, (len(self.ways.path), -1))

    def directions(self, outer: Tensor) -> Tensor:
        """Give the derivative of ``left . M(Y) right`` by Y, ``(P, Y)``, from :func:`outer`."""
        forth, back = (outer.flatten(1) @ self.ways.collect).chunk(2)
        return torch.addcmul(forth, back, self.ways.parity)

    def widen(self, w: Tensor) -> Tensor:
        """Repeat the pairs' weights for every component, ``(P, K, C)``."""
        return w[self.part].index_select(1, self.ways.path)

    @staticmethod
    def weighted(outputs: Tensor, wide: Tensor) -> Tensor:
        """Multiply outputs ``(E, K, C)`` by the widened weights of their pairs."""
        return (outputs.unflatten(0, (2, -1)) * wide).flatten(0, 1)

    @staticmethod
    def weigh(outputs: Tensor, wide: Tensor) -> Tensor:
        """Do the same in place."""
        outputs.unflatten(0, (2, -1)).mul_(wide)
        return outputs

    def sum_product(self, a: Tensor, b: Tensor, out: Tensor) -> None:
        """Sum a product of outputs over directions and components: into ``(P, paths, C)``.

        Overwrites ``b``.
        """
        product, back = b.mul_(a).chunk(2)
        product.add_(back)
        target = out[self.part].split([n for _, n in self.ways.blocks], dim=1)
        for total, block in zip(target, self.ways.split(product), strict=True):
            total.copy_(block[:, 0])
            for k in range(1, block.shape[1]):
                total.add_(block[:, k])


def product(m: Tensor, x: Tensor, onto: Tensor | None = None) -> Tensor:
    """Multiply ``(E, K, D)`` by ``(E, D, C)``; add it to ``onto`` if that is given."""
    if m.shape[2] > 1:
        return _bmm(m, x, onto)
    return m * x if onto is None else onto.addcmul_(m, x)


def transposed(m: Tensor, u: Tensor, onto: Tensor | None = None) -> Tensor:
    """Multiply the transpose of ``(E, K, D)`` by ``(E, K, C)``, as above."""
    if m.shape[2] > 1:
        return _bmm(m.transpose(1, 2), u, onto)
    found = (m * u).sum(dim=1, keepdim=True)
    return found if onto is None else onto.add_(found)


def outer(left: Tensor, right: Tensor, onto: Tensor | None = None) -> Tensor:
    """Multiply ``(E, K, C)`` and ``(E, D, C)`` to ``(E, D, K)``, summed over C, as above."""
    return _bmm(right, left.transpose(1, 2), onto)


def _bmm(a: Tensor, b: Tensor, onto: Tensor | None) -> Tensor:
    return torch.bmm(a, b) if onto is None else onto.baddbmm_(a, b)


class _Message(Function):
    """Derivative of the form by the receiver's tensors."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, w: Tensor, y: Tensor, s: Tensor, r: Tensor, ways: Ways
    ) -> Tensor:
        ctx.save_for_backward(x, w, y, s, r)
        ctx.ways = ways
        total = x.new_zeros((x.shape[0], len(ways.path), x.shape[-1]))
        for part in _blocks(len(s), x):
            block = EdgeBlock(ways, s, r, part)
            out = product(block.matrix(y), x.index_select(0, block.start))
            total.index_add_(0, block.end, block.weigh(out, block.widen(w)))
        return total

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, w, y, s, r = ctx.saved_tensors
        needs = tuple(ctx.needs_input_grad[:3])
        grads = _Gradient.apply(x, w, y, g, s, r, ctx.ways, needs)
        return *(d if n else None for d, n in zip(grads, needs, strict=True)), None, None, None


class _Gradient(Function):
    """Derivatives of the form by the sender's tensors, the weights and the directions."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        w: Tensor,
        y: Tensor,
        g: Tensor,
        s: Tensor,
        r: Tensor,
        ways: Ways,
        needs: tuple[bool, bool, bool],
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.save_for_backward(x, w, y, g, s, r)
        ctx.ways = ways
        ctx.set_materialize_grads(False)
        by_x = torch.zeros_like(x)
        by_w = torch.zeros_like(w) if not needs[1] else torch.empty_like(w)
        by_y = torch.zeros_like(y)
        for part in _blocks(len(s), x):
            block = EdgeBlock(ways, s, r, part)
            m, there = block.matrix(y), x.index_select(0, block.start)
            here = g.index_select(0, block.end)
            if needs[1]:
                block.sum_product(here, product(m, there), by_w)
            u = block.weigh(here, block.widen(w))
            if needs[0]:
                by_x.index_add_(0, block.start, transposed(m, u))
            if needs[2]:
                by_y[part] = block.directions(outer(u, there))
        return by_x, by_w, by_y

    @staticmethod
    def backward(
        ctx: Any, vx: Tensor | None, vw: Tensor | None, vy: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        x, w, y, g, s, r = ctx.saved_tensors
        if torch.is_grad_enabled():
            grads = _second_open(x, w, y, g, (vx, vw, vy), s, r, ctx.ways)
        else:
            grads = _second(x, w, y, g, (vx, vw, vy), s, r, ctx.ways, ctx.needs_input_grad)
        return *grads, None, None, None, None


Cotangents = tuple[Tensor | None, Tensor | None, Tensor | None]


def _second_open(
    x: Tensor, w: Tensor, y: Tensor, g: Tensor, v: Cotangents, s: Tensor, r: Tensor, ways: Ways
) -> list[Tensor | None]:
    """Differentiate the three gradients, in functions that can be differentiated again.

    The form is linear in every argument: put a cotangent in its argument's place.
    """
    total: list[Tensor | None] = [None] * 4
    for k, cotangent in enumerate(v):
        if cotangent is None:
            continue
        at = [x, w, y]
        at[k] = cotangent
        needs = tuple(i != k for i in range(3))
        by = list(_Gradient.apply(*at, g, s, r, ways, needs))
        by.append(_Message.apply(*at, s, r, ways))
        for i in range(4):
            if i != k:
                total[i] = by[i] if total[i] is None else total[i] + by[i]
    return total


def _second(
    x: Tensor,
    w: Tensor,
    y: Tensor,
    g: Tensor,
    v: Cotangents,
    s: Tensor,
    r: Tensor,
    ways: Ways,
    needs: Sequence[bool],
) -> list[Tensor | None]:
    """Do the same in one pass through the pairs."""
    vx, vw, vy = (
        torch.zeros_like(a) if b is None else b for a, b in zip((x, w, y), v, strict=True)
    )
    by_x, by_g = torch.zeros_like(x), torch.zeros_like(g)
    by_w, by_y = torch.empty_like(w), torch.empty_like(y)
    for part in _blocks(len(s), x):
        block = EdgeBlock(ways, s, r, part)
        m, vm = block.matrix(y), block.matrix(vy)
        there, v_there = x.index_select(0, block.start), vx.index_select(0, block.start)
        here = g.index_select(0, block.end)
        wide, v_wide = block.widen(w), block.widen(vw)
        dt = product(vm, there, onto=product(m, v_there))  # variation of t = M x
        if needs[3]:
            out = block.weigh(product(m, there), v_wide)
            out.unflatten(0, (2, -1)).addcmul_(dt.unflatten(0, (2, -1)), wide)
            by_g.index_add_(0, block.end, out)
        if needs[1]:
            block.sum_product(here, dt, by_w)
        if needs[0] or needs[2]:
            du, u = block.weighted(here, v_wide), block.weigh(here, wide)
        if needs[0]:
            by_x.index_add_(0, block.start, transposed(vm, u, onto=transposed(m, du)))
        if needs[2]:
            by_y[part] = block.directions(outer(u, v_there, onto=outer(du, there)))
    return [
        grad if need else None
        for grad, need in zip((by_x, by_w, by_y, by_g), needs, strict=False)
    ]
