from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from qeqtrain.data.sets import DataSets
from qeqtrain.data.writing import write_extxyz, write_store
from qeqtrain.errors import UserMistake

CUTOFFS = {"backbone": 4.0, "charge": 5.0}
ASKED = {"energy": True, "forces": True, "charges": False}


@pytest.fixture
def files(tmp_path, make_molecule):
    train, val = tmp_path / "train.extxyz", tmp_path / "val.h5"
    write_extxyz(train, [make_molecule(i, n=3 + i % 4) for i in range(20)])
    write_store(val, [make_molecule(100 + i) for i in range(4)])
    return {"train": str(train), "val": str(val)}


def prepared(**options):
    sets = DataSets(**options)
    sets.prepare(CUTOFFS, ASKED)
    return sets


def test_files_and_splits_make_three_sets(files):
    sets = prepared(**files, split={"test": 0.25})
    assert {k: len(v) for k, v in sets.split_ids.items()} == {"train": 15, "val": 4, "test": 5}
    assert not set(sets.split_ids["train"]) & set(sets.split_ids["test"])


def test_the_loaders_hand_out_their_split(files):
    sets = prepared(**files, split={"test": 0.25}, batch_structures=4)
    for split, loader in (
        ("train", sets.train_loader()),
        ("val", sets.val_loader()),
        ("test", sets.test_loader()),
    ):
        handed = [i for batch in loader for i in batch.ids]
        assert sorted(handed) == sorted(sets.split_ids[split])
    assert [i for batch in sets.val_loader() for i in batch.ids] == sets.split_ids["val"]


def test_ranks_share_an_epoch(files):
    sets = prepared(**files, batch_atoms=12)
    alone = prepared(**files, batch_atoms=24)
    whole = [set(b.ids) for b in alone.train_loader()]
    shares = zip(sets.train_loader(0, 2), sets.train_loader(1, 2), strict=True)
    assert [set(a.ids) | set(b.ids) for a, b in shares] == whole


def test_an_edge_budget_counts_directed_edges_of_the_longest_cutoff(files):
    sets = prepared(**files, batch_edges=60)
    for batch in sets.train_loader():
        assert 2 * len(batch.structures.edges["charge"].sender) <= 60


def test_ranks_share_many_frames_by_pairs_only_if_they_are_stored(
    tmp_path, make_molecule, monkeypatch
):
    monkeypatch.setattr("qeqtrain.data.prepared._NEIGHBOR_SAMPLE", 2)
    frames = [make_molecule(i, n=3 + i % 4) for i in range(20)]
    for name, cutoff in (("with.h5", 5.0), ("without.h5", None)):
        write_store(tmp_path / name, frames, pairs_cutoff=cutoff)
        sets = prepared(train=str(tmp_path / name), split={"val": 2})
        chosen = range(len(sets.split_ids["train"]))
        batches = [sets.batches("train").batch([i]).structures for i in chosen]
        pairs = [2 * len(s.edges["charge"].sender) for s in batches]
        expected = [s.n_atoms for s in batches] if cutoff is None else pairs
        assert sets.plan("train", ranks=2).weights.tolist() == expected


def test_a_label_that_the_loss_asks_for_must_be_there(files):
    sets = DataSets(**files)
    with pytest.raises(UserMistake) as caught:
        sets.prepare(CUTOFFS, {"energy": True, "stress": True})
    (problem,) = caught.value.problems
    assert "labels there: energy, forces, charges, dipole" in problem
    assert "set loss.stress=0" in problem


def test_all_mistakes_of_the_data_come_together(tmp_path, make_molecule):
    path = tmp_path / "open.extxyz"
    write_extxyz(path, [make_molecule(i, charge=None) for i in range(4)])
    with pytest.raises(UserMistake) as caught:
        DataSets(str(path)).prepare(CUTOFFS, {"stress": True, "born_charges": True})
    assert len(caught.value.problems) == 3


def test_all_missing_files_are_named(tmp_path):
    sets = DataSets(str(tmp_path / "a.h5"), val=str(tmp_path / "b.h5"))
    with pytest.raises(UserMistake) as caught:
        sets.prepare(CUTOFFS, {})
    assert [p.split(":")[0] for p in caught.value.problems] == ["data.train", "data.val"]


def test_all_wrong_arguments_come_together():
    with pytest.raises(UserMistake) as caught:
        DataSets("a.h5", split_by="grop", batch_atoms=0, workers=-1)
    assert len(caught.value.problems) == 3


def test_the_policy_for_an_absent_total_charge_is_kept(tmp_path, make_molecule):
    path = tmp_path / "open.extxyz"
    write_extxyz(path, [make_molecule(i, charge=None) for i in range(4)])
    sets = prepared(train=str(path), total_charge="zero", split={})
    assert sets.conventions["total_charge"] == "zero"
    assert json.loads(json.dumps(sets.conventions)) == sets.conventions
    (batch,) = sets.train_loader()
    assert batch.structures.total_charge.tolist() == [0.0] * 4


def test_a_geometry_in_two_files_is_remarked(tmp_path, make_molecule):
    first = make_molecule(0)
    again = replace(first, source_id="again")
    write_extxyz(tmp_path / "a.extxyz", [first, make_molecule(1)])
    write_extxyz(tmp_path / "b.extxyz", [again])
    sets = prepared(train=str(tmp_path / "a.extxyz"), val=str(tmp_path / "b.extxyz"))
    assert any("share a material or a geometry" in note for note in sets.notes)


def test_elements_that_never_train_are_remarked(tmp_path, make_molecule):
    write_extxyz(tmp_path / "a.extxyz", [make_molecule(0, n=2)])
    write_extxyz(tmp_path / "b.extxyz", [make_molecule(1, n=4)])
    sets = prepared(train=str(tmp_path / "a.extxyz"), val=str(tmp_path / "b.extxyz"))
    assert any("no training frame has: Na, Cl" in note for note in sets.notes)
    assert sets.elements == (1, 8, 11, 17)
    assert sets.statistics.elements == (1, 8)


def test_a_run_can_be_split_by_the_file_another_run_left(files, tmp_path):
    first = prepared(train=files["train"], split={"val": 0.2, "test": 0.2})
    path = tmp_path / "splits.json"
    path.write_text(json.dumps(first.split_ids))
    again = prepared(train=files["train"], split_file=str(path))
    assert again.split_ids == first.split_ids
    assert again.fingerprint == first.fingerprint


def test_the_fingerprint_follows_content_and_division(files):
    one = prepared(train=files["train"])
    assert one.fingerprint == prepared(train=files["train"], batch_atoms=50).fingerprint
    assert one.fingerprint != prepared(train=files["train"], split={"val": 0.2}).fingerprint
    assert one.fingerprint != prepared(**files).fingerprint


def test_statistics_are_those_of_the_training_frames(files):
    sets = prepared(**files)
    source, frames = sets.source_of("train")
    forces = np.concatenate([source[i].labels["forces"] for i in frames])
    assert np.isclose(sets.statistics.force_rms, np.sqrt(np.mean(forces**2)))
    pairs = sum(len(source.pairs(i, 4.0)) for i in frames)
    assert np.isclose(sets.statistics.average_neighbors, 2 * pairs / source.sizes[frames].sum())


def test_given_files_win_over_fractions(files):
    sets = prepared(**files, split={"val": 0.5, "test": 0.25})
    assert {k: len(v) for k, v in sets.split_ids.items()} == {"train": 15, "val": 4, "test": 5}


def test_a_field_is_remarked_and_refused_where_no_charge_follows_it(tmp_path, make_molecule):
    path = tmp_path / "field.extxyz"
    frame = make_molecule(1)
    pulled = replace(frame.structure, electric_field=np.array([0.0, 0.0, 0.1]))
    write_extxyz(path, [make_molecule(2), replace(frame, structure=pulled), make_molecule(3)])
    sets = prepared(train=str(path), split={})
    assert any("1 frame in an electric field" in note for note in sets.notes)
    sets.refuse_fields("open")
    with pytest.raises(
        UserMistake, match=r"train: .*: the electric field is \(0, 0, 0.1\) V/A"
    ):
        sets.refuse_fields("none")


def test_fields_reach_the_batches(tmp_path, make_molecule):
    path = tmp_path / "field.extxyz"
    frame = make_molecule(1)
    pulled = replace(frame.structure, electric_field=np.array([0.0, 0.0, 0.1]))
    write_extxyz(path, [make_molecule(2), replace(frame, structure=pulled)])
    (batch,) = prepared(train=str(path), split={}, batch_structures=2).train_loader()
    assert sorted(batch.structures.electric_field[:, 2].tolist()) == [0.0, 0.1]


def test_charges_that_contradict_the_total_charge_are_remarked(tmp_path, make_molecule):
    path = tmp_path / "odd.extxyz"
    frame = make_molecule(1, charge=1.0)
    wrong = replace(frame.structure, total_charge=0.0)
    write_extxyz(path, [replace(frame, structure=wrong), make_molecule(2), make_molecule(3)])
    sets = prepared(train=str(path), split={})
    assert any("do not add up to the total charge (by up to 1.00 e)" in n for n in sets.notes)


def test_a_rule_is_only_evaluated_once_the_model_has_given_its_own(files):
    def sketched(_):
        raise AssertionError

    sets = DataSets(**files, batch_edges=400)
    sets.prepare({"backbone": 4.0, "charge": sketched}, ASKED)
    average = sets.statistics.average_neighbors
    kept = sets.batches("train").frame(0).structure.pairs["backbone"]
    sets.use_cutoffs({"backbone": 4.0, "charge": lambda _: 3.0})
    assert sets.batches("train").frame(0).structure.pairs["backbone"] is kept
    assert sets.statistics.average_neighbors == average
    (batch, *_) = sets.train_loader()
    assert batch.structures.edges["charge"].cutoff == 3.0


def test_another_cutoff_of_the_backbone_makes_new_lists(files):
    sets = prepared(**files)
    before = sets.statistics.average_neighbors
    sets.use_cutoffs({"backbone": 2.0, "charge": 5.0})
    assert sets.statistics.average_neighbors < before
    (batch, *_) = sets.val_loader()
    assert batch.structures.edges["backbone"].cutoff == 2.0


def test_several_files_in_a_field_are_remarked(tmp_path, make_molecule):
    paths = [str(tmp_path / name) for name in ("a.extxyz", "b.extxyz")]
    for seed, path in enumerate(paths):
        frame = make_molecule(seed)
        pulled = replace(frame.structure, electric_field=np.array([0.0, 0.0, 0.1]))
        write_extxyz(path, [replace(frame, structure=pulled), make_molecule(10 + seed)])
    sets = prepared(train=paths, split={})
    assert any("2 frames in an electric field" in note for note in sets.notes)


def test_frames_that_a_cutoff_rule_refuses_are_named_before_training(tmp_path, make_molecule):
    def rule(structure):
        if structure.total_charge > 1.5:
            raise UserMistake("met a charge of 2, expected less")
        return 4.0

    path = tmp_path / "train.extxyz"
    write_extxyz(path, [make_molecule(i, charge=2.0 if i == 3 else 0.0) for i in range(8)])
    sets = prepared(train=str(path), split={"val": 1})
    names = sets.source_of("train")[0].source_ids
    with pytest.raises(UserMistake, match=f"{names[3]}: met a charge of 2"):
        sets.use_cutoffs({"backbone": 4.0, "charge": rule})
