r"""Grimme's D3 dispersion beneath a network, by torch-dftd.

Grimme et al., J. Chem. Phys. 132, 154104 (2010): every pair of atoms attracts with
:math:`C_6 / r^6` and :math:`C_8 / r^8`, whose coefficients follow from how many neighbours each
of the two has; a damping function ends it where electrons overlap. Three-body terms are left
out, as in ReaxNet (arXiv 2410.13820). Tables and formulas are torch-dftd's; neighbour lists and
derivatives are those of every other energy here, so forces and stress are exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from ase.data import chemical_symbols
from torch import Tensor, nn

from qeqtrain.errors import UserMistake
from qeqtrain.neighbors import Reach
from qeqtrain.structures import Structures

INSTALL = "pip install 'qeqtrain[dispersion]'"
HEAVIEST = 94
"""Plutonium: the last element with D3 coefficients."""

Damping = Literal["zero", "bj", "zerom", "bjm"]


def _library() -> tuple[Any, Any, Any]:
    """Import the parts of torch-dftd that need torch alone.

    Raises:
        UserMistake: it is not installed.
    """
    try:
        from torch_dftd.dftd3_xc_params import get_dftd3_default_params
        from torch_dftd.functions import dftd3
        from torch_dftd.nn.dftd3_module import DFTD3Module
    except ImportError as error:
        raise UserMistake(
            f"baselines=d3 needs torch-dftd, which cannot be imported ({error}); {INSTALL}, or "
            "say baselines=none"
        ) from error
    return get_dftd3_default_params, dftd3, DFTD3Module


class Dispersion(nn.Module):
    """D3 dispersion energy, from pairs within a cutoff that also counts the neighbours.

    Args:
        functional: whose parameters are taken, in torch-dftd's spelling.
        damping: ``zero`` of the first paper, ``bj`` (Becke and Johnson's), or the modified
            forms ``zerom`` and ``bjm``.
        cutoff: A; what lies beyond adds 2 to 4 % to the energy of a salt at ReaxNet's 12.5 A.
        smooth: lets the last bohr before the cutoff fade, so that nothing jumps; ReaxNet's
            does jump.
        elements: atomic numbers the model knows.

    Raises:
        UserMistake: torch-dftd is missing, has no such functional, or an element has no
            coefficients.
    """

    def __init__(
        self,
        functional: str = "pbe",
        damping: Damping = "zero",
        cutoff: float = 12.5,
        smooth: bool = True,
        *,
        elements: Sequence[int],
    ) -> None:
        super().__init__()
        parameters, self._formulas, module = _library()
        unknown = [chemical_symbols[z] for z in elements if z > HEAVIEST]
        if unknown:
            raise UserMistake(
                f"baselines=d3 has no coefficients for {', '.join(unknown)}; they end at "
                f"{chemical_symbols[HEAVIEST]}"
            )
        if not cutoff > 1.0:
            raise UserMistake(f"baselines.d3.cutoff is {cutoff} A; expected more than 1")
        try:
            self.parameters_of = dict(parameters(damping=damping, xc=functional))
        except ValueError as error:
            raise UserMistake(
                f"baselines.d3: torch-dftd has no parameters for functional {functional!r} "
                f"with damping {damping!r}; pbe with zero is what ReaxNet takes"
            ) from error
        self.damping, self.cutoff, self.smooth = damping, float(cutoff), smooth
        tables = module(self.parameters_of, cutoff=cutoff, cnthr=cutoff, dtype=torch.float64)
        # Tables of all elements are 5 MB, which averaging would copy in every step.
        own = torch.as_tensor(np.asarray(elements, dtype=np.int64))
        row = torch.full((len(chemical_symbols),), -1)
        row[own] = torch.arange(len(own))
        for name, value in {
            "row": row,
            "c6ab": tables.c6ab[own][:, own],
            "r0ab": tables.r0ab[own][:, own],
            "rcov": tables.rcov[own],
            "r2r4": tables.r2r4[own],
        }.items():
            self.register_buffer(name, value, persistent=False)

    @property
    def cutoffs(self) -> dict[str, Reach]:
        """Neighbour lists this module reads, by consumer."""
        return {"dispersion": self.cutoff}

    def forward(self, structures: Structures) -> Tensor:
        """Give the dispersion energy of every structure, eV, float64, shape ``(B,)``.

        Args:
            structures: with edges for ``dispersion``.
        """
        edges = structures.edges["dispersion"]
        bohr = self._formulas.d3_autoang
        distance = structures.edge_vectors("dispersion").norm(dim=-1) / bohr  # (P,)
        end = self.cutoff / bohr if self.smooth else None
        hartree: Tensor = self._formulas.edisp(
            self.row[structures.numbers],
            distance,
            torch.stack([edges.sender, edges.receiver]),
            c6ab=self.c6ab,
            r0ab=self.r0ab,
            rcov=self.rcov,
            r2r4=self.r2r4,
            params=self.parameters_of,
            cutoff=end,
            cnthr=end,
            batch=structures.batch,
            batch_edge=structures.batch.index_select(0, edges.sender),
            cell=structures.cell,
            damping=self.damping,
            cutoff_smoothing="poly" if self.smooth else "none",
        )
        return self._formulas.d3_autoev * hartree
