from __future__ import annotations

import json
import pickle

import h5py
import numpy as np
import pytest

from qeqtrain.data import store
from qeqtrain.data.columns import digest
from qeqtrain.data.frames import Frame
from qeqtrain.data.labels import Conventions
from qeqtrain.data.parts import PartWriter
from qeqtrain.data.source import Source
from qeqtrain.data.sources import open_source, source_from_frames
from qeqtrain.data.store_writer import StoreWriter
from qeqtrain.data.writing import write_store
from qeqtrain.errors import UserMistake
from qeqtrain.neighbors import find_pairs


def equal(a: Frame, b: Frame) -> bool:
    s, t = a.structure, b.structure
    geometry = all(
        np.array_equal(getattr(s, n), getattr(t, n))
        for n in ("numbers", "positions", "cell", "pbc")
    )
    labels = set(a.labels) == set(b.labels) and all(
        np.array_equal(a.labels[n], b.labels[n]) for n in a.labels
    )
    rest = (s.total_charge, s.spin, a.source_id) == (t.total_charge, t.spin, b.source_id)
    return geometry and labels and rest


@pytest.fixture
def path(tmp_path, frames):
    path = tmp_path / "frames.h5"
    write_store(path, frames, Conventions(nan="missing"), ["a note"])
    return path


def lazily(path) -> Source:
    columns, header = store.open_store(path, in_memory=0)
    return Source(columns, name="lazy", **vars(header))


def test_what_is_written_is_read_to_the_last_bit(path, frames):
    source = open_source(path)
    assert source.kept_in_memory
    assert all(equal(source[i], frame) for i, frame in enumerate(frames))


def test_a_large_store_is_read_piece_by_piece(path, frames):
    source = lazily(path)
    assert not source.kept_in_memory
    assert all(equal(source[i], frame) for i, frame in enumerate(frames))
    assert source.fingerprint == open_source(path).fingerprint


def test_a_store_has_the_fingerprint_of_what_was_written(path, frames):
    assert open_source(path).fingerprint == source_from_frames(frames).fingerprint


def test_blocks_written_one_after_the_other_make_the_same_store(tmp_path, path, frames):
    other = tmp_path / "blocks.h5"
    with StoreWriter(other) as writer:
        for frame in frames:
            writer.write([frame])
    assert open_source(other).fingerprint == open_source(path).fingerprint


def test_labels_that_only_some_frames_have_stay_absent_in_the_others(path, frames):
    source = open_source(path)
    assert source.present["stress"].tolist() == ["stress" in f.labels for f in frames]
    assert source.present["dipole"].tolist() == ["dipole" in f.labels for f in frames]


def test_a_label_of_a_store_can_be_left_out(path):
    source = open_source(path, Conventions(aliases={"charges": None}))
    assert "charges" not in source.present
    assert "charges" not in source[0].labels


def test_conventions_and_notes_are_kept(path):
    assert open_source(path).notes == ["a note"]
    assert store.open_store(path)[1].conventions.nan == "missing"


def test_an_open_source_goes_to_another_process_without_its_handle(path, frames):
    for source in (lazily(path), open_source(path)):
        source[0]
        assert equal(pickle.loads(pickle.dumps(source))[3], frames[3])


@pytest.fixture
def early(tmp_path, frames):
    """A store of format 1: columns in chunks, no checksums of blocks, no statistics."""
    path = tmp_path / "early.h5"
    with PartWriter(path) as writer:
        writer.write(frames)
    with h5py.File(path, "r+") as file:
        del file["tally"]
        attributes = {
            "format": 1,
            "conventions": json.dumps(Conventions().as_dict()),
            "notes": "[]",
            "digests": json.dumps({n: digest(file[n]) for n in store.dataset_names(file)}),
            "pairs_cutoff": 0.0,
            "elements": "[1, 8, 11, 17]",
            "frames": len(frames),
        }
        file.attrs.update(
            attributes | {"seal": store.seal(attributes), "kind": "qeqtrain store"}
        )
        file.attrs["complete"] = 1
    return path


def test_a_store_of_the_earlier_format_is_read(early, path, frames):
    for source in (lazily(early), open_source(early)):
        assert all(equal(source[i], frame) for i, frame in enumerate(frames))
        assert source.fingerprint == open_source(path).fingerprint
    stored, anew = open_source(path).sum_up(), open_source(early).sum_up()
    assert stored.force_squares.tolist() == anew.force_squares.tolist()


def test_an_hdf5_handle_is_not_shared_across_a_fork(early, monkeypatch):
    source = lazily(early)
    source[0]
    before = source._columns["positions"]
    monkeypatch.setattr(store.os, "getpid", lambda: -7)
    assert source._columns["positions"] is not before


def test_a_store_says_that_it_is_whole_when_read_from_end_to_end(path, frames):
    assert store.verify(path) > sum(len(f) for f in frames) * 50
    whole = path.read_bytes()
    at = whole.index(frames[0].labels["forces"].tobytes()) + 5
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    with pytest.raises(UserMistake):
        store.verify(path)


def test_the_same_frames_make_the_same_bytes(tmp_path, path, frames):
    other = tmp_path / "again.h5"
    with StoreWriter(other, Conventions(nan="missing"), ["a note"]) as writer:
        for frame in frames:
            writer.write([frame])
    assert other.read_bytes() == path.read_bytes()


def test_an_absent_total_charge_stays_open_until_a_policy_fills_it(tmp_path, make_molecule):
    path = tmp_path / "open.h5"
    write_store(path, [make_molecule(charge=None)])
    assert open_source(path)[0].structure.total_charge is None
    assert open_source(path, Conventions("zero"))[0].structure.total_charge == 0.0
    assert open_source(path, Conventions("sum_of_charges"))[0].structure.total_charge == 0.0


def test_stored_neighbour_lists_are_compact_and_those_that_vesin_finds(tmp_path, frames):
    path = tmp_path / "pairs.h5"
    write_store(path, frames, pairs_cutoff=5.0)
    for source in (open_source(path), lazily(path)):
        for i, frame in enumerate(frames):
            stored = source.pairs(i, 5.0)
            found = find_pairs(frame.structure, 5.0)
            assert (stored.sender.dtype, stored.shift.dtype) == (np.int16, np.int8)
            assert np.array_equal(stored.sender, found.sender)
            assert np.array_equal(stored.receiver, found.receiver)
            assert np.array_equal(stored.shift, found.shift)


def test_a_stored_list_serves_shorter_cutoffs_and_longer_ones_are_worked_out(tmp_path, frames):
    path = tmp_path / "pairs.h5"
    write_store(path, frames, pairs_cutoff=4.0)
    source = open_source(path)
    for cutoff in (3.0, 5.0):
        for i, frame in enumerate(frames):
            found = find_pairs(frame.structure, cutoff)
            rows = {
                tuple(r)
                for p in (found,)
                for r in zip(p.sender, p.receiver, *p.shift.T, strict=True)
            }
            p = source.pairs(i, cutoff)
            assert {
                tuple(r) for r in zip(p.sender, p.receiver, *p.shift.T, strict=True)
            } == rows


def test_a_truncated_store_is_refused(path):
    whole = path.read_bytes()
    for part in (0.2, 0.6, 0.99):
        path.write_bytes(whole[: int(part * len(whole))])
        with pytest.raises(UserMistake):
            open_source(path)


def test_no_flipped_bit_changes_what_is_read(path, frames):
    whole = bytearray(path.read_bytes())
    random = np.random.default_rng(0)
    refused = 0
    for _ in range(60):
        at, bit = int(random.integers(len(whole))), int(random.integers(8))
        damaged = whole.copy()
        damaged[at] ^= 1 << bit
        path.write_bytes(damaged)
        try:
            source = open_source(path)
        except UserMistake:
            refused += 1
        else:
            assert all(equal(source[i], frame) for i, frame in enumerate(frames)), (at, bit)
    assert refused > 20  # the others fell on bytes that hold nothing


def test_a_flipped_number_is_found_in_a_store_that_is_read_piece_by_piece(path, frames):
    whole = path.read_bytes()
    at = whole.index(frames[0].structure.positions.tobytes())
    path.write_bytes(whole[: at + 3] + bytes([whole[at + 3] ^ 4]) + whole[at + 4 :])
    with pytest.raises(UserMistake, match="damaged"):
        lazily(path)[0]
    with pytest.raises(UserMistake):
        open_source(path)


def test_a_store_edited_by_hand_is_refused(path):
    with h5py.File(path, "r+") as file:
        file["labels/energy"][0] = 1.0
    with pytest.raises(UserMistake, match="labels/energy differ from their checksums"):
        open_source(path)


def test_a_header_edited_by_hand_is_refused(path):
    with h5py.File(path, "r+") as file:
        file.attrs["conventions"] = "{}"
    with pytest.raises(UserMistake, match="seal"):
        open_source(path)


def test_a_store_whose_writer_was_stopped_is_refused(path):
    with h5py.File(path, "r+") as file:
        del file.attrs["complete"]
    with pytest.raises(UserMistake, match="writer was stopped"):
        open_source(path)


def test_a_store_of_a_later_format_asks_for_a_newer_version(path):
    with h5py.File(path, "r+") as file:
        file.attrs["format"] = 99
    with pytest.raises(UserMistake, match="newer qeqtrain"):
        open_source(path)


def test_a_writer_that_fails_leaves_neither_file_nor_litter(tmp_path, frames):
    def failing():
        yield frames[0]
        raise RuntimeError("disk full")

    path = tmp_path / "sub" / "frames.h5"
    with pytest.raises(RuntimeError):
        write_store(path, failing())
    assert list(path.parent.iterdir()) == []


def test_writing_replaces_an_older_store_in_one_step(path, make_molecule):
    write_store(path, [make_molecule(5)])
    assert len(open_source(path)) == 1
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_an_empty_store_is_not_written(tmp_path):
    with pytest.raises(UserMistake, match="no frame to write"):
        write_store(tmp_path / "none.h5", [])
    assert list(tmp_path.iterdir()) == []


def test_shards_of_a_folder_are_one_source(tmp_path, frames):
    write_store(tmp_path / "b.h5", frames[6:])
    write_store(tmp_path / "a.h5", frames[:6])
    for where in (tmp_path, str(tmp_path / "*.h5")):
        source = open_source(where)
        assert source.source_ids == [f.source_id for f in frames]
        assert all(equal(source[i], frame) for i, frame in enumerate(frames))
        assert np.array_equal(
            source.column("forces"),
            np.concatenate([f.labels["forces"] for f in frames]),
        )
