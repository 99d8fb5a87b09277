"""Coulomb interaction of Gaussian charges, pair by pair."""

from __future__ import annotations

import torch
from torch import Tensor

from qeqtrain.structures import Structures
from qeqtrain.units import COULOMB_CONSTANT


def quintic_taper(x: Tensor) -> Tensor:
    """Fall from 1 at x = 0 to 0 at x = 1 with two vanishing derivatives at both ends."""
    return 1.0 + x**3 * (-10.0 + x * (15.0 - 6.0 * x))


def gaussian_kernel(distance: Tensor, width_a: Tensor, width_b: Tensor) -> Tensor:
    r"""Interaction of two unit charges with Gaussian densities, eV/e^2.

    .. math:: k\,\mathrm{erf}\!\big(r / \sqrt{2 (\sigma_a^2 + \sigma_b^2)}\big) / r

    Args:
        distance: r > 0, A, shape ``(P,)``.
        width_a: standard deviation of one density, A, shape ``(P,)``.
        width_b: of the other.
    """
    spread = torch.sqrt(2.0 * (width_a * width_a + width_b * width_b))
    return COULOMB_CONSTANT * torch.erf(distance / spread) / distance


def tapered_potential(
    charges: Tensor, width: Tensor, structures: Structures, consumer: str, *, own_charge: bool
) -> Tensor:
    r"""Potential at every atom of the Gaussian charges within the cutoff, V.

    .. math:: V_i = \sum_j q_j\, k(r_{ij})\, p(r_{ij} / r_c)

    with the quintic taper p. QET reads it as a feature of the energy; there is no
    long-range part. Under ``own_charge`` the sum runs over :math:`q_i` instead of
    :math:`q_j`: the convention of the first published weights.

    Args:
        charges: e, float64, shape ``(N,)``.
        width: standard deviation of every atom's density, A, shape ``(N,)``.
        structures: with edges for ``consumer``.
        consumer: whose neighbour list to use; its cutoff is r_c.
        own_charge: see above.
    """
    edges = structures.edges[consumer]
    s, r = edges.sender, edges.receiver
    width = width.double()
    distance = structures.edge_vectors(consumer).norm(dim=-1)
    kernel = gaussian_kernel(distance, width.index_select(0, s), width.index_select(0, r))
    kernel = kernel * quintic_taper(distance / edges.cutoff)
    zero = torch.zeros_like(charges)
    if own_charge:
        return charges * zero.index_add(0, r, kernel).index_add(0, s, kernel)
    at_receiver = kernel * charges.index_select(0, s)
    at_sender = kernel * charges.index_select(0, r)
    return zero.index_add(0, r, at_receiver).index_add(0, s, at_sender)


def dipole(
    charges: Tensor, masses: Tensor, structures: Structures, own: Tensor | None = None
) -> Tensor:
    """Dipole about the centre of mass, e A, shape ``(B, 3)``.

    Args:
        charges: e, float64, shape ``(N,)``.
        masses: atomic masses in any unit, shape ``(N,)``.
        structures: the dipole of one with a periodic direction is not defined: NaN.
        own: dipole of every atom by itself, e A, shape ``(N, 3)``, if atoms have any.
    """
    positions = structures.positions
    centre = structures.sum_over_atoms(masses[:, None] * positions)
    centre = centre / structures.sum_over_atoms(masses)[:, None]
    arm = positions - centre.index_select(0, structures.batch)
    share = charges[:, None] * arm
    moment = structures.sum_over_atoms(share if own is None else share + own)
    periodic = structures.pbc.any(dim=-1, keepdim=True)
    return torch.where(periodic, torch.nan, moment)
