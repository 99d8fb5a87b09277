"""Worker of ``quality.py`` for qeqtrain's QET; runs in an environment that has qeqtrain."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING

import quality_loop

from qeqtrain.models.potential import build_potential
from qeqtrain.models.qet import qet_spec
from qeqtrain.neighbors import with_pairs
from qeqtrain.structures import Structure, collate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ase import Atoms
    from quality import Task
    from torch import Tensor, nn


class Qeqtrain:
    """QET with the smooth Bessel basis and a hardness read from the environment.

    References are zero here: the loop takes the same ones off for both programs.
    """

    def __init__(self, task: Task, elements: list[int], scale: float) -> None:
        spec = qet_spec(
            cutoff=task.cutoff,
            channels=task.channels,
            layers=task.layers,
            radial_functions=task.radial_functions,
        )
        self.version = f"qeqtrain {version('qeqtrain')}"
        zero = dict.fromkeys(elements, 0.0)
        self.model: nn.Module = build_potential(
            spec, elements=elements, references=zero, scale=scale
        )

    def prepare(self, atoms: Atoms) -> object:
        """Make a structure with its neighbour lists."""
        charge = float(atoms.info.get("charge", 0))
        structure = Structure.from_atoms(atoms, total_charge=charge)
        return with_pairs(structure, self.model.cutoffs)

    def collate(self, inputs: Sequence[object]) -> object:
        """Join structures."""
        return collate(inputs)

    def predict(self, model: nn.Module, batch: object) -> tuple[Tensor, Tensor]:
        """Ask the potential for energies and forces."""
        out = model(batch, forces=True, stress=False)
        return out.energy, out.forces


if __name__ == "__main__":
    quality_loop.main("qeqtrain", Qeqtrain)
