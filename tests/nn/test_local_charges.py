"""Charges read from the surroundings alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from qeqtrain.errors import UserMistake
from qeqtrain.structures import ChargeGroups
from tests.crosses import small_cross
from tests.systems import batch_of, water


def of_groups(charge: list[float]) -> ChargeGroups:
    """Two fragments in a water molecule: the oxygen, and both hydrogens."""
    zero = torch.zeros(2, dtype=torch.int64)
    given = torch.tensor(charge, dtype=torch.float64)
    return ChargeGroups(torch.tensor([0, 1, 1]), given, torch.zeros_like(given), zero)


def test_charges_of_every_fragment_add_up_to_its_own() -> None:
    potential = small_cross("tensornet", "local", "feature")
    batch = replace(batch_of([water(0.0)], potential), groups=of_groups([-0.4, 0.4]))
    charges = potential.evaluate(batch).charges.detach().numpy()
    assert charges[0] == pytest.approx(-0.4)
    assert charges[1:].sum() == pytest.approx(0.4)


def test_a_held_potential_is_refused_and_not_taken_for_a_charge_of_zero() -> None:
    potential = small_cross("tensornet", "local", "feature")
    batch = replace(batch_of([water(0.0)], potential), groups=of_groups([np.nan, 0.0]))
    with pytest.raises(UserMistake, match=r"held at a potential.*say charge=gaussian"):
        potential.evaluate(batch)
