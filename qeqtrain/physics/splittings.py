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
from qeqtrain.structures import Structures


def choose_splittings(
    structures: Structures, width: Tensor, accuracy: float
) -> list[Splitting]:
    """Choose the splitting of every structure, such that the listed pairs suffice for it.

    Args:
        structures: B of them.
        width: of every density, A, shape ``(N,)``.
        accuracy: relative error of Ewald's sums.

    Raises:
        UserMistake: one periodic direction, a charged slab, a list far too short.
    """
    kinds = structures.on_host("pbc").tolist()
    counts = torch.bincount(structures.on_host("batch"), minlength=len(structures))
    ends = counts.cumsum(0).tolist()
    widths = structures.on_host("width", width).tolist() if any(map(any, kinds)) else []
    positions, cell = structures.on_host("positions"), structures.on_host("cell")
    listed = structures.edges["charge"].cutoff
    reach = [listed] * len(structures)
    if structures.edges["charge"].reach is not None:
        reach = structures.on_host("reach.charge").tolist()
    found = []
    start = 0
    for i, (pbc, stop) in enumerate(zip(kinds, ends, strict=True)):
        at = positions[start:stop], cell[i], pbc, Counter(widths[start:stop]), accuracy
        start = stop
        try:
            best = split(*at)
            known = reach[i]
            if best.kind != MOLECULE and best.cutoff > known * (1.0 + 1e-6):
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
    if any(s.kind == SLAB for s in found):
        for i, (s, q) in enumerate(zip(found, _net_charges(structures), strict=True)):
            if s.kind == SLAB and not abs(q) <= NEUTRAL:
                raise UserMistake(f"{name_of(structures, i)}: {charged_slab(q)}")
    return found


def _net_charges(structures: Structures) -> list[float]:
    """Total charge of every structure; NaN where a potential is held and charge is free."""
    if structures.groups is None:
        given: list[float] = structures.on_host("total_charge").tolist()
        return given
    groups = structures.groups
    total = torch.zeros_like(structures.total_charge)
    charges: list[float] = total.index_add(0, groups.structure, groups.charge).tolist()
    return charges
