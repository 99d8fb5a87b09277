"""What the probes of charges say together: tables, plots, and failures in figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from qeqtrain.evaluation.benchmarks.crystals import failures_table
from qeqtrain.evaluation.benchmarks.suite import Findings, Row
from qeqtrain.evaluation.plots import COLORS
from qeqtrain.evaluation.tables import Table, number

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Rows = Mapping[str, Mapping[str, Any]]
"""Values by what was probed."""

NOTICEABLE = 0.01
"""e: charge that crosses vacuum and is worth a sentence."""
FELT = 1e-3
"""e: change of a charge that counts in the reach of a displacement."""


def report(rows: Sequence[Row]) -> Findings:
    """Put the rows of all probes together."""
    by_probe: dict[str, dict[str, Mapping[str, Any]]] = {}
    for row in rows:
        if not row.failed:
            probe, _, of = row.task.partition(":")
            by_probe.setdefault(probe, {})[of] = row.values
    numbers: dict[str, Any] = {}
    tables: list[Table] = []
    notes: list[str] = []
    plots: dict[str, Figure] = {}
    parts = {
        "transfer": _transfer,
        "conservation": _conservation,
        "dipole": _dipole,
        "extensivity": _extensivity,
        "locality": _locality,
        "response": _response,
        "labels": _labels,
    }
    for probe, part in parts.items():
        if probe in by_probe:
            part(by_probe[probe], numbers, tables, notes)
    if "transfer" in by_probe:
        plots["transfer"] = _transfer_plot(by_probe["transfer"])
    if "locality" in by_probe:
        plots["locality"] = _locality_plot(by_probe["locality"])
    return Findings(
        numbers=numbers, tables=[*tables, *failures_table(rows)], notes=notes, plots=plots
    )


def _transfer(values: Rows, numbers: dict, tables: list, notes: list) -> None:
    rows = []
    for pair, v in values.items():
        for r, q, e in zip(
            v["distances_A"], v["charge_of_first_e"], v["energy_eV"], strict=True
        ):
            rows.append([pair, f"{r:g}", _signed(q), _signed(e)])
        q, e, r = v["charge_of_first_e"][-1], v["energy_eV"][-1], v["distances_A"][-1]
        if abs(q) > NOTICEABLE:
            first, _, second = pair.partition("-")
            notes.append(
                f"FAILURE: {abs(q):.2f} electrons cross {r:g} A of vacuum from "
                f"{first if q > 0 else second} to {second if q > 0 else first}, at "
                f"{e:+.2f} eV; charges of this model are not size consistent"
            )
    numbers["far_transfer_e"] = max(abs(v["charge_of_first_e"][-1]) for v in values.values())
    numbers["far_energy_eV"] = max(abs(v["energy_eV"][-1]) for v in values.values())
    head = ["fragments", "distance (A)", "charge of the first (e)", "energy above both (eV)"]
    tables.append(Table("Neutral fragments far apart (both should be 0)", head, rows))


def _conservation(values: Rows, numbers: dict, tables: list, notes: list) -> None:
    worst = max(max(v["violation_e"].values()) for v in values.values())
    numbers["conservation_e"] = worst
    rows = [
        [
            name,
            " ".join(q.replace("+0", "0") for q in v["violation_e"]),
            number(max(v["violation_e"].values())),
        ]
        for name, v in values.items()
    ]
    head = ["structure", "total charges (e)", "largest violation (e)"]
    tables.append(Table("Conservation of the total charge", head, rows, names=2))
    refused = {q for v in values.values() for q in v["refused"]}
    if refused:
        notes.append(f"total charges that the model refuses: {' '.join(sorted(refused))}")


def _dipole(values: Rows, numbers: dict, tables: list, notes: list) -> None:
    numbers["dipole_translation_e"] = max(v["translation_e"] for v in values.values())
    numbers["dipole_rotation_e_A"] = max(v["rotation_e_A"] for v in values.values())
    keys = ["dipole_e_A", "largest_born_charge_e", "translation_e", "rotation_e_A"]
    head = ["molecule", "dipole (e A)", "largest Born charge (e)"]
    head += ["sum over atoms (e)", "turning (e A)"]
    tables.append(
        Table("Sum rules of the dipole (last two should be 0)", head, _cells(values, keys))
    )
    field = {name: v for name, v in values.items() if "field_energy_mismatch_e_A" in v}
    if field:
        keys = ["born_charges_mismatch_e", "field_energy_mismatch_e_A"]
        keys += [
            "field_force_mismatch_e",
            "polarizability_e_A2_per_V",
            "polarizability_mismatch",
        ]
        numbers["born_charges_mismatch_e"] = max(
            v["born_charges_mismatch_e"] for v in field.values()
        )
        numbers["field_energy_mismatch_e_A"] = max(
            v["field_energy_mismatch_e_A"] for v in field.values()
        )
        numbers["field_force_mismatch_e"] = max(
            v["field_force_mismatch_e"] for v in field.values()
        )
        head = ["molecule", "Born charges (e)", "-dE/dF and dipole (e A)", "forces and Z (e)"]
        head += ["polarizability (e A^2/V)", "its mismatch"]
        tables.append(
            Table("Electric field: mismatches (should be 0)", head, _cells(field, keys))
        )


def _extensivity(values: Rows, numbers: dict, tables: list, notes: list) -> None:
    numbers["extensivity_meV_per_atom"] = 1e3 * max(
        max(v["energy_eV_per_atom"]) for v in values.values()
    )
    numbers["extensivity_charges_e"] = max(max(v["charges_e"]) for v in values.values())
    rows = [
        [name, "x".join(str(i) for i in n), number(1e3 * e), number(q)]
        for name, v in values.items()
        for n, e, q in zip(v["repeats"], v["energy_eV_per_atom"], v["charges_e"], strict=True)
    ]
    head = ["crystal", "cells", "energy (meV/atom)", "charges (e)"]
    tables.append(Table("Larger cells of the same crystal, differences", head, rows, names=2))


def _locality(values: Rows, numbers: dict, tables: list, notes: list) -> None:
    edges = [0.0, 0.1, 3.0, 5.0, 7.0, 10.0, np.inf]
    rows = []
    for name, v in values.items():
        r = np.array(v["distance_A"])
        q, f = np.array(v["charge_change_e"]), np.array(v["force_change_eV_per_A"])
        for low, high in pairwise(edges):
            inside = (r >= low) & (r < high)
            if inside.any():
                label = f"{low:g} to {high:g}" if np.isfinite(high) else f"above {low:g}"
                label = "the atom itself" if low == 0.0 else label
                rows.append([name, label, number(q[inside].max()), number(f[inside].max())])
        felt = r[q > FELT]
        numbers["charge_reach_A"] = float(felt.max()) if len(felt) else 0.0
        notes.append(
            f"locality: one atom of a box of {v['box_A']:.1f} A was moved; charges change by "
            f"more than {1e3 * FELT:g} me up to {numbers['charge_reach_A']:.1f} A away"
        )
    head = ["crystal", "distance (A)", "largest change of a charge (e)", "of a force (eV/A)"]
    tables.append(Table("Around an atom that is moved", head, rows, names=2))


def _response(values: Rows, numbers: dict, tables: list, notes: list) -> None:
    rows = []
    for name, v in values.items():
        stated = v["stated_potential_eV_per_e"]
        rows.append(
            [
                name,
                " ".join(f"{q:+g}" if q else "0" for q in v["total_charges_e"]),
                _signed(v["slope_eV_per_e"]),
                "-" if stated is None else _signed(stated),
                _signed(v["curvature_eV_per_e2"]),
                f"{v['smallest_share']:.2f} to {v['largest_share']:.2f}",
            ]
        )
    numbers["response_slopes_eV_per_e"] = {n: v["slope_eV_per_e"] for n, v in values.items()}
    numbers["response_curvatures_eV_per_e2"] = {
        n: v["curvature_eV_per_e2"] for n, v in values.items()
    }
    head = ["structure", "total charges (e)", "dE/dQ (eV/e)", "stated potential (eV/e)"]
    head += ["d2E/dQ2 (eV/e^2)", "shares of atoms"]
    tables.append(Table("Response to the total charge", head, rows, names=2))
    notes.append(
        "response: dE/dQ by differences beside the chemical potential of the charge model; "
        "they agree where the charge energy is the energy, not where charges feed a network"
    )


def _labels(values: Rows, numbers: dict, tables: list, notes: list) -> None:
    units = {"charges": "me", "dipole": "e A"}
    rows, elements = [], []
    for file, v in values.items():
        for name, e in v["errors"].items():
            cells = [number(e[k]) for k in ("mae", "rmse", "bias", "largest")]
            rows.append([file, name, units[name], *cells, f"{e['count']:,}"])
            unit = "me" if name == "charges" else "e_A"
            numbers[f"label_{name}_mae_{unit}"] = e["mae"]
        elements += [
            [symbol, number(e["mae"]), number(e["rmse"]), number(e["largest"])]
            for symbol, e in v["by_element"].items()
        ]
        notes += [
            f"labels of {file}: {k} not compared, {why}" for k, why in v["missing"].items()
        ]
    head = ["file", "quantity", "unit", "MAE", "RMSE", "bias", "largest", "components"]
    tables.append(Table("Against labels", head, rows, names=3))
    if elements:
        tables.append(
            Table("Charges by element (me)", ["element", "MAE", "RMSE", "largest"], elements)
        )


def _cells(values: Rows, keys: Sequence[str]) -> list[list[str]]:
    return [[name, *(number(v[k]) for k in keys)] for name, v in values.items()]


def _signed(value: float) -> str:
    return f"{value:+.4f}" if abs(value) >= 1e-4 else f"{value:+.1e}"


def _transfer_plot(values: Rows) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.4, 3.6), dpi=140, layout="constrained")
    left, right = figure.subplots(1, 2)
    for color, (pair, v) in zip(COLORS, values.items(), strict=False):
        left.plot(v["distances_A"], v["charge_of_first_e"], "o-", color=color, ms=4, label=pair)
        right.plot(v["distances_A"], v["energy_eV"], "o-", color=color, ms=4, label=pair)
    for axes, what in (
        (left, "charge of the first (e)"),
        (right, "energy above both (eV)"),
    ):
        axes.axhline(0.0, color="0.5", linewidth=0.8, zorder=0)
        axes.set_xlabel("distance of the centres (A)")
        axes.set_ylabel(what)
        axes.grid(color="0.93", linewidth=0.6)
        axes.set_axisbelow(True)
    left.legend(fontsize=7, frameon=False)
    figure.suptitle("neutral fragments far apart", fontsize=11)
    return figure


def _locality_plot(values: Rows) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2, 3.8), dpi=140, layout="constrained")
    axes = figure.subplots()
    for color, (name, v) in zip(COLORS, values.items(), strict=False):
        r, q = np.array(v["distance_A"]), np.array(v["charge_change_e"])
        shown = (r > 0.1) & (q > 0.0)
        axes.scatter(r[shown], q[shown], s=10, color=color, alpha=0.7, linewidths=0, label=name)
    axes.axhline(FELT, color="0.5", linewidth=0.8, linestyle="--", zorder=0)
    axes.set_yscale("log")
    axes.set_xlabel("distance from the atom that is moved (A)")
    axes.set_ylabel("change of the charge (e)")
    axes.grid(color="0.93", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.legend(fontsize=8, frameon=False)
    return figure
