"""Forces and stress: derivatives of the energy that is returned, for every model alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from qeqtrain.structures import Prediction, Structures


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
) -> Prediction:
    r"""Evaluate a model together with the derivatives of its energy.

    .. math:: F = -\partial E / \partial r, \qquad
              \sigma = \tfrac1V\, \partial E / \partial \varepsilon

    Args:
        energy: the model, without derivatives.
        structures: where; positions that require a gradient keep it.
        forces: whether -dE/dr is wanted.
        stress: whether (1/V) dE/dstrain is wanted.
        create_graph: keep the graph, so that a loss on the derivatives can be trained.

    Returns:
        The prediction; stress is NaN for structures that are not periodic in all directions.
    """
    if not (forces or stress):
        with torch.set_grad_enabled(create_graph):
            return energy(structures)
    with torch.enable_grad():
        at = structures
        if not at.positions.requires_grad:
            at = replace(at, positions=at.positions.detach().requires_grad_(True))
        moved = [at.positions]
        point = at
        if stress:
            strain = torch.zeros_like(at.cell, requires_grad=True)
            moved.append(strain)
            point = strained(at, strain)
        prediction = energy(point)
        gradients = torch.autograd.grad(
            prediction.energy.sum(), moved, create_graph=create_graph, materialize_grads=True
        )
    if forces:
        prediction = replace(prediction, forces=-gradients[0])
    if stress:
        periodic = structures.pbc.all(dim=-1)
        volume = torch.where(periodic, torch.linalg.det(structures.cell).abs(), 1.0)
        per_volume = gradients[1] / volume[:, None, None]
        per_volume = torch.where(periodic[:, None, None], per_volume, torch.nan)
        prediction = replace(prediction, stress=per_volume)
    return prediction if create_graph else prediction.detach()
