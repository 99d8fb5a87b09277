"""The ASE face of a potential."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes

from qeqtrain.models.archive import load
from qeqtrain.models.potential import Potential


class QeqCalculator(Calculator):
    """Energy, forces, stress, charges and dipole for ASE: MD, relaxation, equations of state.

    Stress is ASE's: eV/A^3, tension positive, Voigt order xx yy zz yz xz xy. The dipole, e A,
    is about the centre of mass and exists for structures without periodic directions.

    Args:
        model: a checkpoint, a run folder, a foundation model's name, or a loaded potential.
        device: ``cpu`` unless given.
        dtype: precision of the network; as trained unless given.
        total_charge: e; without it ``atoms.info["charge"]`` counts. Contradiction is an error.

    Raises:
        UserMistake: at a calculation: an element the model does not know, or no total charge
            for a model that was trained on several.
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
    ) -> None:
        super().__init__()
        if isinstance(model, Potential):
            kind = model.dtype if dtype is None else getattr(torch, dtype)
            self.potential = copy.deepcopy(model).to(device or model.device, kind).eval()
        else:
            self.potential = load(model, device=device, dtype=dtype)
        self.total_charge = total_charge
        self._info: tuple[Any, ...] = ()

    def check_state(self, atoms: Atoms, tol: float = 1e-15) -> list[str]:
        """List what changed; a total charge or spin edited in ``atoms.info`` counts."""
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
        """Evaluate the potential once for all properties."""
        super().calculate(atoms, properties, system_changes)
        self._info = self._stated(self.atoms)
        periodic = bool(np.all(self.atoms.pbc))
        batch = self.potential.structures_of(self.atoms, self.total_charge)
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

    @staticmethod
    def _stated(atoms: Atoms) -> tuple[Any, ...]:
        keys = ("charge", "total_charge", "spin", "spin_multiplicity")
        return tuple(atoms.info.get(k) for k in keys)
