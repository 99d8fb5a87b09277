"""Files as they are published, against their twins and against numbers worked out by hand."""

from __future__ import annotations

import gzip
import json

import ase.io
import numpy as np
import pytest

from qeqtrain.data.labels import Conventions
from qeqtrain.data.sources import open_source
from qeqtrain.data.streams import open_stream
from qeqtrain.errors import UserMistake
from qeqtrain.units import EV_PER_A3_TO_GPA

ZERO = Conventions("zero")


def test_mptrj_and_its_extxyz_twin_agree(shared_data):
    native = open_source(shared_data / "native/mptrj_json/MPtrj_schema_sample.json")
    twins = open_source(shared_data / "mptrj_sample/train.extxyz")
    by_id = {name: twins[i] for i, name in enumerate(twins.source_ids)}
    for i in range(len(native)):
        frame, twin = native[i], by_id[native.source_ids[i]]
        assert np.array_equal(frame.structure.numbers, twin.structure.numbers)
        for name in ("positions", "cell"):
            ours, theirs = getattr(frame.structure, name), getattr(twin.structure, name)
            assert np.abs(ours - theirs).max() < 1e-7
        assert frame.labels["energy"] == twin.labels["energy"]
        assert np.array_equal(frame.labels["forces"], twin.labels["forces"])
        assert np.abs(frame.labels["stress"] - twin.labels["stress"]).max() < 1e-9
        assert frame.group == twin.group
    assert len(native) == 40


def test_real_tasks_have_their_energies_stress_and_moments(shared_data):
    path = shared_data / "native/mptrj_json/MPtrj_schema_real_mp_tasks.json"
    source = open_source(path)
    frame = source[source.source_ids.index("mp-ciqht/mp-ciqht-1-0")]
    assert frame.labels["energy"] == -23.41819633
    # -106.08459575 kbar is compression: 10.6 GPa, 0.0662 eV/A^3.
    assert frame.labels["stress"][0, 0] == pytest.approx(10.608459575 / EV_PER_A3_TO_GPA)
    assert source.present["magmoms"].sum() == 7
    assert any("corrected_total_energy" in note for note in source.notes)
    document = json.loads(path.read_text())
    spins = {
        f"{material}/{name}": frame["magmom"]
        for material, frames in document.items()
        for name, frame in frames.items()
    }
    for i in np.flatnonzero(source.present["magmoms"]):
        assert source[i].labels["magmoms"].tolist() == spins[source.source_ids[i]]


def test_corrected_energies_are_read_where_they_are_asked_for(shared_data):
    path = shared_data / "native/mptrj_json/MPtrj_schema_real_mp_tasks.json"
    asked = Conventions(aliases={"energy": "corrected_total_energy"})
    source = open_source(path, asked)
    plain = open_source(path)
    document = json.loads(path.read_text())
    known = [f["corrected_total_energy"] for m in document.values() for f in m.values()]
    assert source.present["energy"].tolist() == [e is not None for e in known]
    assert plain.present["energy"].all()
    assert source[0].labels["energy"] - plain[0].labels["energy"] == pytest.approx(-1.374)


def test_an_aselmdb_has_the_values_of_its_extxyz_twins(shared_data):
    source = open_source(shared_data / "native/aselmdb", ZERO)
    twins = {}
    for split in ("train", "val"):
        for atoms in ase.io.read(shared_data / f"alexandria_sample/{split}.extxyz", ":"):
            twins[atoms.info["source_id"]] = atoms
    for i in range(len(source)):
        frame = source[i]
        twin = twins[source.source_ids[i]]
        assert frame.labels["energy"] == pytest.approx(twin.get_potential_energy(), abs=1e-7)
        assert np.array_equal(frame.structure.numbers, twin.numbers)
        assert np.abs(frame.structure.positions - twin.positions).max() < 1e-7
        assert np.abs(frame.structure.cell - twin.cell.array).max() < 1e-7
        assert np.abs(frame.labels["forces"] - twin.get_forces()).max() < 1e-7
        assert np.abs(frame.labels["stress"] - twin.get_stress(voigt=False)).max() < 1e-7
    assert len(source) == 60


def test_a_folder_that_lacks_rows_of_its_metadata_is_refused(shared_data, tmp_path):
    for file in (shared_data / "native/aselmdb").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    assert len(open_source(tmp_path, ZERO)) == 60
    np.savez(tmp_path / "metadata.npz", natoms=np.ones(90, dtype=np.int64))
    with pytest.raises(UserMistake, match=r"counts 90 rows, 1 files hold 60"):
        open_source(tmp_path, ZERO)


@pytest.mark.parametrize("name", ["Element-Refs", "Element-Refs-as-list"])
def test_matpes_documents_have_their_values_and_net_charges(shared_data, name):
    path = shared_data / f"native/matpes_json/MatPES-PBE-{name}.json.gz"
    source = open_source(path)
    with gzip.open(path) as file:
        documents = json.load(file)
    documents = list(documents.values()) if isinstance(documents, dict) else documents
    assert len(source) == len(documents) == 89
    for i, document in enumerate(documents):
        frame = source[i]
        assert frame.labels["energy"] == document["energy"]
        assert frame.labels["forces"].tolist() == document["forces"]
        xx, _, _, yz, xz, xy = np.array(document["stress"]) * -0.1 / EV_PER_A3_TO_GPA
        stress = frame.labels["stress"]
        assert stress[0, 0] == pytest.approx(xx)
        assert [stress[1, 2], stress[0, 2], stress[0, 1]] == pytest.approx([yz, xz, xy])
        if document["elements"] == ["Na"]:
            assert frame.labels["charges"] == pytest.approx([5e-6, -5e-6], abs=1e-9)
    # The analysis of boron failed: null is a missing label, not zeros.
    assert source.present["charges"].sum() == 88
    assert abs(source.column("charges").sum()) < 1e-3


def test_counts_of_electrons_can_be_left_out(shared_data):
    path = shared_data / "native/matpes_json/MatPES-PBE-Element-Refs.json.gz"
    source = open_source(path, Conventions(aliases={"charges": None}))
    assert "charges" not in source.present


def test_valences_that_do_not_fit_the_counts_are_refused(shared_data):
    path = shared_data / "native/matpes_json/MatPES-PBE-Element-Refs.json.gz"
    with pytest.raises(UserMistake, match=r"Na2: bader_charges counts 14\.000 electrons"):
        open_source(path, Conventions(valences={"Na": 1}))


NATIVE = (
    "mptrj_json/MPtrj_schema_real_mp_tasks.json",
    "mptrj_json/MPtrj_schema_sample.json",
    "aselmdb/data.0000.aselmdb",
    "matpes_json/MatPES-PBE-Element-Refs.json.gz",
    "matpes_json/MatPES-PBE-Element-Refs-as-list.json.gz",
    "runner/aumgo_4g.input.data",
    "runner/carbon_chain_4g.input.data",
    "runner/nacl_water_mp2_zero_charge_column.input.data",
    "runner/water_4g.input.data",
    "runner/water_rpbe_d3.input.data",
    "hdf5/aimnet_small.h5",
    "extxyz/charged_dimer_CC_train.xyz",
    "extxyz/spice_dipeptides_val_head5.xyz",
)


@pytest.mark.parametrize("name", NATIVE)
def test_pieces_hold_every_frame_once_and_in_order(shared_data, name):
    stream = open_stream(shared_data / "native" / name)
    whole = list(stream.frames())
    size = 20_000 if "json" in name or "xyz" in name or "runner" in name else 7
    pieces = stream.pieces(size)
    parts = [raw for piece in pieces for raw in stream.read(piece)]
    assert len(pieces) > 1 or "gz" in name
    assert [raw.where for raw in parts] == [raw.where for raw in whole]
    assert [raw.index for raw in parts] == [raw.index for raw in whole]
    for ours, theirs in zip(parts, whole, strict=True):
        assert np.array_equal(ours.positions, theirs.positions)
        assert ours.info.keys() == theirs.info.keys()
