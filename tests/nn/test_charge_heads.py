"""Heads that read electronegativity, hardness and width."""

from __future__ import annotations

import pytest
import torch
from ase import Atoms
from ase.data import covalent_radii

from qeqtrain.errors import UserMistake
from qeqtrain.nn.charges.heads import HardnessHead, Widths
from tests.crosses import small_cross
from tests.systems import batch_of, water


@pytest.mark.parametrize("kind", ["environment", "species"])
def test_hardness_stays_above_its_floor(kind) -> None:
    head = HardnessHead(kind, 1.0, channels=4, species=2)
    with torch.no_grad():
        head.per_species.fill_(-30.0)
    hardness = head(torch.randn(50, 4), torch.zeros(50, dtype=torch.int64))
    assert (hardness >= 1.0).all()
    assert hardness.dtype == torch.float64


def test_hardness_starts_one_above_its_floor() -> None:
    head = HardnessHead("species", 0.5, channels=4, species=2)
    hardness = head(torch.zeros(1, 4), torch.tensor([1]))
    torch.testing.assert_close(hardness, torch.tensor([1.5]).double(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("backbone", ["tensornet", "nequip"])
def test_atoms_without_neighbors_differ_by_their_species(backbone: str) -> None:
    potential = small_cross(backbone, "gaussian", "full")
    with torch.no_grad():
        potential.charge.electronegativity.per_species.copy_(torch.arange(6.0))
    apart = Atoms("NaCl", [[0, 0, 0], [0, 0, 30.0]], info={"charge": 0.0})
    charges = potential(batch_of([apart], potential)).charges
    assert charges.abs().min() > 1e-2


def test_a_negative_floor_is_refused() -> None:
    with pytest.raises(UserMistake, match="hardness_floor is -1"):
        HardnessHead("species", -1.0, channels=4, species=1)


def test_trained_widths_stay_within_a_quarter_of_the_covalent_radius() -> None:
    widths = Widths((1, 11), trained=True)
    torch.testing.assert_close(
        widths(torch.tensor([1])), torch.tensor([covalent_radii[11]]).double()
    )
    with torch.no_grad():
        widths.change.fill_(50.0)
    largest = widths(torch.tensor([1])).item()
    assert largest == pytest.approx(1.25 * covalent_radii[11])
    assert largest <= widths.largest[11] * (1 + 1e-12)


def test_stiff_atoms_keep_the_charge_they_have_alone_and_its_energy_is_zero() -> None:
    options = {"head": "charge", "hardness_floor": 1e6, "accuracy": 1e-9}
    potential = small_cross("tensornet", "gaussian", "full", charge_options=options)
    batch = batch_of([water()], potential)
    species = potential.species_index[batch.numbers]
    features = potential.backbone(batch, species)
    found = potential.charge(batch, features, species)
    alone = potential.charge.electronegativity(features, species)
    shared = alone - alone.mean()
    torch.testing.assert_close(found.charges, shared, rtol=0, atol=1e-4)
    neutral = 0.5 * found.hardness.mean() * alone.mean() ** 2 * 3
    torch.testing.assert_close(found.energy[0], neutral, rtol=1e-3, atol=1e-1)
