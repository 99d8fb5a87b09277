"""Torch-sim drives a potential as ASE does; the engine itself is run."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from ase.build import bulk

from qeqtrain.calculator import QeqCalculator
from qeqtrain.errors import UserMistake
from tests.systems import rattled, small_qet, triclinic, water


@pytest.fixture
def engine():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONWARNINGS", "ignore")
        import warnings

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return pytest.importorskip("torch_sim", reason="the extra torch-sim is absent")


def potential(scale: float = 200.0):
    """Build an untrained model whose forces are as large as those of a crystal."""
    from qeqtrain.models.potential import build_potential
    from qeqtrain.models.qet import qet_spec

    torch.manual_seed(3)
    return build_potential(
        qet_spec(channels=8, layers=1, cutoff=4.0, dtype="float64"),
        elements=(1, 8, 11, 12, 14, 17, 26),
        references={},
        scale=scale,
        conventions={"charge_states": [0.0]},
    ).eval()


@pytest.fixture
def model(engine):
    from qeqtrain.interfaces.torch_sim import QeqModel

    return QeqModel(potential())


def crystals():
    return [rattled(bulk("MgO", "rocksalt", a=4.21), 0.05, seed=5), triclinic()]


def test_it_keeps_the_contract_of_the_engine(engine) -> None:
    from torch_sim.models.interface import validate_model_outputs

    from qeqtrain.interfaces.torch_sim import QeqModel

    validate_model_outputs(QeqModel(potential(1.0)), torch.device("cpu"), torch.float64)


def test_a_batch_has_the_energies_forces_stresses_and_charges_of_ase(engine, model) -> None:
    state = engine.io.atoms_to_state(crystals(), torch.device("cpu"), torch.float64)
    found = model(state)
    first = 0
    for i, atoms in enumerate(crystals()):
        atoms.calc = QeqCalculator(potential())
        here = slice(first, first + len(atoms))
        first += len(atoms)
        assert abs(float(found["energy"][i]) - atoms.get_potential_energy()) < 1e-10
        np.testing.assert_allclose(found["forces"][here], atoms.get_forces(), atol=1e-10)
        stress = atoms.get_stress(voigt=False)
        np.testing.assert_allclose(found["stress"][i], stress, atol=1e-12)
        np.testing.assert_allclose(found["charges"][here], atoms.get_charges(), atol=1e-12)


def test_molecules_have_no_stress_and_the_charge_that_is_said(engine) -> None:
    from qeqtrain.interfaces.torch_sim import QeqModel

    model = QeqModel(small_qet(), total_charge=1.0)
    state = engine.io.atoms_to_state([water(), water()], torch.device("cpu"), torch.float64)
    found = model(state)
    assert "stress" not in found
    assert abs(float(found["charges"][:3].sum()) - 1.0) < 1e-10


def test_batched_relaxation_ends_where_forces_vanish(engine, model) -> None:
    started = engine.io.atoms_to_state(crystals(), torch.device("cpu"), torch.float64)
    assert float(model(started)["forces"].abs().max()) > 0.5
    relaxed = engine.optimize(
        crystals(),
        model,
        optimizer=engine.optimizers.fire,
        max_steps=100,
        convergence_fn=engine.generate_force_convergence_fn(
            force_tol=0.1, include_cell_forces=False
        ),
        steps_between_swaps=10,
    )
    assert float(model(relaxed)["forces"].abs().max()) < 0.1


def test_batched_dynamics_conserves_the_energy_of_every_system(engine, model) -> None:
    started = engine.io.atoms_to_state(crystals(), torch.device("cpu"), torch.float64)
    before = model(started)["energy"]
    ended = engine.integrate(
        crystals(),
        model,
        integrator=engine.nve,
        n_steps=20,
        temperature=0.0,
        timestep=0.0005,
    )
    kinetic = engine.calc_kinetic_energy(
        momenta=ended.momenta, masses=ended.masses, system_idx=ended.system_idx
    )
    after = ended.energy
    assert (kinetic > 1e-3).all(), "nothing moved"
    assert ((after + kinetic - before).abs() < 0.01 * kinetic).all()


def test_a_total_charge_has_to_be_said_to_a_model_that_must_be_told(engine) -> None:
    from qeqtrain.interfaces.torch_sim import QeqModel

    potential = small_qet()
    potential.conventions |= {"charge_states": [0.0, 1.0]}
    state = engine.io.atoms_to_state([triclinic()], torch.device("cpu"), torch.float64)
    with pytest.raises(UserMistake, match="total_charge="):
        QeqModel(potential)(state)


def test_without_the_engine_the_extra_is_named() -> None:
    code = "import sys; sys.modules['torch_sim'] = None\nimport qeqtrain.interfaces.torch_sim"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "pip install 'qeqtrain[torch-sim]'" in done.stderr
