"""Every reader on small files made here: values, pieces, and one bad frame among good ones."""

from __future__ import annotations

import json
import pickle
import zlib

import h5py
import numpy as np
import pytest

from qeqtrain.data.labels import Conventions
from qeqtrain.data.sources import open_source
from qeqtrain.data.streams import Bad, open_stream
from qeqtrain.errors import UserMistake
from qeqtrain.units import BOHR, EV_PER_A3_TO_GPA, HARTREE
from tests.data import published

KBAR = -0.1 / EV_PER_A3_TO_GPA


@pytest.mark.parametrize("name", published.FORMATS)
def test_pieces_read_in_any_order_by_a_copy_give_the_whole(tmp_path, name):
    path = published.FORMATS[name](tmp_path / name)
    stream = open_stream(path)
    whole = [raw.where for raw in stream.frames()]
    pieces = stream.pieces(2 if name.endswith(("lmdb", "h5")) else 200)
    assert len(pieces) > 1 or name.endswith("gz")
    assert pieces == stream.pieces(2 if name.endswith(("lmdb", "h5")) else 200)
    copy = pickle.loads(pickle.dumps(stream))
    parts = {piece: [raw.where for raw in copy.read(piece)] for piece in reversed(pieces)}
    assert [where for piece in pieces for where in parts[piece]] == whole
    assert len(set(whole)) == len(whole) > 3


def test_mptrj_is_converted_and_its_nulls_are_missing(tmp_path):
    path = tmp_path / "mptrj.json"
    first = published.mptrj_document(0)
    second = published.mptrj_document(1, magmom=None, stress=None)
    path.write_text(json.dumps({"mp-7": {"a": first}, "mp-8": {"b": second}}))
    source = open_source(path)
    assert source.source_ids == ["mp-7/a", "mp-8/b"]
    assert source.groups == ["mp-7", "mp-8"]
    assert source.present["magmoms"].tolist() == source.present["stress"].tolist()
    assert source.present["stress"].tolist() == [True, False]
    assert source[0].labels["stress"] == pytest.approx(10.0 * KBAR * np.eye(3))
    assert source[0].labels["energy"] == first["uncorrected_total_energy"]
    assert source[0].structure.positions.tolist() == [
        site["xyz"] for site in first["structure"]["sites"]
    ]


def test_positions_follow_from_fractions_where_they_are_not_written(tmp_path):
    path = tmp_path / "mptrj.json"
    document = published.mptrj_document(0)
    expected = [site.pop("xyz") for site in document["structure"]["sites"]]
    path.write_text(json.dumps({"mp-7": {"a": document}}))
    assert np.allclose(open_source(path)[0].structure.positions, expected, atol=1e-12)


def broken(**changes):
    return published.mptrj_document(5, **changes)


def partly_occupied():
    document = published.mptrj_document(5)
    document["structure"]["sites"][0]["species"][0]["occu"] = 0.5
    return document


@pytest.mark.parametrize(
    ("document", "words"),
    [
        (partly_occupied(), "partial occupancy"),
        (broken(structure=published.pymatgen(5, n=2)), "force has 9 values for 2 atoms"),
        (broken(force=[[0.0, None, 0.0]] * 3), r"float.*null.*force"),
        (broken(structure={"lattice": None, "sites": []}), "lattice"),
        (broken(uncorrected_total_energy="-3"), "uncorrected_total_energy"),
    ],
    ids=["occupancy", "lengths", "null", "structure", "text"],
)
def test_a_bad_document_is_named_and_those_after_it_are_read(tmp_path, document, words):
    path = tmp_path / "mptrj.json"
    good = published.mptrj_document(1)
    path.write_text(json.dumps({"mp-7": {"a": good, "b": document, "c": good}}))
    first, second, third = open_stream(path).frames()
    assert isinstance(second, Bad)
    assert second.id == "mp-7/b"
    assert not isinstance(first, Bad)
    assert third.info["source_id"] == "mp-7/c"
    with pytest.raises(UserMistake, match=words) as caught:
        open_source(path)
    assert "mp-7/b" in str(caught.value)


def test_a_not_a_number_of_json_follows_the_policy(tmp_path):
    path = tmp_path / "mptrj.json"
    document = published.mptrj_document(0, uncorrected_total_energy=float("nan"))
    path.write_text(json.dumps({"mp-7": {"a": document}}))
    with pytest.raises(UserMistake, match=r"data\.nan=missing"):
        open_source(path)
    assert "energy" not in open_source(path, Conventions(nan="missing")).present


@pytest.mark.parametrize("end", [-1, -2, -400, 700])
@pytest.mark.parametrize("name", ["mptrj.json", "matpes.json"])
def test_json_that_is_cut_short_is_refused(tmp_path, name, end):
    path = published.FORMATS[name](tmp_path / name)
    path.write_text(path.read_text()[:end])
    with pytest.raises(UserMistake, match="cut short"):
        list(open_stream(path).frames())


def test_matpes_counts_become_net_charges(tmp_path):
    source = open_source(published.matpes(tmp_path / "matpes.json"))
    assert source[0].labels["charges"] == pytest.approx([0.8, -0.7, -0.1])
    stress = source[0].labels["stress"] / KBAR
    assert stress == pytest.approx(np.array([[10, 6, 5], [6, 20, 4], [5, 4, 30.0]]))
    assert source.source_ids[3] == "matpes-3"
    assert source.groups[:3] == ["mp-0", "mp-1", "mp-0"]


def test_an_element_of_unknown_valence_is_refused_until_it_is_stated(tmp_path):
    path = tmp_path / "matpes.json"
    document = published.matpes_document(0)
    document["structure"]["sites"][0]["species"][0]["element"] = "Po"
    path.write_text(json.dumps([document]))
    with pytest.raises(UserMistake, match=r"data\.valences\.Po=N"):
        open_source(path)
    source = open_source(path, Conventions(valences={"Po": 7}))
    assert source[0].labels["charges"] == pytest.approx([0.8, -0.7, -0.1])


def test_one_of_several_charge_analyses_is_chosen_by_the_user(tmp_path):
    ddec6 = {"partial_charges": [0.5, -0.4, -0.1], "spin_moments": [0.0, 0.0, 0.0]}
    changes = {"ddec6": ddec6, "cm5_partial_charges": [0.3, -0.2, -0.1]}
    path = published.matpes(tmp_path / "matpes.json", **changes)
    with pytest.raises(UserMistake, match=r"ddec6_charges.*cm5_charges.*bader_net_charges"):
        open_source(path)
    for key, first in (("ddec6_charges", 0.5), ("cm5_charges", 0.3)):
        source = open_source(path, Conventions(aliases={"charges": key}))
        assert source[0].labels["charges"][0] == first


def test_charges_that_failed_are_missing_and_their_frames_are_kept(tmp_path):
    path = tmp_path / "r2scan.json"
    documents = [published.matpes_document(i, bader_charges=None, ddec6=None) for i in range(3)]
    path.write_text(json.dumps([*documents, published.matpes_document(3)]))
    source = open_source(path)
    assert source.present["charges"].tolist() == [False, False, False, True]
    assert source.present["energy"].all()


def test_an_aselmdb_is_read_with_charge_and_multiplicity(tmp_path):
    data = {"sid": "omol/1", "charge": -1, "spin": 2}
    path = published.aselmdb(tmp_path / "a.aselmdb", rows=3, data=data)
    source = open_source(path)
    row = published.aselmdb_row(2)
    assert source.source_ids == ["omol/1", "omol/1#2", "omol/1#3"]
    assert source.total_charges.tolist() == [-1.0] * 3
    assert source.spins.tolist() == [2.0] * 3
    assert source[2].labels["energy"] == row["energy"]
    assert source[2].labels["forces"].ravel().tolist() == row["forces"]["__ndarray__"][2]
    assert source[0].labels["stress"].tolist() == [[0, 5, 4], [5, 1, 3], [4, 3, 2]]


def test_deleted_rows_are_passed_over_and_broken_ones_named(tmp_path):
    lmdb = pytest.importorskip("lmdb")
    path = published.aselmdb(tmp_path / "a.aselmdb", rows=5)
    with (
        lmdb.open(str(path), subdir=False, map_size=2**26) as file,
        file.begin(write=True) as t,
    ):
        t.delete(b"2")
        t.put(b"deleted_ids", zlib.compress(b"[2]"))
        t.put(b"4", b"nothing compressed")
    frames = list(open_stream(path).frames())
    assert [f.id if isinstance(f, Bad) else f.info["source_id"] for f in frames] == [
        *("made-0", "made-2", f"{tmp_path.name}/a:4", "made-4")
    ]
    assert "uncompressed" in frames[2].reason


def test_an_aselmdb_that_lost_its_end_is_refused(tmp_path):
    path = published.aselmdb(tmp_path / "a.aselmdb", rows=60)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UserMistake, match="cut short"):
        open_stream(path).pieces()


def test_hdf5_with_a_group_for_each_structure_keeps_its_energies(tmp_path):
    path = tmp_path / "each.h5"
    with h5py.File(path, "w") as file:
        for i, n in enumerate((2, 3)):
            group = file.create_group(f"run/{i}")
            group["atomic_numbers"] = [8, 1, 1][:n]
            group["positions"] = np.arange(3.0 * n).reshape(n, 3)
            group["energy"] = -1.0 - i
            group["forces"] = np.full((n, 3), 0.1)
    source = open_source(path, Conventions("zero"))
    assert source.sizes.tolist() == [2, 3]
    assert source.column("energy").tolist() == [-1.0, -2.0]
    assert source.source_ids == ["each/run/0", "each/run/1"]
    assert source.present["forces"].all()


def test_any_naming_of_hdf5_is_read_as_the_recipe_says(tmp_path):
    path = tmp_path / "spice.hdf5"
    random = np.random.default_rng(0)
    xyz = np.arange(6.0).reshape(2, 3) + random.random((4, 2, 3))
    gradient = random.normal(size=(4, 2, 3))
    with h5py.File(path, "w") as file:
        file["pair/conformations"] = xyz
        file["pair/Z"] = [11, 17]
        file["pair/dft/total_energy"] = np.arange(4.0)
        file["pair/dft/gradient"] = gradient
    mapping = {
        "positions": "conformations nm",
        "numbers": "Z",
        "energy": "dft/total_energy hartree",
        "forces": "dft/gradient -hartree/bohr",
    }
    source = open_source(path, Conventions("zero", hdf5=mapping))
    assert source[1].structure.numbers.tolist() == [11, 17]
    assert np.allclose(source[1].structure.positions, 10.0 * xyz[1])
    assert source[3].labels["energy"] == 3.0 * HARTREE
    assert np.allclose(source[2].labels["forces"], -gradient[2] * HARTREE / BOHR)


@pytest.mark.parametrize(
    ("mapping", "words"),
    [
        ({"positions": "conformations"}, "lacks numbers"),
        ({"positions": "conformatons", "numbers": "Z"}, "did you mean 'conformations'"),
        ({"positions": "conformations furlong", "numbers": "Z"}, "'furlong'"),
    ],
)
def test_a_mapping_that_does_not_fit_is_refused(tmp_path, mapping, words):
    path = tmp_path / "spice.hdf5"
    with h5py.File(path, "w") as file:
        file["conformations"], file["Z"] = np.zeros((4, 2, 3)), [11, 17]
    with pytest.raises(UserMistake, match=words):
        open_source(path, Conventions(hdf5=mapping))


def test_a_bad_frame_of_text_is_named_and_those_after_it_are_read(tmp_path):
    for name, old, new in (
        ("frames.extxyz", "Na 0.0 0.0 0.1", "Na 0.0 x 0.1"),
        ("input.data", "energy -620.1", "energy much"),
    ):
        path = published.FORMATS[name](tmp_path / name)
        path.write_text(path.read_text().replace(old, new))
        frames = list(open_stream(path).frames())
        assert [isinstance(f, Bad) for f in frames] == [False, True, False, False]
        _, second, *_ = open_stream(path).pieces(50)
        (bad,) = open_stream(path).read(second)
        assert bad == frames[1]
        assert f"(line {5 if name.startswith('frames') else 10})" in bad.id


def test_an_ase_database_keeps_what_stands_beside_the_atoms(tmp_path):
    import ase
    import ase.db

    path = tmp_path / "rows.db"
    with ase.db.connect(str(path)) as database:
        for charge in (0, 1):
            database.write(ase.Atoms("NaCl", [[0, 0, 0], [2.4, 0, 0]]), total_charge=charge)
    assert open_source(path).total_charges.tolist() == [0.0, 1.0]
