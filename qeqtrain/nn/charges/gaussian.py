"""Full charge equilibration: Gaussian charges that all interact, in molecules and crystals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from qeqtrain.errors import UserMistake
from qeqtrain.neighbors import Reach
from qeqtrain.nn.charges.base import (
    ChargeResponse,
    Charges,
    Fragments,
    grouped,
    per_structure,
)
from qeqtrain.nn.charges.heads import (
    ElectronegativityHead,
    Hardness,
    HardnessHead,
    Head,
    Widths,
)
from qeqtrain.physics.ewald import CoulombReach
from qeqtrain.physics.fields import FieldCoupling, applied_potential
from qeqtrain.physics.qeq import equilibrate
from qeqtrain.physics.stationary import Effort
from qeqtrain.structures import Structures
from qeqtrain.units import COULOMB_CONSTANT


class GaussianCharges(nn.Module):
    r"""Charges at rest under their Coulomb interaction, as in 4G networks and NequIP-LR.

    .. math:: E(q) = \sum_i \big(\chi_i q_i + \tfrac12 J_i q_i^2\big) + \tfrac12\, q^T A q

    with A the interaction of Gaussian charge densities (``physics/gaussian.py``): Ewald's sum
    in crystals, a planar correction in slabs. Electronegativity and hardness are read from the
    backbone's features, in eV.

    With ``head="charge"`` the network gives the charge :math:`q^0_i` at which an atom rests
    alone, so :math:`\chi_i = -H_{ii} q^0_i`, :math:`H_{ii} = J_i + k/(\sqrt\pi \sigma_i)`, and
    energies count from there: :math:`\tfrac12 \sum_i H_{ii} (q_i - q^0_i)^2` and interaction.
    The functional is the same, but a network finds charges of the order of one more easily
    than electronegativities of tens of eV, and stiff atoms then cost no energy that the rest
    of the model would have to take back.

    What plain equilibration gets wrong: charge flows between fragments at any distance, in
    fractions, as soon as their electronegativities differ; metals and insulators screen alike.
    Fragments of known charge can be constrained (``fragments`` of a structure).

    Args:
        hardness: read from an atom's ``environment``, or one trained number per ``species``.
        hardness_floor: smallest hardness, eV/e^2; below 1 the solve becomes ill conditioned.
        head: ``mlp``, or ``linear`` maps without bias from features to electronegativity, or
            ``charge``, from features to the charge of an atom alone.
        train_widths: train the Gaussian widths, which start from covalent radii.
        fragments: ``constrain`` the charge of fragments where the data name them, or
            ``ignore`` them.
        solver: ``dense`` (Cholesky), ``iterative`` (conjugate gradient) or, by size, ``auto``.
        accuracy: of the Coulomb sums, relative; at 1e-6 energies of salts and water are off by
            5e-9 eV/atom, forces by 1e-8 eV/A.
        channels: C, features of the backbone.
        elements: atomic numbers the model knows.

    Raises:
        UserMistake: an accuracy outside 0 to 0.01, or a negative floor.
    """

    features = 2
    """How many numbers per atom a coupling may read: charge and potential."""

    equilibrated = True
    """Whether the charges minimise an energy, which a coupling may add."""

    traceable = True
    """Whether it can be written down as a graph and compiled."""

    opaque = True
    """Whether the graph keeps Python in it."""

    field: FieldCoupling = "open"
    """What follows an electric field: flowing charge, in open directions."""

    def __init__(
        self,
        hardness: Hardness = "environment",
        hardness_floor: float = 1.0,
        head: Head = "mlp",
        train_widths: bool = False,
        fragments: Fragments = "constrain",
        solver: Literal["auto", "dense", "iterative"] = "auto",
        accuracy: float = 1e-6,
        *,
        channels: int,
        elements: Sequence[int],
    ) -> None:
        super().__init__()
        if not 0.0 < accuracy <= 0.01:
            raise UserMistake(f"charge.accuracy is {accuracy}; expected above 0, up to 0.01")
        self.fragments = fragments
        self.solver = solver
        self.accuracy = accuracy
        self.gives_charge = head == "charge"
        self.electronegativity = ElectronegativityHead(
            head, channels=channels, species=len(elements)
        )
        self.hardness = HardnessHead(
            hardness, hardness_floor, channels=channels, species=len(elements)
        )
        self.width = Widths(elements, trained=train_widths)
        self.effort: Effort | None = None
        """What the last solve took."""

    @property
    def cutoffs(self) -> dict[str, Reach]:
        """Neighbour lists this module reads, by consumer: a rule that grows with size."""
        return {"charge": CoulombReach(self.width.largest, self.accuracy)}

    def forward(
        self,
        structures: Structures,
        features: Tensor,
        species: Tensor,
        response: ChargeResponse | None = None,
    ) -> Charges:
        """Equilibrate.

        Args:
            structures: with edges for ``charge`` and the total charges.
            features: of the backbone, shape ``(N, C)``.
            species: index of every atom's element, shape ``(N,)``.
            response: of the coupling, added to electronegativity and hardness.
        """
        structures = grouped(structures, self.fragments)
        chi = self.electronegativity(features, species)  # (N,) eV/e
        hardness = self.hardness(features, species)  # (N,) eV/e^2
        width = self.width(species)  # (N,) A
        offset: Tensor | float = 0.0
        if self.gives_charge:
            alone, stiffness = chi, hardness + COULOMB_CONSTANT / (math.sqrt(math.pi) * width)
            chi = -stiffness * alone
            offset = 0.5 * structures.sum_over_atoms(stiffness * alone * alone)  # (B,) eV
        if response is not None:
            chi, hardness = chi + response.electronegativity, hardness + response.hardness
        applied = applied_potential(structures)
        if applied is not None:
            chi = chi + applied
        if structures.external_potential is not None:
            chi = chi + structures.external_potential
        known = self.width.on_host(structures)
        if known is not None:
            structures = structures.with_twin("width", width, known)
        rest = equilibrate(
            chi,
            hardness,
            width,
            structures,
            solver=self.solver,
            accuracy=self.accuracy,
        )
        self.effort = rest.effort
        return Charges(
            charges=rest.charges,
            electrostatic_potential=rest.potential,
            chemical_potential=per_structure(rest.chemical_potential, structures),
            energy=rest.energy + offset,
            coulomb_energy=rest.coulomb_energy,
            electronegativity=chi,
            hardness=hardness,
        )
