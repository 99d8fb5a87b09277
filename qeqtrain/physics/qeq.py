r"""Charge equilibration: the charges that minimise a quadratic energy at fixed total charge.

.. math:: E(q) = \sum_i \chi_i q_i + \tfrac12 \sum_{ij} q_i H_{ij} q_j, \qquad \sum_i q_i = Q

Here with H diagonal, which has a closed form and costs O(N); it is the equilibration of QET
(arXiv 2511.07249). Everything is worked out in float64, whatever the network's precision.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from qeqtrain.structures import Structures


@dataclass(frozen=True)
class Equilibrium:
    """Charges at rest.

    Attributes:
        charges: e, float64, shape ``(N,)``.
        chemical_potential: +dE/dQ, eV/e, float64, shape ``(B,)``.
        energy: the minimum of the functional, eV, float64, shape ``(B,)``.
    """

    charges: Tensor
    chemical_potential: Tensor
    energy: Tensor


def equilibrate_diagonal(
    electronegativity: Tensor, hardness: Tensor, structures: Structures
) -> Equilibrium:
    r"""Minimise the energy of charges that do not interact, per structure.

    .. math:: E(q) = \sum_i \big(\chi_i q_i + \tfrac12 \eta_i q_i^2\big), \qquad
              \mu = \frac{Q + \sum_i \chi_i/\eta_i}{\sum_i 1/\eta_i}, \qquad
              q_i = \frac{\mu - \chi_i}{\eta_i}

    Args:
        electronegativity: :math:`\chi`, eV/e, shape ``(N,)``.
        hardness: :math:`\eta > 0`, eV/e^2, shape ``(N,)``.
        structures: gives the total charge Q of each structure.
    """
    chi, eta = electronegativity.double(), hardness.double()
    softness = 1.0 / eta  # (N,)
    mu = (structures.total_charge + structures.sum_over_atoms(chi * softness)) / (
        structures.sum_over_atoms(softness)
    )  # (B,)
    charges = (mu.index_select(0, structures.batch) - chi) * softness
    energy = structures.sum_over_atoms(charges * (chi + 0.5 * eta * charges))
    return Equilibrium(charges, mu, energy)
