"""Heat capacity of crystals at 300 K, from phonons in the harmonic approximation.

phonopy makes the displaced supercells and sums over the modes; forces come from the model, many
supercells per evaluation. Displacement and supercell are those of matcalc's benchmark, whose
published figures stand beside ours.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from ase import Atoms

from qeqtrain.errors import UserMistake
from qeqtrain.evaluation.benchmarks.crystals import (
    CrystalSettings,
    beside_published,
    choose_entries,
    failures_table,
    mean_error,
    parity,
)
from qeqtrain.evaluation.benchmarks.references import PHONON
from qeqtrain.evaluation.benchmarks.registry import missing_packages
from qeqtrain.evaluation.benchmarks.relaxation import predict_in_batches, relax
from qeqtrain.evaluation.benchmarks.suite import (
    Findings,
    Plan,
    Row,
    Suite,
    TaskFailed,
    values_of,
)
from qeqtrain.evaluation.tables import Table, number
from qeqtrain.models.potential import Potential

TEMPERATURE = 300.0
"""K."""
SOFT = -0.1
"""THz: below this a mode is imaginary for more than numerical reasons."""


@dataclass(frozen=True)
class PhononSettings(CrystalSettings):
    """Settings.

    Attributes:
        supercell: copies of the cell along each of its vectors.
        displacement: of one atom, A.
        mesh: length that sets the mesh of wave vectors, A (phonopy's).
        fmax: of the relaxed cell, eV/A.
        steps: of a relaxation, at most.
    """

    supercell: int = 2
    displacement: float = 0.015
    mesh: float = 100.0
    fmax: float = 0.01
    steps: int = 500


class Phonon(Suite[PhononSettings]):
    """Heat capacities of the crystals of matcalc's phonon benchmark."""

    name: ClassVar[str] = "phonon"
    settings_class = PhononSettings

    def plan(self, potential: Potential) -> Plan:
        """Choose entries."""
        if problems := missing_packages([self.name]):
            raise UserMistake(*problems)

        def content(entry: Mapping[str, Any], atoms: Atoms) -> dict[str, Any]:
            return {
                "formula": entry["formula"],
                "atoms": atoms,
                "heat_capacity_reference": float(entry["heat_capacity"]),
            }

        return choose_entries(potential, PHONON, self.settings, content, "mp_id")

    def measure(self, potential: Potential, content: Mapping[str, Any]) -> dict[str, Any]:
        """Relax, displace, sum over modes."""
        chosen = self.settings
        atoms = relax(potential, content["atoms"], fmax=chosen.fmax, steps=chosen.steps)
        capacity, lowest = heat_capacity(potential, atoms, chosen)
        return {
            "formula": content["formula"],
            "atoms": len(atoms),
            "heat_capacity": capacity,
            "heat_capacity_reference": content["heat_capacity_reference"],
            "lowest_frequency_THz": lowest,
        }

    def findings(self, rows: Sequence[Row]) -> Findings:
        """Errors of heat capacities, beside published ones."""
        values = values_of(rows)
        error = mean_error(values, "heat_capacity", "heat_capacity_reference")
        per_atom = float(
            np.mean(
                [
                    abs(row["heat_capacity"] - row["heat_capacity_reference"]) / row["atoms"]
                    for row in values
                ]
            )
        )
        imaginary = sum(row["lowest_frequency_THz"] < SOFT for row in values)
        table, notes = beside_published(
            "Mean absolute error (J/K per mole of cells, at 300 K)",
            {"CV": "heat capacity"},
            {"this model": {"CV": error}},
            self.settings.references,
        )
        size = float(np.mean([row["atoms"] for row in values]))
        notes.append(
            f"errors per cell grow with the cell: those measured have {size:.1f} atoms on "
            "average"
        )
        notes.append(
            f"error per atom {number(per_atom)} J/K/mol; {imaginary} of {len(values)} crystals "
            f"have imaginary modes (below {SOFT} THz), which carry no heat here; supercells "
            f"{self.settings.supercell}x{self.settings.supercell}x{self.settings.supercell}"
        )
        return Findings(
            numbers={
                "heat_capacity_mae_J_per_K_mol_cells": error,
                "heat_capacity_mae_J_per_K_mol_atoms": per_atom,
                "crystals_with_imaginary_modes": imaginary,
            },
            tables=[table, _worst(values), *failures_table(rows)],
            notes=notes,
            plots={
                "heat_capacity": parity(
                    [_per_atom(row) for row in values],
                    "heat_capacity",
                    "heat_capacity_reference",
                    "heat capacity at 300 K",
                    "J/K per mole of atoms",
                )
            },
        )


BENCHMARK = Phonon


def heat_capacity(
    potential: Potential, atoms: Atoms, settings: PhononSettings
) -> tuple[float, float]:
    """Heat capacity at constant volume at 300 K, and the lowest frequency.

    Args:
        potential: that gives forces.
        atoms: a crystal at rest.
        settings: displacement, supercell, mesh.

    Returns:
        J/K per mole of cells, and THz (negative for an imaginary mode).

    Raises:
        TaskFailed: forces are not finite.
    """
    from phonopy import Phonopy
    from phonopy.structure.atoms import PhonopyAtoms

    cell = PhonopyAtoms(
        numbers=atoms.numbers,
        cell=atoms.cell.array,
        scaled_positions=atoms.get_scaled_positions(),
    )
    phonon = Phonopy(
        cell,
        supercell_matrix=np.eye(3, dtype=int) * settings.supercell,
        primitive_matrix=np.eye(3),
        log_level=0,
    )
    phonon.generate_displacements(distance=settings.displacement)
    displaced = [
        Atoms(s.symbols, scaled_positions=s.scaled_positions, cell=s.cell, pbc=True)
        for s in phonon.supercells_with_displacements
    ]
    for one in displaced:
        one.info["charge"] = 0.0
    forces = [said.forces for said in predict_in_batches(potential, displaced)]
    if not all(np.isfinite(f).all() for f in forces):
        raise TaskFailed("forces of a displaced supercell are not finite")
    phonon.forces = forces
    phonon.produce_force_constants()
    phonon.symmetrize_force_constants()
    with warnings.catch_warnings():  # acoustic modes at Gamma, meshes it chooses itself
        warnings.simplefilter("ignore")
        phonon.run_mesh(settings.mesh)
        phonon.run_thermal_properties(temperatures=[TEMPERATURE])
        capacity = phonon.thermal_properties.heat_capacity
    return float(capacity[0]), float(phonon.mesh.frequencies.min())


def _per_atom(row: Mapping[str, Any]) -> dict[str, float]:
    keys = ("heat_capacity", "heat_capacity_reference")
    return {key: row[key] / row["atoms"] for key in keys}


def _worst(values: Sequence[Mapping[str, Any]], count: int = 10) -> Table:
    def size(row: Mapping[str, Any]) -> float:
        return abs(row["heat_capacity"] - row["heat_capacity_reference"]) / row["atoms"]

    rows = [
        [
            row["formula"],
            str(row["atoms"]),
            number(row["heat_capacity"]),
            number(row["heat_capacity_reference"]),
            number(row["lowest_frequency_THz"]),
        ]
        for row in sorted(values, key=size, reverse=True)[:count]
    ]
    head = ["formula", "atoms", "C (J/K/mol)", "reference", "lowest mode (THz)"]
    return Table("Largest errors per atom", head, rows)
