"""Energy over volume: bulk modulus, smoothness, and whether pressure is its slope.

Crystals are simple prototypes of the model's elements, or those of a file. Each is scaled
evenly from compressed to stretched; ions stay at their fractional places, as the prototypes'
symmetry demands.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols
from scipy.optimize import curve_fit

from qeqtrain.errors import UserMistake
from qeqtrain.evaluation.benchmarks.crystals import failures_table
from qeqtrain.evaluation.benchmarks.prototypes import prototypes
from qeqtrain.evaluation.benchmarks.relaxation import predict_in_batches
from qeqtrain.evaluation.benchmarks.suite import (
    Findings,
    Plan,
    Row,
    Settings,
    Suite,
    Task,
    TaskFailed,
    values_of,
)
from qeqtrain.evaluation.plots import COLORS
from qeqtrain.evaluation.tables import Table, number
from qeqtrain.models.potential import Potential
from qeqtrain.units import EV_PER_A3_TO_GPA

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PANELS = 20
WINDOW = 0.06
"""Volume within this share of the lowest energy's is fitted by an equation of state."""


@dataclass(frozen=True)
class EosSettings(Settings):
    """Settings.

    Attributes:
        structures: file of periodic structures that ASE reads; prototypes unless given.
        smallest, largest: volume, relative to that of the structure.
        points: volumes.
    """

    structures: str = ""
    smallest: float = 0.6
    largest: float = 1.6
    points: int = 61


class Eos(Suite[EosSettings]):
    """Energy over volume of crystals."""

    name: ClassVar[str] = "eos"
    settings_class = EosSettings

    def plan(self, potential: Potential) -> Plan:
        """List the crystals."""
        chosen = self.settings
        problems = []
        if not 0.0 < chosen.smallest < 1.0 < chosen.largest:
            problems.append(
                f"smallest={chosen.smallest:g} largest={chosen.largest:g}: expected volumes "
                "below and above 1"
            )
        if chosen.points < 15:
            problems.append(f"points={chosen.points}: expected 15 or more")
        if problems:
            raise UserMistake(*problems)
        if chosen.structures:
            crystals = read_crystals(chosen.structures)
            notes = [f"{len(crystals)} crystals of {chosen.structures}"]
        else:
            crystals = prototypes([chemical_symbols[z] for z in potential.elements])
            notes = [f"{len(crystals)} prototype crystals of the model's elements"]
            if not crystals:
                raise UserMistake(
                    "no prototype crystal is made of the model's elements; give some in "
                    "structures=FILE"
                )
        if chosen.count is not None and chosen.count < len(crystals):
            names = list(crystals)
            order = np.random.default_rng(chosen.seed).permutation(len(names))[: chosen.count]
            crystals = {names[i]: crystals[names[i]] for i in sorted(order)}
            notes.append(f"{chosen.count} of them, chosen at random (seed {chosen.seed})")
        return Plan([Task(name, {"atoms": a}) for name, a in crystals.items()], notes)

    def measure(self, potential: Potential, content: Mapping[str, Any]) -> dict[str, Any]:
        """Scale, and fit."""
        atoms: Atoms = content["atoms"]
        chosen = self.settings
        scale = np.linspace(chosen.smallest, chosen.largest, chosen.points)
        volume = scale * atoms.get_volume() / len(atoms)
        energy, pressure = energies_and_pressures(potential, atoms, scale)
        lowest = int(np.argmin(energy))
        inner = energy[: lowest + 1], energy[lowest:]
        flips = int((np.diff(inner[0]) > 1e-4).sum() + (np.diff(inner[1]) < -1e-4).sum())
        # dE/dV by central differences against the pressure that stress gives.
        slope = -np.gradient(energy, volume, edge_order=2)[1:-1]
        values: dict[str, Any] = {
            "atoms": len(atoms),
            "volume_A3_per_atom": volume.tolist(),
            "energy_eV_per_atom": energy.tolist(),
            "pressure_GPa": (pressure * EV_PER_A3_TO_GPA).tolist(),
            "steps_uphill_to_the_well": flips,
            "pressure_mismatch_GPa": float(
                np.median(np.abs(slope - pressure[1:-1])) * EV_PER_A3_TO_GPA
            ),
            "roughness_meV": roughness(energy),
        }
        if not 3 <= lowest <= len(energy) - 4:
            raise TaskFailed(
                f"the lowest energy is at the edge, {scale[lowest]:.2f} of the given volume"
            )
        return values | fit_equation_of_state(volume, energy)

    def findings(self, rows: Sequence[Row]) -> Findings:
        """Bulk moduli and smoothness."""
        values = {row.task: row.values for row in rows if not row.failed}
        every = values_of(rows)
        numbers = {
            "pressure_mismatch_GPa": float(
                np.median([v["pressure_mismatch_GPa"] for v in every])
            ),
            "roughness_meV": float(np.median([v["roughness_meV"] for v in every])),
            "curves_with_a_second_well": sum(v["steps_uphill_to_the_well"] > 0 for v in every),
        }
        table = [
            [
                name,
                number(v["equilibrium_volume_A3_per_atom"]),
                number(v["bulk_modulus_GPa"]),
                number(v["bulk_modulus_derivative"]),
                number(v["fit_error_meV"]),
                number(v["roughness_meV"]),
                str(v["steps_uphill_to_the_well"]),
                number(v["pressure_mismatch_GPa"]),
            ]
            for name, v in values.items()
        ]
        head = ["crystal", "V (A^3/atom)", "B (GPa)", "B'", "fit (meV/atom)"]
        head += ["roughness (meV/atom)", "steps away", "P mismatch (GPa)"]
        notes = [
            f"volume, bulk modulus B and B' by Birch and Murnaghan within {100 * WINDOW:.0f} % "
            "of the lowest energy; steps away: where energy falls on the way out of the well; "
            "P mismatch: median difference of pressure by stress and by -dE/dV"
        ]
        return Findings(
            numbers=numbers,
            tables=[Table("Equation of state", head, table), *failures_table(rows)],
            notes=notes,
            plots=_pages(values),
        )


BENCHMARK = Eos


def read_crystals(file: str) -> dict[str, Atoms]:
    """Read periodic structures by ASE, and give each a name.

    Raises:
        UserMistake: the file is missing, unreadable, or holds a structure that is not periodic.
    """
    from ase.io import read

    if not Path(file).is_file():
        raise UserMistake(f"structures={file}: there is no such file")
    try:
        found = read(file, index=":")
    except Exception as error:  # ASE's readers raise whatever their format brings about
        raise UserMistake(f"structures={file}: ASE cannot read it ({error})") from error
    named: dict[str, Atoms] = {}
    for i, atoms in enumerate(found):
        if not atoms.pbc.all():
            raise UserMistake(f"structures={file}: structure {i} is not periodic")
        name = atoms.get_chemical_formula("metal", empirical=True)
        named[name if name not in named else f"{name}-{i}"] = atoms
    return named


def energies_and_pressures(
    potential: Potential, atoms: Atoms, scale: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Energy and pressure of a crystal scaled to several volumes.

    Returns:
        eV per atom and eV/A^3, each of shape ``(points,)``.
    """
    many = []
    for factor in scale:
        scaled = atoms.copy()
        scaled.set_cell(atoms.cell.array * factor ** (1 / 3), scale_atoms=True)
        many.append(scaled)
    said = predict_in_batches(potential, many, stress=True)
    pressure = np.array([-np.trace(one.stress) / 3 for one in said])
    per_atom = np.array([one.energy for one in said]) / len(atoms)
    if not (np.isfinite(per_atom).all() and np.isfinite(pressure).all()):
        raise TaskFailed("energies or stresses are not finite")
    return per_atom, pressure


def roughness(energy: np.ndarray) -> float:
    """Scatter of evenly spaced points about a smooth curve: fourth differences, meV.

    They vanish for a cubic; of independent noise they are sqrt(70) times as large as it is. The
    median does not see the wall.
    """
    fourth = np.diff(energy, 4)
    return float(1e3 * np.median(np.abs(fourth)) / np.sqrt(70.0))


def birch_murnaghan(
    volume: np.ndarray, energy0: float, volume0: float, bulk: float, derivative: float
) -> np.ndarray:
    """Energy over volume (Birch, Phys. Rev. 71, 809 (1947)), third order."""
    x = (volume0 / volume) ** (2 / 3)
    shape: np.ndarray = (x - 1) ** 3 * derivative + (x - 1) ** 2 * (6 - 4 * x)
    return energy0 + 9 * volume0 * bulk / 16 * shape


def fit_equation_of_state(volume: np.ndarray, energy: np.ndarray) -> dict[str, float]:
    """Fit the surroundings of the lowest energy.

    Raises:
        TaskFailed: no equation of state fits.
    """
    lowest = int(np.argmin(energy))
    near = np.abs(volume / volume[lowest] - 1) <= WINDOW
    near[max(0, lowest - 3) : lowest + 4] = True
    v, e = volume[near], energy[near]
    a = np.polyfit(v, e, 2)[0]
    start = (e.min(), volume[lowest], max(2 * a * volume[lowest], 1e-3), 4.0)
    try:
        found, _ = curve_fit(birch_murnaghan, v, e, start, maxfev=5000)
    except RuntimeError as error:
        raise TaskFailed("no equation of state fits the curve") from error
    _, v0, bulk, derivative = found
    fitted = birch_murnaghan(v, *found)
    return {
        "equilibrium_volume_A3_per_atom": float(v0),
        "bulk_modulus_GPa": float(bulk * EV_PER_A3_TO_GPA),
        "bulk_modulus_derivative": float(derivative),
        "fit_error_meV": float(1e3 * np.sqrt(np.square(fitted - e).mean())),
    }


def _pages(values: Mapping[str, Mapping[str, Any]]) -> dict[str, Figure]:
    names = list(values)
    pages = [names[i : i + PANELS] for i in range(0, len(names), PANELS)]
    return {
        f"curves-{i + 1}": _page({n: values[n] for n in page}) for i, page in enumerate(pages)
    }


def _page(values: Mapping[str, Mapping[str, Any]]) -> Figure:
    from matplotlib.figure import Figure

    columns = min(4, len(values))
    lines = -(-len(values) // columns)
    size = (2.7 * columns + 0.6, 2.1 * lines + 0.5)
    figure = Figure(figsize=size, dpi=130, layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False)
    for axes in panels.flat[len(values) :]:
        axes.set_visible(False)
    for axes, (name, v) in zip(panels.flat, values.items(), strict=False):
        energy = np.array(v["energy_eV_per_atom"])
        axes.plot(v["volume_A3_per_atom"], energy - energy.min(), color=COLORS[0], lw=1.3)
        axes.axvline(v["equilibrium_volume_A3_per_atom"], color="0.75", lw=0.8, zorder=0)
        axes.set_title(f"{name}, B = {v['bulk_modulus_GPa']:.3g} GPa", fontsize=8, pad=2)
        axes.tick_params(labelsize=6, length=2)
    figure.supxlabel("volume (A^3/atom)", fontsize=9)
    figure.supylabel("energy above the lowest (eV/atom)", fontsize=9)
    return figure
