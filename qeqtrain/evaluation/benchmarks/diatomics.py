"""Curves of two atoms: are they smooth, do they repel, and how far are they from DFT.

Molecular dynamics at high temperature visits what training data do not hold; two atoms drawn
together show it at once. References are the PBE curves of matbench-discovery.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers, chemical_symbols, covalent_radii

from qeqtrain.errors import UserMistake, nearest
from qeqtrain.evaluation.benchmarks.crystals import failures_table
from qeqtrain.evaluation.benchmarks.curves import smoothness, wall_is_repulsive, well
from qeqtrain.evaluation.benchmarks.references import DIMERS, read_json
from qeqtrain.evaluation.benchmarks.suite import (
    Findings,
    Plan,
    Row,
    Settings,
    Suite,
    Task,
    TaskFailed,
)
from qeqtrain.evaluation.plots import COLORS
from qeqtrain.evaluation.tables import Table, number
from qeqtrain.models.potential import Potential

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FAR = 6.0
"""A: where curves and references end."""
NEAR = 0.8
"""Of the sum of covalent radii: where curves begin; half of it is a homonuclear radius."""
SCORED_FROM = 0.9
"""Of one covalent radius: smoothness and errors count from here, as in matbench-discovery."""
PANELS = 30
NAMED = 12
"""Pairs that a sentence names."""


@dataclass(frozen=True)
class DiatomicSettings(Settings):
    """Settings.

    Attributes:
        elements: symbols whose pairs with themselves are drawn; all of the model unless given.
        pairs: further pairs, such as ``Na-Cl``.
        points: of a curve.
        references: folder with the DFT curves; ``none`` leaves DFT out.
    """

    elements: tuple[str, ...] = ()
    pairs: tuple[str, ...] = ()
    points: int = 120
    references: str = ""


class Diatomics(Suite[DiatomicSettings]):
    """Curves of pairs of atoms."""

    name: ClassVar[str] = "diatomics"
    settings_class = DiatomicSettings

    def plan(self, potential: Potential) -> Plan:
        """List the pairs, with DFT curves where there are any."""
        chosen = self.settings
        if chosen.points < 10:
            raise UserMistake(f"points={chosen.points}: expected 10 or more")
        known = [chemical_symbols[z] for z in potential.elements]
        symbols = list(chosen.elements) or known
        pairs = [(s, s) for s in symbols] + [_pair(text) for text in chosen.pairs]
        strange = sorted({s for pair in pairs for s in pair} - set(known))
        if strange:
            raise UserMistake(
                *(f"{s}: not an element of the model{nearest(s, known)}" for s in strange)
            )
        pairs = list(dict.fromkeys(pairs))[: chosen.count]
        curves, notes = self._references()
        tasks = [
            Task(f"{a}-{b}", {"pair": [a, b], "dft": curves.get(f"{a}-{b}")}) for a, b in pairs
        ]
        return Plan(tasks, notes)

    def _references(self) -> tuple[Mapping[str, Any], list[str]]:
        if self.settings.references == "none":
            return {}, []
        try:
            found = DIMERS.find(self.settings.references)
        except UserMistake as mistake:
            if self.settings.references:
                raise
            return {}, [f"no DFT curves: {mistake}"]
        curves = read_json(found.path)["PBE"]
        return curves, [found.note(DIMERS.source, len(curves))]

    def measure(self, potential: Potential, content: Mapping[str, Any]) -> dict[str, Any]:
        """Draw one curve, and score it."""
        a, b = content["pair"]
        radii = [float(covalent_radii[atomic_numbers[s]]) for s in (a, b)]
        radius = 0.5 * sum(radii)
        distance = np.geomspace(NEAR * radius, FAR, self.settings.points)
        energy, force, charge = curve(potential, a, b, distance)
        scored = distance >= SCORED_FROM * radius
        smooth = smoothness(energy[scored], force[scored])
        lowest = well(distance[scored], energy[scored])
        values = {
            "distance_A": distance.round(5).tolist(),
            "energy_eV": (energy - energy[-1]).tolist(),
            "force_eV_per_A": force.tolist(),
            "charge_e": None if charge is None else charge.tolist(),
            "tortuosity": smooth.tortuosity,
            "energy_flips": smooth.energy_flips,
            "energy_jump_eV": smooth.energy_jump,
            "force_flips": smooth.force_flips,
            "bond_length_A": lowest.distance,
            "well_depth_eV": lowest.depth,
            "repulsive": wall_is_repulsive(distance[scored], energy[scored]),
            "wall_eV": float(energy[0] - energy[-1]),
        }
        if content.get("dft") is not None:
            values |= compare_with_dft(potential, a, b, content["dft"], radius)
        return values

    def findings(self, rows: Sequence[Row]) -> Findings:
        """Mean measures over pairs, and the curves themselves."""
        values = {row.task: row.values for row in rows if not row.failed}
        compared = [v for v in values.values() if "dft_energy_mae_eV" in v]
        alike = [v for name, v in values.items() if len(set(name.split("-"))) == 1]
        numbers = {
            "tortuosity": _mean(alike, "tortuosity"),
            "energy_flips": _mean(alike, "energy_flips"),
            "energy_jump_eV": _mean(alike, "energy_jump_eV"),
            "force_flips": _mean(alike, "force_flips"),
            "repulsive_share": _mean(list(values.values()), "repulsive"),
            "dft_energy_mae_eV": _mean(compared, "dft_energy_mae_eV"),
            "dft_force_mae_eV_per_A": _mean(compared, "dft_force_mae_eV_per_A"),
            "dft_bond_length_error_A": _mean(compared, "dft_bond_length_error_A"),
            "dft_well_depth_error_eV": _mean(compared, "dft_well_depth_error_eV"),
        }
        summary = Table(
            "Pairs of like atoms, means (1 is ideal for the first two)",
            ["measure", "this model"],
            [[name, number(float(value))] for name, value in numbers.items()],
        )
        softest = [name for name, v in values.items() if not v["repulsive"]]
        notes = [
            f"curves from {NEAR:g} of a covalent radius to {FAR:g} A, scored from "
            f"{SCORED_FROM:g} of it; neutral pairs",
            f"{len(softest)} of {len(values)} pairs do not repel all the way in"
            + (f": {' '.join(softest[:NAMED])}" if softest else "")
            + (" ..." if len(softest) > NAMED else ""),
        ]
        return Findings(
            numbers=numbers,
            tables=[summary, _curves_table(values), *failures_table(rows)],
            notes=notes,
            plots=_pages(values),
            card=_card(numbers, len(alike)),
        )


BENCHMARK = Diatomics


def curve(
    potential: Potential, a: str, b: str, distance: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Energy, force and charge of a neutral pair at many distances, in one evaluation.

    Returns:
        Energy, eV; force on the second atom away from the first, eV/A; charge of the second
        atom, e, or ``None``; each of shape ``(points,)``.

    Raises:
        TaskFailed: energies or forces that are not finite.
    """
    many = []
    for r in distance:
        atoms = Atoms([a, b], [[0.0, 0.0, 0.0], [float(r), 0.0, 0.0]])
        atoms.info["charge"] = 0.0
        many.append(atoms)
    said = potential(many, forces=True, stress=False).detach()
    energy = said.energy.cpu().double().numpy()
    force = said.forces.cpu().double().numpy()[1::2, 0]
    if not (np.isfinite(energy).all() and np.isfinite(force).all()):
        raise TaskFailed("energies or forces are not finite")
    charge = None if said.charges is None else said.charges.cpu().double().numpy()[1::2]
    return energy, force, charge


def compare_with_dft(
    potential: Potential, a: str, b: str, dft: Mapping[str, Any], radius: float
) -> dict[str, Any]:
    """Errors against a DFT curve, both relative to their far ends."""
    distance = np.asarray(dft["distances"], dtype=float)
    order = np.argsort(distance)
    order = order[distance[order] >= SCORED_FROM * radius]
    distance = distance[order]
    theirs = np.asarray(dft["energies"], dtype=float)[order]
    pulls = np.asarray(dft["forces"], dtype=float)[order]
    energy, force, _ = curve(potential, a, b, distance)
    ours, theirs = energy - energy[-1], theirs - theirs[-1]
    # Which atom and axis a file calls first is its own business: the pull between the two.
    along = np.linalg.norm(pulls[:, 1], axis=-1) * -np.sign(np.gradient(theirs, distance))
    mine, reference = well(distance, ours), well(distance, theirs)
    values: dict[str, Any] = {
        "dft_distance_A": distance.tolist(),
        "dft_energy_eV": theirs.tolist(),
        "dft_energy_mae_eV": float(np.abs(ours - theirs).mean()),
        # A component of one atom in three has a force.
        "dft_force_mae_eV_per_A": float(np.abs(force - along).mean()) / 3,
    }
    if reference.depth >= 0.05:  # a bond worth the name
        values["dft_bond_length_error_A"] = abs(mine.distance - reference.distance)
        values["dft_well_depth_error_eV"] = abs(mine.depth - reference.depth)
    return values


def _pair(text: str) -> tuple[str, str]:
    first, dash, second = text.partition("-")
    if not dash or not second:
        raise UserMistake(f"pairs={text}: expected two symbols with a dash, such as Na-Cl")
    return first, second


def _mean(values: Sequence[Mapping[str, Any]], key: str) -> float:
    found = [float(v[key]) for v in values if v.get(key) is not None]
    return float(np.mean(found)) if found else float("nan")


def _card(numbers: Mapping[str, float], count: int) -> dict[str, dict[str, Any]]:
    """Entries of the schema that this suite has, by the same definitions."""
    names = {
        "tortuosity": "tortuosity",
        "energy_diff_flips": "energy_flips",
        "energy_jump": "energy_jump_eV",
        "force_flips": "force_flips",
        "pbe_energy_mae": "dft_energy_mae_eV",
        "pbe_force_mae": "dft_force_mae_eV_per_A",
        "pbe_bond_length_error": "dft_bond_length_error_A",
        "pbe_well_depth_error": "dft_well_depth_error_eV",
    }
    found = {k: round(numbers[n], 4) for k, n in names.items() if np.isfinite(numbers[n])}
    status = {"status": "partial", "reason": f"{count} elements, own distances"}
    return {"diatomics": {**status, **found}}


def _curves_table(values: Mapping[str, Mapping[str, Any]]) -> Table:
    keys = (
        "tortuosity",
        "energy_flips",
        "force_flips",
        "bond_length_A",
        "well_depth_eV",
        "wall_eV",
        "dft_energy_mae_eV",
    )
    rows = [
        [name, *("-" if v.get(k) is None else number(float(v[k])) for k in keys)]
        for name, v in sorted(values.items(), key=lambda item: -item[1]["tortuosity"])
    ]
    head = ["pair", "tortuosity", "E flips", "F flips", "bond (A)", "depth (eV)", "wall (eV)"]
    return Table("Curves, roughest first", [*head, "DFT MAE (eV)"], rows)


def _pages(values: Mapping[str, Mapping[str, Any]]) -> dict[str, Figure]:
    names = list(values)
    starts = range(0, len(names), PANELS)
    pages = [{n: values[n] for n in names[i : i + PANELS]} for i in starts]
    return {f"curves-{i}": _page(page) for i, page in enumerate(pages, 1)}


def _page(values: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Draw curves side by side, each cut off well above its well."""
    from matplotlib.figure import Figure

    columns = min(5, len(values))
    lines = -(-len(values) // columns)
    size = (2.3 * columns + 0.6, 1.9 * lines + 0.8)
    figure = Figure(figsize=size, dpi=130, layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False)
    for axes in panels.flat[len(values) :]:
        axes.set_visible(False)
    for axes, (name, v) in zip(panels.flat, values.items(), strict=False):
        energy = np.array(v["energy_eV"])
        axes.axhline(0.0, color="0.8", linewidth=0.6)
        if "dft_energy_eV" in v:
            axes.plot(v["dft_distance_A"], v["dft_energy_eV"], color="0.35", lw=1.0, ls="--")
        axes.plot(v["distance_A"], energy, color=COLORS[0], lw=1.2)
        floor = min(float(energy.min()), min(v.get("dft_energy_eV", [0.0])))
        axes.set_ylim(floor - 0.4, max(3.0, -1.2 * floor))
        axes.set_title(name, fontsize=8, pad=2)
        axes.tick_params(labelsize=6, length=2)
    figure.supxlabel("distance (A)", fontsize=9)
    figure.supylabel("energy (eV)", fontsize=9)
    dashed = "; dashed: DFT (PBE)" if any("dft_energy_eV" in v for v in values.values()) else ""
    figure.suptitle(f"energy above that at {FAR:g} A{dashed}", fontsize=9)
    return figure
