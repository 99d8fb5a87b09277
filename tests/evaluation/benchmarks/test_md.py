"""Melts and trajectories: what is counted is what was put in."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from qeqtrain.errors import UserMistake
from qeqtrain.evaluation.benchmarks import melts
from qeqtrain.evaluation.benchmarks.eos import Eos, EosSettings, read_crystals
from qeqtrain.evaluation.benchmarks.md import Md, MdSettings
from qeqtrain.evaluation.benchmarks.running import measure
from qeqtrain.evaluation.benchmarks.speed import Speed, SpeedSettings
from tests.systems import small_qet


def test_a_melt_has_its_composition_and_no_two_ions_in_one_place() -> None:
    melt = melts.starting_melt(("NaCl", "CaCl2"), 50, np.random.default_rng(0))
    symbols = melt.get_chemical_symbols()
    assert [symbols.count(s) for s in ("Na", "Ca", "Cl")] == [10, 10, 30]
    distance = melt.get_all_distances(mic=True)
    assert distance[~np.eye(len(melt), dtype=bool)].min() > 2.0
    unlike = np.array(symbols) == "Cl"
    nearest = np.where(np.eye(len(melt), dtype=bool), np.inf, distance).argmin(axis=1)
    assert (unlike[nearest] != unlike).all()  # signs alternate
    with pytest.raises(UserMistake, match="expected a salt"):
        melts.starting_melt(("NaK",), 50, np.random.default_rng(0))


def test_measured_densities_add_volumes() -> None:
    assert melts.measured_density(("NaCl",), 1074.0) == pytest.approx(1.556)
    assert melts.measured_density(("NaCl",), 1174.0) == pytest.approx(1.556 - 0.0543)
    masses, volumes = (58.44, 110.98), (58.44 / 1.4876, 110.98 / 2.0209)
    expected = sum(masses) / sum(volumes)
    found = melts.measured_density(("NaCl", "CaCl2"), 1200.0)
    assert found == pytest.approx(expected, rel=1e-3)
    assert melts.measured_density(("NaF",), 1300.0) is None
    salt = bulk("NaCl", "rocksalt", a=5.64)
    assert melts.density(salt) == pytest.approx(2.164, abs=2e-3)


def test_a_gas_has_a_flat_distribution_and_a_crystal_its_shells() -> None:
    rng = np.random.default_rng(0)
    gas = [
        Atoms("Na20Cl30", 12.0 * rng.random((50, 3)), cell=12.0 * np.eye(3), pbc=True)
        for _ in range(60)
    ]
    for pair in (("Na", "Cl"), ("Cl", "Cl")):
        r, g = melts.pair_distribution(gas, *pair, width=0.5)
        assert abs(g[r > 2.0] - 1).max() < 0.15
    crystal = bulk("NaCl", "rocksalt", a=5.64, cubic=True).repeat(2)
    r, g = melts.pair_distribution([crystal], "Na", "Cl")
    first = g > 0
    assert r[first][0] == pytest.approx(2.82, abs=0.1)
    shell = 4 / 3 * np.pi * ((r + 0.05) ** 3 - (r - 0.05) ** 3)
    count = (g * shell * 32 / crystal.get_volume())[first][0]
    assert count == pytest.approx(6.0, abs=1e-6)  # neighbours of rock salt


def test_a_random_walk_has_the_diffusivity_of_its_steps() -> None:
    rng = np.random.default_rng(0)
    steps = rng.normal(size=(400, 300, 3)) * 0.05  # A per 10 fs
    time, squares, d = melts.diffusivity(np.cumsum(steps, axis=0), spacing_fs=10.0)
    expected = 0.05**2 / 2 / 10.0 * 0.1  # sigma^2 / (2 dt), A^2/fs to cm^2/s
    assert d == pytest.approx(expected, rel=0.1)
    assert time[0] == pytest.approx(0.01)
    assert squares[0] == pytest.approx(3 * 0.05**2, rel=0.02)


def test_salts_are_those_a_model_knows() -> None:
    assert melts.salts_for(["Na", "Ca", "Cl", "O"]) == ("NaCl", "CaCl2")
    assert melts.salts_for(["Na", "Cl"]) == ("NaCl",)
    assert melts.salts_for(["Si"]) == ()


def test_a_short_run_gives_every_quantity() -> None:
    settings = MdSettings(
        atoms=8, nve_atoms=8, equilibration=0.02, production=0.1, nve=0.02, temperature=50.0
    )
    suite = Md(settings)
    potential = small_qet()
    plan = suite.plan(potential)
    assert [task.name for task in plan.tasks] == ["nve:NaCl", "melt:NaCl"]
    rows = [measure(suite, potential, task) for task in plan.tasks]
    assert not rows[0].failed
    assert abs(rows[0].values["drift_meV_per_atom_ps"]) < 50.0
    assert len(rows[0].values["time_ps"]) == 20
    if not rows[1].failed:  # an untrained model may blow a melt up; it says so then
        assert set(rows[1].values["diffusion"]) == {"Na", "Cl"}
        assert set(rows[1].values["g"]) == {"Cl-Cl", "Cl-Na", "Na-Na"}
    else:
        assert "ran away" in rows[1].failed
    found = suite.findings(rows)
    assert "energy" in found.plots


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"step": 0.0}, "step=0: expected a number above 0"),
        ({"salts": ("LiBr",)}, "Br, Li not known to the model"),
    ],
)
def test_runs_that_cannot_be_made_are_named(settings, message: str) -> None:
    with pytest.raises(UserMistake, match=message):
        Md(MdSettings(**settings)).plan(small_qet())


def test_sizes_are_timed() -> None:
    suite = Speed(SpeedSettings(sizes=("8", "60"), calls=2))
    potential = small_qet()
    plan = suite.plan(potential)
    assert [task.name for task in plan.tasks] == ["8 atoms", "64 atoms"]
    rows = [measure(suite, potential, task) for task in plan.tasks]
    values = rows[1].values
    assert values["atoms_per_second"] == pytest.approx(64 / values["seconds"])
    assert values["fastest_seconds"] <= values["seconds"]
    found = suite.findings(rows)
    assert found.numbers["largest_atoms"] == 64
    with pytest.raises(UserMistake, match="sizes=many: expected numbers of atoms"):
        Speed(SpeedSettings(sizes=("many",))).plan(potential)


def test_crystals_for_curves_come_from_prototypes_or_a_file(tmp_path) -> None:
    potential = small_qet()
    names = [task.name for task in Eos(EosSettings()).plan(potential).tasks]
    assert {"NaCl", "MgO", "Na", "Cu"} <= set(names)
    assert len(Eos(EosSettings(count=2)).plan(potential).tasks) == 2
    file = tmp_path / "two.extxyz"
    from ase.io import write

    crystal = bulk("NaCl", "rocksalt", a=5.6)
    write(file, [crystal, crystal])
    assert list(read_crystals(str(file))) == ["NaCl", "NaCl-1"]
    crystal.pbc = False
    write(file, crystal)
    with pytest.raises(UserMistake, match="is not periodic"):
        read_crystals(str(file))
    with pytest.raises(UserMistake, match="no such file"):
        read_crystals("nowhere.xyz")
    file.write_text("not a structure")
    with pytest.raises(UserMistake, match="ASE cannot read it"):
        read_crystals(str(file))
    with pytest.raises(UserMistake, match="expected volumes below and above 1"):
        Eos(EosSettings(smallest=1.2)).plan(potential)
