"""Worker of ``quality.py`` for matgl's QET; runs in an environment that has matgl."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matgl
import quality_loop
import torch
from ase.data import chemical_symbols
from matgl.apps.pes import Potential
from matgl.ext.ase import Atoms2Graph
from matgl.models import QET
from torch import Tensor, nn
from torch_geometric.data import Batch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ase import Atoms
    from quality import Task


class Matgl:
    """QET with the smooth Bessel basis and a hardness read from the environment."""

    def __init__(self, task: Task, known: quality_loop.Statistics) -> None:
        symbols = tuple(chemical_symbols[z] for z in known.elements)
        network = QET(
            element_types=symbols,
            units=task.channels,
            nblocks=task.layers,
            cutoff=task.cutoff,
            rbf_type="SphericalBessel",
            use_smooth=True,
            max_n=task.radial_functions,
            max_l=3,
            is_hardness_envs=True,
            use_warp=False,
        )
        self.version = f"matgl {matgl.__version__}"
        self.model: nn.Module = Potential(
            network,
            data_std=known.force_rms,
            calc_forces=True,
            calc_stresses=False,
            calc_charge=True,
        )
        self.converter = Atoms2Graph(symbols, cutoff=task.cutoff)

    def prepare(self, atoms: Atoms) -> object:
        """Make matgl's graph, with lattice and total charge beside it."""
        graph, lattice, _ = self.converter.get_graph(atoms)
        lattice = torch.as_tensor(lattice, dtype=torch.float32).reshape(3, 3)
        return graph, lattice, float(atoms.info.get("charge", 0))

    def collate(self, inputs: Sequence[object]) -> object:
        """Join graphs."""
        graphs, lattices, charges = zip(*inputs, strict=True)
        return Batch.from_data_list(list(graphs)), torch.stack(lattices), torch.tensor(charges)

    def predict(self, model: nn.Module, batch: object) -> tuple[Tensor, Tensor]:
        """Ask matgl's Potential for energies and forces."""
        graph, lattice, charge = batch
        out = model(g=graph, lat=lattice, state_attr=None, total_charge=charge)
        return out[0].reshape(-1), out[1]


if __name__ == "__main__":
    quality_loop.main("matgl", Matgl)
