"""Errors before the first step beside errors afterwards."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from qeqtrain.training.metrics import ErrorSums
from qeqtrain.training.progress import number
from qeqtrain.training.quantities import QUANTITIES

if TYPE_CHECKING:
    from qeqtrain.data.batching import Batch
    from qeqtrain.models.potential import Potential

Errors = dict[str, float]
Columns = Mapping[str, Errors]


def errors_of(
    potential: Potential,
    batches: Iterable[Batch],
    device: str = "cpu",
    shift: Mapping[int, float] | None = None,
) -> tuple[Errors, Errors]:
    """Compare predictions with labels.

    Args:
        potential: to be judged.
        batches: structures with labels.
        device: where to predict.
        shift: change of the references by atomic number, eV.

    Returns:
        Errors in printed units (:meth:`~qeqtrain.training.metrics.ErrorSums.summary`), and
        what they are with the shift.
    """
    in_training = potential.training
    potential = potential.to(device).eval()
    by_number = torch.zeros(potential.species_index.shape[0], dtype=torch.float64)
    for z, energy in (shift or {}).items():
        by_number[z] = energy
    by_number = by_number.to(device)
    raw, shifted = ErrorSums(device), ErrorSums(device)
    for one in batches:
        batch = one.to(device)
        stress = batch.present.get("stress")
        said = potential(
            batch.structures,
            forces="forces" in batch.labels,
            stress=None if stress is not None and bool(stress.any()) else False,
            born_charges=None if "born_charges" in batch.labels else False,
        ).detach()
        raw.add(said, batch)
        change = batch.structures.sum_over_atoms(by_number[batch.structures.numbers])
        shifted.add(replace(said, energy=said.energy + change), batch)
    potential.to("cpu").train(in_training)
    return raw.summary(), shifted.summary()


def table(title: str, columns: Columns) -> str:
    """Write errors side by side, a row for every quantity that any column has."""
    width = max(12, *(len(name) + 2 for name in columns))
    lines = [f"{title:<28}" + "".join(f"{name:>{width}}" for name in columns)]
    for name, quantity in QUANTITIES.items():
        for kind in ("mae", "rmse"):
            key = f"{name}_{kind}"
            if not any(key in errors for errors in columns.values()):
                continue
            head = f"  {name} {kind.upper()}, {quantity.unit}"
            shown = [number(e[key]) if key in e else "-" for e in columns.values()]
            lines.append(f"{head:<28}" + "".join(f"{text:>{width}}" for text in shown))
    return "\n".join(lines)
