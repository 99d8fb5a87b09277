"""The ASE face of a potential."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes

from qeqtrain.fragments import CHARGES, COLUMN, POTENTIALS
from qeqtrain.models.archive import own_potential
from qeqtrain.models.domain import FIELD_KEY, stated_field
from qeqtrain.models.memory import Memory, checked_memory
from qeqtrain.models.potential import Potential
from qeqtrain.neighbors import SkinnedLists


class QeqCalculator(Calculator):
    """Energy, forces, stress, charges and dipole for ASE: MD, relaxation, equations of state.

    Stress is ASE's: eV/A^3, tension positive, Voigt order xx yy zz yz xz xy. The dipole, e A,
    is about the centre of mass and exists for structures without periodic directions.

    Args:
        model: a checkpoint, a run folder, a foundation model's name, or a loaded potential.
        device: ``cpu`` unless given.
        dtype: precision of the network; as trained unless given.
        total_charge: e; without it ``atoms.info["charge"]`` counts. Contradiction is an error.
        electric_field: V/A, three numbers; without it ``atoms.info["electric_field"]`` counts.
            The energy of an ion in a field depends on where the origin of its coordinates is,
            forces do not.
        unseen_charge_states: whether a total charge or multiplicity that the model reads and
            never met in training is an ``error``, or is allowed with a warning (``allow``); as
            in the model's recipe unless given.
        data_set: of a model that was trained on several, the one whose energies and charges
            are wanted; the main one unless given.
        compiled: predict through compiled code: that of the package beside an exported file,
            which runs code of the file's maker, or else made at the first step, in minutes.
        skin: A; pairs that far beyond the cutoffs are kept, so that neighbour lists are made
            anew only when atoms have moved by half of it. Results do not depend on it.
        memory: ``small``: intermediates are worked out twice rather than kept, an eighth of
            the memory; ``medium``: those of pairs are, a third of it; ``plain``: all are kept;
            ``auto``: by size.

    Raises:
        UserMistake: no such data set, a skin below zero; at a calculation: an element or a
            charge state the model does not know, no total charge for a model that was trained
            on several, or a field to which it has no answer.
    """

    implemented_properties: ClassVar[list[str]] = [
        "energy",
        "free_energy",
        "forces",
        "stress",
        "charges",
        "dipole",
    ]

    def __init__(
        self,
        model: str | Path | Potential,
        device: torch.device | str | None = None,
        dtype: Literal["float32", "float64"] | None = None,
        total_charge: float | None = None,
        electric_field: Sequence[float] | np.ndarray | None = None,
        unseen_charge_states: Literal["error", "allow"] | None = None,
        data_set: str | None = None,
        compiled: bool = False,
        skin: float = 0.5,
        memory: Memory = "auto",
    ) -> None:
        super().__init__()
        self.potential = own_potential(
            model,
            device=device,
            dtype=dtype,
            data_set=data_set,
            unseen_charge_states=unseen_charge_states,
            compiled=compiled,
        )
        self.potential.memory = checked_memory(memory)
        self.lists = SkinnedLists(skin)
        self.total_charge = total_charge
        self.electric_field = stated_field({}, electric_field)
        self._info: tuple[Any, ...] = ()

    def check_state(self, atoms: Atoms, tol: float = 1e-15) -> list[str]:
        """List what changed; charge, spin, field and fragments edited in ``atoms`` count."""
        changed = super().check_state(atoms, tol=tol)
        if self._stated(atoms) != self._info:
            changed.append("initial_charges")
        return changed

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: list[str] | None = None,
        system_changes: list[str] = all_changes,
    ) -> None:
        """Evaluate the potential once for all properties; stress costs nothing measurable."""
        super().calculate(atoms, properties, system_changes)
        self._info = self._stated(self.atoms)
        periodic = bool(np.all(self.atoms.pbc))
        batch = self.potential.structures_of(
            self.atoms, self.total_charge, self.electric_field, self.lists
        )
        batch = batch.to(self.potential.device)
        found = self.potential(batch, forces=True, stress=periodic)
        energy = float(found.energy[0])
        self.results = {
            "energy": energy,
            "free_energy": energy,
            "forces": found.forces.cpu().numpy(),
        }
        if periodic:
            matrix = found.stress[0].cpu().numpy()
            self.results["stress"] = matrix[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
        if found.charges is not None:
            self.results["charges"] = found.charges.cpu().numpy()
            if not np.any(self.atoms.pbc):
                self.results["dipole"] = found.dipole[0].cpu().numpy()

    def _stated(self, atoms: Atoms) -> tuple[Any, ...]:
        keys = ("charge", "total_charge", "spin", "spin_multiplicity", CHARGES, POTENTIALS)
        stated = [atoms.info.get(k) for k in (*keys, FIELD_KEY)]
        stated += [atoms.arrays.get(COLUMN), self.total_charge, self.electric_field]
        # Text, in which NaN equals NaN.
        return tuple(None if v is None else str(np.asarray(v).tolist()) for v in stated)
