from __future__ import annotations

import io

import numpy as np
import pytest

from qeqtrain.data.elements import SYMBOLS
from qeqtrain.data.generate import generate
from qeqtrain.data.progress import Progress, duration
from qeqtrain.data.salts import (
    CHARGES,
    FAMILIES,
    alkali_halide_cluster,
    alkali_halide_crystal,
    alkaline_earth_chloride,
)
from qeqtrain.data.sources import open_source
from qeqtrain.data.xtb import Geometry, label, unpaired_electrons
from qeqtrain.errors import UserMistake

pytest.importorskip("tblite", reason="labels are made with tblite")


def quietly(*args, **kwargs):
    return generate(*args, **kwargs, stream=io.StringIO())


def test_three_samples_in_a_row_are_one_geometry_at_three_charges():
    samples = [alkali_halide_cluster(i, seed=4) for i in range(3)]
    assert tuple(g.total_charge for g in samples) == CHARGES
    assert len({g.positions.tobytes() for g in samples}) == 1
    assert len({g.group for g in samples}) == 1
    assert len({g.source_id for g in samples}) == 3


def test_clusters_have_16_to_20_atoms_as_many_cations_as_anions():
    for i in range(0, 150, 3):
        geometry = alkali_halide_cluster(i, seed=0)
        assert 16 <= len(geometry.numbers) <= 20
        counts = np.unique(geometry.numbers, return_counts=True)[1]
        assert counts.tolist() == [len(geometry.numbers) // 2] * 2


def test_crystals_are_cells_of_8_atoms_with_no_two_alike():
    cells = [alkali_halide_crystal(i, seed=0) for i in range(20)]
    assert all(len(g.numbers) == 8 and np.linalg.det(g.cell) > 0 for g in cells)
    assert len({g.positions.tobytes() for g in cells}) == 20


def test_chlorides_are_fluorite_four_anions_around_every_cation_eight_around_every_anion():
    cells = [alkaline_earth_chloride(i, seed=0) for i in range(20)]
    assert len({g.positions.tobytes() for g in cells}) == 20
    assert {SYMBOLS[g.numbers[0]] for g in cells} == {"Mg", "Ca", "Sr", "Ba"}
    for geometry in cells:
        chlorine = geometry.numbers == 17
        assert chlorine.sum() == 8
        images = np.array(list(np.ndindex(3, 3, 3))) - 1
        apart = (
            geometry.positions[chlorine][:, None, None]
            - geometry.positions[~chlorine][None, :, None]
            - (images @ geometry.cell)[None, None]
        )
        edge = np.linalg.det(geometry.cell) ** (1 / 3)
        near = np.linalg.norm(apart, axis=-1) < 0.6 * edge
        assert near.sum(axis=(1, 2)).tolist() == [4] * 8
        assert near.sum(axis=(0, 2)).tolist() == [8] * 4


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_elements_leave_out_the_salts_that_have_others(name):
    family = FAMILIES[name]
    salt = family.salts[-1]
    chosen = family.made_of([salt.anion, salt.cation])
    assert chosen == (salt,)
    symbols = {SYMBOLS[z] for i in range(12) for z in family.sample(i, 1, chosen).numbers}
    assert symbols == {salt.cation, salt.anion}
    assert family.made_of([]) == family.made_of(family.elements) == family.salts


def test_a_generated_file_holds_the_elements_that_were_asked_for(tmp_path):
    made = quietly("alkaline_earth_chlorides", tmp_path / "s.h5", 2, elements=["Sr", "Cl"])
    frames = list(open_source(made.path))
    assert [set(frame.structure.numbers.tolist()) for frame in frames] == [{17, 38}] * 2
    assert all("stress" in frame.labels for frame in frames)


def test_unpaired_electrons_follow_from_the_electron_count():
    numbers = np.array([11, 17])
    assert [unpaired_electrons(numbers, q) for q in (-1, 0, 1)] == [1, 0, 1]


def test_labels_are_the_same_bit_for_bit_whatever_the_number_of_workers(tmp_path):
    one = quietly("alkali_halide_clusters", tmp_path / "one.h5", 4, seed=3, workers=1)
    two = quietly("alkali_halide_clusters", tmp_path / "two.extxyz", 4, seed=3, workers=2)
    assert (one.frames, one.dropped) == (two.frames, two.dropped)
    first, second = open_source(one.path), open_source(two.path)
    for i in range(one.frames):
        a, b = first[i], second[i]
        assert a.source_id == b.source_id
        assert np.array_equal(a.structure.positions, b.structure.positions)
        assert set(a.labels) == {"energy", "forces", "charges", "dipole"}
        assert all(np.array_equal(a.labels[n], b.labels[n]) for n in a.labels)


def test_another_seed_gives_other_geometries():
    assert not np.array_equal(
        alkali_halide_cluster(0, 0).positions, alkali_halide_cluster(0, 1).positions
    )


def test_charges_of_clusters_add_up_to_the_total_charge(tmp_path):
    made = quietly("alkali_halide_clusters", tmp_path / "c.h5", 3, seed=0)
    source = open_source(made.path)
    assert [s.structure.total_charge for s in source] == list(CHARGES)
    assert [s.structure.spin for s in source] == [1.0, 2.0, 2.0]
    for frame in source:
        assert abs(frame.labels["charges"].sum() - frame.structure.total_charge) < 1e-8


def moved(geometry: Geometry, positions, cell=None) -> Geometry:
    names = ("numbers", "total_charge", "source_id", "group")
    return Geometry(positions=positions, cell=cell, **{n: getattr(geometry, n) for n in names})


def test_forces_are_the_slope_of_the_energy():
    geometry = alkali_halide_cluster(1, seed=0)
    step = 1e-3
    energies = []
    for sign in (1, -1):
        positions = geometry.positions.copy()
        positions[3, 1] += sign * step
        energies.append(float(label(moved(geometry, positions))["energy"]))
    slope = -(energies[0] - energies[1]) / (2 * step)
    assert abs(slope - label(geometry)["forces"][3, 1]) < 1e-4


def test_stress_is_the_slope_of_the_energy_with_strain_over_volume():
    geometry = alkali_halide_crystal(0, seed=0)
    step = 1e-3
    energies = []
    for sign in (1, -1):
        strain = np.eye(3)
        strain[0, 2] = strain[2, 0] = sign * step / 2
        strained = moved(geometry, geometry.positions @ strain, geometry.cell @ strain)
        energies.append(float(label(strained)["energy"]))
    slope = (energies[0] - energies[1]) / (2 * step) / np.linalg.det(geometry.cell)
    assert abs(slope - label(geometry)["stress"][0, 2]) < 1e-5


def test_a_generated_dipole_is_about_the_centre_of_mass(tmp_path):
    made = quietly("alkali_halide_clusters", tmp_path / "c.extxyz", 2, seed=0)
    frame = open_source(made.path)[1]
    sample = alkali_halide_cluster(1, 0)
    away = moved(sample, sample.positions + np.array([5.0, 0, 0]))
    assert "dipole_origin=center_of_mass" in made.path.read_text()
    shift = label(away)["dipole"] - label(sample)["dipole"]
    assert np.allclose(shift, [5.0 * sample.total_charge, 0, 0], atol=1e-6)
    assert np.linalg.norm(frame.labels["dipole"]) < 10.0


def test_labels_that_do_not_converge_are_dropped_and_counted(tmp_path, monkeypatch):
    sample = alkali_halide_cluster(0, 0)
    assert label(moved(sample, sample.positions * 0.0)) is None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("alkali_halide", "a.h5", 1), "did you mean 'alkali_halides'"),
        (("alkali_halides", "a.txt", 1), "ends in .h5"),
        (("alkali_halides", "a.h5", 0), "--count is 0"),
    ],
)
def test_wrong_arguments_are_the_users_mistake(arguments, words):
    with pytest.raises(UserMistake, match=words):
        quietly(*arguments)


@pytest.mark.parametrize(
    ("elements", "words"),
    [
        (["Sr", "Cl"], "no salt here has Sr"),
        (["Na", "Cl", "Cll"], "did you mean 'Cl'"),
        (["K", "F"], "makes no salt with K, F in it"),
        (["Na", "Cl", "F", "K", "Li", "I"], "no salt here has I "),
        (["Li", "Cl", "K", "F", "Br"], "Br"),
    ],
)
def test_elements_that_make_no_salt_are_the_users_mistake(elements, words, tmp_path):
    with pytest.raises(UserMistake, match=words):
        quietly("alkali_halides", tmp_path / "a.h5", 1, elements=elements)


def test_all_wrong_arguments_are_named_together():
    with pytest.raises(UserMistake) as caught:
        quietly("nothing", "a.txt", 0, workers=0)
    assert len(caught.value.problems) == 4


def test_times_are_written_as_people_say_them():
    assert [duration(s) for s in (7, 302, 11520)] == ["7 s", "5 min 02 s", "3 h 12 min"]


def test_progress_without_a_terminal_writes_whole_lines():
    stream = io.StringIO()
    progress = Progress("labelling", 4, stream)
    for _ in range(4):
        progress.advance()
    progress.close()
    assert stream.getvalue().startswith("labelling: 4/4, ")
    assert stream.getvalue().endswith("\n")
    assert "\r" not in stream.getvalue()


def test_two_methods_label_one_geometry_each_in_its_way(tmp_path):
    sources = []
    for method in ("GFN1-xTB", "GFN2-xTB"):
        made = quietly("alkali_halides", tmp_path / f"{method}.h5", 1, seed=3, method=method)
        sources.append(open_source(made.path))
        assert any(method in note for note in sources[-1].notes)
    first, second = (source[0] for source in sources)
    assert np.array_equal(first.structure.positions, second.structure.positions)
    assert abs(first.labels["energy"] - second.labels["energy"]) > 1.0
    assert np.abs(first.labels["charges"] - second.labels["charges"]).max() > 0.01
    with pytest.raises(UserMistake, match="did you mean 'GFN2-xTB'"):
        quietly("alkali_halides", tmp_path / "no.h5", 1, method="GFN2-xtb")
