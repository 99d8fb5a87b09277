"""LAMMPS drives a potential as ASE does; the engine itself is run."""

from __future__ import annotations

import numpy as np
import pytest
from ase.units import bar

from qeqtrain.calculator import QeqCalculator
from qeqtrain.errors import UserMistake
from qeqtrain.interfaces.lammps import QeqForces
from tests.interfaces.test_torch_sim import potential
from tests.systems import triclinic

ELEMENTS = ["Na", "Cl"]


@pytest.fixture
def crystal():
    atoms = triclinic()
    scaled, (lower, _) = atoms.get_scaled_positions(), atoms.cell.standard_form()
    atoms.set_cell(lower.array)
    atoms.set_scaled_positions(scaled)
    return atoms


@pytest.fixture
def engine(crystal):
    lammps = pytest.importorskip("lammps", reason="LAMMPS is absent")
    try:
        lmp = lammps.lammps(cmdargs=["-log", "none", "-screen", "none", "-nocite"])
    except OSError as error:  # it finds no MPI
        pytest.skip(f"LAMMPS does not start: {error}")
    (a, _, _), (xy, b, _), (xz, yz, c) = crystal.cell.array.tolist()
    lmp.commands_list(
        [
            "units metal",
            "atom_style charge",
            "atom_modify map array",
            f"region box prism 0 {a!r} 0 {b!r} 0 {c!r} {xy!r} {xz!r} {yz!r}",
            "create_box 2 box",
            "mass 1 22.98976928",
            "mass 2 35.45",
            "pair_style zero 1.0",
            "pair_coeff * *",
            "timestep 0.0005",
        ]
    )
    types = [ELEMENTS.index(s) + 1 for s in crystal.get_chemical_symbols()]
    ids = list(range(1, len(crystal) + 1))
    lmp.create_atoms(len(crystal), ids, types, crystal.positions.ravel().tolist())
    yield lmp
    lmp.close()


def by_id(lmp, name: str) -> np.ndarray:
    n = lmp.get_natoms()
    order = np.argsort(lmp.numpy.extract_atom("id")[:n])
    return np.array(lmp.numpy.extract_atom(name)[:n])[order]


def test_energy_forces_pressure_and_charges_are_those_of_ase(engine, crystal) -> None:
    driver = QeqForces(engine, potential(), ELEMENTS)
    engine.command("thermo_style custom pe pxx pyy pzz pxy pxz pyz")
    driver.command("run 0")
    crystal.calc = QeqCalculator(potential())
    assert abs(engine.get_thermo("pe") - crystal.get_potential_energy()) < 1e-9
    np.testing.assert_allclose(by_id(engine, "f"), crystal.get_forces(), atol=1e-9)
    np.testing.assert_allclose(by_id(engine, "q"), crystal.get_charges(), atol=1e-10)
    stress = crystal.get_stress(voigt=False)
    tolerance = 1e-5 * np.abs(stress).max() / bar  # LAMMPS has eV/A^3 in bar with 7 digits
    for name, (i, j) in {"pxx": (0, 0), "pyy": (1, 1), "pxy": (0, 1), "pyz": (1, 2)}.items():
        assert abs(engine.get_thermo(name) + stress[i, j] / bar) < tolerance, name


def test_dynamics_conserves_energy(engine, crystal) -> None:
    driver = QeqForces(engine, potential(), ELEMENTS)
    for line in ("velocity all create 300 1 loop all", "fix 1 all nve", "run 0"):
        driver.command(line)
    before, kinetic = engine.get_thermo("etotal"), engine.get_thermo("ke")
    driver.command("run 40")
    assert abs(engine.get_thermo("ke") - kinetic) > 0.01 * kinetic
    assert abs(engine.get_thermo("etotal") - before) < 1e-3 * kinetic


def test_what_goes_wrong_in_the_model_is_raised(engine) -> None:
    driver = QeqForces(engine, potential(), ["Na", "Br"])
    with pytest.raises(UserMistake, match="Br"):
        driver.command("run 0")


@pytest.mark.parametrize(
    ("elements", "message"),
    [(["Na"], "2 atom types, and 1 elements given"), (["Na", "CL"], "element 'CL': unknown")],
)
def test_types_without_an_element_are_refused(engine, elements, message) -> None:
    with pytest.raises(UserMistake, match=message):
        QeqForces(engine, potential(), elements)
