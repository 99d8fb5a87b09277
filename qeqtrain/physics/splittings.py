"""The splitting of Ewald's sum for every structure of a batch and its listed pairs."""

from __future__ import annotations

from collections import Counter

import torch
from torch import Tensor

from qeqtrain.errors import UserMistake
from qeqtrain.physics.ewald import (
    MOLECULE,
    NEUTRAL,
    SLAB,
    TOLERATED,
    TOO_SHORT,
    Splitting,
    charged_slab,
    split,
)
from qeqtrain.physics.naming import name_of
from qeqtrain.physics.pairs import PairList
from qeqtrain.structures import Structures


def choose_splittings(
    structures: Structures, width: Tensor, accuracy: float, pairs: PairList
) -> list[Splitting]:
    """Choose the splitting of every structure, such that the pairs suffice for it.

    Args:
        structures: B of them.
        width: of every density, A, shape ``(N,)``; no gradient.
        accuracy: relative error of Ewald's sums.
        pairs: that were listed.

    Raises:
        UserMistake: one periodic direction, a charged slab, a list far too short.
    """
    ends = structures.atom_counts().long().cumsum(0).tolist()
    widths = width.tolist()
    positions = structures.positions.detach().cpu()
    cell = structures.cell.detach().cpu()
    listed = structures.edges["charge"].cutoff
    farthest: list[float] | None = None
    found = []
    start = 0
    for i, (pbc, stop) in enumerate(zip(structures.pbc.tolist(), ends, strict=True)):
        at = positions[start:stop], cell[i], pbc, Counter(widths[start:stop]), accuracy
        start = stop
        try:
            best = split(*at)
            if best.kind != MOLECULE and best.cutoff > listed * (1.0 + 1e-6):
                # The batch knows the shortest of its lists; this one's may be longer. All its
                # pairs are listed at least as far as one of them is.
                farthest = pairs.farthest() if farthest is None else farthest
                known = max(listed, farthest[i])
                needed, best = best, split(*at, known)
                if best.work > max(TOO_SHORT * needed.work, TOLERATED):
                    raise UserMistake(
                        f"the neighbour list of the charges ends at {known:.2f} A where "
                        f"{needed.cutoff:.2f} A are needed for an accuracy of {accuracy:g}; "
                        "make it with physics.ewald.CoulombReach for the widths and the "
                        "accuracy in use"
                    )
            found.append(best)
        except UserMistake as mistake:
            raise UserMistake(f"{name_of(structures, i)}: {mistake}") from None
    charged = [
        i
        for i, (s, q) in enumerate(zip(found, _net_charges(structures), strict=True))
        if s.kind == SLAB and not abs(q) <= NEUTRAL
    ]
    if charged:
        charge = _net_charges(structures)[charged[0]]
        raise UserMistake(f"{name_of(structures, charged[0])}: {charged_slab(charge)}")
    return found


def _net_charges(structures: Structures) -> list[float]:
    """Total charge of every structure; NaN where a potential is held and charge is free."""
    groups = structures.charge_groups()
    total = torch.zeros_like(structures.total_charge)
    charges: list[float] = total.index_add(0, groups.structure, groups.charge).tolist()
    return charges
