"""Dipoles of atoms follow a field in every direction; a small model of them, by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from scipy.spatial.transform import Rotation
from torch import Tensor, nn

from qeqtrain.errors import UserMistake
from qeqtrain.models import archive
from qeqtrain.models.potential import Potential
from qeqtrain.nn.atomic_dipoles import AtomicDipoles
from qeqtrain.nn.charges import Charges
from qeqtrain.nn.couplings import AdditiveCoupling, FeatureCoupling
from qeqtrain.nn.tensornet import TensorNet
from qeqtrain.physics.fields import applied_potential
from qeqtrain.physics.response import dielectric_constant
from qeqtrain.structures import Structures
from tests.crosses import small_cross
from tests.properties.test_response import in_field, pulled
from tests.systems import ELEMENTS, batch_of, rattled, slab, triclinic, water

SOFT = 0.02
"""Polarizability of every atom, e A^2/V."""


class Dipoles(nn.Module):
    r"""Fixed charges q, and dipoles that give way to the field F + f of all that is near.

    .. math:: E = -\sum_i q_i r_i F - \tfrac\alpha2 \sum_i |F + f_i|^2, \qquad
              p_i = \alpha (F + f_i), \qquad f_i = \sum_j q_j r_{ji} e^{-r_{ji}^2}
    """

    features, equilibrated, field, cutoffs = 2, True, "every", {"charge": 4.0}

    def forward(self, s: Structures, features: Tensor, species: Tensor, response=None):
        kinds = torch.tensor([0.4, -0.8, 0.5, 0.9, -0.7, 0.1], dtype=torch.float64)
        q = kinds[species]
        q = (
            q
            - (s.sum_over_atoms(q) / s.atom_counts() - s.total_charge / s.atom_counts())[
                s.batch
            ]
        )
        edges = s.edges["charge"].both_directions()
        r = s.edge_vectors("charge")
        r = torch.cat([r, -r])
        push = q[edges.sender, None] * r * torch.exp(-r.square().sum(-1, keepdim=True))
        near = torch.zeros_like(s.positions).index_add(0, edges.receiver, push)
        total = near + s.electric_field[s.batch]
        applied = applied_potential(s)
        work = 0.0 if applied is None else s.sum_over_atoms(q * applied)
        energy = work - 0.5 * SOFT * s.sum_over_atoms(total.square().sum(-1))
        nothing = torch.zeros_like(q)
        return Charges(
            charges=q,
            electrostatic_potential=nothing,
            chemical_potential=energy.detach(),
            energy=energy,
            coulomb_energy=energy,
            electronegativity=nothing,
            hardness=nothing,
            dipoles=SOFT * total,
        )


@pytest.fixture(params=["additive", "feature"], name="potential")
def _potential(request: pytest.FixtureRequest) -> Potential:
    torch.manual_seed(0)
    sizes = {"channels": 4, "charge_features": 2}
    kinds = {"additive": AdditiveCoupling, "feature": FeatureCoupling}
    return (
        Potential(
            TensorNet(cutoff=4.0, channels=4, layers=1, elements=ELEMENTS),
            Dipoles(),
            kinds[request.param](**sizes),
            elements=ELEMENTS,
            references={},
            scale=1.0,
        )
        .double()
        .eval()
    )


def charged_water() -> Atoms:
    return water(1.0)


@pytest.mark.parametrize("make", [triclinic, slab, charged_water])
def test_born_charges_beyond_riding_charges_are_slopes_of_forces(potential, make) -> None:
    atoms: Atoms = make()
    base = in_field(potential, [atoms], (0.2, -0.1, 0.3))
    found = potential(base, born_charges=True)
    total = atoms.info.get("charge", 0.0) * torch.eye(3, dtype=torch.float64)
    torch.testing.assert_close(found.born_charges.sum(0), total, rtol=0, atol=1e-10)
    for a in range(3):
        axis = torch.eye(3, dtype=torch.float64)[a]
        low, high = (potential(pulled(base, axis, h)).forces for h in (-1e-3, 1e-3))
        riding = found.charges[:, None] * axis if atoms.pbc[a] else 0.0
        slope = (high - low) / 2e-3
        torch.testing.assert_close(found.born_charges[:, a] - riding, slope, rtol=0, atol=1e-8)


def test_a_crystal_is_as_polarizable_as_its_atoms(potential) -> None:
    atoms = rattled(triclinic())
    found = potential(batch_of([atoms], potential), polarizability=True)
    expected = SOFT * len(atoms) * torch.eye(3, dtype=torch.float64)
    torch.testing.assert_close(found.polarizability[0], expected)
    epsilon = dielectric_constant(found.polarizability, atoms.get_volume())
    beyond = 4.0 * np.pi * 14.399645478425668 * SOFT * len(atoms) / atoms.get_volume()
    torch.testing.assert_close(epsilon[0], (1.0 + beyond) * torch.eye(3, dtype=torch.float64))


def test_stress_in_a_field_is_taken_at_the_fixed_field(potential) -> None:
    atoms, field = triclinic(), (0.2, -0.1, 0.3)
    stress = potential(in_field(potential, [atoms], field)).stress[0].numpy()
    strain = np.random.default_rng(0).normal(size=(3, 3))
    strain = 0.5 * (strain + strain.T)

    def energy(step: float) -> float:
        bent = atoms.copy()
        bent.set_cell(atoms.cell.array @ (np.eye(3) + step * strain), scale_atoms=True)
        return float(potential(in_field(potential, [bent], field)).energy[0])

    slope = (energy(1e-5) - energy(-1e-5)) / 2e-5 / atoms.get_volume()
    np.testing.assert_allclose((stress * strain).sum(), slope, rtol=1e-6, atol=1e-8)


def test_the_dipole_contains_that_of_the_atoms(potential) -> None:
    batch = batch_of([water()], potential)
    found = potential(batch)
    share = batch.sum_over_atoms(found.charges[:, None] * batch.positions)
    torch.testing.assert_close(found.dipole, share + found.atomic_dipoles.sum(0))


def learned(*names: str) -> Potential:
    return small_cross(*names, atomic_dipoles=True)


def test_learned_dipoles_turn_with_the_molecule_and_vanish_beyond_the_cutoff() -> None:
    potential = learned("nequip", "gaussian", "feature")
    atoms, turn = water(), Rotation.from_euler("xyz", [0.4, -1.1, 2.0]).as_matrix()
    plain = potential(atoms).atomic_dipoles
    assert plain.abs().max() > 1e-3
    turned = atoms.copy()
    turned.positions = -atoms.positions @ turn.T
    found = potential(turned).atomic_dipoles
    torch.testing.assert_close(found, -plain @ torch.from_numpy(turn).T, rtol=0, atol=1e-10)
    pair = Atoms("OH", [[0, 0, 0], [0, 0, 3.9999]], info={"charge": 0.0})
    assert potential(pair).atomic_dipoles.abs().max() < 1e-9


def test_learned_dipoles_start_at_zero_and_change_no_energy_without_a_field() -> None:
    plain, other = (
        small_cross("tensornet", "gaussian", "full", atomic_dipoles=d) for d in (False, True)
    )
    batch = batch_of([water(), triclinic()], plain)
    assert torch.equal(plain(batch).energy, other(batch).energy)
    fresh = AtomicDipoles(4.0, 8).double()
    features = torch.randn(batch.n_atoms, 8, dtype=torch.float64)
    assert fresh(batch, features).abs().max() == 0.0


def test_learned_dipoles_come_back_with_the_file_of_a_model() -> None:
    potential = learned("tensornet", "diagonal", "feature")
    again = archive.restore(potential.header(), potential.state_dict()).eval()
    expected = potential(water()).dipole
    torch.testing.assert_close(again(water()).dipole, expected, rtol=0, atol=0)


def test_learned_dipoles_without_charges_are_a_mistake() -> None:
    with pytest.raises(UserMistake, match="atomic_dipoles is true, but charge=none"):
        learned("tensornet", "none", "feature")
