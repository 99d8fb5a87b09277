"""Dipoles about the centre of mass."""

from __future__ import annotations

import torch

from qeqtrain.physics.coulomb import dipole
from tests.systems import batch_of, small_qet, water


def test_dipoles_of_the_atoms_add_to_that_of_their_charges() -> None:
    batch = batch_of([water(0.0)], small_qet())
    masses = torch.tensor([16.0, 1.0, 1.0], dtype=torch.float64)
    charges = torch.tensor([-0.8, 0.4, 0.4], dtype=torch.float64)
    own = torch.randn(3, 3, dtype=torch.float64)
    both = dipole(charges, masses, batch, own)
    torch.testing.assert_close(both, dipole(charges, masses, batch) + own.sum(0))
