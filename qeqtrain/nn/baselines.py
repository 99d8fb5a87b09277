"""Energies without weights that a network adds to."""

from __future__ import annotations

from torch import Tensor, nn

from qeqtrain.neighbors import Reach
from qeqtrain.physics.repulsion import zbl_energy
from qeqtrain.structures import Structures


class ScreenedNuclei(nn.Module):
    """Repulsion of nuclei behind their electrons, over the backbone's neighbour list.

    Ziegler, Biersack and Littmark's universal screening (``physics/repulsion.py``). It keeps
    atoms apart where no training data say so: in hot or irradiated matter, in first MD steps.
    """

    traceable = True
    """Whether it can be written down as a graph and compiled."""

    @property
    def cutoffs(self) -> dict[str, Reach]:
        """Neighbour lists this module asks for beside the backbone's: none."""
        return {}

    def forward(self, structures: Structures) -> Tensor:
        """Give the repulsion of every structure, eV, float64, shape ``(B,)``."""
        return zbl_energy(structures, "backbone")
