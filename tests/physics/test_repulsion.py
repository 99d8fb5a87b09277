"""Screened nuclear repulsion."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from ase import Atoms

from qeqtrain.neighbors import with_pairs
from qeqtrain.physics.cutoff import polynomial_cutoff
from qeqtrain.physics.repulsion import SCREENING, zbl_atomic_energies, zbl_energy
from qeqtrain.structures import Structure, Structures, collate
from tests.systems import triclinic, water

CUTOFF = 4.0


def batch(*atoms: Atoms, cutoff: float = CUTOFF) -> Structures:
    ready = [Structure.from_atoms(a, total_charge=0.0) for a in atoms]
    return collate([with_pairs(s, {"backbone": cutoff}) for s in ready])


def pair(distance: float) -> Structures:
    return batch(Atoms("OCu", [[0, 0, 0], [0, 0, distance]]))


@pytest.mark.parametrize("distance", [0.5, 1.0, 2.5])
def test_a_pair_has_the_energy_worked_out_by_hand(distance: float) -> None:
    a = 0.46850 / (8**0.23 + 29**0.23)
    x = distance / a
    phi = (
        0.18175 * np.exp(-3.19980 * x)
        + 0.50986 * np.exp(-0.94229 * x)
        + 0.28022 * np.exp(-0.40290 * x)
        + 0.02817 * np.exp(-0.20162 * x)
    )
    t = distance / CUTOFF
    end = 1 - 28 * t**6 + 48 * t**7 - 21 * t**8
    expected = 14.399645478425668 * 8 * 29 / distance * phi * end
    assert zbl_energy(pair(distance), "backbone").item() == pytest.approx(expected, rel=1e-12)


def test_at_contact_the_bare_nuclei_are_seen() -> None:
    assert sum(c for c, _ in SCREENING) == pytest.approx(1.0, abs=1e-12)
    energy = zbl_energy(pair(1e-6), "backbone").item()
    assert energy == pytest.approx(14.399645478425668 * 8 * 29 / 1e-6, rel=1e-4)


def test_both_atoms_of_a_pair_have_half_of_it() -> None:
    first, second = zbl_atomic_energies(pair(1.3), "backbone")
    assert first == second


def test_the_repulsion_ends_smoothly_at_its_cutoff() -> None:
    distance = torch.tensor([CUTOFF - 1e-7, CUTOFF, CUTOFF + 0.5], dtype=torch.float64)
    x = (distance / CUTOFF).requires_grad_()
    value = polynomial_cutoff(x, 6)
    (slope,) = torch.autograd.grad(value.sum(), x, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), x)
    assert max(v.abs().max().item() for v in (value, slope, curvature)) < 1e-4
    assert value.abs().max() < 1e-15


def test_a_crystal_repeated_has_twice_the_energy() -> None:
    one = zbl_energy(batch(triclinic()), "backbone")
    two = zbl_energy(batch(triclinic().repeat((2, 1, 1))), "backbone")
    torch.testing.assert_close(two, 2 * one, rtol=1e-12, atol=0)


def test_structures_of_a_batch_keep_to_themselves() -> None:
    both = zbl_energy(batch(triclinic(), water()), "backbone")
    alone = [zbl_energy(batch(a), "backbone") for a in (triclinic(), water())]
    torch.testing.assert_close(both, torch.cat(alone), rtol=1e-14, atol=0)


def test_forces_and_their_derivatives_are_exact() -> None:
    s = batch(water())
    positions = s.positions.clone().requires_grad_()

    def energy(r: torch.Tensor) -> torch.Tensor:
        return zbl_energy(replace(s, positions=r), "backbone")

    assert torch.autograd.gradcheck(energy, positions)
    assert torch.autograd.gradgradcheck(energy, positions)
