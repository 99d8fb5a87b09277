"""Polarizable charges as part of a potential."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from qeqtrain.errors import UserMistake
from qeqtrain.models.archive import restore
from qeqtrain.models.potential import Potential, build_potential
from qeqtrain.nn.charges import PolarizableCharges, PQEqCharges
from qeqtrain.physics.polarization import (
    PUBLISHED,
    own_interaction,
    polarize,
    table_parameters,
)
from tests.crosses import BACKBONES, COUPLINGS, small_cross
from tests.systems import batch_of, triclinic, water


def with_table(**options: Any) -> Potential:
    return small_cross("tensornet", "pqeq", "full", charge_options=options)


def test_the_table_adds_its_energy_to_what_the_network_learns() -> None:
    potential, without = with_table(), small_cross("tensornet", "none", "feature")
    batch = batch_of([water(1.0), triclinic()], potential)
    found = potential.evaluate(batch)
    table = polarize(table_parameters(batch.numbers), batch, mode="labels", constants=PUBLISHED)
    network = found.energy - table.energy
    atoms = batch.sum_over_atoms(
        potential.reference_energies[potential.species_index[batch.numbers]]
    )
    local = batch.sum_over_atoms(found.atomic_energies)
    torch.testing.assert_close(network, atoms + local, rtol=0, atol=1e-10)
    torch.testing.assert_close(found.charges, table.charges, rtol=0, atol=0)
    assert without.evaluate(batch).charges is None


def test_shells_are_part_of_the_dipole() -> None:
    potential = with_table()
    batch = batch_of([water()], potential)
    table = polarize(table_parameters(batch.numbers), batch, mode="labels", constants=PUBLISHED)
    masses = potential.masses[batch.numbers]
    arms = batch.positions - (masses[:, None] * batch.positions).sum(0) / masses.sum()
    expected = (table.charges[:, None] * arms - table.shells).sum(0)
    found = potential.evaluate(batch).dipole[0]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_the_table_has_nothing_to_train() -> None:
    assert not list(with_table().charge.parameters())
    assert with_table().adds_fixed_energy
    assert not small_cross("tensornet", "polarizable", "full").adds_fixed_energy
    assert not small_cross("tensornet", "pqeq", "variational").adds_fixed_energy
    assert not small_cross("tensornet", "pqeq", "feature").adds_fixed_energy


def test_frozen_gradients_change_forces_and_not_the_energy() -> None:
    exact, frozen = with_table(), with_table(gradients="frozen")
    batch = batch_of([triclinic()], exact)
    a, b = exact(batch), frozen(batch)
    torch.testing.assert_close(a.energy, b.energy, rtol=0, atol=1e-12)
    assert (a.forces - b.forces).abs().max() > 1e-5


def test_hardness_and_springs_of_a_network_stay_above_their_bounds() -> None:
    potential = small_cross("tensornet", "polarizable", "full")
    model = potential.charge
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(-30.0)
    batch = batch_of([triclinic()], potential)
    species = potential.species_index[batch.numbers]
    features = potential.backbone(batch, species)
    found = model(batch, features, species)
    width = model.width(species)
    assert (found.hardness >= own_interaction(width) + 1.0).all()
    assert (model.stiffness(features, species) >= 0.0).all()
    assert found.energy.isfinite().all()


def test_every_head_learns_from_charges_and_dipoles() -> None:
    potential = small_cross("tensornet", "polarizable", "full").train()
    batch = batch_of([water()], potential)
    found = potential.evaluate(batch)
    loss = found.charges.square().sum() + found.dipole.square().sum()
    for name, p in potential.charge.named_parameters():
        (slope,) = torch.autograd.grad(loss, p, retain_graph=True)
        assert slope.abs().max() > 0.0, name


def test_widths_may_come_from_the_table() -> None:
    model = PolarizableCharges(widths="table", channels=4, elements=(1, 8))
    given = table_parameters(torch.tensor([8, 1]))
    torch.testing.assert_close(model.width(torch.tensor([1, 0])), given.width, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"damping": -1.0}, r"charge.damping is -1.0; expected 0 or more"),
        ({"cutoff": 0.0}, r"charge.cutoff is 0.0; expected above 0"),
    ],
)
def test_a_setting_without_sense_is_refused(options: dict[str, Any], message: str) -> None:
    for make in (
        lambda: PQEqCharges(elements=(1,), **options),
        lambda: PolarizableCharges(channels=4, elements=(1,), **options),
    ):
        with pytest.raises(UserMistake, match=message):
            make()


def test_elements_outside_the_table_are_refused_when_a_model_is_built() -> None:
    spec = {
        "backbone": BACKBONES["tensornet"],
        "charge": {"_target_": "qeqtrain.nn.charges.PQEqCharges"},
        "coupling": COUPLINGS["full"],
    }
    with pytest.raises(UserMistake, match=r"no parameters for Lr; it goes from H to No"):
        build_potential(spec, elements=(8, 103), references={}, scale=1.0)


def test_a_restored_model_gives_the_same_numbers() -> None:
    for charge in ("polarizable", "pqeq"):
        potential = small_cross("tensornet", charge, "full")
        again = restore(potential.header(), potential.state_dict()).eval()
        batch = batch_of([water(1.0)], potential)
        torch.testing.assert_close(
            again(batch).forces, potential(batch).forces, rtol=0, atol=1e-12
        )
