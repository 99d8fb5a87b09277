"""A potential on labelled frames: everything a report says, before it is written down."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from qeqtrain.data.elements import SYMBOLS
from qeqtrain.errors import UserMistake
from qeqtrain.evaluation.errors import Compared, Errors
from qeqtrain.evaluation.inference import Frames, Timing, predictions, untrained_elements
from qeqtrain.models.potential import Potential
from qeqtrain.structures import Structure
from qeqtrain.training.quantities import QUANTITIES

NO_LABEL = "no frame has this label"
NOT_PREDICTED = "the model does not predict it"


@dataclass(frozen=True)
class FrameList:
    """What is known of the frames that were evaluated, in order.

    Attributes:
        part: name of the file or split of each.
        source_id: of each.
        formula: of each.
        n_atoms, total_charge: of each, shape ``(frames,)``.
    """

    part: list[str]
    source_id: list[str]
    formula: list[str]
    n_atoms: np.ndarray
    total_charge: np.ndarray

    def __len__(self) -> int:
        """Count the frames."""
        return len(self.part)


@dataclass(frozen=True)
class Evaluation:
    """Predictions beside labels, and what it took.

    Attributes:
        frames: what was evaluated.
        compared: by quantity, where there was something to compare.
        missing: by quantity, why there was not.
        references: reference energy of each row of ``compared["energy"]``, eV per atom; plots
            show energies above it.
        charge_residual: largest violation of a total charge by predicted charges, e; ``None``
            without charges.
        timing: of the predictions.
        model: plain facts of the potential.
    """

    frames: FrameList
    compared: dict[str, Compared]
    missing: dict[str, str]
    references: np.ndarray
    charge_residual: float | None
    timing: Timing
    model: dict[str, object]

    def errors(self) -> dict[str, Errors]:
        """Errors over everything, by quantity."""
        found = {name: c.errors() for name, c in self.compared.items()}
        return {name: e for name, e in found.items() if e is not None}

    def by_element(self) -> dict[str, dict[str, Errors]]:
        """Errors of quantities per atom, by quantity and chemical symbol."""
        found: dict[str, dict[str, Errors]] = {}
        for name, compared in self.compared.items():
            if compared.numbers is None:
                continue
            for z in np.unique(compared.numbers):
                errors = compared.errors(compared.numbers == z)
                if errors is not None:
                    found.setdefault(name, {})[SYMBOLS[int(z)]] = errors
        return found

    def by_part(self) -> dict[str, dict[str, Errors]]:
        """Errors by file or split, and quantity."""
        return self._by(np.array(self.frames.part))

    def by_total_charge(self) -> dict[str, dict[str, Errors]]:
        """Errors by total charge (``"+1"``, e) and quantity."""
        found = self._by(self.frames.total_charge)
        return {f"{float(q):+g}" if float(q) else "0": e for q, e in found.items()}

    def _by(self, key: np.ndarray) -> dict[str, dict[str, Errors]]:
        """Errors by the value that every frame has of ``key``, shape ``(frames,)``."""
        found: dict[str, dict[str, Errors]] = {}
        for value in np.unique(key):
            chosen = key == value
            for name, compared in self.compared.items():
                errors = compared.errors(chosen[compared.frame])
                if errors is not None:
                    found.setdefault(str(value), {})[name] = errors
        return found

    def worst(self, quantity: str, count: int = 10) -> list[dict[str, object]]:
        """Frames with the largest errors of a quantity, worst first.

        Returns:
            For each: ``source_id``, ``part``, ``formula``, ``n_atoms``, ``total_charge`` and
            its root mean square error of every quantity, by name, in printed units.
        """
        n = len(self.frames)
        sizes = {name: c.per_frame(n) for name, c in self.compared.items()}
        mine = sizes[quantity]
        order = np.argsort(-np.nan_to_num(mine, nan=-1.0), kind="stable")[:count]
        return [
            {
                "source_id": self.frames.source_id[i],
                "part": self.frames.part[i],
                "formula": self.frames.formula[i],
                "n_atoms": int(self.frames.n_atoms[i]),
                "total_charge": float(self.frames.total_charge[i]),
                **{k: float(v[i]) for k, v in sizes.items() if np.isfinite(v[i])},
            }
            for i in order
            if np.isfinite(mine[i])
        ]


def evaluate(potential: Potential, parts: Mapping[str, Frames]) -> Evaluation:
    """Compare a potential with labelled frames.

    Args:
        potential: to be judged; put into eval mode.
        parts: frames by the name of their file or split.

    Raises:
        UserMistake: there is no frame, or none has a label that the model predicts.
    """
    potential.eval()
    timing = Timing()
    facts: list[tuple[str, str, str, int, float]] = []
    gathered = _Gathered()
    residual: float | None = None
    met: set[int] = set()
    strange: list[str] = []
    for part, frames in parts.items():
        for said in predictions(
            potential, frames, title=f"evaluate {part}", timing=timing, born_charges=True
        ):
            structure = said.frame.structure
            charge = float(structure.total_charge or 0.0)
            if structure.data_set is None:  # or it is judged by the set that trained on it
                met.update(structure.numbers.tolist())
            strange += [text for text in said.strange if text not in strange]
            energies = _references(potential, structure)
            gathered.add(
                len(facts), said.frame.labels, said.values, structure.numbers, energies
            )
            facts.append(
                (part, said.frame.source_id, formula(structure.numbers), len(structure), charge)
            )
            if "charges" in said.values:
                off = abs(float(said.values["charges"].sum()) - charge)
                residual = max(residual or 0.0, off)
    if not facts:
        raise UserMistake("there is no frame to evaluate")
    compared = gathered.compared()
    if not compared:
        raise UserMistake(
            "no frame has a label to compare with; for predictions alone use qeqtrain predict"
        )
    names, ids, formulas, sizes, charges = zip(*facts, strict=True)
    frame_list = FrameList(
        list(names), list(ids), list(formulas), np.array(sizes), np.array(charges)
    )
    return Evaluation(
        frames=frame_list,
        compared=compared,
        missing={
            name: NO_LABEL if name not in gathered.labelled else NOT_PREDICTED
            for name in QUANTITIES
            if name not in compared
        },
        references=np.array(gathered.references),
        charge_residual=residual,
        timing=timing,
        model={
            "parameters": sum(p.numel() for p in potential.parameters()),
            "elements": [SYMBOLS[z] for z in potential.elements],
            "cutoffs": {
                name: "by structure" if callable(reach) else reach
                for name, reach in potential.cutoffs.items()
            },
            "dtype": str(potential.dtype).removeprefix("torch."),
            "charges": potential.has_charges,
            "untrained_elements_met": untrained_elements(potential, met),
            "unseen_charge_states_met": strange,
        },
    )


class _Gathered:
    """Rows of every quantity, frame after frame."""

    def __init__(self) -> None:
        self.labelled: set[str] = set()
        self.references: list[float] = []
        """Reference energy of every row of the energies, eV per atom."""
        self._rows: dict[str, list[tuple[np.ndarray, np.ndarray, int, np.ndarray]]] = {}

    def add(
        self,
        index: int,
        labels: Mapping[str, np.ndarray],
        said: Mapping[str, np.ndarray],
        numbers: np.ndarray,
        references: Mapping[int, float],
    ) -> None:
        """Take up one frame."""
        for name, quantity in QUANTITIES.items():
            if name not in labels:
                continue
            self.labelled.add(name)
            if name not in said:
                continue
            per_row = len(numbers) if name == "energy" else 1
            if name == "energy":
                of_atoms = sum(references[z] for z in numbers.tolist())
                self.references.append(of_atoms / len(numbers))
            rows = len(numbers) if quantity.per_atom else 1
            predicted, label = (
                np.reshape(v, (rows, -1)) / per_row for v in (said[name], labels[name])
            )
            self._rows.setdefault(name, []).append((predicted, label, index, numbers))

    def compared(self) -> dict[str, Compared]:
        """Join the rows, in the order of the tables."""
        joined = {}
        for name, quantity in QUANTITIES.items():
            if name not in self._rows:
                continue
            predicted, label, index, numbers = zip(*self._rows[name], strict=True)
            joined[name] = Compared(
                name,
                np.concatenate(predicted),
                np.concatenate(label),
                np.repeat(np.array(index), [len(p) for p in predicted]),
                np.concatenate(numbers) if quantity.per_atom else None,
            )
        return joined


def _references(potential: Potential, structure: Structure) -> dict[int, float]:
    """Energies of elements on the scale of the data set that a structure belongs to, eV."""
    if potential.mixture is None:
        return potential.references
    more = potential.mixture.differences(structure.data_set)
    return {z: e + more[z] for z, e in potential.references.items()}


def formula(numbers: np.ndarray) -> str:
    """Chemical formula, elements in alphabetic order: ``Cl8Na8``."""
    kinds, counts = np.unique(numbers, return_counts=True)
    parts = sorted((SYMBOLS[int(z)], int(c)) for z, c in zip(kinds, counts, strict=True))
    return "".join(symbol + (str(count) if count > 1 else "") for symbol, count in parts)
