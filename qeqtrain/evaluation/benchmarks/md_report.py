"""What molecular dynamics gave: tables and plots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from qeqtrain.evaluation.benchmarks.crystals import failures_table
from qeqtrain.evaluation.benchmarks.suite import Findings, Row
from qeqtrain.evaluation.plots import COLORS
from qeqtrain.evaluation.tables import Table, number

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def report(rows: Sequence[Row]) -> Findings:
    """Put the rows of a crystal and a melt together."""
    numbers: dict[str, Any] = {}
    tables: list[Table] = []
    notes: list[str] = []
    plots: dict[str, Figure] = {}
    for row in rows:
        if row.failed:
            continue
        kind, _, name = row.task.partition(":")
        if kind == "nve":
            _about_drift(name, row.values, numbers, tables)
            plots["energy"] = _energy_plot(name, row.values)
        else:
            _about_melt(name, row.values, numbers, tables, notes)
            plots["density"] = _density_plot(row.values)
            plots["structure"] = _structure_plot(row.values)
            plots["diffusion"] = _diffusion_plot(row.values)
    return Findings(
        numbers=numbers, tables=[*tables, *failures_table(rows)], notes=notes, plots=plots
    )


def _about_drift(
    name: str, v: Mapping[str, Any], numbers: dict[str, Any], tables: list[Table]
) -> None:
    numbers["drift_meV_per_atom_ps"] = v["drift_meV_per_atom_ps"]
    numbers["fluctuation_meV_per_atom"] = v["fluctuation_meV_per_atom"]
    cells = [name, str(v["atoms"]), number(v["length_ps"]), number(v["temperature_K"])]
    cells += [f"{v['drift_meV_per_atom_ps']:+.4f}", number(v["fluctuation_meV_per_atom"])]
    head = ["crystal", "atoms", "time (ps)", "temperature (K)"]
    head += ["drift (meV/atom/ps)", "fluctuation (meV/atom)"]
    tables.append(Table("Constant energy", head, [cells]))


def _about_melt(
    name: str,
    v: Mapping[str, Any],
    numbers: dict[str, Any],
    tables: list[Table],
    notes: list[str],
) -> None:
    first, second = v["density_halves_g_per_cm3"]
    measured = v["density_measured_g_per_cm3"]
    numbers["density_g_per_cm3"] = v["density_g_per_cm3"]
    numbers["density_uncertainty_g_per_cm3"] = abs(first - second) / 2
    cells = [name, str(v["atoms"]), number(v["temperature_K"]), number(v["density_g_per_cm3"])]
    cells += [number(abs(first - second) / 2)]
    head = ["melt", "atoms", "temperature (K)", "density (g/cm^3)", "+/-"]
    if measured is not None:
        numbers["density_measured_g_per_cm3"] = measured
        cells.append(number(measured))
        head.append("measured (g/cm^3)")
        notes.append(
            "measured density: Janz (1988) for each molten salt, volumes added for a mixture"
        )
    tables.append(Table("Melt at constant pressure", head, [cells]))
    r = np.array(v["r_A"])
    peaks = []
    for pair, values in v["g"].items():
        g = np.array(values)
        peak = int(np.argmax(g))
        peaks.append([pair, number(float(r[peak])), number(float(g[peak]))])
        numbers[f"first_peak_{pair}_A"] = float(r[peak])
    tables.append(Table("Highest peak of the distribution", ["pair", "r (A)", "g"], peaks))
    moving = [[kind, f"{d['cm2_per_s']:.2e}"] for kind, d in v["diffusion"].items()]
    for kind, d in v["diffusion"].items():
        numbers[f"diffusivity_{kind}_cm2_per_s"] = d["cm2_per_s"]
    tables.append(Table("Diffusion at constant volume", ["ion", "D (cm^2/s)"], moving))
    notes.append(
        f"+/- is half the difference of two halves of {len(v['density_over_time'])} frames; a "
        "box this small and a run this short leave diffusivities good to a factor"
    )


def _axes(width: float = 5.2) -> tuple[Figure, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, 3.6), dpi=140, layout="constrained")
    axes = figure.subplots()
    axes.grid(color="0.93", linewidth=0.6)
    axes.set_axisbelow(True)
    return figure, axes


def _energy_plot(name: str, v: Mapping[str, Any]) -> Figure:
    figure, axes = _axes()
    axes.plot(v["time_ps"], v["energy_meV_per_atom"], color=COLORS[0], lw=1.0)
    axes.set_xlabel("time (ps)")
    axes.set_ylabel("total energy above the first (meV/atom)")
    axes.set_title(f"{name}, {v['atoms']} atoms, {v['temperature_K']:.0f} K", fontsize=10)
    return figure


def _density_plot(v: Mapping[str, Any]) -> Figure:
    figure, axes = _axes()
    time = v["frame_ps"] * np.arange(1, len(v["density_over_time"]) + 1)
    axes.plot(time, v["density_over_time"], color=COLORS[0], lw=1.0, label="this model")
    axes.axhline(v["density_g_per_cm3"], color=COLORS[0], lw=0.8, ls=":", label="its mean")
    if v["density_measured_g_per_cm3"] is not None:
        axes.axhline(
            v["density_measured_g_per_cm3"], color=COLORS[1], lw=1.0, ls="--", label="measured"
        )
    axes.set_xlabel("time at constant pressure (ps)")
    axes.set_ylabel("density (g/cm^3)")
    axes.set_title(f"{'-'.join(v['salts'])}, {v['temperature_K']:.0f} K", fontsize=10)
    axes.legend(fontsize=8, frameon=False)
    return figure


def _structure_plot(v: Mapping[str, Any]) -> Figure:
    figure, axes = _axes()
    for color, (pair, g) in zip(COLORS, v["g"].items(), strict=False):
        axes.plot(v["r_A"], g, color=color, lw=1.2, label=pair)
    axes.axhline(1.0, color="0.6", lw=0.7, zorder=0)
    axes.set_xlabel("distance (A)")
    axes.set_ylabel("radial distribution g(r)")
    axes.legend(fontsize=8, frameon=False, ncols=2)
    return figure


def _diffusion_plot(v: Mapping[str, Any]) -> Figure:
    figure, axes = _axes()
    for color, (kind, d) in zip(COLORS, v["diffusion"].items(), strict=False):
        axes.plot(v["delay_ps"], d["msd_A2"], color=color, lw=1.3, label=kind)
    axes.set_xlabel("delay (ps)")
    axes.set_ylabel("mean square displacement (A^2)")
    axes.legend(fontsize=8, frameon=False)
    return figure
