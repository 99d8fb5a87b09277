r"""Charge equilibration: the charges that minimise a quadratic energy at fixed total charge.

.. math:: E(q) = \sum_i \big(\chi_i q_i + \tfrac12 J_i q_i^2\big) + \tfrac12\, q^T A q,
          \qquad \sum_{i \in g} q_i = Q_g

A is the Coulomb interaction of Gaussian densities (Rappe and Goddard, J. Phys. Chem. 95, 3358
(1991); Gaussian charges as in Ko et al., Nat. Commun. 12, 398 (2021)), H = A + diag(J). Each
group g of atoms has its charge given, or is held at a potential :math:`\phi_g`; what is then
minimised and returned is :math:`\Omega = E - \sum_g \phi_g Q_g`, that is, its atoms have
:math:`\chi_i - \phi_g` and no constraint. At rest

.. math:: \begin{pmatrix} H & C^T \\ C & 0 \end{pmatrix}
          \begin{pmatrix} q \\ m \end{pmatrix} =
          \begin{pmatrix} -\chi \\ Q \end{pmatrix}, \qquad
          \mu_g = \partial E/\partial Q_g = -m_g .

Derivatives are those of :mod:`stationary`. :func:`equilibrate_diagonal` is the case A = 0 of
QET (arXiv 2511.07249), in closed form. Everything is worked out in float64, whatever the
network's precision.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from qeqtrain.errors import UserMistake, nearest
from qeqtrain.physics.ewald import DENSE_BELOW, MESH_FROM
from qeqtrain.physics.interaction import GaussianCoulomb
from qeqtrain.physics.matrix_free import MatrixFreeCoulomb
from qeqtrain.physics.opaque import Opaque, flattened, rebuilt
from qeqtrain.physics.solvers.dense import PreparedCholesky
from qeqtrain.physics.solvers.iterative import ConjugateGradient
from qeqtrain.physics.stationary import Effort, Problem, solve_stationary
from qeqtrain.physics.tracing import traced
from qeqtrain.structures import ChargeGroups, Structures


@dataclass(frozen=True)
class Equilibrium:
    r"""Charges at rest.

    Attributes:
        charges: e, float64, shape ``(N,)``.
        chemical_potential: +dE/dQ of every group, eV/e, float64, shape ``(G,)``; G = B where
            no groups are given. A group held at a potential has that potential.
        energy: the minimum of the functional, eV, float64, shape ``(B,)``;
            :math:`\Omega` where potentials are held.
        potential: electrostatic potential V = A q at every atom, that of its own density
            included, V, float64, shape ``(N,)``; ``None`` without a Coulomb interaction. Its
            zero is infinity for a molecule, the vacuum for a slab, the average of the cell
            for a crystal; the chemical potential shares it.
        coulomb_energy: :math:`\tfrac12 q^T A q`, eV, shape ``(B,)``, or ``None``.
        effort: of the solver, or ``None`` for the closed form.
    """

    charges: Tensor
    chemical_potential: Tensor
    energy: Tensor
    potential: Tensor | None = None
    coulomb_energy: Tensor | None = None
    effort: Effort | None = None


def equilibrate(
    electronegativity: Tensor,
    hardness: Tensor,
    width: Tensor,
    structures: Structures,
    *,
    solver: Literal["auto", "dense", "iterative"] = "auto",
    accuracy: float = 1e-9,
    mesh: bool | None = None,
) -> Equilibrium:
    r"""Let Gaussian charges come to rest under their Coulomb interaction.

    Args:
        electronegativity: :math:`\chi`, eV/e, shape ``(N,)``.
        hardness: J without the self-energy of the density, eV/e^2, shape ``(N,)``.
        width: standard deviation of the Gaussian densities, A, shape ``(N,)``.
        structures: with edges for ``charge`` (:class:`CoulombReach`); groups or total
            charges say which sums are fixed.
        solver: ``dense`` or ``iterative``; ``auto`` is dense unless a structure of the batch
            has more than :data:`~qeqtrain.physics.ewald.DENSE_BELOW` atoms.
        accuracy: relative error of Ewald's sums, and what the iterative solver aims at.
        mesh: whether the iterative solver sums waves on a mesh rather than by structure
            factors; by default from an accuracy of 1e-7 on.

    Returns:
        Differentiable to any order in electronegativity, hardness, width, positions, cell,
        total charges and held potentials.

    Raises:
        EquilibrationFailed: H of a structure is not positive definite (a negative hardness),
            something is not finite, two atoms coincide; the message names the structure.
        UserMistake: one periodic direction, a charged slab, a neighbour list too short.
    """
    given = (electronegativity, hardness, width, structures)
    if traced():
        return _kept_whole(*given, solver=solver, accuracy=accuracy, mesh=mesh)
    return _equilibrate(*given, solver=solver, accuracy=accuracy, mesh=mesh)


def _equilibrate(
    electronegativity: Tensor,
    hardness: Tensor,
    width: Tensor,
    structures: Structures,
    *,
    solver: Literal["auto", "dense", "iterative"],
    accuracy: float,
    mesh: bool | None,
) -> Equilibrium:
    """Do it; arguments as above."""
    groups = structures.charge_groups()
    J = hardness.double()
    # Where a potential is held it adds to the electronegativity and nothing is constrained.
    held = groups.held
    phi = torch.where(held, groups.potential, 0.0)
    chi = electronegativity.double() - phi.index_select(0, groups.member)
    fixed = torch.where(held, 0.0, groups.charge)

    if _iterative(solver, structures):
        meshed = accuracy >= MESH_FROM if mesh is None else mesh
        problem = _iterative_problem(structures, width, accuracy, J, groups, meshed)
    else:
        problem = _dense_problem(structures, width, accuracy, J, groups)
    coulomb = problem.coulomb
    at = coulomb.here
    q, m, energy = solve_stationary(-chi, fixed, J, at, problem)
    mu = phi - m
    if coulomb.slabs:
        mu = mu + coulomb.vacuum_level(q).index_select(0, groups.structure)
    # At rest A q = mu - chi - J q: the potential costs no further sum.
    potential = mu.index_select(0, groups.member) - electronegativity.double() - J * q
    return Equilibrium(
        charges=q,
        chemical_potential=mu,
        energy=energy,
        potential=potential,
        coulomb_energy=0.5 * structures.sum_over_atoms(q * potential),
        effort=problem.effort,
    )


def _kept_whole(
    electronegativity: Tensor,
    hardness: Tensor,
    width: Tensor,
    structures: Structures,
    **options: Any,
) -> Equilibrium:
    """Do it as one operation of a graph, for structures without groups."""
    geometry, constants = flattened(structures, "charge")
    variables = [electronegativity, hardness, width, *geometry]
    charges, mu, energy, potential, coulomb = _WHOLE(variables, constants, **options)
    return Equilibrium(charges, mu, energy, potential, coulomb)


def _whole(variables: list[Tensor], constants: list[Tensor], **options: Any) -> list[Tensor]:
    """Do it with what :func:`_kept_whole` has made lists of."""
    chi, hardness, width, *geometry = variables
    structures = rebuilt(geometry, constants, "charge")
    found = _equilibrate(chi, hardness, width, structures, **options)
    assert found.potential is not None
    assert found.coulomb_energy is not None
    return [
        *(found.charges, found.chemical_potential, found.energy),
        *(found.potential, found.coulomb_energy),
    ]


def _results(variables: list[Tensor], constants: list[Tensor]) -> list[Tensor]:
    """Shapes of what :func:`_whole` returns."""
    per_atom, per_structure = variables[0], constants[3]
    shapes = (per_atom, per_structure, per_structure, per_atom, per_structure)
    return [torch.empty_like(t, dtype=torch.float64) for t in shapes]


_WHOLE = Opaque("equilibrate", _whole, _results)


def _iterative(solver: str, structures: Structures) -> bool:
    """Choose the solver of a batch."""
    if solver in {"dense", "iterative"}:
        return solver == "iterative"
    if solver != "auto":
        raise UserMistake(
            f"solver = {solver}; expected one of auto, dense, iterative"
            f"{nearest(solver, ('auto', 'dense', 'iterative'))}"
        )
    if structures.n_atoms <= DENSE_BELOW:  # no structure can be larger
        return False
    counts = torch.bincount(structures.batch, minlength=len(structures))
    return int(counts.max()) > DENSE_BELOW


def _dense_problem(
    structures: Structures, width: Tensor, accuracy: float, J: Tensor, groups: ChargeGroups
) -> Problem[GaussianCoulomb]:
    """Build and factor H."""
    coulomb = GaussianCoulomb(structures, width, accuracy)
    with torch.no_grad():
        matrices = coulomb.matrices()
        for bucket, matrix in zip(coulomb.buckets, matrices, strict=True):
            torch.diagonal(matrix, dim1=1, dim2=2).add_(bucket.gather(J))
        solver = PreparedCholesky(coulomb.buckets, matrices, groups, len(structures))
    return Problem(coulomb, solver, "dense", solver.condition)


def _iterative_problem(
    structures: Structures,
    width: Tensor,
    accuracy: float,
    J: Tensor,
    groups: ChargeGroups,
    mesh: bool,
) -> Problem[GaussianCoulomb]:
    """Prepare products with H."""
    coulomb = MatrixFreeCoulomb(structures, width, accuracy, mesh=mesh)
    hardness = J.detach()

    def product(charges: Tensor) -> Tensor:
        return hardness * charges + coulomb.product(charges)

    tolerance = min(max(0.01 * accuracy, 1e-12), 1e-8)
    diagonal = hardness + coulomb.self_energy()
    solver = ConjugateGradient(tolerance).prepare(
        product, diagonal, groups, len(structures), coulomb.long_waves(1.0 / diagonal)
    )
    unknown = torch.full_like(structures.total_charge, torch.nan)
    return Problem(coulomb, solver, "iterative", unknown)


def equilibrate_diagonal(
    electronegativity: Tensor, hardness: Tensor, structures: Structures
) -> Equilibrium:
    r"""Minimise the energy of charges that do not interact, per group.

    .. math:: E(q) = \sum_i \big(\chi_i q_i + \tfrac12 \eta_i q_i^2\big), \qquad
              \mu_g = \frac{Q_g + \sum_i \chi_i/\eta_i}{\sum_i 1/\eta_i}, \qquad
              q_i = \frac{\mu_g - \chi_i}{\eta_i}

    sums over the atoms of a group. A group held at a potential has :math:`\mu_g = \phi_g`, and
    :math:`\phi_g Q_g` is taken from the energy.

    Args:
        electronegativity: :math:`\chi`, eV/e, shape ``(N,)``.
        hardness: :math:`\eta > 0`, eV/e^2, shape ``(N,)``.
        structures: gives the total charge Q of each structure, or of its groups.
    """
    chi, eta = electronegativity.double(), hardness.double()
    groups = structures.charge_groups()
    softness = 1.0 / eta  # (N,)
    fixed = torch.where(groups.held, 0.0, groups.charge)
    free = (fixed + groups.sum_over_atoms(chi * softness)) / groups.sum_over_atoms(softness)
    mu = torch.where(groups.held, groups.potential, free)  # (G,)
    charges = (mu.index_select(0, groups.member) - chi) * softness
    energy = structures.sum_over_atoms(charges * (chi + 0.5 * eta * charges))
    if structures.groups is not None:
        bought = torch.where(groups.held, mu * groups.sum_over_atoms(charges), 0.0)
        energy = energy.index_add(0, groups.structure, -bought)
    return Equilibrium(charges, mu, energy)
