"""A potential in torch-sim: relaxation and MD of many systems at once.

Torch-sim (arXiv 2508.06628) joins systems to one flat batch, as this package does, so that a
step of all of them is one call of the potential. Neighbour lists are made anew at every step.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from qeqtrain.errors import UserMistake
from qeqtrain.models.archive import own_potential
from qeqtrain.models.potential import Potential
from qeqtrain.neighbors import with_pairs
from qeqtrain.structures import Structure, collate

try:
    from torch_sim.models.interface import ModelInterface
except ImportError as error:
    raise UserMistake(
        "torch-sim is not installed; say: pip install 'qeqtrain[torch-sim]'"
    ) from error


class QeqModel(ModelInterface):  # type: ignore[misc]
    """Energy, forces, stress and charges for torch-sim.

    Stress is (1/V) dE/dstrain, tension positive, eV/A^3, as in ASE and torch-sim.

    Args:
        model: a checkpoint, an exported file, a run folder, a foundation model's name, or a
            loaded potential.
        device: ``cpu`` unless given; the same as that of the states.
        dtype: precision of the network; as trained unless given. States may have another: the
            geometry of float64 states is read in full, and results have the state's precision.
        total_charge: of every system, e; a state of torch-sim does not say it. May be left out
            where the model's policy is to take an absent total charge as zero.
        spin: multiplicity 2S+1 of every system, for models that read it.
        compute_stress: whether stress is given; periodic systems only.
        unseen_charge_states: as for :class:`~qeqtrain.calculator.QeqCalculator`.

    Raises:
        UserMistake: at a calculation: an element or a charge state that the model does not
            know, or no total charge for a model that has to be told.
    """

    def __init__(
        self,
        model: str | Path | Potential,
        device: torch.device | str | None = None,
        dtype: Literal["float32", "float64"] | None = None,
        *,
        total_charge: float | None = None,
        spin: float | None = None,
        compute_stress: bool = True,
        unseen_charge_states: Literal["error", "allow"] | None = None,
    ) -> None:
        super().__init__()
        self.potential = own_potential(
            model, device=device, dtype=dtype, unseen_charge_states=unseen_charge_states
        )
        self.total_charge = total_charge
        self.spin = spin
        self._device = self.potential.device
        self._dtype = torch.float64
        self._compute_stress = compute_stress
        self._compute_forces = True

    @property
    def compute_stress(self) -> bool:
        """Whether stress is given."""
        return self._compute_stress

    @compute_stress.setter
    def compute_stress(self, wanted: bool) -> None:
        self._compute_stress = bool(wanted)

    def forward(self, state: Any, **_: Any) -> dict[str, Tensor]:
        """Evaluate all systems of a state.

        Args:
            state: a ``torch_sim.SimState`` of B systems with N atoms, or a mapping of its
                fields.

        Returns:
            ``energy`` ``(B,)``, eV; ``forces`` ``(N, 3)``, eV/A; ``stress`` ``(B, 3, 3)``,
            eV/A^3, if wanted and periodic; ``charges`` ``(N,)``, e, if the model has them.
        """
        read = state.get if isinstance(state, dict) else lambda name: getattr(state, name, None)
        positions, numbers = read("positions"), read("atomic_numbers")
        cell, owner = read("cell"), read("system_idx")
        if owner is None:
            owner = torch.zeros(len(numbers), dtype=torch.long)
        periodic = np.broadcast_to(np.asarray(torch.as_tensor(read("pbc")).cpu()), 3)
        cells = cell.detach().double().cpu().numpy().reshape(-1, 3, 3)
        places = positions.detach().double().cpu().numpy()
        kinds, owners = numbers.cpu().numpy().astype(np.int64), owner.cpu().numpy()
        ready = []
        for i, columns in enumerate(cells):
            mine = owners == i
            structure = Structure(
                numbers=kinds[mine],
                positions=places[mine],
                cell=np.ascontiguousarray(columns.T) if periodic.any() else np.zeros((3, 3)),
                pbc=periodic.copy(),
                total_charge=self._charge_of(f"system {i}"),
                spin=self.spin,
            )
            self.potential.refuse_unknown_elements(torch.from_numpy(np.unique(kinds[mine])))
            self.potential.refuse_unseen_states(structure, f"system {i}")
            ready.append(with_pairs(structure, self.potential.cutoffs))
        stress = self._compute_stress and bool(periodic.all())
        said = self.potential(collate(ready).to(self.potential.device), stress=stress).detach()
        found = {"energy": said.energy, "forces": said.forces}
        if stress:
            found["stress"] = said.stress
        if said.charges is not None:
            found["charges"] = said.charges
        return {name: value.to(positions.dtype) for name, value in found.items()}

    def _charge_of(self, name: str) -> float:
        if self.total_charge is not None:
            return float(self.total_charge)
        remedy = "say QeqModel(..., total_charge=...)"
        return float(self.potential.charge_where_absent(name, remedy))
