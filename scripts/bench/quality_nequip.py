"""Worker of ``quality.py`` for nequip's NequIP; runs in an environment that has nequip."""

from __future__ import annotations

from typing import TYPE_CHECKING

import nequip
import quality_loop
import torch
from ase import Atoms
from ase.data import chemical_symbols
from nequip.data import AtomicDataDict, compute_neighborlist_, from_ase
from nequip.data.transforms import ChemicalSpeciesToAtomTypeMapper
from nequip.model import NequIPGNNModel
from nequip.utils.global_state import set_global_state
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from quality import Task


class Nequip:
    """NequIP with natural parities only, as its own presets have it, and a linear readout."""

    def __init__(self, task: Task, known: quality_loop.Statistics) -> None:
        set_global_state()  # makes float64 the default of torch; the network is float32
        symbols = [chemical_symbols[z] for z in known.elements]
        self.version = f"nequip {nequip.__version__}"
        self.model: nn.Module = NequIPGNNModel(
            seed=task.seed,
            model_dtype="float32",
            compile_mode="eager",
            type_names=symbols,
            r_max=task.cutoff,
            num_layers=task.layers,
            l_max=task.l_max,
            parity=False,
            num_features=task.channels,
            radial_mlp_depth=task.radial_depth,
            radial_mlp_width=task.radial_width,
            num_bessels=task.radial_functions,
            polynomial_cutoff_p=6,
            avg_num_neighbors=known.average_neighbors,
            per_type_energy_scales=known.force_rms,
        )
        self.mapper = ChemicalSpeciesToAtomTypeMapper(model_type_names=symbols)
        self.cutoff = task.cutoff

    def prepare(self, atoms: Atoms) -> object:
        """Make nequip's dictionary of tensors of the geometry."""
        bare = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
        return self.mapper(compute_neighborlist_(from_ase(bare), r_max=self.cutoff))

    def collate(self, inputs: Sequence[object]) -> object:
        """Join dictionaries."""
        return AtomicDataDict.batched_from_list(list(inputs))

    def predict(self, model: nn.Module, batch: object) -> tuple[Tensor, Tensor]:
        """Ask nequip's model for energies and forces."""
        out = model(dict(batch))
        return out["total_energy"].reshape(-1), out["forces"].to(torch.float32)


if __name__ == "__main__":
    quality_loop.main("nequip", Nequip)
