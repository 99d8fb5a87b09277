"""Relaxed cells and formation energies of crystals.

Crystals are pushed off the reference geometry and relaxed. Formation energies are relative to
the elements as the model itself sees them: for each element, the lowest energy per atom among
the crystals that DFT finds low in energy, relaxed with the model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols

from qeqtrain.evaluation.benchmarks.crystals import (
    CrystalSettings,
    beside_published,
    choose_entries,
    failures_table,
    mean_error,
    parity,
)
from qeqtrain.evaluation.benchmarks.references import (
    ELEMENTS,
    EQUILIBRIUM,
    atoms_of,
    read_json,
)
from qeqtrain.evaluation.benchmarks.relaxation import relax
from qeqtrain.evaluation.benchmarks.suite import (
    Findings,
    Plan,
    Row,
    Suite,
    Task,
    TaskFailed,
    values_of,
)
from qeqtrain.evaluation.tables import Table, number
from qeqtrain.models.potential import Potential

ELEMENT = "element:"
"""Front of the names of tasks that relax an element."""


@dataclass(frozen=True)
class EquilibriumSettings(CrystalSettings):
    """Settings.

    Attributes:
        push: distance by which every atom is moved first, in a random direction, A.
        fmax: of the relaxed cell, eV/A.
        steps: of a relaxation, at most.
        element_window: crystals of an element up to this DFT energy above the lowest are
            relaxed, eV per atom.
        element_crystals: of each element, at most.
        element_atoms: larger cells of elements are left out, unless DFT's lowest is one.
    """

    push: float = 0.1
    fmax: float = 0.05
    steps: int = 500
    element_window: float = 0.03
    element_crystals: int = 4
    element_atoms: int = 32


class Equilibrium(Suite[EquilibriumSettings]):
    """Cells and energies of the crystals of matcalc's equilibrium benchmark."""

    name: ClassVar[str] = "equilibrium"
    settings_class = EquilibriumSettings

    def plan(self, potential: Potential) -> Plan:
        """Choose entries, and the elements they are made of."""

        def content(entry: Mapping[str, Any], atoms: Atoms) -> dict[str, Any]:
            return {
                "formula": entry["formula"],
                "atoms": atoms,
                "energy_reference_eV_per_atom": float(entry["energy"]) / len(atoms),
                "formation_reference_eV_per_atom": float(entry["formation_energy_per_atom"]),
            }

        plan = choose_entries(potential, EQUILIBRIUM, self.settings, content, "material_id")
        met = {int(z) for task in plan.tasks for z in task.content["atoms"].numbers}
        elements = self._elements(sorted(met))
        notes = [*plan.notes, f"elements: {ELEMENTS.source}, {len(elements)} of them"]
        return Plan([*elements, *plan.tasks], notes)

    def _elements(self, numbers: Sequence[int]) -> list[Task]:
        """Make one task for each element, with its crystals that are low in energy."""
        chosen = self.settings
        published = read_json(ELEMENTS.find(chosen.references).path)
        tasks = []
        for symbol in (chemical_symbols[z] for z in numbers):
            entry = published.get(symbol)
            if entry is None:
                continue
            kinds = entry["structure"]
            kinds = kinds if isinstance(kinds, list) else [kinds]
            energies = np.atleast_1d(np.asarray(entry["energy_per_atom"], dtype=float))
            order = np.argsort(energies, kind="stable")
            crystals = [
                atoms_of(kinds[i])
                for rank, i in enumerate(order)
                if energies[i] <= energies[order[0]] + chosen.element_window
                and (rank == 0 or len(kinds[i]["sites"]) <= chosen.element_atoms)
            ]
            content = {"element": symbol, "crystals": crystals[: chosen.element_crystals]}
            tasks.append(Task(f"{ELEMENT}{symbol}", content))
        return tasks

    def measure(self, potential: Potential, content: Mapping[str, Any]) -> dict[str, Any]:
        """Relax a crystal, or the crystals of an element."""
        chosen = self.settings
        if "element" in content:
            lowest = self._lowest(potential, content["crystals"])
            return {"element": content["element"], "energy_eV_per_atom": lowest}
        reference: Atoms = content["atoms"]
        pushed = reference.copy()
        direction = np.random.default_rng(chosen.seed).normal(size=pushed.positions.shape)
        pushed.positions += chosen.push * direction / np.linalg.norm(direction, axis=1)[:, None]
        rest = relax(potential, pushed, fmax=chosen.fmax, steps=chosen.steps)
        energy = rest.get_potential_energy() / len(rest)
        return {
            "formula": content["formula"],
            "atoms": len(rest),
            "symbols": sorted(rest.get_chemical_symbols()),
            "energy_eV_per_atom": energy,
            "energy_reference_eV_per_atom": content["energy_reference_eV_per_atom"],
            "formation_reference_eV_per_atom": content["formation_reference_eV_per_atom"],
            "volume_A3_per_atom": rest.get_volume() / len(rest),
            "volume_reference_A3_per_atom": reference.get_volume() / len(reference),
            **_compare_cells(rest, reference),
        }

    def _lowest(self, potential: Potential, crystals: Sequence[Atoms]) -> float:
        """Energy per atom of the lowest crystal of an element that comes to rest.

        Raises:
            TaskFailed: none of them does.
        """
        chosen = self.settings
        energies, reasons = [], []
        for atoms in crystals:
            try:
                rest = relax(potential, atoms, fmax=chosen.fmax, steps=chosen.steps)
            except TaskFailed as failure:
                reasons.append(str(failure))
            else:
                energies.append(rest.get_potential_energy() / len(rest))
        if not energies:
            raise TaskFailed("; ".join(reasons))
        return float(min(energies))

    def findings(self, rows: Sequence[Row]) -> Findings:
        """Errors of energies and cells, beside published ones."""
        everything = values_of(rows)
        pure = {r["element"]: r["energy_eV_per_atom"] for r in everything if "element" in r}
        values = [_with_formation(r, pure) for r in everything if "element" not in r]
        formed = [r for r in values if "formation_eV_per_atom" in r]
        formation = mean_error(
            formed, "formation_eV_per_atom", "formation_reference_eV_per_atom"
        )
        volume = _mean([abs(r["volume_error_percent"]) for r in values])
        table, notes = beside_published(
            "Mean absolute error (eV/atom)",
            {"Ef": "formation energy"},
            {"this model": {"Ef": formation}},
            self.settings.references,
        )
        absent = [row.task.removeprefix(ELEMENT) for row in rows if _is_failed_element(row)]
        if absent:
            notes.append(
                f"elements that did not relax: {' '.join(absent)}; {len(formed)} of "
                f"{len(values)} formation energies remain"
            )
        notes.append(
            "the published structural distance (d) needs fingerprints of another package and "
            "is not worked out here; volumes, cell edges and displacements are"
        )
        numbers = {
            "formation_energy_mae_eV_per_atom": formation,
            "energy_mae_eV_per_atom": mean_error(
                values, "energy_eV_per_atom", "energy_reference_eV_per_atom"
            ),
            "volume_mae_percent": volume,
            "volume_bias_percent": _mean([r["volume_error_percent"] for r in values]),
            "edge_mae_percent": _mean([r["edge_error_percent"] for r in values]),
            "angle_mae_degrees": _mean([r["angle_error_degrees"] for r in values]),
            "displacement_rms_A": _mean([r["displacement_A"] for r in values]),
        }
        plots = {}
        if formed:
            plots["formation_energy"] = parity(
                formed,
                "formation_eV_per_atom",
                "formation_reference_eV_per_atom",
                "formation energy",
                "eV/atom",
            )
        if values:
            plots["volume"] = parity(
                values,
                "volume_A3_per_atom",
                "volume_reference_A3_per_atom",
                "relaxed volume",
                "A^3/atom",
            )
        tables = [table, _cells_table(numbers), *failures_table(rows)]
        return Findings(numbers=numbers, tables=tables, notes=notes, plots=plots)


BENCHMARK = Equilibrium


def _compare_cells(rest: Atoms, reference: Atoms) -> dict[str, float]:
    """Differences of two cells with the same atoms in the same order."""
    edges, angles = rest.cell.lengths(), rest.cell.angles()
    moved = rest.get_scaled_positions(wrap=False) - reference.get_scaled_positions(wrap=False)
    moved -= np.round(moved)
    shift = moved - moved.mean(axis=0)  # a crystal may drift as a whole
    distance = np.linalg.norm(shift @ reference.cell.array, axis=1)
    return {
        "volume_error_percent": 100 * (rest.get_volume() / reference.get_volume() - 1),
        "edge_error_percent": float(100 * np.abs(edges / reference.cell.lengths() - 1).mean()),
        "angle_error_degrees": float(np.abs(angles - reference.cell.angles()).mean()),
        "displacement_A": float(np.sqrt(np.square(distance).mean())),
    }


def _with_formation(row: Mapping[str, Any], pure: Mapping[str, float]) -> dict[str, Any]:
    """Add the formation energy, where all elements are known."""
    found = dict(row)
    if all(symbol in pure for symbol in row["symbols"]):
        mean = sum(pure[symbol] for symbol in row["symbols"]) / row["atoms"]
        found["formation_eV_per_atom"] = row["energy_eV_per_atom"] - mean
    return found


def _is_failed_element(row: Row) -> bool:
    return bool(row.failed) and row.task.startswith(ELEMENT)


def _mean(numbers: Sequence[float]) -> float:
    return float(np.mean(numbers)) if numbers else float("nan")


def _cells_table(numbers: Mapping[str, float]) -> Table:
    rows = [
        ["energy (eV/atom), as far as the functional is the same", "energy_mae_eV_per_atom"],
        ["volume (%)", "volume_mae_percent"],
        ["volume, signed (%)", "volume_bias_percent"],
        ["cell edges (%)", "edge_mae_percent"],
        ["cell angles (degrees)", "angle_mae_degrees"],
        ["displacement of atoms, rms (A)", "displacement_rms_A"],
    ]
    return Table(
        "Relaxed cells, mean absolute differences",
        ["quantity", "this model"],
        [[name, number(numbers[key])] for name, key in rows],
    )
