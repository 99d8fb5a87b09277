from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from qeqtrain.data.sources import source_from_frames
from qeqtrain.data.splits import families, split_from_file, split_indices, wanted_counts
from qeqtrain.errors import UserMistake


@pytest.fixture
def charge_states(make_molecule):
    """Thirty geometries at three charges each, without a word about groups."""
    frames = []
    for i in range(30):
        first = make_molecule(i)
        for charge in (-1.0, 0.0, 1.0):
            structure = replace(first.structure, total_charge=charge)
            frames.append(replace(first, structure=structure, source_id=f"{i}/{charge:g}"))
    return source_from_frames(frames)


def every_frame_once(split, n):
    return sorted(np.concatenate(list(split.values())).tolist()) == list(range(n))


@pytest.mark.parametrize("seed", range(5))
def test_a_geometry_at_several_charges_never_straddles_splits(charge_states, seed):
    split = split_indices(charge_states, {"val": 0.1, "test": 12}, "group", seed)
    assert every_frame_once(split, 90)
    assert (len(split["val"]), len(split["test"])) == (9, 12)
    homes = [set(charge_states.geometries[frames]) for frames in split.values()]
    assert not homes[0] & homes[1]
    assert not homes[0] & homes[2]
    assert not homes[1] & homes[2]


def test_frames_are_one_family_if_they_share_a_group_or_a_geometry():
    assert families(["a", "b", "b", "c", "d"], np.array([1, 1, 2, 3, 2])).tolist() == [
        0,
        0,
        0,
        3,
        0,
    ]


def test_a_random_split_takes_exactly_what_is_asked(charge_states):
    split = split_indices(charge_states, {"val": 7, "test": 0.1}, "random", 3)
    assert every_frame_once(split, 90)
    assert (len(split["val"]), len(split["test"])) == (7, 9)


def test_a_split_follows_from_its_seed(charge_states):
    one, same, other = (
        split_indices(charge_states, {"val": 0.2}, "group", seed)["val"] for seed in (1, 1, 2)
    )
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


def test_frames_added_later_move_few_others(charge_states, make_molecule):
    grown = [charge_states[i] for i in range(90)]
    grown += [make_molecule(100 + i) for i in range(3)]
    before = split_indices(charge_states, {"val": 30}, "group", 0)["val"]
    after = split_indices(source_from_frames(grown), {"val": 30}, "group", 0)["val"]
    assert len(set(before) & set(after)) >= 24


def test_without_a_split_all_frames_train(charge_states):
    split = split_indices(charge_states, {}, "group", 0)
    assert [len(split[name]) for name in ("train", "val", "test")] == [90, 0, 0]


@pytest.mark.parametrize(
    ("split", "words"),
    [
        ({"valid": 0.1}, "did you mean 'val'"),
        ({"val": -1}, "expected a fraction"),
        ({"val": 1.5}, "round it"),
        ({"val": 60, "test": 40}, "none is left to train"),
    ],
)
def test_an_impossible_split_is_refused(split, words):
    assert words in wanted_counts(split, 90)[1][0]


def test_one_group_cannot_be_divided_and_the_remedy_is_named(make_molecule):
    source = source_from_frames([make_molecule(i, group="one") for i in range(5)])
    with pytest.raises(UserMistake, match=r"data\.split_by=random"):
        split_indices(source, {"val": 0.2}, "group", 0)


def test_a_split_file_gives_back_the_split_it_was_written_from(charge_states, tmp_path):
    split = split_indices(charge_states, {"val": 0.1, "test": 0.1}, "group", 0)
    path = tmp_path / "splits.json"
    ids = {name: [charge_states.source_ids[i] for i in rows] for name, rows in split.items()}
    path.write_text(json.dumps(ids))
    again = split_from_file(charge_states, path)
    assert all(np.array_equal(split[name], again[name]) for name in split)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not JSON"),
        ('{"training": []}', "under train, val and test"),
        ('{"train": ["0/11"]}', "did you mean '0/1'"),
        ('{"train": ["0/1"], "val": ["0/1"]}', "in two splits"),
    ],
)
def test_a_wrong_split_file_is_refused(charge_states, tmp_path, text, words):
    path = tmp_path / "splits.json"
    path.write_text(text)
    with pytest.raises(UserMistake, match=words):
        split_from_file(charge_states, path)
