from __future__ import annotations

import ase
import ase.io
import h5py
import numpy as np
import pytest
from ase.calculators.singlepoint import SinglePointCalculator

from qeqtrain.data.labels import Conventions
from qeqtrain.data.sources import open_source
from qeqtrain.errors import UserMistake
from qeqtrain.units import BOHR, HARTREE

RUNNER = """begin
comment made for this test
lattice 10.0 0.0 0.0
lattice 0.0 10.0 0.0
lattice 0.0 0.0 10.0
atom 0.0 0.0 0.0 Na {q} 0.0 0.1 0.0 0.0
atom 4.0 0.0 0.0 Cl -{q} 0.0 -0.1 0.0 0.0
energy -620.5
charge -0.0
end
"""


def test_runner_is_converted_from_bohr_and_hartree(tmp_path):
    path = tmp_path / "input.data"
    path.write_text(RUNNER.format(q=0.7))
    frame = open_source(path)[0]
    assert np.allclose(frame.structure.positions[1], [4.0 * BOHR, 0, 0])
    assert np.allclose(frame.structure.cell, 10.0 * BOHR * np.eye(3))
    assert frame.structure.pbc.all()
    assert frame.labels["energy"] == -620.5 * HARTREE
    assert np.allclose(frame.labels["forces"][0], [0.1 * HARTREE / BOHR, 0, 0])
    assert np.array_equal(frame.labels["charges"], [0.7, -0.7])
    assert str(frame.structure.total_charge) == "0.0"


def test_a_runner_charge_column_of_zeros_is_no_label(tmp_path):
    path = tmp_path / "input.data"
    path.write_text(RUNNER.format(q=0.0) * 2)
    assert set(open_source(path).present) == {"energy", "forces"}


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("end\n", "", "without 'end'"),
        ("Na", "Qq", "'Qq' is no element"),
        ("4.0", "x", "expected"),
    ],
)
def test_a_broken_runner_file_is_refused_with_the_line(tmp_path, old, new, words):
    path = tmp_path / "input.data"
    path.write_text(RUNNER.format(q=0.7).replace(old, new))
    with pytest.raises(UserMistake, match=words) as caught:
        open_source(path)
    assert "line 1" in str(caught.value)


def by_size(path, n_atoms=(3, 4), frames=5):
    random = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        for n in n_atoms:
            group = file.create_group(f"{n:03d}")
            group["numbers"] = np.tile(np.array([8, 1, 6, 7][:n], dtype=np.int32), (frames, 1))
            group["coord"] = random.normal(scale=5.0, size=(frames, n, 3)).astype(np.float32)
            group["energy"] = random.normal(size=frames) * 1e4
            group["forces"] = random.normal(size=(frames, n, 3)).astype(np.float32)
            group["charge"] = np.array([0, 1, -1, 0, 2], dtype=np.int8)
            group["charges"] = random.normal(size=(frames, n)).astype(np.float32)
            group["mult"] = np.array([1, 2, 2, 3, 1], dtype=np.int8)
            group["dipole"] = random.normal(size=(frames, 3)).astype(np.float32)


def test_hdf5_by_size_keeps_structure_and_atom_labels_apart(tmp_path):
    path = tmp_path / "groups.h5"
    by_size(path)
    source = open_source(path, Conventions(dipole_origin="center_of_mass"))
    assert source.sizes.tolist() == [3] * 5 + [4] * 5
    assert source.total_charges.tolist() == [0, 1, -1, 0, 2] * 2
    assert source.spins.tolist() == [1, 2, 2, 3, 1] * 2
    with h5py.File(path) as file:
        frame = source[6]
        assert np.array_equal(frame.labels["charges"], file["004/charges"][1].astype(float))
        assert np.array_equal(source[1].labels["dipole"], file["003/dipole"][1].astype(float))
        assert frame.labels["energy"] == file["004/energy"][1]


def test_flat_hdf5_with_counts_is_read_frame_by_frame(tmp_path):
    path = tmp_path / "flat.h5"
    random = np.random.default_rng(1)
    counts = np.array([2, 3, 1])
    with h5py.File(path, "w") as file:
        file["n_atoms"] = counts
        file["atomic_numbers"] = np.array([11, 17, 8, 1, 1, 10])
        file["positions"] = random.normal(scale=5.0, size=(6, 3))
        file["positions"].attrs["units"] = "bohr"
        file["energy"] = np.array([-1.0, -2.0, -3.0])
        file["energy"].attrs["units"] = "hartree"
        file["forces"] = random.normal(size=(6, 3))
        file["total_charge"] = np.array([0, 0, 1])
        positions, forces = file["positions"][()], file["forces"][()]
    source = open_source(path)
    assert source.sizes.tolist() == counts.tolist()
    assert np.allclose(source[1].structure.positions, positions[2:5] * BOHR)
    assert np.array_equal(source[1].labels["forces"], forces[2:5])
    assert source[1].labels["energy"] == -2.0 * HARTREE
    assert source[2].structure.total_charge == 1.0


def test_conformations_without_labels_are_refused_in_words(tmp_path):
    path = tmp_path / "spice.hdf5"
    with h5py.File(path, "w") as file:
        file["pair/conformations"] = np.zeros((4, 2, 3))
        file["pair/smiles"] = np.array([b"[Na+].[Cl-]"])
    with pytest.raises(UserMistake, match="conformations without labels"):
        open_source(path)


def test_an_unknown_unit_is_refused(tmp_path):
    path = tmp_path / "groups.h5"
    by_size(path)
    with h5py.File(path, "r+") as file:
        file["003/energy"].attrs["units"] = "kcal/mol"
    with pytest.raises(UserMistake, match="kcal/mol"):
        open_source(path)


def test_hdf5_of_another_kind_is_refused_with_what_it_holds(tmp_path):
    path = tmp_path / "other.h5"
    with h5py.File(path, "w") as file:
        file["weights"] = np.zeros(3)
    with pytest.raises(UserMistake, match="met weights"):
        open_source(path)


def test_what_ase_reads_is_read_with_its_labels(tmp_path):
    atoms = ase.Atoms("NaCl", [[0, 0, 0], [2.4, 0, 0]], cell=[9, 9, 9], pbc=True)
    atoms.calc = SinglePointCalculator(
        atoms,
        energy=-3.0,
        forces=np.full((2, 3), 0.5),
        stress=np.arange(6.0),
        charges=[0.8, -0.8],
    )
    path = tmp_path / "frames.traj"
    ase.io.write(path, [atoms, atoms])
    source = open_source(path, Conventions(total_charge="zero"))
    assert len(source) == 2
    assert source[1].labels["energy"] == -3.0
    assert np.array_equal(source[0].labels["charges"], [0.8, -0.8])
    assert source[0].labels["stress"][1, 2] == 3.0


@pytest.mark.parametrize("name", ["tasks.json", "frames.json", "frames.dat"])
def test_a_format_that_is_not_read_is_refused_with_those_that_are(tmp_path, name):
    path = tmp_path / name
    path.write_text("{}")
    with pytest.raises(UserMistake, match="qeqtrain reads extxyz"):
        open_source(path)


def test_known_labels_of_hdf5_are_told_by_name_where_shapes_agree(tmp_path):
    path = tmp_path / "water.h5"
    random = np.random.default_rng(0)
    dipole, charges = random.normal(size=(2, 2, 3))
    charges += ([[0.0], [1.0]] - charges.sum(axis=1, keepdims=True)) / 3
    geometry = np.array([[0, 0, 0], [0, 0.8, 0.6], [0, -0.8, 0.6]])
    with h5py.File(path, "w") as file:
        group = file.create_group("003")
        group["numbers"] = np.tile([8, 1, 1], (2, 1))
        group["coord"] = np.stack([geometry, 1.1 * geometry])
        group["energy"] = [-1.0, -2.0]
        group["charge"] = [0.0, 1.0]
        group["dipole_moment"] = dipole
        group["mbis_charges"] = charges
    source = open_source(path, Conventions(dipole_origin="center_of_mass"))
    assert [sorted(source[i].labels) for i in range(2)] == [["charges", "dipole", "energy"]] * 2
    np.testing.assert_allclose(source[1].labels["dipole"], dipole[1])
    np.testing.assert_allclose(source[1].labels["charges"], charges[1])
    assert source[1].structure.total_charge == 1.0


def test_single_atoms_in_flat_hdf5_keep_their_forces_and_charges(tmp_path):
    path = tmp_path / "atoms.h5"
    with h5py.File(path, "w") as file:
        file["n_atoms"] = [1, 1]
        file["numbers"] = [11, 17]
        file["positions"] = np.zeros((2, 3))
        file["energy"] = [-1.0, -2.0]
        file["forces"] = np.zeros((2, 3))
        file["charges"] = [1.0, -1.0]
        file["total_charge"] = [1.0, -1.0]
    source = open_source(path, Conventions())
    assert sorted(source[0].labels) == ["charges", "energy", "forces"]
    assert source[1].labels["charges"].tolist() == [-1.0]
