"""Messages of TensorNet and NequIP as forms of :mod:`~qeqtrain.nn.streamed`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from qeqtrain.nn.messages import narrow, widen
from qeqtrain.nn.tensor_messages import EdgeBlock, Ways, outer, product, transposed


@dataclass(frozen=True)
class Gathered:
    """:func:`~qeqtrain.nn.messages.gather`: one term x, one sum.

    Attributes:
        sender: one end of every pair, shape ``(P,)``.
        receiver: the other.
    """

    sender: Tensor
    receiver: Tensor

    def totals(self, terms: Sequence[Tensor]) -> list[Tensor]:
        """Make ``(N, 9, C)``."""
        return [torch.zeros_like(terms[0])]

    def add(
        self, part: slice, filters: Tensor, terms: Sequence[Tensor], totals: Sequence[Tensor]
    ) -> None:
        """Add the messages of a block in both directions."""
        s, r, wide = self.sender[part], self.receiver[part], widen(filters)
        totals[0].index_add_(0, r, terms[0].index_select(0, s).mul_(wide))
        totals[0].index_add_(0, s, wide.mul_(terms[0].index_select(0, r)))

    def slope(
        self,
        part: slice,
        filters: Tensor,
        terms: Sequence[Tensor],
        cotangents: Sequence[Tensor],
        by: Sequence[Tensor | None],
    ) -> Tensor:
        """Differentiate; the derivative by x is the message again."""
        (x,), (g,) = terms, cotangents
        s, r = self.sender[part], self.receiver[part]
        here, there = g.index_select(0, r), g.index_select(0, s)
        both = x.index_select(0, s).mul_(here)
        both.addcmul_(x.index_select(0, r), there)
        slope = torch.empty_like(filters)
        narrow(both, slope)
        if by[0] is not None:
            wide = widen(filters)
            by[0].index_add_(0, s, here.mul_(wide))
            by[0].index_add_(0, r, there.mul_(wide))
        return slope


@dataclass(frozen=True)
class Summed:
    """Filters summed at both ends of their pairs; no term.

    Attributes:
        sender: one end of every pair, shape ``(P,)``.
        receiver: the other.
        like: gives the type of the sum.
        atoms: N.
        channels: C.
    """

    sender: Tensor
    receiver: Tensor
    like: Tensor
    atoms: int
    channels: int

    def totals(self, terms: Sequence[Tensor]) -> list[Tensor]:
        """Make ``(N, 3, C)``."""
        return [self.like.new_zeros((self.atoms, 3, self.channels))]

    def add(
        self, part: slice, filters: Tensor, terms: Sequence[Tensor], totals: Sequence[Tensor]
    ) -> None:
        """Add a block at both ends."""
        totals[0].index_add_(0, self.receiver[part], filters)
        totals[0].index_add_(0, self.sender[part], filters)

    def slope(
        self,
        part: slice,
        filters: Tensor,
        terms: Sequence[Tensor],
        cotangents: Sequence[Tensor],
        by: Sequence[Tensor | None],
    ) -> Tensor:
        """Differentiate."""
        slope = cotangents[0].index_select(0, self.receiver[part])
        return slope.add_(cotangents[0].index_select(0, self.sender[part]))


@dataclass(frozen=True)
class Spread:
    r"""First tensors of all atoms: filters times vectors of both ends' species, spread.

    .. math:: y_{rkc} \mathrel{+}= d_{pk} f_{p\,l(k)\,c} (a_{rc} + b_{sc}), \qquad
              y_{skc} \mathrel{+}= \pm d_{pk} f_{p\,l(k)\,c} (a_{sc} + b_{rc})

    Terms are a, b, shape ``(N, C)``, and d, shape ``(P, 9)``; the sign is that of the component
    when the pair is seen from its other end.

    Attributes:
        sender: one end of every pair, shape ``(P,)``.
        receiver: the other.
        parity: signs, shape ``(9,)``.
    """

    sender: Tensor
    receiver: Tensor
    parity: Tensor

    def totals(self, terms: Sequence[Tensor]) -> list[Tensor]:
        """Make ``(N, 9, C)``."""
        atoms, channels = terms[0].shape
        return [terms[0].new_zeros((atoms, 9, channels))]

    def add(
        self, part: slice, filters: Tensor, terms: Sequence[Tensor], totals: Sequence[Tensor]
    ) -> None:
        """Add a block at both ends."""
        for end, into, along in self._ends(part, terms):
            wide = widen(filters * into[:, None])
            totals[0].index_add_(0, end, wide.mul_(along[:, :, None]))

    def slope(
        self,
        part: slice,
        filters: Tensor,
        terms: Sequence[Tensor],
        cotangents: Sequence[Tensor],
        by: Sequence[Tensor | None],
    ) -> Tensor:
        """Differentiate."""
        ends = self._ends(part, terms)
        total = torch.zeros_like(filters)
        for k, (end, into, along) in enumerate(ends):
            here = cotangents[0].index_select(0, end)
            if by[2] is not None:
                slope = (widen(filters * into[:, None]) * here).sum(dim=-1)
                by[2][part] += slope * self.parity if k else slope
            weights = torch.empty_like(filters)
            narrow(here.mul_(along[:, :, None]), weights)
            total.addcmul_(weights, into[:, None])
            if by[0] is not None or by[1] is not None:
                own = weights.mul_(filters).sum(dim=1)
                if by[0] is not None:
                    by[0].index_add_(0, end, own)
                if by[1] is not None:
                    by[1].index_add_(0, ends[1 - k][0], own)
        return total

    def _ends(
        self, part: slice, terms: Sequence[Tensor]
    ) -> tuple[tuple[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]:
        """Atom, vector of species and direction at either end of the pairs of a block."""
        own, other, along = terms
        s, r, d = self.sender[part], self.receiver[part], along[part]
        into_receiver = own.index_select(0, r).add_(other.index_select(0, s))
        into_sender = own.index_select(0, s).add_(other.index_select(0, r))
        return (r, into_receiver, d), (s, into_sender, d * self.parity)


@dataclass(frozen=True)
class Coupled:
    """:func:`~qeqtrain.nn.tensor_messages.tensor_messages` of several groups of tensors.

    Terms are the tensors of every group, ``(N, D, C)``, and the directions, ``(P, Y)``; of the
    filters ``(P, W)`` each group reads its own columns.

    Attributes:
        sender: one end of every pair, shape ``(P,)``.
        receiver: the other.
        groups: couplings of every group, and its columns.
    """

    sender: Tensor
    receiver: Tensor
    groups: Sequence[tuple[Ways, slice]]

    def totals(self, terms: Sequence[Tensor]) -> list[Tensor]:
        """Make ``(N, K, C)`` for every group."""
        return [
            x.new_zeros((x.shape[0], len(ways.path), x.shape[2]))
            for x, (ways, _) in zip(terms, self.groups, strict=False)
        ]

    def add(
        self, part: slice, filters: Tensor, terms: Sequence[Tensor], totals: Sequence[Tensor]
    ) -> None:
        """Add the messages of a block in both directions."""
        y = terms[-1][part]
        for x, total, (ways, columns) in zip(terms, totals, self.groups, strict=False):
            block, w = self._block(part, ways), _of_paths(filters, ways, columns)
            out = product(block.matrix(y), x.index_select(0, block.start))
            total.index_add_(0, block.end, block.weigh(out, block.widen(w)))

    def slope(
        self,
        part: slice,
        filters: Tensor,
        terms: Sequence[Tensor],
        cotangents: Sequence[Tensor],
        by: Sequence[Tensor | None],
    ) -> Tensor:
        """Differentiate."""
        y, slope = terms[-1][part], torch.zeros_like(filters)
        each = zip(terms, cotangents, by, self.groups, strict=False)
        for x, g, by_x, (ways, columns) in each:
            block, w = self._block(part, ways), _of_paths(filters, ways, columns)
            m, there = block.matrix(y), x.index_select(0, block.start)
            here = g.index_select(0, block.end)
            block.sum_product(here, product(m, there), _of_paths(slope, ways, columns))
            u = block.weigh(here, block.widen(w))
            if by_x is not None:
                by_x.index_add_(0, block.start, transposed(m, u))
            if by[-1] is not None:
                by[-1][part] += block.directions(outer(u, there))
        return slope

    def _block(self, part: slice, ways: Ways) -> EdgeBlock:
        return EdgeBlock(ways, self.sender[part], self.receiver[part], slice(None))


def _of_paths(filters: Tensor, ways: Ways, columns: slice) -> Tensor:
    """View the columns of a group as ``(p, paths, C)``."""
    return filters[:, columns].unflatten(1, (ways.paths, -1))
