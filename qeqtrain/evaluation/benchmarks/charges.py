"""What charges have to do whatever the labels say, and how they compare with labels.

Probes: conservation of the total charge; sum rules of the dipole; nothing flows between distant
neutral fragments; a larger cell of the same crystal is the same crystal; what happens here does
not change charges far away; energy follows the total charge as its stated potential says. Where
a model fails, the report says so in figures.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, ClassVar

from ase.data import chemical_symbols

from qeqtrain.errors import UserMistake
from qeqtrain.evaluation.benchmarks import charge_probes
from qeqtrain.evaluation.benchmarks.charge_labels import compare_with_labels
from qeqtrain.evaluation.benchmarks.charge_report import report
from qeqtrain.evaluation.benchmarks.prototypes import first_ionic, molecules
from qeqtrain.evaluation.benchmarks.suite import Findings, Plan, Row, Settings, Suite, Task
from qeqtrain.models.potential import Potential

PROBES: Mapping[str, Callable[[Potential, Mapping[str, Any]], dict[str, Any]]] = {
    "conservation": charge_probes.conservation,
    "dipole": charge_probes.dipole_rules,
    "transfer": charge_probes.far_transfer,
    "extensivity": charge_probes.extensivity,
    "locality": charge_probes.locality,
    "response": charge_probes.charge_response,
    "labels": compare_with_labels,
}
"""Kind of task: what it asks of a potential."""
PAIRS = ("H2O-Na4", "NaCl-Na4", "H2O-NaCl", "HF-LiF", "CO2-Li4")
"""Pairs of fragments that are asked for first, where the model has their elements."""


@dataclass(frozen=True)
class ChargeSettings(Settings):
    """Settings.

    Attributes:
        data: file with labels of charges or dipoles, as ``qeqtrain evaluate`` reads it.
        conventions: of that file, a JSON object; written by ``data.key=value``.
        pairs: fragments far apart, such as ``H2O-Na4``; some that the model knows by default.
        distances: between their centres, A.
        repeat: copies of the crystal along each direction in the probe of locality.
        move: displacement of one atom in the probe of locality, A.
    """

    data: str = ""
    conventions: str = ""
    pairs: tuple[str, ...] = ()
    distances: tuple[str, ...] = ("8", "12", "20", "40")
    repeat: int = 3
    move: float = 0.1


class ChargeBenchmark(Suite[ChargeSettings]):
    """Probes of charges."""

    name: ClassVar[str] = "charges"
    settings_class = ChargeSettings

    def plan(self, potential: Potential) -> Plan:
        """Choose molecules, a crystal, and pairs for the model's elements."""
        if not potential.has_charges:
            raise UserMistake("charges: the model predicts no charges")
        chosen = self.settings
        symbols = [chemical_symbols[z] for z in potential.elements]
        known = molecules(symbols)
        crystal = first_ionic(symbols)
        notes = []
        tasks = []
        totals = _total_charges(potential)
        for name, atoms in known.items():
            everywhere = [-1.0, 0.0, 1.0]
            tasks += [
                _task("conservation", name, atoms=atoms, total_charges=everywhere),
                _task("dipole", name, atoms=_tilted(atoms)),
                _task("response", name, atoms=atoms, total_charges=totals),
            ]
        for pair in self._pairs(list(known)):
            first, _, second = pair.partition("-")
            fragments = [known[first], known[second]]
            tasks.append(
                _task("transfer", pair, fragments=fragments, distances_A=self._distances())
            )
        if crystal is not None:
            formula, cell = crystal
            large = cell.repeat(chosen.repeat)
            name = f"{formula} crystal"
            repeats = [(2, 1, 1), (1, 2, 3)]
            tasks += [
                _task("conservation", name, atoms=cell, total_charges=[0.0]),
                _task("extensivity", name, atoms=cell, repeats=repeats),
                _task("locality", name, atoms=large, move_A=chosen.move),
            ]
        if chosen.data:
            conventions = json.loads(chosen.conventions or "{}")
            tasks.append(_task("labels", chosen.data, file=chosen.data, said=conventions))
        else:
            notes.append("no labels: give structures with charges or dipoles by --data FILE")
        if not known:
            notes.append("no built-in molecule is made of the model's elements")
        if crystal is None:
            notes.append("no built-in crystal is made of the model's elements")
        if not charge_probes.answers_fields(potential):
            notes.append("electric fields and Born charges by differentiation: not available")
        if not tasks:
            raise UserMistake(
                "charges: no built-in molecule or crystal is made of the model's elements; "
                "give labelled structures by --data FILE"
            )
        return Plan(tasks[: chosen.count], notes)

    def _pairs(self, known: Sequence[str]) -> list[str]:
        """Choose pairs of fragments.

        Raises:
            UserMistake: a pair was asked for that there is not.
        """
        possible = [f"{a}-{b}" for a, b in combinations(known, 2)]
        either = {*possible, *(f"{b}-{a}" for a, b in combinations(known, 2))}
        if self.settings.pairs:
            strange = [pair for pair in self.settings.pairs if pair not in either]
            if strange:
                raise UserMistake(
                    f"pairs={','.join(strange)}: expected pairs of {', '.join(known)}, such as "
                    f"{possible[0] if possible else 'H2O-Na4'}"
                )
            return list(self.settings.pairs)
        first = [pair for pair in PAIRS if pair in either]
        return (first or possible)[:5]

    def _distances(self) -> list[float]:
        try:
            found = sorted(float(text) for text in self.settings.distances)
        except ValueError:
            found = []
        if not found or found[0] <= 0:
            raise UserMistake(
                f"distances={','.join(self.settings.distances)}: expected lengths in A above 0"
            )
        return found

    def measure(self, potential: Potential, content: Mapping[str, Any]) -> dict[str, Any]:
        """Ask one question."""
        return PROBES[content["probe"]](potential, content)

    def findings(self, rows: Sequence[Row]) -> Findings:
        """Say what the probes found."""
        return report(rows)


BENCHMARK = ChargeBenchmark


def _task(probe: str, of: str, **content: Any) -> Task:
    return Task(f"{probe}:{of}", {"probe": probe, **content})


def _total_charges(potential: Potential) -> list[float]:
    """Total charges of the probe of the response, none of which the model refuses."""
    seen = potential.states_seen.charges
    if seen is None or potential.unseen_charge_states == "allow":
        return [-1.0, -0.1, 0.0, 0.1, 1.0]
    return sorted({0.0, *(float(q) for q in seen)})


def _tilted(atoms: Any) -> Any:
    """Turn a molecule into general position and bend it out of symmetry."""
    tilted = atoms.copy()
    tilted.rotate(37.0, (1.0, 2.0, 3.0))
    tilted.positions[0] += (0.05, -0.03, 0.02)
    return tilted
