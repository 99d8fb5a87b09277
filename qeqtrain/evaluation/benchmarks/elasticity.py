"""Bulk and shear moduli of crystals, by finite strains with ions at rest.

The cell is relaxed, strained along each of the six directions, the ions of every strained cell
are relaxed, and the elastic constants are slopes of stress over strain. Moduli are the means of
Voigt and Reuss (Hill, Proc. Phys. Soc. A 65, 349 (1952)), as in the reference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from ase import Atoms

from qeqtrain.evaluation.benchmarks.crystals import (
    CrystalSettings,
    beside_published,
    choose_entries,
    failures_table,
    mean_error,
    parity,
)
from qeqtrain.evaluation.benchmarks.references import ELASTICITY
from qeqtrain.evaluation.benchmarks.relaxation import predict_in_batches, relax, relax_ions
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
from qeqtrain.units import EV_PER_A3_TO_GPA

VOIGT = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))
"""Tensor indices in Voigt order xx yy zz yz xz xy."""


@dataclass(frozen=True)
class ElasticitySettings(CrystalSettings):
    """Settings.

    Attributes:
        strain: largest strain; half of it is used as well, with both signs. Shear strains are
            engineering strains.
        relax_ions: whether ions of strained cells relax, as in the reference.
        fmax: of the relaxed cell, eV/A.
        ion_fmax: of ions in strained cells, eV/A.
        steps: of a relaxation, at most.
    """

    strain: float = 0.01
    relax_ions: bool = True
    fmax: float = 0.05
    ion_fmax: float = 0.005
    steps: int = 500


class Elasticity(Suite[ElasticitySettings]):
    """Moduli of the crystals of matcalc's elasticity benchmark."""

    name: ClassVar[str] = "elasticity"
    settings_class = ElasticitySettings

    def plan(self, potential: Potential) -> Plan:
        """Choose entries."""

        def content(entry: Mapping[str, Any], atoms: Atoms) -> dict[str, Any]:
            return {
                "formula": entry["formula"],
                "atoms": atoms,
                "bulk_reference_GPa": float(entry["bulk_modulus_vrh"]),
                "shear_reference_GPa": float(entry["shear_modulus_vrh"]),
            }

        return choose_entries(potential, ELASTICITY, self.settings, content, "mp_id")

    def measure(self, potential: Potential, content: Mapping[str, Any]) -> dict[str, Any]:
        """Relax, strain, relax ions, fit."""
        chosen = self.settings
        atoms = relax(potential, content["atoms"], fmax=chosen.fmax, steps=chosen.steps)
        atoms.calc = None
        held = elastic_constants(potential, atoms, strain=chosen.strain)
        constants = held
        if chosen.relax_ions:
            constants = elastic_constants(
                potential,
                atoms,
                strain=chosen.strain,
                ion_fmax=chosen.ion_fmax,
                steps=chosen.steps,
            )
        bulk, shear = moduli(constants)
        bulk_held, shear_held = moduli(held)
        return {
            "formula": content["formula"],
            "atoms": len(atoms),
            "bulk_GPa": bulk,
            "shear_GPa": shear,
            "bulk_ions_held_GPa": bulk_held,
            "shear_ions_held_GPa": shear_held,
            "bulk_reference_GPa": content["bulk_reference_GPa"],
            "shear_reference_GPa": content["shear_reference_GPa"],
            "stable": bool(np.linalg.eigvalsh(constants).min() > 0.0),
            "constants_GPa": np.round(constants, 4).tolist(),
        }

    def findings(self, rows: Sequence[Row]) -> Findings:
        """Errors of both moduli, beside published ones."""
        values = values_of(rows)
        bulk = mean_error(values, "bulk_GPa", "bulk_reference_GPa")
        shear = mean_error(values, "shear_GPa", "shear_reference_GPa")
        unstable = sum(not row["stable"] for row in values)
        held = {
            "K": mean_error(values, "bulk_ions_held_GPa", "bulk_reference_GPa"),
            "G": mean_error(values, "shear_ions_held_GPa", "shear_reference_GPa"),
        }
        ours = {"this model, ions held": held}
        if self.settings.relax_ions:
            ours = {"this model": {"K": bulk, "G": shear}, **ours}
        table, notes = beside_published(
            "Mean absolute errors (GPa)",
            {"K": "bulk modulus", "G": "shear modulus"},
            ours,
            self.settings.references,
        )
        how = "relaxed" if self.settings.relax_ions else "not relaxed"
        notes.append(
            f"strains up to {self.settings.strain:g}, ions of strained cells {how}; "
            f"{unstable} of {len(values)} crystals have a negative elastic eigenvalue and are "
            "counted all the same"
        )
        notes.append(
            "ions held: those of strained cells stay where strain puts them, matcalc's default"
        )
        return Findings(
            numbers={
                "bulk_modulus_mae_GPa": bulk,
                "shear_modulus_mae_GPa": shear,
                "bulk_modulus_median_error_GPa": _median(values, "bulk"),
                "shear_modulus_median_error_GPa": _median(values, "shear"),
                "bulk_modulus_ions_held_mae_GPa": held["K"],
                "shear_modulus_ions_held_mae_GPa": held["G"],
                "mechanically_unstable": unstable,
            },
            tables=[table, _worst(values), *failures_table(rows)],
            notes=notes,
            plots={
                "bulk": parity(values, "bulk_GPa", "bulk_reference_GPa", "bulk modulus", "GPa"),
                "shear": parity(
                    values, "shear_GPa", "shear_reference_GPa", "shear modulus", "GPa"
                ),
            },
        )


BENCHMARK = Elasticity


def elastic_constants(
    potential: Potential,
    atoms: Atoms,
    *,
    strain: float,
    ion_fmax: float | None = None,
    steps: int = 500,
) -> np.ndarray:
    r"""Slopes of stress over strain, :math:`C_{ij} = d\sigma_i / d\epsilon_j`.

    Args:
        potential: that gives stress.
        atoms: a crystal at rest; stress that is left in it drops out of the slopes.
        strain: largest strain.
        ion_fmax: to which ions are relaxed, eV/A; ``None`` leaves them where strain puts them.
        steps: of a relaxation, at most.

    Returns:
        Symmetric matrix in Voigt order, GPa, shape ``(6, 6)``.

    Raises:
        TaskFailed: ions did not come to rest.
    """
    amounts = np.array([-1.0, -0.5, 0.0, 0.5, 1.0]) * strain
    cells = [_strained(atoms, j, amount) for j in range(6) for amount in amounts]
    if ion_fmax is not None:
        cells = relax_ions(potential, cells, fmax=ion_fmax, steps=steps)
    said = predict_in_batches(potential, cells, stress=True)
    stresses = np.array([[one.stress[a, b] for a, b in VOIGT] for one in said])
    if not np.isfinite(stresses).all():
        raise TaskFailed("stress of a strained cell is not finite")
    by_direction = stresses.reshape(6, len(amounts), 6)
    slopes = np.array([np.polyfit(amounts, s, 1)[0] for s in by_direction])
    slopes *= EV_PER_A3_TO_GPA
    symmetric: np.ndarray = 0.5 * (slopes + slopes.T)
    return symmetric


def moduli(constants: np.ndarray) -> tuple[float, float]:
    """Bulk and shear modulus, the means of Voigt's and Reuss' averages.

    Args:
        constants: Voigt matrix, shape ``(6, 6)``.

    Raises:
        TaskFailed: the matrix cannot be inverted.
    """
    c = constants
    if np.linalg.cond(c) > 1e12:
        raise TaskFailed("elastic constants are singular")
    s = np.linalg.inv(c)
    diagonal, off = c[[0, 1, 2], [0, 1, 2]].sum(), c[0, 1] + c[0, 2] + c[1, 2]
    bulk_voigt = (diagonal + 2 * off) / 9
    shear_voigt = (diagonal - off + 3 * c[[3, 4, 5], [3, 4, 5]].sum()) / 15
    diagonal, off = s[[0, 1, 2], [0, 1, 2]].sum(), s[0, 1] + s[0, 2] + s[1, 2]
    bulk_reuss = 1 / (diagonal + 2 * off)
    shear_reuss = 15 / (4 * diagonal - 4 * off + 3 * s[[3, 4, 5], [3, 4, 5]].sum())
    return float(0.5 * (bulk_voigt + bulk_reuss)), float(0.5 * (shear_voigt + shear_reuss))


def _strained(atoms: Atoms, direction: int, amount: float) -> Atoms:
    a, b = VOIGT[direction]
    deformation = np.eye(3)
    if a == b:
        deformation[a, a] += amount
    else:  # engineering strain: twice the tensor's entry
        deformation[a, b] = deformation[b, a] = 0.5 * amount
    strained = atoms.copy()
    strained.set_cell(atoms.cell.array @ deformation, scale_atoms=True)
    return strained


def _median(values: Sequence[Mapping[str, Any]], which: str) -> float:
    pairs = [(row[f"{which}_GPa"], row[f"{which}_reference_GPa"]) for row in values]
    return float(np.median([abs(x - y) for x, y in pairs]))


def _worst(values: Sequence[Mapping[str, Any]], count: int = 10) -> Table:
    def size(row: Mapping[str, Any]) -> float:
        return abs(row["bulk_GPa"] - row["bulk_reference_GPa"]) + abs(
            row["shear_GPa"] - row["shear_reference_GPa"]
        )

    rows = [
        [
            row["formula"],
            *(
                number(row[k])
                for k in ("bulk_GPa", "bulk_reference_GPa", "shear_GPa", "shear_reference_GPa")
            ),
            "yes" if row["stable"] else "no",
        ]
        for row in sorted(values, key=size, reverse=True)[:count]
    ]
    head = ["formula", "bulk", "reference", "shear", "reference", "stable"]
    return Table("Largest errors (GPa)", head, rows)
