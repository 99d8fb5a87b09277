"""How charges enter the energy, and what is refused."""

from __future__ import annotations

import functools
import logging

import pytest
import torch

from qeqtrain.errors import UserMistake
from qeqtrain.nn.couplings import AdditiveCoupling, FeatureCoupling, VariationalCoupling
from qeqtrain.nn.second_network import ChargeBins, SecondNetwork
from tests.crosses import CHARGES, small_cross
from tests.systems import batch_of, triclinic, water


def test_the_additive_energy_is_that_of_the_surroundings_plus_that_of_the_charges() -> None:
    potential = small_cross("tensornet", "diagonal", "full")
    batch = batch_of([water(1.0), triclinic()], potential)
    species = potential.species_index[batch.numbers]
    charges = potential.charge(batch, potential.backbone(batch, species), species)
    found = potential.evaluate(batch)
    references = batch.sum_over_atoms(potential.reference_energies[species])
    local = batch.sum_over_atoms(found.atomic_energies)
    expected = local + references + charges.energy
    torch.testing.assert_close(found.energy, expected, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("charge", ["diagonal", "gaussian"])
@pytest.mark.parametrize("coupling", ["full", "variational"])
def test_the_slope_of_a_full_charge_energy_is_the_chemical_potential(charge, coupling) -> None:
    potential = small_cross("tensornet", charge, coupling)
    batch = batch_of([water(1.0), triclinic()], potential)
    total = batch.total_charge.requires_grad_()
    found = potential.evaluate(batch)
    (slope,) = torch.autograd.grad(found.energy.sum(), total)
    torch.testing.assert_close(slope, found.chemical_potential, rtol=1e-9, atol=1e-9)


def test_a_variational_coupling_adds_no_negative_hardness() -> None:
    coupling = VariationalCoupling(channels=4, charge_features=2)
    response = coupling.response(10.0 * torch.randn(100, 4))
    assert (response.hardness >= 0.0).all()


@pytest.mark.parametrize(
    "make",
    [
        lambda: AdditiveCoupling(channels=4, charge_features=0),
        lambda: VariationalCoupling(channels=4, charge_features=0),
        lambda: FeatureCoupling(charge_energy="full", channels=4, charge_features=0),
        lambda: small_cross("tensornet", "none", "second"),
    ],
)
def test_an_energy_of_charges_needs_charges(make) -> None:
    with pytest.raises(UserMistake, match="charge=none"):
        make()


@pytest.mark.parametrize("coupling", ["full", "variational", "second"])
def test_charges_that_minimise_nothing_have_no_energy_to_add(coupling) -> None:
    with pytest.raises(UserMistake, match="charge=local"):
        small_cross("tensornet", "local", coupling)


@pytest.mark.parametrize("coupling", ["full", "variational", "second"])
def test_widths_that_no_energy_depends_on_are_not_trained(coupling, monkeypatch) -> None:
    monkeypatch.setitem(CHARGES["diagonal"], "train_widths", True)
    with pytest.raises(UserMistake, match=r"charge\.train_widths is true"):
        small_cross("tensornet", "diagonal", coupling)
    for reads in ("feature", "coulomb"):
        assert small_cross("tensornet", "diagonal", reads).charge.width.requires_grad


@pytest.mark.parametrize("projection", [0, -3])
def test_bins_are_reduced_to_something(projection) -> None:
    with pytest.raises(UserMistake, match=rf"coupling\.projection is {projection}; expected 1"):
        SecondNetwork(
            {},
            projection=projection,
            elements=(1,),
            charge_features=2,
            data_charge_range=None,
            build=lambda node, attributes: Plain(),
        )


@pytest.mark.parametrize("kind", [FeatureCoupling, AdditiveCoupling])
def test_a_linear_readout_stays_linear_through_hidden_layers(kind) -> None:
    x = torch.randn(3, 4)
    for hidden in (None, [8], [8, 5]):
        features = 2 if kind is AdditiveCoupling else 0
        coupling = kind(hidden=hidden, readout="linear", channels=4, charge_features=features)
        energy = functools.partial(coupling, None, None, charges=None)
        torch.testing.assert_close(energy(2.0 * x), 2.0 * energy(x))
        count = sum(p.numel() for p in coupling.parameters())
        assert count == {None: 4, 1: 4 * 8 + 8, 2: 4 * 8 + 8 * 5 + 5}[hidden and len(hidden)]


def test_bins_are_those_of_the_paper_within_their_range() -> None:
    bins = ChargeBins(50, -0.5, 0.5, "none")
    found = bins(torch.tensor([0.123], dtype=torch.float64))
    centres = torch.linspace(-0.5, 0.5, 50, dtype=torch.float64)
    expected = torch.exp(-((0.123 - centres) ** 2) / 0.02**2)
    torch.testing.assert_close(found[0], expected)


def test_soft_tails_change_little_inside_and_leave_no_dead_zone() -> None:
    hard, soft = (ChargeBins(50, -0.5, 0.5, tails) for tails in ("none", "soft"))
    inside = torch.linspace(-0.35, 0.35, 9, dtype=torch.float64)
    torch.testing.assert_close(soft(inside), hard(inside), rtol=0, atol=1e-3)
    outside = torch.tensor([-3.0, 3.0], dtype=torch.float64)
    assert hard(outside).max() < 1e-100
    assert (soft(outside).max(dim=1).values > 0.9).all()


def test_charges_off_the_axis_are_remarked_once(caplog) -> None:
    bins = ChargeBins(10, -0.5, 0.5, "soft")
    with caplog.at_level(logging.WARNING):
        bins(torch.tensor([0.7], dtype=torch.float64))
        bins(torch.tensor([0.8], dtype=torch.float64))
    assert [r.message.count("widen coupling.charge_range") for r in caplog.records] == [1]


@pytest.mark.parametrize("wanted", [[0.5, -0.5], [0.1], "wide", [0.0, float("nan")]])
def test_a_charge_axis_without_sense_is_refused(wanted) -> None:
    with pytest.raises(UserMistake, match=r"coupling\.charge_range"):
        SecondNetwork(
            {},
            charge_range=wanted,
            elements=(1,),
            charge_features=2,
            data_charge_range=None,
            build=lambda node, attributes: None,
        )


class Plain(torch.nn.Module):
    """A backbone by name only."""

    out_channels = 4


@pytest.mark.parametrize(
    ("met", "axis"),
    [((-0.4, 0.6), (-0.5, 0.7)), ((0.0, 0.2), (-0.4, 0.6)), (None, (-1.2, 1.2))],
)
def test_the_axis_covers_the_charges_of_the_data_with_a_margin(met, axis) -> None:
    network = SecondNetwork(
        {},
        elements=(1,),
        charge_features=2,
        data_charge_range=met,
        build=lambda node, attributes: Plain(),
    )
    assert (network.bins.lowest, network.bins.highest) == pytest.approx(axis)
