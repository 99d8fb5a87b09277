"""Which directions of a field charge follows, and what is said of the others."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from qeqtrain.physics.fields import applied_potential, field_mistakes, open_directions
from qeqtrain.structures import Structure, Structures, collate
from tests.systems import slab, triclinic, water, wire


def batch(*atoms, field=(0.0, 0.0, 0.0)) -> Structures:
    given = {"total_charge": 0.0, "electric_field": np.array(field)}
    return collate([Structure.from_atoms(a, **given) for a in atoms])


def test_open_directions_are_orthogonal_to_every_periodic_cell_vector() -> None:
    systems = batch(water(), wire(), slab(), triclinic())
    projector = open_directions(systems.cell, systems.pbc)
    ranks = projector.diagonal(dim1=1, dim2=2).sum(-1)
    torch.testing.assert_close(ranks, torch.tensor([3.0, 2.0, 1.0, 0.0], dtype=torch.float64))
    torch.testing.assert_close(projector @ projector, projector)
    along = torch.einsum("bij,bkj->bki", projector, systems.cell * systems.pbc[:, :, None])
    assert along.abs().max() < 1e-12


def test_the_potential_of_a_field_falls_along_it_and_not_along_periodic_directions() -> None:
    field = [0.1, -0.2, 0.3]
    free = batch(water(), field=field)
    expected = -free.positions @ torch.tensor(field, dtype=torch.float64)
    torch.testing.assert_close(applied_potential(free), expected)
    surface = batch(slab(), field=field)
    torch.testing.assert_close(applied_potential(surface), -0.3 * surface.positions[:, 2])


def test_without_a_field_there_is_no_potential() -> None:
    assert applied_potential(batch(water())) is None
    asked = batch(water())
    asked.electric_field.requires_grad_()
    assert isinstance(applied_potential(asked), Tensor)


def mistakes(atoms, field, coupling) -> dict[int, str]:
    systems = batch(atoms, field=field)
    return field_mistakes(systems.electric_field, systems.cell, systems.pbc, coupling)


def test_a_field_along_periodic_directions_is_refused_for_flowing_charge() -> None:
    text = mistakes(slab(), (0.1, 0.2, 0.3), "open")[0]
    assert "(0.1, 0.2, 0.3) V/A" in text
    assert "periodic direction a and b" in text
    assert "periodic direction a," in mistakes(wire(), (0.1, 0.0, 0.2), "open")[0]


@pytest.mark.parametrize("field", [(0.0, 0.0, 0.3), (0.0, 0.0, 0.0)])
def test_a_field_across_a_slab_is_taken(field) -> None:
    assert mistakes(slab(), field, "open") == {}


def test_dipoles_of_atoms_follow_a_field_everywhere() -> None:
    assert mistakes(triclinic(), (0.1, 0.2, 0.3), "every") == {}


def test_a_field_without_charges_is_refused_wherever_it_points() -> None:
    assert "no charges that could follow" in mistakes(water(), (0.0, 0.0, 0.1), "none")[0]
