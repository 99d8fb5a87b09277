"""Worker of ``quality.py`` for qeqtrain; runs in an environment that has qeqtrain."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING

import quality_loop
from combinations import OWN, combinations

from qeqtrain.models.potential import build_potential
from qeqtrain.models.qet import qet_spec
from qeqtrain.neighbors import with_pairs
from qeqtrain.recipe import load_recipe
from qeqtrain.recipe.building import potential_settings
from qeqtrain.structures import Structure, collate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ase import Atoms
    from quality import Task
    from torch import Tensor, nn


def spec_of(task: Task) -> dict[str, object]:
    """Write the recipe nodes of the task's network."""
    if task.cross:
        return cross_spec(task)
    if task.model == "qet":
        return qet_spec(
            cutoff=task.cutoff,
            channels=task.channels,
            layers=task.layers,
            radial_functions=task.radial_functions,
        )
    backbone = {
        "_target_": "qeqtrain.nn.nequip.NequIP",
        "cutoff": task.cutoff,
        "channels": task.channels,
        "l_max": task.l_max,
        "layers": task.layers,
        "parity": False,
        "radial_functions": task.radial_functions,
        "radial_width": task.radial_width,
        "radial_depth": task.radial_depth,
        "train_bessel": False,  # as nequip has it
    }
    coupling = {"_target_": "qeqtrain.nn.couplings.FeatureCoupling", "readout": "linear"}
    return {
        "backbone": backbone,
        "charge": {"_target_": "qeqtrain.nn.charges.NoCharges"},
        "coupling": coupling,
        "dtype": "float32",
    }


def cross_spec(task: Task) -> dict[str, object]:
    """Write the recipe nodes of a combination, its backbone in the task's shape."""
    combination = next(c for c in combinations("none") if c.name == task.cross)
    words = [
        *combination.words(),
        f"backbone.channels={task.channels}",
        f"backbone.layers={task.layers}",
        f"backbone.cutoff={task.cutoff}",
        f"backbone.radial_functions={task.radial_functions}",
    ]
    if combination.backbone == "nequip":
        own = [word.removeprefix("nequip:") for word in OWN]
        words += [word for word in own if word.startswith("backbone.")]
    return potential_settings(load_recipe("qet", words, only_show=True).settings)


class Qeqtrain:
    """QET with a hardness read from the environment, NequIP without charges, or a combination.

    References are zero here: the loop takes the same ones off for both programs.
    """

    def __init__(self, task: Task, known: quality_loop.Statistics) -> None:
        self.version = f"qeqtrain {version('qeqtrain')}"
        self.model: nn.Module = build_potential(
            spec_of(task),
            elements=known.elements,
            references=dict.fromkeys(known.elements, 0.0),
            scale=known.force_rms,
            average_neighbors=known.average_neighbors,
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
