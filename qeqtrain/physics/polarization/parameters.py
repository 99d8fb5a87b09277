"""What an atom with a core and a shell is made of."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from torch import Tensor

from qeqtrain.units import COULOMB_CONSTANT


@dataclass(frozen=True)
class Parameters:
    r"""Of every atom, float64, shape ``(N,)`` each; from a table or from a network.

    Attributes:
        electronegativity: :math:`\chi`, eV/e.
        hardness: :math:`\eta`, eV/e^2; enters as :math:`\tfrac12 \eta q^2`. The interaction
            of a density with itself is part of it.
        width: standard deviation :math:`\sigma` of the Gaussian densities of core and shell, A.
        stiffness: :math:`K` of the spring between them, eV/A^2.
        core: charge Z of the core beyond q, e; the shell has -Z.
    """

    electronegativity: Tensor
    hardness: Tensor
    width: Tensor
    stiffness: Tensor
    core: Tensor

    def double(self) -> Parameters:
        """Work in float64, whatever gave the numbers."""
        return Parameters(*(getattr(self, f.name).double() for f in fields(self)))


@dataclass(frozen=True)
class Constants:
    """Coulomb constants, eV A/e^2; one number, except where a published code used two.

    Attributes:
        energy: of the energy and its derivatives.
        solve: of the equations for charges and shells.
    """

    energy: float = COULOMB_CONSTANT
    solve: float = COULOMB_CONSTANT


def own_interaction(width: Tensor) -> Tensor:
    r"""Interaction of a unit density with itself, :math:`k/(\sqrt\pi \sigma)`, eV/e^2.

    A hardness above it makes the charges' energy convex (without a taper).
    """
    return COULOMB_CONSTANT / (math.sqrt(math.pi) * width)


def own_stiffness(width: Tensor) -> Tensor:
    r"""Force constant of a unit charge in its own density, eV/A^2.

    .. math:: k / (6 \sqrt\pi\, \sigma^3)

    Springs stiffer than this times Z^2 cannot be torn by the interaction of dipoles: the
    densities of core and shell then cost less apart than the spring takes.
    """
    return COULOMB_CONSTANT / (6.0 * math.sqrt(math.pi) * width**3)
