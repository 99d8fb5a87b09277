"""A rank without structures asks every model about none."""

from __future__ import annotations

import pytest
import torch

from qeqtrain.data.batching import collate_frames
from tests.crosses import CHARGES, TAKES, small_cross


@pytest.mark.parametrize("charge", CHARGES)
def test_no_structures_have_no_energy_and_its_derivatives(charge: str) -> None:
    coupling = TAKES.get(charge, ("full",))[-1]
    potential = small_cross("nequip", charge, coupling).train()
    batch = collate_frames([], [], potential.cutoffs)
    found = potential(batch.structures, forces=True, stress=True)
    assert found.energy.shape == (0,)
    assert found.forces.shape == (0, 3)
    (found.energy.sum() + found.forces.sum()).backward()
    gradients = [p.grad for p in potential.parameters() if p.grad is not None]
    assert all(torch.equal(g, torch.zeros_like(g)) for g in gradients)
