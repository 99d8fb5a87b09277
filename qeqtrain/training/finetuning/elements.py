"""New elements: rows of a model's tables that begin as the mean of chemically near ones.

An element's row is what a model knows of it beside geometry. Strontium that begins between
calcium and barium is nearly right before the first step; random numbers would first have to
unlearn what they say. What known elements predict does not change at all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from ase.data import chemical_symbols
from torch import Tensor

from qeqtrain.errors import UserMistake
from qeqtrain.models.potential import Potential, build_potential
from qeqtrain.nn.nequip import NequIP

_NOBLE = (0, 2, 10, 18, 36, 54, 86, 118)
"""Atomic numbers after which a period begins."""
_GIVEN = "charge.width"
"""A table that physics fills: covalent radii."""


def place(z: int) -> tuple[int, int]:
    """Period and group of an element; lanthanides and actinides are of group 3."""
    period = next(p for p, last in enumerate(_NOBLE) if z <= last)
    column = z - _NOBLE[period - 1]
    length = _NOBLE[period] - _NOBLE[period - 1]
    if length == 2:
        return period, {1: 1, 2: 18}[column]
    if length == 8:
        return period, column if column <= 2 else column + 10
    if length == 18 or column <= 2:
        return period, column
    return period, 3 if column <= 17 else column - 14


def nearest_known(z: int, known: Sequence[int]) -> tuple[int, ...]:
    """Choose the elements that one begins as the mean of.

    Those above and below in its group that are fewest periods away; without any, those of its
    period on both sides that are fewest groups away; without any, all that are known.

    Args:
        z: atomic number of the new element.
        known: atomic numbers to choose from.
    """
    period, group = place(z)
    places = {other: place(other) for other in known}
    for same, along in ((1, 0), (0, 1)):
        line = {o: p[along] for o, p in places.items() if p[same] == (period, group)[same]}
        here = (period, group)[along]
        found: list[int] = []
        for side in (1, -1):
            off = {o: side * (at - here) for o, at in line.items() if side * (at - here) >= 0}
            if off:
                closest = min(off.values())
                ties = [o for o, distance in off.items() if distance == closest]
                found.append(min(ties, key=lambda o: abs(o - z)))
        if found:
            return tuple(sorted(set(found)))
    return tuple(sorted(known))


def with_elements(
    potential: Potential, new: Sequence[int], trained: Sequence[int]
) -> Potential:
    """Build the same model with further elements, after those it has.

    Args:
        potential: whose predictions for its own elements stay as they are.
        new: atomic numbers that it lacks.
        trained: those of its elements that were trained, to begin from.

    Raises:
        UserMistake: there is no trained element to begin from.
    """
    if not new:
        return potential
    if not trained:
        raise UserMistake("finetune.new_elements=add: the model knows no element to begin from")
    header = potential.header()
    near = {z: nearest_known(z, trained) for z in new}

    def added(table: Mapping[int, float]) -> dict[int, float]:
        means = {z: sum(table[o] for o in near[z]) / len(near[z]) for z in new}
        return {**table, **means}

    grown = build_potential(
        header["spec"],
        elements=[*potential.elements, *new],
        references=added(potential.references),
        scale=added(potential.scale) if isinstance(potential.scale, dict) else potential.scale,
        average_neighbors=potential.average_neighbors,
        charge_range=potential.charge_range,
        charge_references=header["charge_references"],
        conventions=potential.conventions,
    )
    rows = {z: [potential.elements.index(o) for o in near[z]] for z in new}
    before, fresh = potential.state_dict(), grown.state_dict()
    grown.load_state_dict(
        {
            name: _grown(name, before[name], value, len(potential.elements), rows)
            for name, value in fresh.items()
        }
    )
    _rescale(grown, before)
    return grown.to(potential.dtype)


def describe(new: Sequence[int], trained: Sequence[int]) -> str:
    """Say what every new element begins as."""
    said = []
    for z in new:
        near = " and ".join(chemical_symbols[o] for o in nearest_known(z, trained))
        said.append(f"{chemical_symbols[z]} begins as {near}")
    return "; ".join(said)


def _grown(
    name: str, old: Tensor, fresh: Tensor, known: int, rows: Mapping[int, Sequence[int]]
) -> Tensor:
    """Insert rows of new elements behind those of known ones."""
    if old.shape == fresh.shape:
        return old
    if name == _GIVEN:
        return torch.cat([old[:known], fresh[known : known + len(rows)]])
    added = torch.stack([old[list(near)].mean(dim=0) for near in rows.values()])
    return torch.cat([old[:known], added, old[known:]])


def _rescale(model: Potential, before: Mapping[str, Tensor]) -> None:
    """Undo what a table's length does to its scale, where a backbone divides by its root."""
    for prefix, module in model.named_modules():
        if not isinstance(module, NequIP) or module.current:
            continue
        for name, weight in module.named_parameters():
            old = before[f"{prefix}.{name}"].shape[0] if weight.dim() else 0
            if weight.dim() and weight.shape[0] != old:
                weight.data *= (weight.shape[0] / old) ** 0.5
