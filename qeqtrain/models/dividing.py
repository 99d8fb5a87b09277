"""Some structures of a batch as a batch of their own."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from qeqtrain.structures import ChargeGroups, Edges, Structures


def chosen(structures: Structures, places: Tensor) -> Structures:
    """Take some structures out of a batch.

    Args:
        structures: B of them.
        places: of those to take, ascending, int64, shape ``(b,)``.
    """
    s = structures
    renumbered = torch.full_like(s.total_charge, -1, dtype=torch.int64)
    renumbered[places] = torch.arange(len(places), device=places.device)
    owner = renumbered[s.batch]
    atoms = owner >= 0
    per_atom: dict[str, Any] = {
        name: None if value is None else value[atoms]
        for name, value in (
            ("numbers", s.numbers),
            ("positions", s.positions),
            ("external_potential", s.external_potential),
        )
    }
    names = ("cell", "pbc", "total_charge", "spin", "electric_field")
    per_structure: dict[str, Any] = {name: getattr(s, name)[places] for name in names}
    if s.data_set is not None:
        per_structure["data_set"] = s.data_set[places]
    before = places.tolist()
    return replace(
        s,
        **per_atom,
        **per_structure,
        batch=owner[atoms],
        groups=None if s.groups is None else _groups(s.groups, atoms, renumbered),
        edges={name: _edges(e, atoms, places) for name, e in s.edges.items()},
        places=tuple(s.places[k] for k in before) if s.places else tuple(before),
    )


def _edges(edges: Edges, atoms: Tensor, places: Tensor) -> Edges:
    """Take the pairs of the atoms that are marked."""
    kept = atoms[edges.sender]
    renumbered = atoms.cumsum(0) - 1
    return replace(
        edges,
        sender=renumbered[edges.sender[kept]],
        receiver=renumbered[edges.receiver[kept]],
        shift=edges.shift[kept],
        reach=None if edges.reach is None else edges.reach[places],
    )


def _groups(groups: ChargeGroups, atoms: Tensor, structures: Tensor) -> ChargeGroups:
    """Take the groups of the atoms that are marked, in structures that have new places."""
    owner = structures[groups.structure]
    kept = owner >= 0
    renumbered = kept.cumsum(0) - 1
    return replace(
        groups,
        member=renumbered[groups.member[atoms]],
        charge=groups.charge[kept],
        potential=groups.potential[kept],
        structure=owner[kept],
    )


def work(structures: Structures) -> Tensor:
    """Count what a network has to do for every structure: atoms and pairs, ``(B,)``."""
    found = torch.bincount(structures.batch, minlength=len(structures))
    for edges in structures.edges.values():
        owners = structures.batch[edges.sender]
        found = found + torch.bincount(owners, minlength=len(structures))
    return found


def shares(structures: Structures, parts: int, least: int = 1) -> list[Tensor]:
    """Share structures out so that all parts have about as much work.

    The largest goes first, each to the part with the least so far.

    Args:
        structures: B of them, on the host.
        parts: at most.
        least: :func:`work` that a part has on the average at least.

    Returns:
        Places in the batch, ascending within a part, int64.
    """
    each = work(structures).tolist()
    parts = max(1, min(parts, len(structures), sum(each) // max(least, 1)))
    given: list[list[int]] = [[] for _ in range(parts)]
    sums = [0] * parts
    for place in sorted(range(len(each)), key=lambda k: -each[k]):
        part = min(range(parts), key=lambda k: (sums[k], k))
        given[part].append(place)
        sums[part] += each[place]
    return [torch.tensor(sorted(places), dtype=torch.int64) for places in given]
