"""Full charge equilibration: what it minimises, what must not matter, what it refuses."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from ase import Atoms
from torch import Tensor

from qeqtrain.errors import EquilibrationFailed, UserMistake
from qeqtrain.physics.interaction import GaussianCoulomb
from qeqtrain.physics.qeq import Equilibrium, equilibrate, equilibrate_diagonal
from qeqtrain.physics.response import strained
from qeqtrain.structures import ChargeGroups, Structures
from tests.physics.systems import batch, parameters, salt, small_cell, small_slab, water


def at_rest(structures: Structures) -> Equilibrium:
    return equilibrate(*parameters(structures), structures)


def part(rest: Equilibrium, structures: Structures, index: int) -> dict[str, Tensor]:
    """Take the result of one structure out of a batch's."""
    atoms = structures.batch == index
    return {
        "charges": rest.charges[atoms],
        "potential": rest.potential[atoms],
        "energy": rest.energy[index],
        "coulomb_energy": rest.coulomb_energy[index],
        "chemical_potential": rest.chemical_potential[index],
    }


def two_fragments(gap: float = 6.0) -> Atoms:
    """Two water molecules far enough apart to tell which is which."""
    other = water()
    other.positions += [gap, 0.4, -0.3]
    return water() + other


def with_groups(
    structures: Structures, member: list[int], charge: list[float], potential: list[float]
) -> Structures:
    owner = [int(structures.batch[member.index(g)]) for g in range(len(charge))]
    return replace(
        structures,
        groups=ChargeGroups(
            torch.tensor(member),
            torch.tensor(charge, dtype=torch.float64),
            torch.tensor(potential, dtype=torch.float64),
            torch.tensor(owner),
        ),
    )


def several_groups() -> Structures:
    """Two fragments of given charge; one group and an electrode, interleaved; a molecule."""
    structures = batch(two_fragments(), salt(), water(1.0))
    member = [0, 0, 0, 1, 1, 1, 2, 3, 2, 3, 2, 2, 3, 2, 4, 4, 4]
    nan = float("nan")
    return with_groups(structures, member, [0.3, -0.3, 0.5, nan, 1.0], [0, 0, 0, 0.8, 0])


def dense_matrix(structures: Structures, hardness: Tensor, width: Tensor) -> np.ndarray:
    """Build H of the whole batch, column by column from potentials."""
    interaction = GaussianCoulomb(structures, width)
    unit = torch.eye(structures.n_atoms, dtype=torch.float64)
    columns = [interaction.potential(e) for e in unit]
    return (torch.stack(columns) + torch.diag(hardness)).numpy()


def test_groups_and_held_potentials_meet_their_conditions() -> None:
    structures = several_groups()
    chi, hardness, width = parameters(structures)
    rest = equilibrate(chi, hardness, width, structures)
    groups = structures.groups
    # By hand: one bordered system in numpy for everything.
    matrix = dense_matrix(structures, hardness, width)
    fixed = [0, 1, 2, 4]
    rows = np.array([(groups.member.numpy() == g).astype(float) for g in fixed])
    held = np.where(groups.member.numpy() == 3, 0.8, 0.0)
    bordered = np.block([[matrix, -rows.T], [rows, np.zeros((4, 4))]])
    right = np.concatenate([held - chi.numpy(), groups.charge.numpy()[fixed]])
    solution = np.linalg.solve(bordered, right)
    np.testing.assert_allclose(rest.charges.numpy(), solution[:17], rtol=0, atol=1e-11)
    mu = np.insert(solution[17:], 3, 0.8)
    np.testing.assert_allclose(rest.chemical_potential.numpy(), mu, rtol=0, atol=1e-11)
    q = solution[:17]
    omega = chi.numpy() @ q + 0.5 * q @ matrix @ q - 0.8 * q[groups.member.numpy() == 3].sum()
    assert float(rest.energy.sum()) == pytest.approx(omega, abs=1e-10)
    coulomb = 0.5 * q @ (matrix - np.diag(hardness.numpy())) @ q
    assert float(rest.coulomb_energy.sum()) == pytest.approx(coulomb, abs=1e-10)


def test_charges_minimise_the_energy_at_fixed_charge_of_every_group() -> None:
    structures = several_groups()
    chi, hardness, width = parameters(structures)
    rest = equilibrate(chi, hardness, width, structures)
    interaction = GaussianCoulomb(structures, width)
    groups = structures.groups
    phi = torch.where(groups.held, groups.potential, 0.0)[groups.member]

    def energy(q: Tensor) -> Tensor:
        local = structures.sum_over_atoms((chi - phi) * q + 0.5 * hardness * q * q)
        return local + 0.5 * interaction.energy(q, q)

    torch.testing.assert_close(energy(rest.charges), rest.energy, rtol=0, atol=1e-10)
    generator = torch.Generator().manual_seed(1)
    for _ in range(5):
        step = 0.1 * torch.randn(17, dtype=torch.float64, generator=generator)
        size = groups.sum_over_atoms(torch.ones_like(step))
        mean = torch.where(groups.held, 0.0, groups.sum_over_atoms(step) / size)
        assert (energy(rest.charges + step - mean[groups.member]) > rest.energy).all()


def test_chemical_potentials_are_slopes_in_the_charges_of_groups() -> None:
    structures = several_groups()
    charge = torch.tensor([0.3, -0.3, 0.5, 0.0, 1.0], dtype=torch.float64).requires_grad_()
    groups = structures.groups
    given = torch.where(groups.held, torch.nan, charge)
    potential = groups.potential.clone().requires_grad_()
    point = replace(structures, groups=replace(groups, charge=given, potential=potential))
    rest = equilibrate(*parameters(point), point)
    slope, in_potential = torch.autograd.grad(rest.energy.sum(), [charge, potential])
    fixed = ~groups.held
    torch.testing.assert_close(slope[fixed], rest.chemical_potential[fixed].detach())
    # The grand potential falls by the charge of the group that is held.
    torch.testing.assert_close(
        in_potential[3], -groups.sum_over_atoms(rest.charges.detach())[3], rtol=1e-9, atol=0
    )


def test_forces_at_fixed_potential_are_the_slope_of_the_grand_potential() -> None:
    structures = several_groups()
    positions = structures.positions.clone().requires_grad_()
    rest = at_rest(replace(structures, positions=positions))
    (slope,) = torch.autograd.grad(rest.energy.sum(), positions)
    direction, h = torch.sin(torch.arange(51.0).double()).view(17, 3), 1e-4
    ends = [
        at_rest(replace(structures, positions=structures.positions + s * h * direction)).energy
        for s in (-1, 1)
    ]
    difference = float((ends[1] - ends[0]).sum()) / (2 * h)
    assert float((slope * direction).sum()) == pytest.approx(difference, abs=1e-6)


@pytest.mark.parametrize("groups", [False, True])
def test_diagonal_equilibration_is_the_full_one_without_interaction(groups) -> None:
    structures = several_groups() if groups else batch(water(1.0), salt())
    chi, hardness, _ = parameters(structures)
    rest = equilibrate_diagonal(chi, hardness, structures)
    # Densities so wide that nothing is felt of them.
    far = torch.full_like(chi, 1e7)
    molecules = replace(structures, pbc=torch.zeros_like(structures.pbc), edges=all_pairs())
    full = equilibrate(chi, hardness, far, molecules)
    torch.testing.assert_close(rest.charges, full.charges, rtol=0, atol=1e-5)
    torch.testing.assert_close(rest.energy, full.energy, rtol=0, atol=1e-5)
    torch.testing.assert_close(
        rest.chemical_potential, full.chemical_potential, rtol=0, atol=1e-5
    )


def all_pairs() -> dict:
    """Stand in for a list: what is infinitely wide needs no pairs."""
    empty = batch(Atoms("H", [[0.0, 0.0, 0.0]])).edges["charge"]
    return {"charge": empty}


def test_a_batch_of_all_kinds_is_each_structure_alone() -> None:
    systems = [water(1.0), salt(), small_slab(), water(), small_cell(), two_fragments()]
    structures = batch(*systems)
    together = at_rest(structures)
    for i, atoms in enumerate(systems):
        alone = batch(atoms)
        expected = part(at_rest(alone), alone, 0)
        found = part(together, structures, i)
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=0, atol=1e-11, msg=name)


@pytest.mark.parametrize("accuracy", [1e-6, 1e-8])
def test_the_vacuum_of_a_slab_does_not_matter(accuracy) -> None:
    structures = batch(small_slab(), accuracy=1e-11)
    exact = equilibrate(*parameters(structures), structures, accuracy=1e-11)
    rough = equilibrate(*parameters(structures), structures, accuracy=accuracy)
    for name in ("charges", "potential", "chemical_potential", "energy"):
        found, expected = getattr(rough, name), getattr(exact, name)
        torch.testing.assert_close(found, expected, rtol=0, atol=10 * accuracy, msg=name)


def test_solvers_agree_and_say_what_they_did() -> None:
    structures = batch(salt(), water(1.0), small_slab())
    dense, iterative = (
        equilibrate(*parameters(structures), structures, solver=name)
        for name in ("dense", "iterative")
    )
    torch.testing.assert_close(iterative.charges, dense.charges, rtol=0, atol=1e-8)
    torch.testing.assert_close(iterative.energy, dense.energy, rtol=0, atol=1e-8)
    assert (dense.effort.solver, iterative.effort.solver) == ("dense", "iterative")
    assert (iterative.effort.iterations > 1).all()
    assert (iterative.effort.residual < 1e-8).all()
    assert (dense.effort.condition > 1.0).all()


def test_an_unknown_solver_is_refused_with_the_known_ones() -> None:
    structures = batch(water())
    with pytest.raises(UserMistake, match="did you mean 'iterative'"):
        equilibrate(*parameters(structures), structures, solver="iteratve")


def test_a_supercell_is_so_many_cells() -> None:
    atoms = small_cell()
    atoms.info["charge"] = 0.5
    chi, hardness, width = parameters(batch(atoms))
    one = equilibrate(chi, hardness, width, batch(atoms))
    many = atoms * (2, 1, 3)
    many.info["charge"] = 3.0
    six = equilibrate(chi.repeat(6), hardness.repeat(6), width.repeat(6), batch(many))
    torch.testing.assert_close(six.charges, one.charges.repeat(6), rtol=0, atol=1e-9)
    torch.testing.assert_close(six.energy, 6 * one.energy, rtol=0, atol=1e-8)


def test_fragments_far_apart_interact_as_their_charges_do() -> None:
    def energy(gap: float) -> float:
        structures = with_groups(
            batch(two_fragments(gap)), [0, 0, 0, 1, 1, 1], [1.0, -1.0], [0, 0]
        )
        return float(at_rest(structures).energy[0])

    # With charges that stay on their fragments: Coulomb's law beyond the dipoles.
    near, far = energy(1000.0), energy(2000.0)
    assert far - near == pytest.approx(14.399645 / 1000.0 - 14.399645 / 2000.0, rel=2e-2)


def test_a_large_box_is_the_free_molecule() -> None:
    atoms = water()
    box = water()
    box.set_cell([60.0, 61.0, 62.0])
    box.pbc = True
    structures = batch(atoms, box)
    rest = at_rest(structures)
    torch.testing.assert_close(rest.charges[:3], rest.charges[3:], rtol=0, atol=1e-4)


def test_a_single_atom_has_its_total_charge() -> None:
    atom = Atoms("Na", [[0.0, 0.0, 0.0]])
    atom.info["charge"] = 1.0
    rest = at_rest(batch(atom))
    torch.testing.assert_close(rest.charges, torch.ones(1, dtype=torch.float64))


def test_a_batch_without_structures_has_no_charges() -> None:
    structures = batch(water())
    none = Structures(
        **{
            name: getattr(structures, name)[:0]
            for name in (
                "numbers",
                "positions",
                "batch",
                "cell",
                "pbc",
                "total_charge",
                "spin",
                "electric_field",
            )
        },
        edges=batch(Atoms("H", [[0.0, 0.0, 0.0]])).edges,
    )
    positions = none.positions.requires_grad_()
    nothing = torch.zeros(0, dtype=torch.float64)
    rest = equilibrate(nothing, nothing, nothing, replace(none, positions=positions))
    assert rest.charges.shape == rest.energy.shape == (0,)
    torch.autograd.grad(rest.energy.sum(), positions)


def derivative_inputs(structures: Structures) -> tuple[Tensor, ...]:
    inputs = (*parameters(structures), structures.positions, torch.zeros_like(structures.cell))
    charge = structures.charge_groups().charge.nan_to_num(0.0)
    return tuple(t.clone().requires_grad_() for t in (*inputs, charge))


@pytest.mark.parametrize("kind", ["water", "small_cell", "small_slab", "groups"])
def test_equilibration_has_exact_first_and_second_derivatives(kind) -> None:
    made = {"water": water(1.0), "small_cell": small_cell(), "small_slab": small_slab()[:3]}
    structures = several_groups() if kind == "groups" else batch(made[kind])

    def rest(
        chi: Tensor, hardness: Tensor, width: Tensor, positions: Tensor, strain: Tensor,
        charge: Tensor,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        point = strained(replace(structures, positions=positions), strain)
        if structures.groups is not None:
            given = torch.where(structures.groups.held, torch.nan, charge)
            point = replace(point, groups=replace(structures.groups, charge=given))
        elif kind != "small_slab":  # a slab has no other charge than zero
            point = replace(point, total_charge=charge)
        found = equilibrate(chi, hardness, width, point)
        return found.charges, found.chemical_potential, found.energy, found.coulomb_energy

    inputs = derivative_inputs(structures)
    assert torch.autograd.gradcheck(rest, inputs, atol=1e-6, fast_mode=True)
    assert torch.autograd.gradgradcheck(rest, inputs, atol=1e-6, fast_mode=True)


def test_the_energy_asks_for_no_second_solution() -> None:
    structures = batch(salt())
    positions = structures.positions.requires_grad_()
    rest = at_rest(replace(structures, positions=positions))
    with torch.autograd.profiler.profile() as record:
        torch.autograd.grad(rest.energy.sum(), positions)
    assert not any("cholesky" in event.key for event in record.key_averages())


def test_a_negative_hardness_is_named() -> None:
    structures = batch(water(), salt(), small_cell())
    chi, hardness, width = parameters(structures)
    hardness[5] = -40.0
    with pytest.raises(EquilibrationFailed, match=r"structure 1 .*\(Cl4Na4\).*not positive"):
        equilibrate(chi, hardness, width, structures)


@pytest.mark.parametrize("which", [0, 1, 2])
def test_what_is_not_finite_is_named(which) -> None:
    structures = batch(salt(), water(), water())
    given = parameters(structures)
    given[which][9] = torch.nan
    with pytest.raises(EquilibrationFailed, match=r"structure 1 .*\(H2O\).*not finite"):
        equilibrate(*given, structures)


def test_positions_that_are_not_finite_are_named() -> None:
    structures = batch(salt(), water())
    positions = structures.positions.clone()
    positions[9, 0] = torch.nan
    with pytest.raises(EquilibrationFailed, match=r"structure 1 .*\(H2O\).*not finite"):
        equilibrate(*parameters(structures), replace(structures, positions=positions))


def test_a_slab_at_fixed_potential_is_refused() -> None:
    structures = with_groups(batch(small_slab()), [0] * 8, [float("nan")], [0.5])
    with pytest.raises(UserMistake, match="slab"):
        at_rest(structures)
