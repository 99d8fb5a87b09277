"""The Coulomb interaction of Gaussian charges: known numbers, and what must not matter."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from torch import Tensor

from qeqtrain.errors import EquilibrationFailed, UserMistake
from qeqtrain.neighbors import with_pairs
from qeqtrain.physics import ewald
from qeqtrain.physics.ewald import CoulombReach
from qeqtrain.physics.interaction import GaussianCoulomb, Geometry
from qeqtrain.structures import Structure, Structures, collate
from qeqtrain.units import COULOMB_CONSTANT
from tests.physics.systems import batch, parameters, salt, small_cell, small_slab, water


def full(lower: Tensor) -> Tensor:
    """Complete a matrix of which the lower triangle is given."""
    return lower.tril() + lower.tril(-1).mT


def narrow(atoms: Atoms, width: float, charge: float = 0.0) -> tuple[Structures, Tensor]:
    """Give all atoms one narrow density, so that their charges are points for each other."""
    reach = CoulombReach(dict.fromkeys(atoms.numbers.tolist(), width), 1e-12)
    structure = Structure.from_atoms(atoms, total_charge=charge)
    structures = collate([with_pairs(structure, {"charge": reach})])
    return structures, torch.full((len(atoms),), width, dtype=torch.float64)


@pytest.mark.parametrize(
    ("atoms", "madelung", "neighbor"),
    [
        # Constants of the lattices, referred to the distance of nearest neighbours.
        (bulk("NaCl", "rocksalt", a=5.64), 1.747564594633182, 5.64 / 2),
        (bulk("CsCl", "cesiumchloride", a=4.12), 1.762674773070988, 4.12 * math.sqrt(0.75)),
        (bulk("ZnS", "zincblende", a=5.41), 1.638055053388789, 5.41 * math.sqrt(3) / 4),
    ],
    ids=["NaCl", "CsCl", "ZnS"],
)
def test_lattices_of_points_have_their_madelung_constants(atoms, madelung, neighbor) -> None:
    structures, width = narrow(atoms, 0.2)
    charges = torch.tensor([1.0, -1.0], dtype=torch.float64)
    interaction = GaussianCoulomb(structures, width, 1e-12)
    own = COULOMB_CONSTANT / (math.sqrt(math.pi) * 0.2)
    energy = 0.5 * interaction.energy(charges, charges)[0] - own
    assert float(energy) == pytest.approx(-COULOMB_CONSTANT * madelung / neighbor, rel=1e-12)


def test_one_charge_and_its_background_have_the_wigner_constant_of_a_cube() -> None:
    length, sigma = 7.0, 0.3
    structures, width = narrow(Atoms("Na", cell=[length] * 3, pbc=True), sigma, charge=1.0)
    one = torch.ones(1, dtype=torch.float64)
    energy = float(0.5 * GaussianCoulomb(structures, width, 1e-12).energy(one, one)[0])
    # A Gaussian differs from a point by its own energy, and by what it lacks of the
    # background's potential: 2 pi sigma^2 / V.
    own = 1.0 / (2.0 * math.sqrt(math.pi) * sigma) + 2.0 * math.pi * sigma**2 / length**3
    assert energy / COULOMB_CONSTANT - own == pytest.approx(
        -2.837297479480619 / (2.0 * length), rel=1e-12
    )


@pytest.mark.parametrize("make", [salt, small_cell, small_slab])
def test_the_splitting_width_does_not_matter(make, monkeypatch) -> None:
    found = []
    for price in (1e3, 1e-4):  # of a pair: dear ones are avoided by many waves
        monkeypatch.setattr(ewald, "PAIR", price)
        structures = batch(make())
        interaction = GaussianCoulomb(structures, parameters(structures)[2])
        found.append((interaction.splittings[0].width, full(interaction.matrices()[0])[0]))
    (small, first), (large, second) = found
    assert large > 1.2 * small
    if make is small_slab:  # the planar dipole is measured from the middle: neutral sets only
        neutral = torch.eye(8, dtype=torch.float64) - 1 / 8
        first, second = neutral @ first @ neutral, neutral @ second @ neutral
    torch.testing.assert_close(first, second, rtol=0, atol=1e-9)


@pytest.mark.parametrize("make", [water, salt, small_slab])
def test_matrix_bilinear_form_and_potential_are_one_interaction(make) -> None:
    structures = batch(make())
    interaction = GaussianCoulomb(structures, parameters(structures)[2])
    matrix = full(interaction.matrices()[0])[0]
    generator = torch.Generator().manual_seed(0)
    u, v = torch.randn(2, structures.n_atoms, dtype=torch.float64, generator=generator)
    torch.testing.assert_close(interaction.energy(u, v)[0], u @ matrix @ v)
    torch.testing.assert_close(interaction.energy(u, u)[0], u @ matrix @ u)
    torch.testing.assert_close(interaction.potential(v), matrix @ v)


def test_matrices_of_large_structures_are_filled_row_by_row() -> None:
    structures = batch(salt() * (3, 3, 3))
    interaction = GaussianCoulomb(structures, parameters(structures)[2])
    v = torch.sin(torch.arange(structures.n_atoms, dtype=torch.float64))
    matrix = full(interaction.matrices()[0])[0]
    torch.testing.assert_close(interaction.potential(v), matrix @ v, rtol=1e-11, atol=1e-10)


def test_a_wave_sum_alone_gives_the_same_matrix() -> None:
    # Gaussian densities need no splitting: their form factors end the sum over waves.
    structures = batch(small_cell())
    width = torch.tensor([1.1, 0.9, 0.8], dtype=torch.float64)
    steps = np.arange(-14, 15)
    triples = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), -1).reshape(-1, 3)
    triples = triples[(triples != 0).any(-1)]
    cell = structures.cell[0].numpy()
    k = 2.0 * np.pi * triples @ np.linalg.inv(cell).T
    square = (k * k).sum(-1)
    phases = np.exp(1j * k @ structures.positions.numpy().T)
    factors = phases * np.exp(-0.5 * square[:, None] * width.numpy() ** 2)
    direct = np.einsum("k,ki,kj->ij", 4 * np.pi / square, factors.conj(), factors).real
    direct *= COULOMB_CONSTANT / abs(np.linalg.det(cell))
    matrix = full(GaussianCoulomb(structures, width).matrices()[0])[0]
    np.testing.assert_allclose(matrix.numpy(), direct, rtol=0, atol=1e-9)


def layers_by_hand(structures: Structures, width: np.ndarray) -> np.ndarray:
    """Matrix of a slab by the sum over in-plane waves; the vacuum is the zero of potentials.

    Parry, Surf. Sci. 49, 433 (1975), with Gaussians of width gamma in place of the points: the
    transform of erf(a r)/r in the plane is elementary at every height z.
    """
    rows = structures.cell[0, :2].numpy()
    area_vector = np.cross(rows[0], rows[1])
    area = np.linalg.norm(area_vector)
    normal = area_vector / area
    steps = np.arange(-30, 31)
    pairs = np.stack(np.meshgrid(steps, steps, indexing="ij"), -1).reshape(-1, 2)
    g_vectors = pairs[(pairs != 0).any(-1)] @ (2.0 * np.pi * np.linalg.pinv(rows).T)
    g = np.linalg.norm(g_vectors, axis=-1)
    g_vectors, g = g_vectors[g < 25.0], g[g < 25.0]
    positions = structures.positions.numpy()
    matrix = np.zeros((len(positions),) * 2)
    for i, r_i in enumerate(positions):
        for j, r_j in enumerate(positions):
            d = r_j - r_i
            z, a = float(d @ normal), 1.0 / (math.sqrt(2.0) * math.hypot(width[i], width[j]))
            both = np.stack([g / (2 * a) + a * z, g / (2 * a) - a * z])
            up, down = torch.special.erfc(torch.tensor(both)).numpy()
            height = np.exp(g * z) * up + np.exp(-g * z) * down
            waves = (np.cos(g_vectors @ d) * height / g).sum() * np.pi / area
            flat = z * math.erf(a * z) + math.exp(-((a * z) ** 2)) / (a * math.sqrt(math.pi))
            matrix[i, j] = waves - 2.0 * np.pi / area * flat
    return COULOMB_CONSTANT * matrix


def test_a_slab_is_the_sum_over_in_plane_waves() -> None:
    structures = batch(small_slab())
    width = parameters(structures)[2]
    charges = torch.sin(1.0 + torch.arange(8, dtype=torch.float64))
    charges = charges - charges.mean()
    interaction = GaussianCoulomb(structures, width)
    direct = layers_by_hand(structures, width.numpy()) @ charges.numpy()
    energy = float(interaction.energy(charges, charges)[0])
    assert energy == pytest.approx(charges.numpy() @ direct, rel=1e-8)
    potential = interaction.potential(charges) + interaction.vacuum_level(charges)
    np.testing.assert_allclose(potential.numpy(), direct, rtol=0, atol=1e-8)


def test_skewed_in_plane_vectors_span_the_same_slab() -> None:
    atoms = small_slab()
    skewed = atoms.copy()
    cell = atoms.cell.array.copy()
    cell[1] += 3.0 * cell[0]
    skewed.set_cell(cell)
    structures = batch(atoms, skewed)
    charges = torch.sin(1.0 + torch.arange(8, dtype=torch.float64))
    charges = (charges - charges.mean()).repeat(2)
    energy = GaussianCoulomb(structures, parameters(structures)[2]).energy(charges, charges)
    torch.testing.assert_close(energy[0], energy[1], rtol=0, atol=1e-9)


@pytest.mark.parametrize("make", [water, small_cell, small_slab])
def test_the_form_has_exact_first_and_second_derivatives(make) -> None:
    atoms = make()[:3]
    structures = batch(atoms)
    width = parameters(structures)[2]
    charges = torch.tensor([[0.7, -0.4, -0.3], [0.2, 0.5, -0.7]], dtype=torch.float64)

    def energy(u: Tensor, v: Tensor, positions: Tensor, cell: Tensor, w: Tensor) -> Tensor:
        point = replace(structures, positions=positions, cell=cell)
        interaction = GaussianCoulomb(point, w)
        return interaction.energy(u, v, Geometry(positions, cell, w))

    inputs = (charges[0], charges[1], structures.positions, structures.cell, width)
    inputs = tuple(t.clone().requires_grad_() for t in inputs)
    assert torch.autograd.gradcheck(energy, inputs, atol=1e-6, fast_mode=True)
    assert torch.autograd.gradgradcheck(energy, inputs, atol=1e-6, fast_mode=True)


def test_a_wire_is_refused_by_name() -> None:
    wire = Atoms("NaCl", [[0, 0, 0], [2.6, 0, 0]], cell=[5.2, 0, 0], pbc=(1, 0, 0))
    with pytest.raises(UserMistake, match="one periodic direction"):
        batch(wire)
    structures = batch(water())
    lists = {"charge": replace(structures.edges["charge"], cutoff=5.0)}
    periodic = replace(
        structures, edges=lists, pbc=torch.tensor([[True, False, False]]), cell=wire_cell()
    )
    with pytest.raises(UserMistake, match=r"structure 0 of the batch \(H2O\)"):
        GaussianCoulomb(periodic, torch.ones(3, dtype=torch.float64))


def wire_cell() -> Tensor:
    return torch.diag(torch.tensor([5.0, 0.0, 0.0], dtype=torch.float64))[None]


def test_a_charged_slab_is_refused_by_name() -> None:
    slab = small_slab()
    slab.info["charge"] = 1.0
    with pytest.raises(UserMistake, match="charge 1 e"):
        batch(slab)
    structures = batch(water(), small_slab())
    charged = replace(structures, total_charge=torch.tensor([0.0, 1.0]).double())
    with pytest.raises(UserMistake, match=r"structure 1 of the batch \(Mg4O4\)"):
        GaussianCoulomb(charged, parameters(charged)[2])


def test_a_list_that_is_far_too_short_is_refused() -> None:
    salt_of_216 = Structure.from_atoms(salt() * (3, 3, 3), total_charge=0.0)
    structures = collate([with_pairs(salt_of_216, {"charge": 2.0})])
    width = parameters(structures)[2]
    with pytest.raises(UserMistake, match=r"structure 0 of the batch .* ends at"):
        GaussianCoulomb(structures, 0.25 * width, 1e-9)


def test_every_structure_of_a_batch_has_its_own_list() -> None:
    # Salt needs no pairs, so that its list ends at once: the batch knows the shortest only.
    box = water()
    box.set_cell([6.0, 7.0, 8.0])
    box.pbc = True
    alone, both = batch(box), batch(salt(), box)
    assert both.edges["charge"].cutoff < alone.edges["charge"].cutoff
    first, second = (GaussianCoulomb(s, parameters(s)[2]) for s in (alone, both))
    assert second.splittings[1].width > 0.7 * first.splittings[0].width
    charges = torch.tensor([0.5, -0.3, 0.4], dtype=torch.float64)
    torch.testing.assert_close(
        second.potential(torch.cat([charges.new_ones(8), charges]))[8:],
        first.potential(charges),
        rtol=0,
        atol=1e-9,
    )


def test_coincident_atoms_are_named() -> None:
    atoms = water()
    atoms.positions[2] = atoms.positions[1]
    structures = batch(salt(), atoms)
    with pytest.raises(EquilibrationFailed, match=r"structure 1 of the batch \(H2O\)"):
        GaussianCoulomb(structures, parameters(structures)[2])
