"""The calculator in ASE."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.calculators.test import calculate_numerical_forces
from ase.eos import calculate_eos
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS

from qeqtrain import QeqCalculator
from qeqtrain.errors import UserMistake
from tests.crosses import small_cross
from tests.systems import one_atom_cell, slab, small_qet, triclinic, water


@pytest.fixture
def calculator() -> QeqCalculator:
    return QeqCalculator(small_qet())


def test_all_properties_are_there_for_a_molecule(calculator: QeqCalculator) -> None:
    atoms = water()
    atoms.calc = calculator
    assert atoms.get_potential_energy() == atoms.get_potential_energy(force_consistent=True)
    assert atoms.get_forces().shape == (3, 3)
    assert abs(atoms.get_charges().sum()) < 1e-12
    assert atoms.get_dipole_moment().shape == (3,)


def test_stress_is_voigt_and_of_ases_sign(calculator: QeqCalculator) -> None:
    atoms = triclinic()
    atoms.calc = calculator
    found = atoms.get_stress()
    from ase.calculators.fd import calculate_numerical_stress

    expected = calculate_numerical_stress(atoms, eps=1e-5, voigt=True)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-7)


def test_slabs_have_forces_and_no_stress(calculator: QeqCalculator) -> None:
    atoms = slab()
    atoms.calc = calculator
    expected = calculate_numerical_forces(atoms, eps=1e-4, iatoms=[0], icarts=[2])
    assert abs(atoms.get_forces()[0, 2] - expected.item()) < 1e-6
    from ase.calculators.calculator import PropertyNotImplementedError

    with pytest.raises(PropertyNotImplementedError):
        atoms.get_stress()


def test_total_charge_comes_from_the_argument_or_from_info_and_conflict_is_an_error() -> None:
    atoms = water()
    del atoms.info["charge"]
    atoms.calc = QeqCalculator(small_qet(), total_charge=1.0)
    assert abs(atoms.get_charges().sum() - 1.0) < 1e-12
    atoms.info["charge"] = -1
    with pytest.raises(UserMistake, match="contradicts"):
        atoms.get_potential_energy()


def test_two_total_charges_in_info_are_a_contradiction(calculator: QeqCalculator) -> None:
    atoms = water(1.0)
    atoms.info["total_charge"] = 0.0
    atoms.calc = calculator
    with pytest.raises(UserMistake, match="contradicts itself"):
        atoms.get_potential_energy()


def test_the_callers_potential_keeps_its_precision() -> None:
    potential = small_qet()
    assert QeqCalculator(potential, dtype="float32").potential.dtype == torch.float32
    assert potential.dtype == torch.float64


def test_a_charge_edited_in_info_is_seen(calculator: QeqCalculator) -> None:
    atoms = water()
    atoms.calc = calculator
    neutral = atoms.get_potential_energy()
    atoms.info["charge"] = 1.0
    assert atoms.get_potential_energy() != neutral
    assert abs(atoms.get_charges().sum() - 1.0) < 1e-12


def test_a_model_of_several_charges_does_not_guess(calculator: QeqCalculator) -> None:
    calculator.potential.conventions["charge_states"] = [-1.0, 0.0, 1.0]
    atoms = water()
    del atoms.info["charge"]
    atoms.calc = calculator
    with pytest.raises(UserMistake, match=r"total charges -1, \+0, \+1"):
        atoms.get_potential_energy()
    calculator.potential.conventions["total_charge"] = "zero"
    assert abs(atoms.get_charges().sum()) < 1e-12


def test_a_total_charge_the_network_never_read_is_refused_unless_allowed() -> None:
    atoms = water(2.0)
    potential = small_qet(conditioning="charge")
    atoms.calc = QeqCalculator(potential)
    with pytest.raises(UserMistake, match=r"total charge \+2: .* trained on 0 only; .*allow"):
        atoms.get_potential_energy()
    atoms.calc = QeqCalculator(potential, unseen_charge_states="allow")
    with pytest.warns(UserWarning, match=r"total charge \+2: .* this is an extrapolation"):
        atoms.get_potential_energy()
    atoms.calc = QeqCalculator(small_qet())
    atoms.get_potential_energy()
    with pytest.raises(UserMistake, match="expected error or allow"):
        QeqCalculator(potential, unseen_charge_states="alow")


def test_fragments_edited_in_the_atoms_are_seen(calculator: QeqCalculator) -> None:
    atoms = water()
    atoms.calc = calculator
    atoms.get_potential_energy()
    atoms.set_array("fragment", np.array([0, 1, 1]))
    assert calculator.calculation_required(atoms, ["energy"])
    with pytest.raises(UserMistake, match="2 fragments without charges"):
        atoms.get_potential_energy()
    atoms.info["fragment_charges"] = [-0.5, 0.5]
    atoms.get_potential_energy()
    assert not calculator.calculation_required(atoms, ["energy"])
    atoms.info["fragment_charges"] = [-0.4, 0.4]
    assert calculator.calculation_required(atoms, ["energy"])


@pytest.mark.parametrize("charge", ["diagonal", "gaussian"])
def test_unknown_elements_are_an_error_that_lists_the_known(charge: str) -> None:
    calculator = QeqCalculator(small_cross("tensornet", charge, "feature"))
    atoms = Atoms("AuH", [[0, 0, 0], [0, 0, 1.5]], info={"charge": 0}, calculator=calculator)
    with pytest.raises(
        UserMistake, match="does not know Au; it was trained on H O Na Mg Cl Cu"
    ):
        atoms.get_potential_energy()


def test_energy_is_conserved_in_dynamics(calculator: QeqCalculator) -> None:
    atoms = water()
    atoms.calc = calculator
    BFGS(atoms, logfile=None).run(fmax=0.05, steps=60)
    atoms.set_velocities(0.01 * np.random.default_rng(0).normal(size=(3, 3)))
    dynamics = VelocityVerlet(atoms, 0.2 * units.fs)
    energies = []
    dynamics.attach(lambda: energies.append(atoms.get_total_energy()))
    dynamics.run(40)
    assert np.ptp(energies) < 1e-3
    assert np.ptp(energies) > 0


def test_an_equation_of_state_can_be_drawn(calculator: QeqCalculator) -> None:
    atoms = one_atom_cell()
    atoms.calc = calculator
    eos = calculate_eos(atoms, npoints=5, eps=0.04)
    assert len(eos.e) == 5
    assert np.isfinite(eos.e).all()


def test_loading_and_predicting_import_no_training_frameworks() -> None:
    code = (
        "import sys, qeqtrain, qeqtrain.testing; qeqtrain.load; qeqtrain.QeqCalculator; "
        "heavy = ('hydra', 'omegaconf', 'pytorch_lightning', 'wandb'); "
        "print([m for m in heavy if m in sys.modules])"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "[]"


@pytest.fixture
def gaussian() -> QeqCalculator:
    return QeqCalculator(small_cross("tensornet", "gaussian", "feature"))


def test_a_field_comes_from_the_argument_or_from_info(gaussian: QeqCalculator) -> None:
    atoms, field = water(), (0.0, 0.0, 0.1)
    atoms.calc = gaussian
    calm = atoms.get_potential_energy()
    atoms.info["electric_field"] = field
    stated = atoms.get_potential_energy()
    del atoms.info["electric_field"]
    assert atoms.get_potential_energy() == calm
    atoms.calc = QeqCalculator(gaussian.potential, electric_field=field)
    assert atoms.get_potential_energy() == stated
    assert abs(stated - calm) > 1e-6
    dipole = atoms.get_dipole_moment()
    atoms.calc.electric_field = (0.0, 0.0, 0.102)
    stronger = atoms.get_potential_energy()
    np.testing.assert_allclose(stronger - stated, -0.002 * dipole[2], rtol=1e-2)


def test_forces_in_a_field_are_derivatives_of_the_energy(gaussian: QeqCalculator) -> None:
    atoms = water(1.0)
    atoms.calc = QeqCalculator(gaussian.potential, electric_field=[0.1, -0.2, 0.05])
    expected = calculate_numerical_forces(atoms, eps=1e-4)
    np.testing.assert_allclose(atoms.get_forces(), expected, atol=1e-6)
    np.testing.assert_allclose(atoms.get_forces().sum(0), [0.1, -0.2, 0.05], atol=1e-9)


def test_contradictory_fields_and_fields_that_are_none_are_mistakes(
    gaussian: QeqCalculator,
) -> None:
    atoms = water()
    atoms.calc = QeqCalculator(gaussian.potential, electric_field=(0.0, 0.0, 0.1))
    atoms.info["electric_field"] = (0.0, 0.0, 0.2)
    with pytest.raises(UserMistake, match=r"contradicts atoms\.info"):
        atoms.get_potential_energy()
    with pytest.raises(UserMistake, match="expected three numbers, in V/A"):
        QeqCalculator(gaussian.potential, electric_field=(0.0, 0.1))
    atoms.calc = gaussian
    atoms.info["electric_field"] = "up"
    with pytest.raises(UserMistake, match="'up'; expected three numbers"):
        atoms.get_potential_energy()


def test_a_field_that_has_no_answer_is_refused_in_words(gaussian: QeqCalculator) -> None:
    atoms = triclinic()
    atoms.info["charge"] = 0.0
    atoms.calc = QeqCalculator(gaussian.potential, electric_field=(0.0, 0.0, 0.1))
    with pytest.raises(UserMistake, match=r"Cl4Na4: .* along the periodic direction"):
        atoms.get_potential_energy()
    atoms = water()
    atoms.calc = QeqCalculator(
        small_cross("tensornet", "none", "feature"), electric_field=(0.0, 0.0, 0.1)
    )
    with pytest.raises(UserMistake, match="no charges that could follow"):
        atoms.get_potential_energy()


@pytest.mark.parametrize("charge", ["diagonal", "gaussian", "polarizable"])
def test_a_skin_changes_neither_energies_nor_forces(charge: str) -> None:
    potential = small_cross("tensornet", charge, "full")
    kept, anew = QeqCalculator(potential, skin=0.8), QeqCalculator(potential, skin=0.0)
    atoms = triclinic()
    atoms.info["charge"] = 0.0
    rng = np.random.default_rng(1)
    steps = 12
    for step in range(steps):
        atoms.positions += 0.02 * rng.normal(size=atoms.positions.shape)
        atoms.set_cell(
            atoms.cell.array @ (np.eye(3) + 0.003 * rng.normal(size=(3, 3))), scale_atoms=True
        )
        if step == 4:
            atoms += Atoms("Mg", [[2.1, 1.0, 1.2]])
        if step == 8:
            atoms.numbers[[0, 1]] = [29, 12]
        found = {}
        for calculator in (kept, anew):
            atoms.calc = calculator
            found[calculator] = atoms.get_potential_energy(), atoms.get_forces()
            found[calculator] += (atoms.get_stress(), atoms.get_charges())
        for a, b in zip(found[kept], found[anew], strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-11)
    assert kept.lists.built <= 0.5 * anew.lists.built


def test_dynamics_with_a_skin_is_the_dynamics_without() -> None:
    potential = small_qet()
    paths = []
    for skin in (0.0, 0.5):
        atoms = triclinic()
        atoms.calc = QeqCalculator(potential, skin=skin)
        VelocityVerlet(atoms, 2.0 * units.fs).run(15)
        paths.append(atoms.positions)
    np.testing.assert_allclose(*paths, rtol=0, atol=1e-10)


def test_memory_and_skin_without_sense_are_mistakes() -> None:
    with pytest.raises(UserMistake, match="skin=-1"):
        QeqCalculator(small_qet(), skin=-1)
    with pytest.raises(UserMistake, match="skin=wide: expected 0 or more"):
        QeqCalculator(small_qet(), skin="wide")  # type: ignore[arg-type]
    with pytest.raises(
        UserMistake, match="memory=tiny: expected one of auto, small, medium, plain"
    ):
        QeqCalculator(small_qet(), memory="tiny")
    assert QeqCalculator(small_qet(), memory="small").potential.memory == "small"


@pytest.mark.parametrize("memory", ["plain", "small"])
@pytest.mark.parametrize("backbone", ["tensornet", "nequip"])
def test_a_lone_atom_feels_no_force(backbone: str, memory: str) -> None:
    potential = small_cross(backbone, "diagonal", "feature")
    atom = Atoms("Na", cell=[30.0] * 3, pbc=True, info={"charge": 0.0})
    atom.calc = QeqCalculator(potential, memory=memory)
    assert abs(atom.get_forces()).max() == 0.0
    assert abs(atom.get_stress()).max() == 0.0
