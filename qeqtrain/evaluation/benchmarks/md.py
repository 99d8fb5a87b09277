"""Molecular dynamics: does energy stay, and is a molten salt the liquid it should be.

A crystal at constant energy shows how well forces are the slope of the energy. A melt at
constant pressure gives density and structure, then at its own volume diffusion. Runs are short
unless lengthened: enough to see that a model is stable, not for publication.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from ase import Atoms, units
from ase.data import chemical_symbols
from ase.md.md import MolecularDynamics
from ase.md.nose_hoover_chain import IsotropicMTKNPT, NoseHooverChainNVT
from ase.md.nptberendsen import NPTBerendsen
from ase.md.verlet import VelocityVerlet

from qeqtrain.calculator import QeqCalculator
from qeqtrain.data.progress import Progress
from qeqtrain.errors import UserMistake
from qeqtrain.evaluation.benchmarks.md_report import report
from qeqtrain.evaluation.benchmarks.melts import (
    density,
    diffusivity,
    measured_density,
    pair_distribution,
    salts_for,
    starting_melt,
)
from qeqtrain.evaluation.benchmarks.prototypes import first_ionic
from qeqtrain.evaluation.benchmarks.suite import (
    Findings,
    Plan,
    Row,
    Settings,
    Suite,
    Task,
    TaskFailed,
)
from qeqtrain.models.potential import Potential

EVERY = 10
"""Steps between the frames of which averages are made."""
BAR = 1e-4 * units.GPa
COMPRESSIBILITY = 4e-5 / BAR
"""Of a molten salt, about; it only sets how fast the box finds its size."""


@dataclass(frozen=True)
class MdSettings(Settings):
    """Settings.

    Attributes:
        salts: formulas of an even mixture that is melted; NaCl and CaCl2 where known.
        atoms: of the melt, about.
        temperature: of the melt, K.
        step: of the melt, fs.
        equilibration: of the melt, ps.
        production: at constant pressure, and again at constant volume, ps.
        nve_atoms: of the crystal at constant energy, about.
        nve_temperature: K.
        nve_step: fs.
        nve: length, ps.
    """

    salts: tuple[str, ...] = ()
    atoms: int = 50
    temperature: float = 1200.0
    step: float = 2.0
    equilibration: float = 2.0
    production: float = 4.0
    nve_atoms: int = 64
    nve_temperature: float = 600.0
    nve_step: float = 1.0
    nve: float = 1.0


class Md(Suite[MdSettings]):
    """Energy drift, and a molten salt."""

    name: ClassVar[str] = "md"
    settings_class = MdSettings

    def plan(self, potential: Potential) -> Plan:
        """Choose a crystal and a melt."""
        chosen = self.settings
        lengths = ("step", "equilibration", "production", "nve_step", "nve", "temperature")
        problems = [
            f"{key}={getattr(chosen, key):g}: expected a number above 0"
            for key in (*lengths, "nve_temperature", "atoms", "nve_atoms")
            if not getattr(chosen, key) > 0
        ]
        if problems:
            raise UserMistake(*problems)
        symbols = [chemical_symbols[z] for z in potential.elements]
        tasks = []
        crystal = first_ionic(symbols)
        if crystal is not None:
            formula, cell = crystal
            repeat = max(1, round((chosen.nve_atoms / len(cell)) ** (1 / 3)))
            tasks.append(Task(f"nve:{formula}", {"crystal": cell, "repeat": repeat}))
        salts = chosen.salts or salts_for(symbols)
        if salts:
            start = starting_melt(salts, chosen.atoms, np.random.default_rng(chosen.seed))
            strange = sorted(set(start.get_chemical_symbols()) - set(symbols))
            if strange:
                raise UserMistake(
                    f"salts={','.join(salts)}: {', '.join(strange)} not known to the model"
                )
            tasks.append(Task(f"melt:{'-'.join(salts)}", {"melt": start, "salts": list(salts)}))
        if not tasks:
            raise UserMistake(
                "md: no built-in crystal or salt is made of the model's elements; name salts "
                "by salts=NaCl,KCl"
            )
        return Plan(tasks[: chosen.count])

    def measure(self, potential: Potential, content: Mapping[str, Any]) -> dict[str, Any]:
        """Run one of them."""
        if "crystal" in content:
            return self._nve(potential, content["crystal"].repeat(content["repeat"]))
        return self._melt(potential, content["melt"].copy(), content["salts"])

    def _nve(self, potential: Potential, atoms: Atoms) -> dict[str, Any]:
        """Run at constant energy, and fit the drift of the total energy."""
        chosen = self.settings
        self._prepare(potential, atoms, 2 * chosen.nve_temperature)  # half becomes potential
        steps = max(20, round(1e3 * chosen.nve / chosen.nve_step))
        energy: list[float] = []
        temperature: list[float] = []

        def note() -> None:
            energy.append(atoms.get_total_energy() / len(atoms))
            temperature.append(atoms.get_temperature())

        _run(VelocityVerlet(atoms, chosen.nve_step * units.fs), steps, "md nve", note, every=1)
        time = np.arange(len(energy)) * chosen.nve_step * 1e-3
        total = 1e3 * (np.array(energy) - energy[0])
        # Velocities at the first steps are not those of the thermal motion yet.
        settled = slice(len(time) // 5, None)
        drift, offset = np.polyfit(time[settled], total[settled], 1)
        noise = total[settled] - (drift * time[settled] + offset)
        kept = np.linspace(0, len(time) - 1, min(400, len(time))).astype(int)
        return {
            "atoms": len(atoms),
            "length_ps": float(time[-1]),
            "temperature_K": float(np.mean(temperature[len(temperature) // 2 :])),
            "drift_meV_per_atom_ps": float(drift),
            "fluctuation_meV_per_atom": float(noise.std()),
            "time_ps": time[kept].tolist(),
            "energy_meV_per_atom": total[kept].tolist(),
        }

    def _melt(self, potential: Potential, atoms: Atoms, salts: Sequence[str]) -> dict[str, Any]:
        """Melt, then density and structure at constant pressure, then diffusion."""
        chosen = self.settings
        step = chosen.step * units.fs
        hot = chosen.temperature
        self._prepare(potential, atoms, hot)
        steps = [
            max(20, round(1e3 * t / chosen.step))
            for t in (chosen.equilibration, chosen.production)
        ]

        def nothing() -> None:
            return

        soft = NPTBerendsen(
            atoms,
            step,
            temperature_K=hot,
            pressure_au=BAR,
            taut=100 * units.fs,
            taup=500 * units.fs,
            compressibility_au=COMPRESSIBILITY,
        )
        _run(soft, steps[0], "md melt, equilibration", nothing)

        frames: list[Atoms] = []
        squeeze = IsotropicMTKNPT(
            atoms, step, hot, BAR, tdamp=100 * units.fs, pdamp=1000 * units.fs
        )
        _run(
            squeeze, steps[1], "md melt, constant pressure", lambda: frames.append(atoms.copy())
        )
        densities = np.array([density(f) for f in frames])
        kinds = sorted(set(atoms.get_chemical_symbols()))
        distributions = {}
        for i, a in enumerate(kinds):
            for b in kinds[i:]:
                r, g = pair_distribution(frames, a, b)
                distributions[f"{a}-{b}"] = g.round(4).tolist()

        volume = float(np.mean([f.get_volume() for f in frames]))
        atoms.set_cell(
            atoms.cell.array * (volume / atoms.get_volume()) ** (1 / 3), scale_atoms=True
        )
        paths: list[np.ndarray] = []
        free = NoseHooverChainNVT(atoms, step, hot, tdamp=100 * units.fs)
        weights = atoms.get_masses() / atoms.get_masses().sum()

        def follow() -> None:
            paths.append(atoms.positions - weights @ atoms.positions)

        _run(free, steps[1], "md melt, constant volume", follow)
        symbols = np.array(atoms.get_chemical_symbols())
        moving = {}
        for kind in kinds:
            tracks = np.array(paths)[:, symbols == kind]
            time, squares, d = diffusivity(tracks, EVERY * chosen.step)
            moving[kind] = {"cm2_per_s": d, "msd_A2": squares.round(5).tolist()}
        half = len(densities) // 2
        return {
            "salts": list(salts),
            "atoms": len(atoms),
            "temperature_K": hot,
            "density_g_per_cm3": float(densities.mean()),
            "density_halves_g_per_cm3": [
                float(densities[:half].mean()),
                float(densities[half:].mean()),
            ],
            "density_measured_g_per_cm3": measured_density(salts, hot),
            "density_over_time": densities.round(5).tolist(),
            "frame_ps": EVERY * chosen.step * 1e-3,
            "r_A": r.round(4).tolist(),
            "g": distributions,
            "delay_ps": time.round(5).tolist(),
            "diffusion": moving,
        }

    def _prepare(self, potential: Potential, atoms: Atoms, temperature: float) -> None:
        """Give atoms a calculator and velocities."""
        atoms.info["charge"] = 0.0
        atoms.calc = QeqCalculator(potential)
        rng = np.random.default_rng(self.settings.seed)
        mass = atoms.get_masses()[:, None]
        momenta = rng.normal(size=(len(atoms), 3)) * np.sqrt(mass * units.kB * temperature)
        momenta -= mass / mass.sum() * momenta.sum(axis=0)  # the whole stays where it is
        atoms.set_momenta(momenta)

    def findings(self, rows: Sequence[Row]) -> Findings:
        """Say what the runs gave."""
        return report(rows)


BENCHMARK = Md


def _run(
    dynamics: MolecularDynamics,
    steps: int,
    title: str,
    note: Callable[[], None],
    every: int = EVERY,
) -> None:
    """Run, with progress, and stop where atoms fly apart.

    Raises:
        TaskFailed: temperature or positions ran away.
    """
    atoms = dynamics.atoms
    progress = Progress(title, steps, sys.stderr)
    first_volume = atoms.get_volume()
    for i, _ in enumerate(dynamics.irun(steps=steps)):
        if i == 0:
            continue
        progress.advance()
        if i % every == 0:
            hot = atoms.get_temperature()
            grown = atoms.get_volume() / first_volume
            if not (hot < 2e4 and 0.2 < grown < 5.0 and np.isfinite(atoms.positions).all()):
                raise TaskFailed(
                    f"{title}: ran away after {i} steps: {hot:.3g} K, volume {grown:.2g} times "
                    "the first"
                )
            note()
    progress.close()
