r"""Charges that flow and shells that move: polarizable charge equilibration (PQEq).

.. math:: E(q, s) = \sum_i \big(\chi_i q_i + \tfrac12 \eta_i q_i^2 + \tfrac12 K_i |s_i|^2\big)
          + \sum_{pairs} U(q, s) - \sum_i \big(q_i\, r_i \cdot F_\perp - Z_i\, s_i \cdot F\big),
          \qquad \sum_{i \in g} q_i = Q_g

with U of :mod:`interaction`; Naserifar et al., J. Chem. Phys. 146, 124117 (2017), as ReaxNet
has it (Gao et al., arXiv 2410.13820). Three ways to choose q and s:

* ``labels``: one solution for q with shells at rest, then one step of every shell to
  :math:`s_i = f_i / K_i`, f the force of all others on it. ReaxNet's training labels are so.
* ``released``: q, s, q, s; shells move no further than 0.25 A; the taper's polynomial goes on
  beyond the cutoff for shells of listed pairs. What the published programme does.
* ``self_consistent``: the minimum of E (:mod:`self_consistent`).

In the first two E is not stationary, so the exact gradient has a part through q and s. The
published programme leaves it out (``gradients="frozen"``): its forces are off the derivative of
its energy by up to 0.16 eV/A.

What answers to a field belongs to the energy (dipole = -dE/dF) in ``self_consistent`` alone:
elsewhere the dipole of q and s is another function of the field than the energy's slope.

A pair counts while its cores are within the cutoff, as published. Shells that are off their
cores by s then leave some :math:`40 (s/r_c)^4` eV of it when the cores cross the cutoff.

The field F does work on charge that flows along open directions, and on shells along all: along
a periodic direction the position of a charge has no meaning.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

import torch
from torch import Tensor

from qeqtrain.errors import EquilibrationFailed, UserMistake, nearest
from qeqtrain.physics.naming import name_of
from qeqtrain.physics.opaque import Opaque, flattened, rebuilt
from qeqtrain.physics.polarization.functional import Functional
from qeqtrain.physics.polarization.parameters import Constants, Parameters
from qeqtrain.physics.polarization.self_consistent import RestProblem, settle
from qeqtrain.physics.stationary import Effort
from qeqtrain.physics.tracing import traced
from qeqtrain.structures import Structures

Mode = Literal["labels", "released", "self_consistent"]
Gradients = Literal["exact", "frozen"]

FARTHEST = 0.25
"""How far a shell may move in the mode ``released``, A."""


LARGEST = 6000
"""Atoms of a structure up to which the minimum of its energy is looked for: its matrix takes
4.6 GB, and its factor as much again."""


@dataclass(frozen=True)
class Polarization:
    r"""Charges and shells of a batch, float64.

    Attributes:
        charges: q, e, shape ``(N,)``.
        shells: displacement s of every shell from its core, A, shape ``(N, 3)``.
        dipoles: of every atom by itself, :math:`-Z_i s_i`, e A, shape ``(N, 3)``.
        energy: eV, shape ``(B,)``; :math:`\Omega` where potentials are held.
        coulomb_energy: what pairs share, eV, shape ``(B,)``.
        chemical_potential: +dE/dQ of every group, eV/e, shape ``(G,)``; of the last solution
            for the charges, and so exact in the mode ``self_consistent`` only.
        potential: of all other cores and shells at every core, V, shape ``(N,)``.
        effort: of the solution for the charges.
    """

    charges: Tensor
    shells: Tensor
    dipoles: Tensor
    energy: Tensor
    coulomb_energy: Tensor
    chemical_potential: Tensor
    potential: Tensor
    effort: Effort | None


def polarize(
    parameters: Parameters,
    structures: Structures,
    *,
    mode: Mode = "self_consistent",
    gradients: Gradients = "exact",
    constants: Constants | None = None,
    damping: float = 0.0,
) -> Polarization:
    r"""Find charges and shells of a batch, and their energy.

    Args:
        parameters: of every atom.
        structures: with edges for ``charge``, whose cutoff is that of the taper (12.5 A as
            published); groups or total charges say which sums are fixed.
        mode: ``labels``, ``released`` or ``self_consistent``, see above.
        gradients: ``exact``, or ``frozen``: q and s are constants of the derivative.
        constants: Coulomb constants.
        damping: stiffens the springs of shells that sit in the densities of others, by

            .. math:: \Delta K_i = c\, k Z_i \sum_j \frac{4 a_{ij}^{3/2}}{3 \sqrt\pi}
                      e^{-a_{ij} r_{ij}^2}\, T(r_{ij})

            with c this number. Within a density of charge q_j a shell feels the curvature
            q_j times the summand; a sum that is negative and larger than K tears the shell
            away. c = 1 makes up for it wherever charges are above -1 e; 0 is as published.

    Returns:
        Differentiable to any order with exact gradients.

    Raises:
        EquilibrationFailed: no solution: a matrix of charges that is not positive definite,
            numbers that are not finite, two atoms in one place, or, self-consistently, a
            polarisation catastrophe; the message names the structure.
        UserMistake: no neighbour list, an unknown mode, a structure too large for
            ``self_consistent``.
    """
    for name, value, choices in (
        ("mode", mode, ("labels", "released", "self_consistent")),
        ("gradients", gradients, ("exact", "frozen")),
    ):
        if value not in choices:
            raise UserMistake(
                f"{name} = {value!r}; expected {' | '.join(choices)}{nearest(value, choices)}"
            )
    used = constants or Constants()
    if traced():
        words = {"mode": mode, "gradients": gradients, "damping": damping}
        return _kept_whole(parameters, structures, **words, coulomb=asdict(used))
    return _polarize(parameters, structures, mode, gradients, used, damping)


def _polarize(
    parameters: Parameters,
    structures: Structures,
    mode: Mode,
    gradients: Gradients,
    constants: Constants,
    damping: float,
) -> Polarization:
    """Do it; arguments as above."""
    functional = Functional(
        parameters,
        structures,
        constants,
        masked=mode != "released",
        damping=damping,
    )
    # The minimum of the energy that is differentiated; frozen, as it was published.
    exact, used = gradients == "exact", functional.constants
    constant = used.energy if exact else used.solve
    mu: Tensor | None = None
    with torch.set_grad_enabled(torch.is_grad_enabled() and exact):
        if mode == "self_consistent":
            _refuse_large(structures)
            start, effort = _start(functional)
            charges, shells = settle(RestProblem(functional, constant), start)
        else:
            charges, shells, mu, effort = _passes(functional, twice=mode == "released")
    energy, pairs, potential = functional.energy(charges, shells, functional.constants.energy)
    _refuse_lost(structures, energy)
    if mu is None:
        # At rest under the constant of the solution.
        there = potential * (constant / functional.constants.energy)
        mu = functional.chemical_potential(charges, there)
    return Polarization(
        charges=charges,
        shells=shells,
        dipoles=-functional.core[:, None] * shells,
        energy=energy,
        coulomb_energy=pairs,
        chemical_potential=mu,
        potential=potential,
        effort=effort,
    )


def _kept_whole(parameters: Parameters, structures: Structures, **options: Any) -> Polarization:
    """Do it as one operation of a graph, for structures without groups."""
    geometry, constants = flattened(structures, "charge")
    each = [getattr(parameters, f.name) for f in fields(parameters)]
    found = _WHOLE([*each, *geometry], constants, **options)
    named: dict[str, Any] = dict(zip(_TENSORS, found, strict=True))
    return Polarization(**named, effort=None)


def _whole(
    variables: list[Tensor],
    constants: list[Tensor],
    *,
    mode: Mode,
    gradients: Gradients,
    damping: float,
    coulomb: dict[str, float],
) -> list[Tensor]:
    """Do it with what :func:`_kept_whole` has made lists of."""
    *each, positions, cell = variables
    structures = rebuilt([positions, cell], constants, "charge")
    used = Constants(**coulomb)
    found = _polarize(Parameters(*each), structures, mode, gradients, used, damping)
    return [getattr(found, name) for name in _TENSORS]


def _results(variables: list[Tensor], constants: list[Tensor]) -> list[Tensor]:
    """Shapes of what :func:`_whole` returns."""
    chi, positions, total_charge = variables[0], variables[-2], constants[3]
    shapes = {"shells": positions, "dipoles": positions}
    shapes |= dict.fromkeys(("energy", "coulomb_energy", "chemical_potential"), total_charge)
    return [torch.empty_like(shapes.get(name, chi), dtype=torch.float64) for name in _TENSORS]


_TENSORS = tuple(f.name for f in fields(Polarization) if f.name != "effort")
_WHOLE = Opaque("polarize", _whole, _results)


def _passes(
    functional: Functional, *, twice: bool
) -> tuple[Tensor, Tensor, Tensor, Effort | None]:
    """Charges, shells, chemical potentials and effort after one or two passes."""
    problem = functional.problem()
    farthest = FARTHEST if twice else None
    charges, mu = functional.solve_charges(problem, None)
    shells = functional.step(charges, None, farthest)
    if twice:
        charges, mu = functional.solve_charges(problem, shells)
        shells = functional.step(charges, shells, farthest)
    return charges, shells, mu, problem.effort


@torch.no_grad()
def _start(functional: Functional) -> tuple[Tensor, Effort | None]:
    """Charges with shells at rest, to begin with."""
    problem = functional.problem()
    charges, _ = functional.solve_charges(problem, None)
    return charges, problem.effort


def _refuse_large(structures: Structures) -> None:
    """Raise for a structure whose second derivative would not fit into memory."""
    if structures.n_atoms <= LARGEST:
        return
    counts = structures.atom_counts()
    most = int(counts.max())
    if most > LARGEST:
        raise UserMistake(
            f"{name_of(structures, int(counts.argmax()))} has {most:,} atoms; expected up to "
            f"{LARGEST:,} for charge.mode=self_consistent, whose dense matrix would take "
            f"{8e-9 * (4 * most) ** 2:.0f} GB; charge.mode=labels goes on to 20,000 and more"
        )


def _refuse_lost(structures: Structures, energy: Tensor) -> None:
    lost = ~energy.detach().isfinite()
    if bool(lost.any()):
        name = name_of(structures, int(torch.nonzero(lost)[0]))
        raise EquilibrationFailed(
            f"{name}: the energy of its cores and shells is not finite; a spring without "
            "stiffness, or a network or input that has diverged"
        )
