"""Charge equilibration."""

from __future__ import annotations

import torch

from qeqtrain.physics.qeq import equilibrate_diagonal
from tests.systems import batch_of, small_qet, water


def test_two_atoms_exchange_charge_as_by_hand() -> None:
    batch = batch_of([water(0.5)], small_qet())
    chi = torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64)
    eta = torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64)
    rest = equilibrate_diagonal(chi, eta, batch)
    # mu = (0.5 + 1 + 1 + 1) / (1 + 1/2 + 1/4) = 2
    torch.testing.assert_close(rest.chemical_potential, torch.tensor([2.0]).double())
    torch.testing.assert_close(rest.charges, torch.tensor([1.0, 0.0, -0.5]).double())


def test_charges_minimise_the_energy_at_fixed_total_charge() -> None:
    batch = batch_of([water(-1.0)], small_qet())
    chi, eta = torch.randn(3).double(), torch.rand(3).double() + 0.5
    rest = equilibrate_diagonal(chi, eta, batch)

    def energy(q: torch.Tensor) -> torch.Tensor:
        return (chi * q + 0.5 * eta * q * q).sum()

    torch.testing.assert_close(energy(rest.charges), rest.energy[0])
    for _ in range(20):
        step = 0.1 * torch.randn(3).double()
        assert energy(rest.charges + step - step.mean()) > rest.energy[0]


def test_chemical_potential_is_the_slope_of_the_energy_in_the_total_charge() -> None:
    chi, eta = torch.randn(3).double(), torch.rand(3).double() + 0.5
    h = 1e-5
    ends = [
        equilibrate_diagonal(chi, eta, batch_of([water(q)], small_qet())) for q in (-h, 0.0, h)
    ]
    slope = (ends[2].energy - ends[0].energy) / (2 * h)
    torch.testing.assert_close(slope, ends[1].chemical_potential, rtol=0, atol=1e-9)
