"""Moduli, relaxations, heat capacities, equations of state, against what is known of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.lj import LennardJones
from ase.optimize import BFGS

from qeqtrain.errors import UserMistake
from qeqtrain.evaluation.benchmarks import crystals, registry
from qeqtrain.evaluation.benchmarks.elasticity import elastic_constants, moduli
from qeqtrain.evaluation.benchmarks.eos import (
    birch_murnaghan,
    energies_and_pressures,
    fit_equation_of_state,
    roughness,
)
from qeqtrain.evaluation.benchmarks.phonon import Phonon, PhononSettings, heat_capacity
from qeqtrain.evaluation.benchmarks.references import ELASTICITY
from qeqtrain.evaluation.benchmarks.relaxation import relax_ions
from qeqtrain.evaluation.benchmarks.suite import TaskFailed
from qeqtrain.structures import Prediction
from tests.evaluation.benchmarks.conftest import pymatgen_form
from tests.systems import rattled, small_qet


class Pairs:
    """Lennard-Jones atoms in the place of a potential: all that is known of them by hand."""

    def __init__(self, epsilon: float = 0.4) -> None:
        self.calculator = LennardJones(sigma=3.4, epsilon=epsilon, rc=8.5, smooth=True)

    def __call__(self, many, forces=True, stress=False) -> Prediction:
        energies, pulls, stresses = [], [], []
        for atoms in [many] if isinstance(many, Atoms) else many:
            atoms = atoms.copy()
            atoms.calc = self.calculator
            energies.append(atoms.get_potential_energy())
            pulls.append(atoms.get_forces())
            stresses.append(atoms.get_stress(voigt=False) if stress else np.zeros((3, 3)))
        return Prediction(
            energy=torch.tensor(energies),
            forces=torch.from_numpy(np.concatenate(pulls)),
            stress=torch.from_numpy(np.array(stresses)) if stress else None,
        )


@pytest.fixture(scope="module")
def argon() -> Atoms:
    """Face-centred cubic, at the volume of the lowest energy."""
    scale = np.linspace(0.97, 1.03, 13)
    start = bulk("Ar", "fcc", a=5.25)
    energy, _ = energies_and_pressures(Pairs(), start, scale)
    best = fit_equation_of_state(scale * start.get_volume(), energy)
    atoms = start.copy()
    factor = best["equilibrium_volume_A3_per_atom"] / start.get_volume()
    atoms.set_cell(start.cell.array * factor ** (1 / 3), scale_atoms=True)
    return atoms


def test_moduli_of_a_cubic_crystal_are_those_of_the_textbook() -> None:
    c11, c12, c44 = 168.4, 121.4, 75.4  # copper, GPa
    c = np.diag([c11] * 3 + [c44] * 3)
    c[:3, :3] += c12 * (1 - np.eye(3))
    bulk_modulus, shear = moduli(c)
    voigt = (c11 - c12 + 3 * c44) / 5
    reuss = 5 * (c11 - c12) * c44 / (4 * c44 + 3 * (c11 - c12))
    assert bulk_modulus == pytest.approx((c11 + 2 * c12) / 3, rel=1e-12)
    assert shear == pytest.approx(0.5 * (voigt + reuss), rel=1e-12)
    with pytest.raises(TaskFailed, match="singular"):
        moduli(np.diag([1.0, 1.0, 1.0, 1.0, 1.0, 0.0]))


def test_central_forces_keep_cauchys_relation(argon: Atoms) -> None:
    c = elastic_constants(Pairs(), argon, strain=0.005)
    assert c[0, 0] == pytest.approx(c[1, 1], rel=1e-6)
    assert c[0, 1] == pytest.approx(c[3, 3], rel=2e-2)
    assert abs(c[0, 3:]).max() < 1e-6 * c[0, 0]


def test_the_bulk_modulus_of_strains_is_that_of_the_equation_of_state(argon: Atoms) -> None:
    bulk_modulus, _ = moduli(elastic_constants(Pairs(), argon, strain=0.005))
    scale = np.linspace(0.95, 1.05, 21)
    energy, pressure = energies_and_pressures(Pairs(), argon, scale)
    fitted = fit_equation_of_state(scale * argon.get_volume(), energy)
    assert fitted["bulk_modulus_GPa"] == pytest.approx(bulk_modulus, rel=1e-2)
    slope = -np.gradient(energy, scale * argon.get_volume(), edge_order=2)[1:-1]
    assert abs(slope - pressure[1:-1]).max() < 0.02 * abs(pressure).max()


def test_ions_soften_a_crystal_that_lets_them_move() -> None:
    # Diamond-like stacking of a simple pair potential has an internal coordinate under shear.
    atoms = bulk("Ar", "hcp", a=3.71, c=6.06)
    held = elastic_constants(Pairs(), atoms, strain=0.005)
    free = elastic_constants(Pairs(), atoms, strain=0.005, ion_fmax=1e-4)
    assert np.linalg.eigvalsh(held - free).min() > -0.02 * free[0, 0]
    assert held[5, 5] > 1.02 * free[5, 5]


def test_ions_relaxed_together_rest_where_each_would_alone() -> None:
    crystal = bulk("Ar", "fcc", a=5.2, cubic=True)
    many = [rattled(crystal, 0.15, seed=i) for i in range(3)]
    found = relax_ions(Pairs(), many, fmax=1e-3, steps=400)
    for start, rest in zip(many, found, strict=True):
        alone = start.copy()
        alone.calc = Pairs().calculator
        BFGS(alone, logfile=None).run(fmax=1e-4, steps=200)
        together = rest.copy()
        together.calc = Pairs().calculator
        assert together.get_potential_energy() == pytest.approx(
            alone.get_potential_energy(), abs=1e-5
        )
        assert np.array_equal(rest.cell.array, start.cell.array)
        assert not np.array_equal(rest.positions, start.positions)
    with pytest.raises(TaskFailed, match=r"3 of 3 .* not relaxed after 2 steps"):
        relax_ions(Pairs(), many, fmax=1e-3, steps=2)


def test_an_equation_of_state_is_found_again() -> None:
    volume = np.linspace(15, 25, 41)
    energy = birch_murnaghan(volume, -3.0, 20.0, 0.5, 4.2)
    found = fit_equation_of_state(volume, energy)
    assert found["equilibrium_volume_A3_per_atom"] == pytest.approx(20.0, rel=1e-6)
    assert found["bulk_modulus_GPa"] == pytest.approx(0.5 / units.GPa, rel=1e-6)
    assert found["bulk_modulus_derivative"] == pytest.approx(4.2, rel=1e-4)
    noise = 1e-3 * np.random.default_rng(0).normal(size=400)
    assert roughness(noise) == pytest.approx(1.0 * 0.6745, rel=0.2)  # median of |normal|
    assert roughness(energy) < 1e-2


def test_a_lattice_of_pairs_has_the_heat_of_its_frequencies(argon: Atoms) -> None:
    pytest.importorskip("phonopy", reason="the extra 'phonon' is not installed")
    potential = Pairs(epsilon=0.02)
    found, lowest = heat_capacity(potential, argon, PhononSettings(mesh=80.0))
    assert lowest > -1e-2
    # C = 3 k (1 - <x^2> / 12 + ...), x = h nu / k T, and the mean square frequency is what one
    # atom alone feels when it is moved.
    cell = argon.repeat(2)
    pull = []
    for sign in (-1, 1):
        moved = cell.copy()
        moved.positions[0, 0] += sign * 1e-3
        pull.append(potential(moved).forces[0, 0].item())
    spring = (pull[0] - pull[1]) / 2e-3  # eV/A^2, the same along x, y, z
    mass = argon.get_masses()[0] * units._amu
    omega2 = spring * units._e * 1e20 / mass
    x2 = (units._hbar / (units._k * 300.0)) ** 2 * omega2
    assert 0.02 < x2 < 0.5
    assert found == pytest.approx(3 * units._Nav * units._k * (1 - x2 / 12), rel=1e-3)


def test_a_missing_package_is_named_with_its_extra(monkeypatch) -> None:
    monkeypatch.setattr(registry, "find_spec", lambda name: None)
    with pytest.raises(UserMistake, match=r"needs phonopy.*pip install 'qeqtrain\[phonon\]'"):
        Phonon(PhononSettings()).plan(small_qet())


@pytest.fixture
def entries(write_reference) -> str:
    """Three entries that the small model knows, and one that it does not."""
    some = [
        bulk("NaCl", "rocksalt", a=5.6),
        bulk("MgO", "rocksalt", a=4.2),
        bulk("NaCl", "rocksalt", a=5.6, cubic=True),
        bulk("KBr", "rocksalt", a=6.6),
    ]
    content = [
        {"id": i, "formula": str(a.symbols), "structure": pymatgen_form(a)}
        for i, a in enumerate(some)
    ]
    return str(write_reference(ELASTICITY.file, content))


def test_entries_are_those_a_model_can_be_asked_about(entries: str) -> None:
    def choose(**settings):
        chosen = crystals.CrystalSettings(references=entries, **settings)
        return crystals.choose_entries(
            small_qet(), ELASTICITY, chosen, lambda entry, atoms: {"atoms": atoms}, "id"
        )

    plan = choose()
    assert [task.name for task in plan.tasks] == ["0", "1", "2"]
    assert any("1 entries with elements that the model does not know" in n for n in plan.notes)
    assert any("a part of it or another version" in n for n in plan.notes)
    assert [task.name for task in choose(max_atoms=4).tasks] == ["0", "1"]
    two, one = choose(count=2, seed=5).tasks, choose(count=1, seed=5).tasks
    assert [t.name for t in two[:1]] == [t.name for t in one]  # a longer list goes on
    with pytest.raises(UserMistake, match="none of 4 entries can be measured"):
        choose(max_atoms=1)


def test_our_errors_stand_above_published_ones(tmp_path, monkeypatch) -> None:
    (tmp_path / "matcalc-benchmark-pbe.csv").write_text(
        "Dataset,Architecture,K MAE,K STDAE,G MAE,CV MAE\nHere,Other,20.0,3.0,,9.0\n"
    )
    ours = {"this model": {"K": 12.0, "G": 5.0}}
    columns = {"K": "bulk", "G": "shear"}
    table, notes = crystals.beside_published("Errors", columns, ours, str(tmp_path))
    assert table.rows == [["this model", "12.0", "5.00"], ["Other (Here)", "20.0", "-"]]
    assert "whole reference set" in notes[0]
    table, notes = crystals.beside_published("Errors", columns, ours, str(tmp_path / "none"))
    assert len(table.rows) == 1
    assert "not shown" in notes[0]


def test_a_mean_error_leaves_out_what_was_not_measured() -> None:
    rows = [{"x": 1.0, "y": 2.0}, {"x": None, "y": 5.0}, {"x": 4.0, "y": 1.0}]
    assert crystals.mean_error(rows, "x", "y") == 2.0
    assert np.isnan(crystals.mean_error([], "x", "y"))
