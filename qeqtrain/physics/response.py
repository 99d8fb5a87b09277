r"""Derivatives of a model, for every model alike: forces, stress, and answers to a field.

.. math:: F_{ib} = -\frac{\partial E}{\partial r_{ib}}, \quad
          \sigma = \frac1V \frac{\partial E}{\partial \varepsilon}, \quad
          Z^*_{i,ab} = \frac{\partial \mu_a}{\partial r_{ib}}, \quad
          \alpha_{ab} = \frac{\partial \mu_a}{\partial F_b}

with the dipole :math:`\mu = \sum_i (q_i r_i + p_i)` about a fixed origin, that of the
coordinates, and dipoles p that atoms have by themselves. Where the energy in a field is the
work of the field on these charges, :math:`\mu = -\partial E/\partial F`, Born charges are also
:math:`\partial F_{ib}/\partial F_a` (force by field); and moving everything together moves a
charge Q, so that :math:`\sum_i Z^*_i = Q`.

Along periodic directions :math:`q_i r_i` is not defined. For charges that flow there is no
answer, and NaN stands for it. Where dipoles of atoms follow the field (shells), charges ride
with their atoms there, :math:`Z^*_i = q_i + \partial \sum_j p_j / \partial r_i`, and what flows
between atoms as they move is left out: the force by such a field is this less :math:`q_i`,
because the field of the energy pulls at the dipoles alone. The sum over atoms is Q again.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from qeqtrain.physics.fields import FieldCoupling, open_directions, open_positions
from qeqtrain.structures import Prediction, Structures
from qeqtrain.units import COULOMB_CONSTANT


def strained(structures: Structures, strain: Tensor) -> Structures:
    """Deform positions and cells homogeneously: ``r' = r (1 + eps)``.

    Args:
        structures: B of them.
        strain: shape ``(B, 3, 3)``; its antisymmetric part, a rotation, is left out.
    """
    symmetric = 0.5 * (strain + strain.transpose(1, 2))
    per_atom = symmetric.index_select(0, structures.batch)
    positions = structures.positions
    return replace(
        structures,
        positions=positions + torch.einsum("na,nab->nb", positions, per_atom),
        cell=structures.cell + structures.cell @ symmetric,
    )


def respond(
    energy: Callable[[Structures], Prediction],
    structures: Structures,
    *,
    forces: bool,
    stress: bool,
    create_graph: bool,
    born_charges: bool = False,
    polarizability: bool = False,
    field: FieldCoupling = "open",
) -> Prediction:
    """Evaluate a model together with derivatives of its energy and its dipole.

    Args:
        energy: the model, without derivatives.
        structures: where; positions that require a gradient keep it.
        forces: whether -dE/dr is wanted.
        stress: whether (1/V) dE/dstrain, at fixed field, is wanted.
        create_graph: keep the graph, so that a loss on the derivatives can be trained.
        born_charges: whether dmu/dr is wanted; the model has to give charges.
        polarizability: whether dmu/dF is wanted; the model has to give charges.
        field: what of the model follows a field.

    Returns:
        The prediction; stress is NaN for structures that are not periodic in all directions,
        Born charges and polarizability of flowing charge for those with a periodic direction.
    """
    if not (forces or stress or born_charges or polarizability):
        with torch.set_grad_enabled(create_graph):
            return energy(structures)
    dipoles = born_charges or polarizability
    with torch.enable_grad():
        at = structures
        if not at.positions.requires_grad:
            at = at.moving(at.positions.detach().requires_grad_(True), at.cell)
        if polarizability and not at.electric_field.requires_grad:
            pulled = at.electric_field.detach().clone().requires_grad_(True)
            at = replace(at, electric_field=pulled)
        moved = [at.positions] if forces or stress else []
        point = at
        if stress:
            strain = torch.zeros_like(at.cell, requires_grad=True)
            moved.append(strain)
            bent = strained(at, strain)
            point = at.moving(bent.positions, bent.cell)  # the strain is zero
        prediction = energy(point)
        gradients: tuple[Tensor, ...] = ()
        if moved:
            gradients = torch.autograd.grad(
                prediction.energy.sum(),
                moved,
                retain_graph=dipoles or None,
                create_graph=create_graph,
                materialize_grads=True,
            )
        if dipoles:
            prediction = _dipole_slopes(
                prediction, at, born_charges, polarizability, field, create_graph
            )
    if forces:
        prediction = replace(prediction, forces=-gradients[0])
    if stress:
        periodic = structures.pbc.all(dim=-1)
        volume = torch.where(periodic, cell_volumes(structures.cell), 1.0)
        per_volume = gradients[1] / volume[:, None, None]
        per_volume = torch.where(periodic[:, None, None], per_volume, torch.nan)
        prediction = replace(prediction, stress=per_volume)
    return prediction if create_graph else prediction.detach()


def cell_volumes(cell: Tensor) -> Tensor:
    """Volumes of cells ``(B, 3, 3)``, A^3, without the factorisation that compilers lack."""
    a, b, c = cell.unbind(dim=1)
    volume: Tensor = (torch.linalg.cross(a, b) * c).sum(dim=-1)
    return volume.abs()


def moment(prediction: Prediction, structures: Structures) -> Tensor:
    """Give what a field pulls at: the dipole about the origin of the coordinates.

    Args:
        prediction: with charges, and dipoles of atoms if they have any.
        structures: of charges only components in open directions count.

    Returns:
        e A, shape ``(B, 3)``.
    """
    assert prediction.charges is not None
    share = prediction.charges[:, None] * open_positions(structures)
    if prediction.atomic_dipoles is not None:
        share = share + prediction.atomic_dipoles
    return structures.sum_over_atoms(share)


def _dipole_slopes(
    prediction: Prediction,
    at: Structures,
    born_charges: bool,
    polarizability: bool,
    field: FieldCoupling,
    create_graph: bool,
) -> Prediction:
    """Differentiate the dipole in positions and field."""
    asked = [at.positions] * born_charges + [at.electric_field] * polarizability
    slopes = [
        torch.autograd.grad(
            component.sum(),
            asked,
            retain_graph=True,
            create_graph=create_graph,
            materialize_grads=True,
        )
        for component in moment(prediction, at).unbind(dim=-1)
    ]
    stacked = [torch.stack(rows, dim=1) for rows in zip(*slopes, strict=True)]
    periodic = at.pbc.any(dim=-1)
    if polarizability:
        alpha = stacked.pop()  # (B, 3, 3)
        if field != "every":
            alpha = torch.where(periodic[:, None, None], torch.nan, alpha)
        prediction = replace(prediction, polarizability=alpha)
    if born_charges:
        born = stacked.pop()  # (N, 3, 3)
        if field == "every":
            assert prediction.charges is not None
            closed = torch.eye(3).to(at.cell) - open_directions(at.cell.detach(), at.pbc)
            riding = closed.index_select(0, at.batch)
            born = born + prediction.charges[:, None, None] * riding
        else:
            undefined = periodic.index_select(0, at.batch)
            born = torch.where(undefined[:, None, None], torch.nan, born)
        prediction = replace(prediction, born_charges=born)
    return prediction


def dielectric_constant(polarizability: Tensor, volume: Tensor | float) -> Tensor:
    r"""High-frequency dielectric constant of crystals, positions held.

    .. math:: \epsilon_\infty = 1 + 4 \pi k\, \alpha / V

    The field of alpha has to be the macroscopic one. It is where the interaction has no wave of
    infinite length: in Ewald's sums with conducting surroundings, and with kernels that end
    smoothly at a cutoff, whose second derivatives integrate to zero.

    Args:
        polarizability: of the cell, e A^2/V, shape ``(..., 3, 3)``.
        volume: of the cell, A^3, shape ``(...)``.

    Returns:
        Shape ``(..., 3, 3)``.
    """
    per_volume = polarizability / torch.as_tensor(volume).to(polarizability)[..., None, None]
    one = torch.eye(3).to(polarizability)
    return one + 4.0 * math.pi * COULOMB_CONSTANT * per_volume
