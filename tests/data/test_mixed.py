"""Several data sets at once: conventions, weights, statistics and scales of their own."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from qeqtrain.data.mixed import MixedSets
from qeqtrain.data.mixed_references import fitted_energies
from qeqtrain.data.sets import DataSets
from qeqtrain.data.writing import write_extxyz, write_store
from qeqtrain.errors import UserMistake
from tests.mixtures import FIRST, SECOND, both, cluster, write_pair

CUTOFFS = {"backbone": 4.0}
ASKED = {"energy": True, "forces": True, "charges": True}


def prepared(sets, **options):
    data = MixedSets(sets, **{"batch_structures": 4, **options})
    data.prepare(CUTOFFS, ASKED)
    return data


def ids(loader):
    return [batch.ids for batch in loader]


def test_every_frame_of_an_epoch_comes_as_often_as_its_weight_says(tmp_path):
    data = prepared(both(tmp_path, weight=2.5))
    train = data.split_ids["train"]
    loader = data.train_loader()
    total = Counter()
    for epoch in range(2):
        loader.set_epoch(epoch)
        found = Counter(i for batch in ids(loader) for i in batch)
        assert {found[i] for i in train if i.startswith("first")} == {1}
        assert {found[i] for i in train if i.startswith("second")} == {2, 3}
        total += found
    assert {total[i] for i in train if i.startswith("second")} == {5}


def test_validation_has_every_frame_once_whatever_the_weight(tmp_path):
    data = prepared(both(tmp_path, weight=3.0))
    handed = [i for batch in ids(data.val_loader()) for i in batch]
    assert handed == data.split_ids["val"]
    assert {i.partition(":")[0] for i in handed} == {"first", "second"}


def test_structures_know_their_set_and_keep_the_labels_of_its_file(tmp_path):
    data = prepared(both(tmp_path))
    alone = {}
    for name, one in both(tmp_path).items():
        source, _ = (sets := DataSets(one["train"], split={})), None
        sets.prepare(CUTOFFS, ASKED)
        source, _ = sets.source_of("train")
        alone |= {f"{name}: {source.source_ids[i]}": source[i] for i in range(len(source))}
    for batch in data.train_loader():
        first = 0
        for i, name in enumerate(batch.ids):
            frame = alone[name]
            atoms = slice(first, first + len(frame))
            first = atoms.stop
            assert batch.structures.data_set[i] == name.startswith("second")
            assert torch.equal(
                batch.labels["charges"][atoms], torch.from_numpy(frame.labels["charges"])
            )
            assert batch.labels["energy"][i] == frame.labels["energy"]


def test_a_frame_read_alone_knows_its_set(tmp_path):
    data = prepared(both(tmp_path))
    source, _ = data.source_of("train")
    for name, index in (("first", 0), ("second", 1)):
        for i in data.frames_of(name, "train"):
            assert source[int(i)].structure.data_set == index
            assert source.source_ids[i].startswith(f"{name}: ")


def test_one_set_of_weight_one_is_trained_as_without_a_mixture(tmp_path):
    first, _ = write_pair(tmp_path)
    alone = DataSets(first, batch_atoms=16, seed=4)
    alone.prepare(CUTOFFS, ASKED)
    mixed = prepared({"only": {"train": first}}, batch_structures=None, batch_atoms=16, seed=4)
    for epoch in (0, 1):
        one, other = alone.train_loader(), mixed.train_loader()
        one.set_epoch(epoch)
        other.set_epoch(epoch)
        assert [tuple(f"only: {i}" for i in b) for b in ids(one)] == ids(other)


def test_a_mixture_goes_on_in_the_middle_of_an_epoch(tmp_path):
    sets = both(tmp_path, weight=1.5)
    whole = prepared(sets).train_loader()
    whole.set_epoch(2)
    expected = ids(whole)
    cut = prepared(sets).train_loader()
    cut.set_epoch(2)
    walk = iter(cut)
    begun = [next(walk).ids for _ in range(3)]
    resumed = prepared(sets).train_loader()
    resumed.load_state_dict(cut.state_dict())
    assert begun + ids(resumed) == expected


def test_two_ranks_share_the_batches_of_one(tmp_path):
    sets = both(tmp_path, weight=2.0)
    alone = prepared(sets, batch_structures=4)
    pair = prepared(sets, batch_structures=2)
    shares = zip(pair.train_loader(0, 2), pair.train_loader(1, 2), strict=True)
    together = [Counter(a.ids) + Counter(b.ids) for a, b in shares]
    assert together == [Counter(b.ids) for b in alone.train_loader()]


def test_workers_hand_out_the_same_batches(tmp_path):
    sets = both(tmp_path, weight=1.5)
    read = list(prepared(sets, workers=1).train_loader())
    for one, other in zip(read, prepared(sets).train_loader(), strict=True):
        assert one.ids == other.ids
        assert torch.equal(one.structures.data_set, other.structures.data_set)


def test_every_set_is_read_by_its_own_conventions(tmp_path):
    charged = [cluster(i) for i in range(8)]
    silent = [
        replace(f, structure=replace(f.structure, total_charge=None))
        for f in (cluster(9 * i + 3, second=True) for i in range(8))
    ]
    write_extxyz(tmp_path / "a.extxyz", charged)
    write_extxyz(tmp_path / "b.extxyz", silent)
    sets = {
        "a": {"train": str(tmp_path / "a.extxyz"), "charge_type": "mulliken"},
        "b": {
            "train": str(tmp_path / "b.extxyz"),
            "aliases": {"charges": None},
            "charge_type": "ddec6",
        },
    }
    with pytest.raises(UserMistake, match=r"data\.sets\.b\.total_charge=zero"):
        prepared(sets)
    sets["b"]["total_charge"] = "zero"
    data = prepared(sets)
    assert set(data.statistics.total_charges) == {-1.0, 0.0, 1.0}
    assert data.conventions["total_charge"] == "error"
    assert data.conventions["sets"]["b"]["total_charge"] == "zero"
    assert json.loads(json.dumps(data.conventions)) == data.conventions
    assert data.charge_types == {"a": "mulliken", "b": None}
    assert any(n.startswith("b, train: 0 of 6 frames have charges") for n in data.notes)
    assert any(n.startswith("b: charge_type is ddec6, but no training") for n in data.notes)


def test_energies_of_elements_are_those_of_each_set(tmp_path):
    data = prepared(both(tmp_path, count=36))
    sums = {name: s.energies for name, s in data.sums_by_set.items()}
    found = fitted_energies(sums, {"first": "own", "second": "own"}, "first")
    assert [found["first"][z] for z in (11, 17)] == pytest.approx(
        [FIRST[z] for z in (11, 17)], abs=0.05
    )
    assert found["second"] == pytest.approx(SECOND, abs=0.1)
    assert found["first"][19] == found["second"][19]  # the first set has no potassium


def test_what_compositions_leave_open_is_decided_by_the_main_set(tmp_path):
    salt = [cluster(6 * i + 6, second=True) for i in range(8)]  # four atoms: NaCl twice
    write_extxyz(tmp_path / "salt.extxyz", salt)
    sets = both(tmp_path)
    sets["second"]["train"] = str(tmp_path / "salt.extxyz")
    data = prepared(sets)
    sums = {name: s.energies for name, s in data.sums_by_set.items()}
    found = fitted_energies(sums, {"first": "own", "second": "own"}, "first")
    first, second = found["first"], found["second"]
    assert second[11] + second[17] == pytest.approx(SECOND[11] + SECOND[17], abs=0.1)
    assert second[11] - second[17] == pytest.approx(first[11] - first[17], abs=1e-6)


def test_sets_may_share_the_energies_of_the_main_one(tmp_path):
    data = prepared(both(tmp_path))
    sums = {name: s.energies for name, s in data.sums_by_set.items()}
    found = fitted_energies(sums, {"first": "own", "second": "main"}, "first")
    assert found["first"] == found["second"]
    pool = sums["first"].merge(sums["second"])
    assert list(found["first"].values()) == pytest.approx(pool.references())


def test_statistics_count_every_set_by_its_weight(tmp_path):
    data = prepared(both(tmp_path, weight=2.0))
    squares = count = pairs = atoms = 0.0
    source, _ = data.source_of("train")
    for name, weight in (("first", 1.0), ("second", 2.0)):
        for i in data.frames_of(name, "train").tolist():
            forces = source[i].labels["forces"]
            squares += weight * (forces**2).sum()
            count += weight * forces.size
            pairs += weight * 2 * len(source.pairs(i, 4.0))
            atoms += weight * len(forces)
    assert data.statistics.force_rms == pytest.approx(np.sqrt(squares / count))
    assert data.statistics.average_neighbors == pytest.approx(pairs / atoms)
    assert data.statistics.elements == (11, 17, 19)
    assert data.statistics.coverage["charges"] == pytest.approx(1.0)


def test_a_store_and_a_file_mix(tmp_path):
    sets = both(tmp_path)
    write_store(
        tmp_path / "b.h5", [cluster(100 + i, second=True) for i in range(12)], pairs_cutoff=4.0
    )
    plain = prepared(sets)
    sets["second"] = {"train": str(tmp_path / "b.h5"), "charge_type": "ddec6"}
    data = prepared(sets)
    assert len(data.split_ids["train"]) == len(plain.split_ids["train"])
    for batch in data.train_loader():
        assert len(batch.structures.edges["backbone"].sender)


def test_kinds_of_charges_are_never_taken_for_one_in_silence(tmp_path):
    sets = both(tmp_path)
    del sets["second"]["charge_type"]
    with pytest.raises(UserMistake, match=r"data\.sets\.second\.charge_type must be given"):
        prepared(sets)
    MixedSets(sets).prepare(CUTOFFS, {"energy": True})  # nothing is compared with them


def test_all_mistakes_of_all_sets_come_together(tmp_path):
    with pytest.raises(UserMistake) as caught:
        MixedSets(
            {
                "a": {"train": "a.h5", "wieght": 2.0, "nan": "mising"},
                "b": {"weight": -1.0, "references": {"Xx": 1.0}, "split_by": "grop"},
                "c d": {"train": "c.h5"},
            },
            main="d",
            workers=-1,
        )
    told = "\n".join(caught.value.problems)
    assert len(caught.value.problems) == 9
    assert "data.sets.a takes no 'wieght'; did you mean 'weight'?" in told
    assert "data.sets.a.nan is 'mising'" in told
    assert "data.sets.b.train must be given" in told
    assert "data.sets.b.weight is -1" in told
    assert "data.sets.b.references names 'Xx'" in told
    assert "data.sets.b.split_by is 'grop'" in told
    assert "data.sets.c d: expected a name" in told
    assert "data.main=d: there is no such set; expected a, b, c d" in told


def test_missing_files_are_named_with_their_set(tmp_path):
    sets = {name: {"train": str(tmp_path / f"{name}.h5")} for name in ("a", "b")}
    with pytest.raises(UserMistake) as caught:
        prepared(sets)
    assert [p.split(":")[0] for p in caught.value.problems] == [
        "data.sets.a.train",
        "data.sets.b.train",
    ]


def test_a_run_can_be_split_as_another_one_on_the_same_sets(tmp_path):
    sets = both(tmp_path)
    first = prepared(sets)
    (tmp_path / "splits.json").write_text(json.dumps(first.split_ids))
    for one in sets.values():
        one["split_file"] = str(tmp_path / "splits.json")
        del one["split"]
    again = prepared(sets, seed=9)
    assert again.split_ids == first.split_ids
    assert again.fingerprint == first.fingerprint


def test_the_fingerprint_knows_the_names_and_the_order_of_the_sets(tmp_path):
    sets = both(tmp_path)
    one = prepared(sets).fingerprint
    assert prepared(sets).fingerprint == one
    assert prepared(dict(reversed(sets.items()))).fingerprint != one
    renamed = {"first": sets["first"], "zweite": sets["second"]}
    assert prepared(renamed).fingerprint != one


def test_a_material_that_one_set_trains_and_another_validates_is_remarked(tmp_path):
    sets = both(tmp_path)
    sets["second"] = {
        "train": sets["first"]["train"],
        "val": sets["first"]["train"],
        "charge_type": "ddec6",
    }
    assert any("share a material or a geometry" in note for note in prepared(sets).notes)


def test_every_set_is_told_with_its_frames_of_an_epoch(tmp_path):
    data = prepared(both(tmp_path, weight=1.5), main="second")
    told = data.told()
    assert "19 frames, 19 in an epoch (weight 1)" in told["first"]
    assert "10 frames, 15 in an epoch (weight 1.5)" in told["second"]
    assert "charges are ddec6; main" in told["second"]
