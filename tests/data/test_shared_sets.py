"""Every set of the reference data, against the table of its README."""

from __future__ import annotations

import json

import ase.io
import numpy as np
import pytest

from qeqtrain.data.labels import Conventions
from qeqtrain.data.sources import open_source
from qeqtrain.data.statistics import statistics
from qeqtrain.errors import UserMistake

EF, EFQ, EFS = (
    {"energy", "forces"},
    {"energy", "forces", "charges"},
    {"energy", "forces", "stress"},
)
SETS = {
    "carbon_chain_4g": (EFQ, 72, 15),
    "aumgo_4g": (EFQ, 10, 2),
    "water_4g": (EFQ, 12, 3),
    "water_rpbe_d3": (EFQ, 12, 3),
    "spice_dipeptides_mbis": ({*EFQ, "dipole"}, 495, 55),
    "aimnet_charged": ({*EFQ, "dipole"}, 104, 18),
    "nacl_water_mp2": (EF, 49, 10),
    "mptrj_sample": (EFS, 549, 99),
    "alexandria_sample": (EFS, 500, 100),
    "xtb_nacl_clusters": ({*EFQ, "dipole"}, 1672, 240),
    "xtb_nacl8_multicharge": ({*EFQ, "dipole"}, 630, 90),
    "xtb_alkali_halides_periodic": ({*EFS, "charges"}, 194, 30),
    "xtb_distant_pairs": ({*EFQ, "dipole"}, 600, 100),
}
ORIGINS = {"aimnet_charged": "center_of_mass"}


@pytest.mark.parametrize("name", SETS)
def test_a_set_has_the_labels_that_its_table_promises(shared_data, name):
    labels, *counts = SETS[name]
    for split, count in zip(("train", "val"), counts, strict=True):
        conventions = Conventions(dipole_origin=ORIGINS.get(name, "coordinates"))
        source = open_source(shared_data / name / f"{split}.extxyz", conventions)
        assert len(source) == count
        assert {k for k, v in source.present.items() if v.all()} == labels
        assert not np.isnan(source.total_charges).any()
        assert not [note for note in source.notes if "bec" not in note]


@pytest.mark.parametrize("name", SETS)
def test_a_set_has_the_values_that_ase_reads(shared_data, name):
    path = shared_data / name / "val.extxyz"
    source = open_source(path, Conventions(dipole_origin="center_of_mass"))
    for i, atoms in enumerate(ase.io.read(path, ":")):
        frame, results = source[i], atoms.calc.results
        assert np.array_equal(frame.structure.positions, atoms.positions)
        assert np.array_equal(frame.structure.cell, atoms.cell.array)
        assert frame.structure.total_charge == atoms.info["charge"]
        assert frame.labels["energy"] == results["energy"]
        assert np.array_equal(frame.labels["forces"], results["forces"])
        if "charges" in frame.labels:
            assert np.array_equal(frame.labels["charges"], results["charges"])
        if "dipole" in frame.labels:
            assert np.array_equal(frame.labels["dipole"], results["dipole"])
        if "stress" in frame.labels:
            assert np.allclose(frame.labels["stress"], atoms.get_stress(voigt=False), atol=1e-7)


def test_the_summary_agrees_with_what_is_read(shared_data):
    summary = json.loads((shared_data / "SUMMARY.json").read_text())
    for key, said in summary.items():
        _, name, split = key.split("/")
        if name not in SETS:
            continue
        source = open_source(shared_data / name / f"{split}.extxyz")
        assert len(source) == said["n"]
        assert [int(source.sizes.min()), int(source.sizes.max())] == said["natoms"]
        if "total_charges" in said:
            assert sorted({int(q) for q in source.total_charges}) == said["total_charges"]


@pytest.mark.parametrize(
    ("name", "length", "force"),
    [
        ("carbon_chain_4g", 1e-7, 1e-7),
        ("aumgo_4g", 1e-7, 1e-7),
        ("water_4g", 1e-7, 1e-7),
        ("water_rpbe_d3", 1e-7, 1e-7),
    ],
)
def test_runner_and_extxyz_twins_agree(shared_data, name, length, force):
    runner = open_source(shared_data / "native" / "runner" / f"{name}.input.data")
    folder = shared_data / name
    twins = open_source([folder / "train.extxyz", folder / "val.extxyz"])
    assert len(runner) == len(twins)
    by_energy = {
        round(float(twins[i].labels["energy"]), 6): twins[i] for i in range(len(twins))
    }
    for i in range(len(runner)):
        frame = runner[i]
        twin = by_energy[round(float(frame.labels["energy"]), 6)]
        assert np.abs(frame.structure.positions - twin.structure.positions).max() < length
        assert np.abs(frame.structure.cell - twin.structure.cell).max() < length
        assert np.abs(frame.labels["forces"] - twin.labels["forces"]).max() < force
        assert np.abs(frame.labels["charges"] - twin.labels["charges"]).max() < 1e-8
        assert frame.structure.total_charge == twin.structure.total_charge


def test_the_zero_charge_column_of_nacl_in_water_is_no_label(shared_data):
    path = shared_data / "native/runner/nacl_water_mp2_zero_charge_column.input.data"
    assert set(open_source(path).present) == EF


def test_aimnet_in_hdf5_and_in_extxyz_agree(shared_data):
    conventions = Conventions(dipole_origin="center_of_mass")
    native = open_source(shared_data / "native/hdf5/aimnet_small.h5", conventions)
    folder = shared_data / "aimnet_charged"
    twins = open_source([folder / "train.extxyz", folder / "val.extxyz"], conventions)
    by_energy = {
        round(float(twins[i].labels["energy"]), 5): twins[i] for i in range(len(twins))
    }
    for i in range(len(native)):
        frame = native[i]
        twin = by_energy[round(float(frame.labels["energy"]), 5)]
        assert np.array_equal(frame.structure.numbers, twin.structure.numbers)
        assert (frame.structure.total_charge, frame.structure.spin) == (
            twin.structure.total_charge,
            twin.structure.spin,
        )
        for name in ("forces", "charges", "dipole"):
            assert np.abs(frame.labels[name] - twin.labels[name]).max() < 1e-6, name


def test_millions_of_electronvolts_keep_their_millielectronvolts(shared_data):
    source = open_source(shared_data / "aumgo_4g/train.extxyz")
    stats = statistics(source, np.arange(len(source)))
    assert abs(source[0].labels["energy"] + 1480190.1361601686) < 1e-9
    assert stats.energy_rms < 0.01  # eV/atom, of 13,456


def test_dipoles_about_the_coordinates_become_those_about_the_centre_of_mass(shared_data):
    path = shared_data / "xtb_nacl_clusters/val.extxyz"
    source = open_source(path, Conventions(dipole_origin="coordinates"))
    residual = []
    for i in range(len(source)):
        frame = source[i]
        from qeqtrain.data.frames import center_of_mass

        arms = frame.structure.positions - center_of_mass(frame.structure)
        residual.append(frame.labels["dipole"] - frame.labels["charges"] @ arms)
    assert np.sqrt(np.mean(np.square(residual))) < 0.6  # e A; the wrong origin gives 4.5


def test_charge_states_of_one_geometry_share_a_group(shared_data):
    source = open_source(shared_data / "xtb_nacl8_multicharge/train.extxyz")
    assert len(set(source.groups)) == 210
    assert len(np.unique(source.geometries)) == 210


def test_frames_of_one_material_share_a_group(shared_data):
    source = open_source(shared_data / "mptrj_sample/train.extxyz")
    assert source.source_ids[0] == "mp-1080834/mp-1080834-0-1"
    assert source.groups[0] == "mp-1080834"


def test_third_party_keys_are_read_once_the_charges_are_chosen(shared_data):
    path = shared_data / "native/extxyz/spice_dipeptides_val_head5.xyz"
    with pytest.raises(UserMistake, match=r"mbi_charges.*hirsh_charges.*mul_charges"):
        open_source(path)
    source = open_source(path, Conventions("zero", aliases={"charges": "mbi_charges"}))
    assert {k for k, v in source.present.items() if v.all()} == {*EFQ, "dipole"}
    assert np.allclose(source[0].labels["dipole"], [0.93429321, 0.38963705, -0.66453439])


def test_fragment_charges_are_not_taken_for_a_total_charge(shared_data):
    source = open_source(shared_data / "native/extxyz/charged_dimer_CC_train.xyz")
    assert np.isnan(source.total_charges).all()


def test_a_file_without_labels_is_refused(shared_data):
    with pytest.raises(UserMistake, match="without labels"):
        open_source(shared_data / "native/hdf5/spice_ions_conformations_only.hdf5")
