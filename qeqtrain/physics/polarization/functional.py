"""The energy of charges and shells, and the steps that look for its minimum."""

from __future__ import annotations

import torch
from torch import Tensor

from qeqtrain.physics.fields import applied_potential
from qeqtrain.physics.polarization.interaction import CoreShellSum
from qeqtrain.physics.polarization.parameters import Constants, Parameters
from qeqtrain.physics.polarization.sparse import SparseCharges
from qeqtrain.physics.solvers.dense import PreparedCholesky
from qeqtrain.physics.solvers.indefinite import PreparedLU
from qeqtrain.physics.solvers.solution import Outcome
from qeqtrain.physics.stationary import Problem, solve_stationary
from qeqtrain.structures import Structures

DENSE_BELOW = 2000
"""Atoms of a structure up to which the matrix of its charges is made and factored: 130 MB with
the copies. A factor takes 0.1 s there, as long as the products of the iteration."""


class Functional:
    """E(q, s) of a batch with all that is fixed while q and s are looked for.

    Args:
        parameters: of every atom.
        structures: with edges for ``charge``, fields and total charges.
        constants: Coulomb constants.
        masked: whether the taper is zero beyond the cutoff.
        damping: see :func:`polarize`.
    """

    def __init__(
        self,
        parameters: Parameters,
        structures: Structures,
        constants: Constants,
        *,
        masked: bool,
        damping: float,
    ) -> None:
        given = parameters.double()
        self.structures = structures
        self.groups = structures.charge_groups()
        self.constants = constants
        self.sums = CoreShellSum(structures, given.width, constants, masked=masked)
        self.hardness, self.core = given.hardness, given.core
        self.stiffness = given.stiffness
        if damping:
            soft = constants.energy * self.core * self.sums.penetration()
            self.stiffness = self.stiffness + damping * soft
        field = structures.electric_field.index_select(0, structures.batch)
        held = torch.where(self.groups.held, self.groups.potential, 0.0)
        applied = applied_potential(structures)
        chi = given.electronegativity
        if applied is not None:
            chi = chi + applied
        self.electronegativity = chi - held.index_select(0, self.groups.member)
        self.shell_pull = self.core[:, None] * field  # eV/A, gradient of the field's energy

    def energy(self, charges: Tensor, shells: Tensor, constant: float) -> tuple[Tensor, ...]:
        """Energy, the pairs' part of it, ``(B,)``, and the potential at cores, ``(N,)``."""
        pairs, potential = self.sums.core_shell(charges, self.core, shells)
        pairs, potential = constant * pairs, constant * potential
        own = charges * (self.electronegativity + 0.5 * self.hardness * charges)
        own = own + 0.5 * self.stiffness * (shells * shells).sum(-1)
        own = own + (self.shell_pull * shells).sum(-1)
        return self.structures.sum_over_atoms(own) + pairs, pairs, potential

    def problem(self) -> Problem[CoreShellSum]:
        """Factor the matrix of the charges, whether their rest is a minimum or a saddle.

        Of large structures the matrix is sparse, and products with it find the charges.
        """
        if max((bucket.shape[1] for bucket in self.sums.buckets), default=0) > DENSE_BELOW:
            products = SparseCharges(self.sums, self.hardness.detach(), self.groups)
            unknown = torch.full_like(self.structures.total_charge, torch.nan)
            remedy = "raise the hardness of the elements in it"
            return Problem(self.sums, products, "iterative", unknown, remedy)
        with torch.no_grad():
            matrices = self.sums.matrices()
            for bucket, matrix in zip(self.sums.buckets, matrices, strict=True):
                torch.diagonal(matrix, dim1=1, dim2=2).add_(bucket.gather(self.hardness))
            given = (self.sums.buckets, matrices, self.groups, len(self.structures))
            solver = PreparedCholesky(*given)
            if bool((solver.outcome == Outcome.NOT_POSITIVE_DEFINITE).any()):
                saddle = PreparedLU(*given)
                return Problem(self.sums, saddle, "dense", solver.condition)
        return Problem(self.sums, solver, "dense", solver.condition)

    def solve_charges(
        self, problem: Problem[CoreShellSum], shells: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Charges at rest for given shells, ``(N,)``, and dE/dQ, ``(G,)``."""
        chi = self.electronegativity
        if shells is not None:
            nothing = torch.zeros_like(chi)
            _, potential = self.sums.core_shell(nothing, self.core, shells)
            chi = chi + self.constants.solve * potential
        fixed = torch.where(self.groups.held, 0.0, self.groups.charge)
        charges, m, _ = solve_stationary(-chi, fixed, self.hardness, self.sums.here, problem)
        return charges, torch.where(self.groups.held, self.groups.potential, -m)

    def chemical_potential(self, charges: Tensor, potential: Tensor) -> Tensor:
        """Mean of dE/dq over the atoms of every group, eV/e, ``(G,)``; equal at rest."""
        slope = self.electronegativity + self.hardness * charges + potential
        sizes = self.groups.sum_over_atoms(torch.ones_like(slope))
        mean = self.groups.sum_over_atoms(slope) / sizes
        return torch.where(self.groups.held, self.groups.potential, mean)

    def step(self, charges: Tensor, shells: Tensor | None, farthest: float | None) -> Tensor:
        """Move every shell to where its spring holds the present force on it, ``(N, 3)``."""
        if shells is None:
            slope = -self.core[:, None] * self.sums.rest_slope(charges)
        else:
            slope = self.sums.shell_slope(charges, self.core, shells)
        moved = -(self.constants.solve * slope + self.shell_pull) / self.stiffness[:, None]
        if farthest is None:
            return moved
        square = (moved * moved).sum(-1, keepdim=True)
        beyond = square > farthest**2
        length = torch.where(beyond, square, 1.0).sqrt()
        return torch.where(beyond, moved * (farthest / length), moved)
