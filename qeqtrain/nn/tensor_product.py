r"""Messages that couple a neighbour's tensors with the direction to it.

For every way p from a feature of degree l1 through a direction tensor of degree l2 to a degree
l3 (Batzner et al., Nat. Commun. 13, 2453 (2022), Eq. 8; ``uvu`` in e3nn's terms), an atom
receives

.. math:: m_{i, pk, c} = \sum_{j} w_{ij, pc}
    \sum_{k_1 k_2} C^p_{k_1 k_2 k}\, x_{j, k_1 c}\, Y_{ij, k_2}

All couplings together are one dense matrix per edge, :math:`M(Y)`, that multiplies the tensors
of the sender: one batched matrix product, where a call per path would spend its time on
launching. :mod:`~qeqtrain.nn.tensor_messages` evaluates and differentiates it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from qeqtrain.nn.forms import Coupled
from qeqtrain.nn.irreps import Irrep, Path, clebsch_gordan, families, in_memory, slices
from qeqtrain.nn.streamed import streamed
from qeqtrain.nn.tensor_messages import Ways, tensor_messages


class DenseProduct(nn.Module):
    """Couple neighbours' tensors with directions along every path, and sum over neighbours.

    Args:
        channels: of every irrep of the neighbours' tensors, in the order of
            :mod:`~qeqtrain.nn.irreps`.
        l_max: highest degree of the direction tensors.
        paths: the couplings.
    """

    def __init__(
        self, channels: Mapping[Irrep, int], l_max: int, paths: Sequence[Path]
    ) -> None:
        super().__init__()
        # True and pseudo tensors never share a path, so their matrices are kept apart, as are
        # tensors whose channels differ in number.
        self.paths = tuple(in_memory(paths, channels))
        self.groups = []
        for family in families(channels):
            own = [p for p in self.paths if p.feature in family]
            if not own:
                continue
            inputs = list(slices(family))
            self.register_buffer(
                f"couple_{len(self.groups)}", _couple(inputs, l_max, own), persistent=False
            )
            counts = [
                (out.dim, len(list(same)))
                for out, same in itertools.groupby(own, key=lambda p: p.out)
            ]
            numbers = [torch.arange(n).repeat(d) for d, n in counts]
            starts = itertools.accumulate((n for _, n in counts), initial=0)
            path = torch.cat([a + b for a, b in zip(numbers, starts, strict=False)])
            self.register_buffer(f"path_{len(self.groups)}", path, persistent=False)
            self.groups.append((family, channels[family[0]], tuple(counts)))
        signs = [(-1.0) ** degree for degree in range(l_max + 1) for _ in range(2 * degree + 1)]
        parity = torch.tensor(signs, dtype=torch.float64)
        self.register_buffer("parity", parity, persistent=False)

    def forward(
        self,
        x: Mapping[Irrep, Tensor],
        weights: Tensor,
        directions: Tensor,
        sender: Tensor,
        receiver: Tensor,
    ) -> dict[Irrep, Tensor]:
        """Sum the messages at every atom.

        Args:
            x: by irrep, shape ``(N, 2l + 1, C)``.
            weights: of every pair, for each path (order of ``paths``) the C of its feature one
                after the other, shape ``(P, W)``.
            directions: harmonics of the pairs, sender to receiver, shape ``(P, Y)``.
            sender: one end of every pair, shape ``(P,)``.
            receiver: the other; a pair counts in both directions.

        Returns:
            By irrep, shape ``(N, 2l + 1, C of all paths to it)``; paths in the order of
            ``paths``.
        """
        joint, groups = self._joint(x), self._ways(weights.dtype)
        totals = []
        for there, (ways, columns) in zip(joint, groups, strict=True):
            w = weights[:, columns].unflatten(1, (ways.paths, -1))
            totals.append(tensor_messages(there, w, directions, sender, receiver, ways))
        return self._by_irrep(totals)

    def streamed(
        self,
        x: Mapping[Irrep, Tensor],
        make: Callable[[Tensor], Tensor],
        radial: Tensor,
        directions: Tensor,
        sender: Tensor,
        receiver: Tensor,
    ) -> dict[Irrep, Tensor]:
        """Sum the messages without ever holding the weights of all pairs; see forward.

        Args:
            x: as above.
            make: weights ``(P, W)`` from the radial functions of P pairs.
            radial: functions of all pairs, shape ``(P, K)``.
            directions: as above.
            sender: as above.
            receiver: as above.
        """
        form = Coupled(sender, receiver, self._ways(directions.dtype))
        terms = (*self._joint(x), directions)
        return self._by_irrep(streamed(form, len(sender), make, terms, (radial,)))

    def _joint(self, x: Mapping[Irrep, Tensor]) -> list[Tensor]:
        """Lay the tensors of every group side by side, ``(N, D, C)``."""
        found = []
        for family, _, _ in self.groups:
            there = [x[irrep] for irrep in family]
            found.append(there[0] if len(there) == 1 else torch.cat(there, dim=1))
        return found

    def _ways(self, dtype: torch.dtype) -> list[tuple[Ways, slice]]:
        """Couplings of every group, and the columns of its weights."""
        found = []
        start = 0
        parity = self.parity.to(dtype)
        for k, (_, channels, blocks) in enumerate(self.groups):
            couple = getattr(self, f"couple_{k}").to(dtype)  # (Y, K, D)
            back = couple.transpose(1, 2).flatten(1).T  # (D * K, Y)
            path = getattr(self, f"path_{k}")
            ways = Ways(couple.flatten(1), back, parity, path, blocks)
            found.append((ways, slice(start, start + ways.paths * channels)))
            start += ways.paths * channels
        return found

    def _by_irrep(self, totals: Sequence[Tensor]) -> dict[Irrep, Tensor]:
        """Sort what the groups give, ``(N, K, C)``, by irrep."""
        parts: dict[Irrep, list[Tensor]] = {}
        first = 0
        for total, (ways, _) in zip(totals, self._ways(totals[0].dtype), strict=True):
            for (_, n), out in zip(ways.blocks, ways.split(total), strict=True):
                parts.setdefault(self.paths[first].out, []).append(out.flatten(-2))
                first += n
        return {
            irrep: p[0] if len(p) == 1 else torch.cat(p, dim=-1) for irrep, p in parts.items()
        }


def _couple(inputs: Sequence[tuple[Irrep, slice]], l_max: int, paths: Sequence[Path]) -> Tensor:
    """Write all couplings of a group as one tensor, ``(Y, K, D)``, float64."""
    at = dict(inputs)
    width = max(c.stop for c in at.values())
    blocks = []
    for out, same in itertools.groupby(paths, key=lambda p: p.out):
        own = list(same)
        block = torch.zeros((l_max + 1) ** 2, out.dim, len(own), width, dtype=torch.float64)
        for k, path in enumerate(own):
            edge = slice(path.edge**2, (path.edge + 1) ** 2)
            coupling = clebsch_gordan(path.feature.degree, path.edge, out.degree)
            block[edge, :, k, at[path.feature]] = coupling.permute(1, 2, 0)
        blocks.append(block.flatten(1, 2))
    return torch.cat(blocks, dim=1)
