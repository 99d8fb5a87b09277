r"""Repulsion of screened nuclei at short distance, where training data end.

Ziegler, Biersack and Littmark, The Stopping and Range of Ions in Solids (Pergamon, 1985), with
the constants that LAMMPS (``pair_style zbl``) and nequip use:

.. math::
    E = \sum_{i<j} \frac{k\, Z_i Z_j}{r_{ij}}\, \phi(r_{ij} / a_{ij})\, u(r_{ij} / r_c), \qquad
    a_{ij} = \frac{0.46850}{Z_i^{0.23} + Z_j^{0.23}}\ \mathrm{A}

Half of a pair's energy belongs to each of its atoms. The polynomial u takes it to zero at the
cutoff, so it may be added to any potential without a jump.
"""

from __future__ import annotations

import torch
from torch import Tensor

from qeqtrain.physics.cutoff import polynomial_cutoff
from qeqtrain.structures import Structures
from qeqtrain.units import COULOMB_CONSTANT

SCREENING_LENGTH = 0.46850
"""A, numerator of the screening length."""

EXPONENT = 0.23
"""Power of the nuclear charges in the screening length."""

SCREENING = ((0.18175, 3.19980), (0.50986, 0.94229), (0.28022, 0.40290), (0.02817, 0.20162))
"""Amplitudes, which add up to one, and decay rates of the universal screening function."""


def zbl_screening(x: Tensor) -> Tensor:
    r"""Evaluate :math:`\phi(x) = \sum_k c_k e^{-d_k x}` at distances over screening lengths."""
    return sum((c * torch.exp(-d * x) for c, d in SCREENING), start=torch.zeros_like(x))


def zbl_atomic_energies(structures: Structures, consumer: str, power: int = 6) -> Tensor:
    """Give every atom half of the repulsion it takes part in.

    Args:
        structures: with neighbour pairs for ``consumer``, whose cutoff ends the repulsion.
        consumer: name of the neighbour list.
        power: p of the cutoff polynomial.

    Returns:
        eV, float64, shape ``(N,)``; differentiable twice in positions and cell.
    """
    edges = structures.edges[consumer]
    r = structures.edge_vectors(consumer).norm(dim=-1)  # (P,)
    z = structures.numbers.to(r.dtype)
    zi, zj = z.index_select(0, edges.sender), z.index_select(0, edges.receiver)
    a = SCREENING_LENGTH / (zi**EXPONENT + zj**EXPONENT)  # (P,) A
    pair = COULOMB_CONSTANT * zi * zj / r * zbl_screening(r / a)
    half = 0.5 * pair * polynomial_cutoff(r / edges.cutoff, power)
    total = torch.zeros_like(z)
    return total.index_add(0, edges.sender, half).index_add(0, edges.receiver, half)


def zbl_energy(structures: Structures, consumer: str, power: int = 6) -> Tensor:
    """Sum :func:`zbl_atomic_energies` over the atoms of each structure: eV, ``(B,)``."""
    return structures.sum_over_atoms(zbl_atomic_energies(structures, consumer, power))
