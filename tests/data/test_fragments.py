"""Fragments on their way from a file to a batch."""

from __future__ import annotations

from dataclasses import replace

import ase.io
import numpy as np
import pytest

from qeqtrain.data import store
from qeqtrain.data.batching import FrameBatches
from qeqtrain.data.describe import describe, render
from qeqtrain.data.sets import DataSets
from qeqtrain.data.source import Source
from qeqtrain.data.sources import open_source, source_from_frames
from qeqtrain.data.store_writer import StoreWriter
from qeqtrain.data.writing import write_extxyz, write_store
from qeqtrain.errors import UserMistake

NAMES = ("fragments", "fragment_charges", "fragment_potentials")


@pytest.fixture
def divided(make_molecule):
    """Frames without fragments, with charges, with a potential, and with both."""
    plain, charged, held, both = (make_molecule(i, charge=1.0, n=4) for i in range(4))
    halves = np.array([1, 0, 0, 1])
    nan = np.nan

    def change(frame, charges, potentials):
        fields = (halves, np.array(charges), potentials and np.array(potentials))
        structure = replace(frame.structure, **dict(zip(NAMES, fields, strict=True)))
        return replace(frame, structure=structure)

    return [
        plain,
        change(charged, [0.25, 0.75], None),
        change(held, [nan, nan], [0.5, -0.5]),
        change(both, [nan, 1.0], [0.5, nan]),
    ]


def same(found, expected):
    for name in NAMES:
        a, b = getattr(found.structure, name), getattr(expected.structure, name)
        assert (a is None) == (b is None), name
        if a is not None:
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("kind", ["extxyz", "h5", "lazy"])
def test_they_come_back_from_a_file_as_they_were(tmp_path, divided, kind):
    path = tmp_path / ("frames.extxyz" if kind == "extxyz" else "frames.h5")
    (write_extxyz if kind == "extxyz" else write_store)(path, divided)
    source = open_source(path)
    if kind == "lazy":
        columns, header = store.open_store(path, in_memory=0)
        source = Source(columns, name="lazy", **vars(header))
    for i, frame in enumerate(divided):
        same(source[i], frame)
    assert source.in_fragments == 3


def test_a_store_takes_them_up_in_a_later_block(tmp_path, divided):
    path = tmp_path / "frames.h5"
    with StoreWriter(path) as writer:
        for frame in (divided[0], divided[1], divided[0], divided[3]):
            writer.write([frame])
    source = open_source(path)
    for i, kind in enumerate((0, 1, 0, 3)):
        same(source[i], divided[kind])


def test_ase_reads_what_is_written(tmp_path, divided):
    write_extxyz(tmp_path / "frames.extxyz", divided)
    atoms = ase.io.read(tmp_path / "frames.extxyz", 3)
    assert np.issubdtype(atoms.arrays["fragment"].dtype, np.integer)
    np.testing.assert_array_equal(atoms.info["fragment_charges"], [np.nan, 1.0])
    ase.io.write(tmp_path / "by_ase.extxyz", atoms)
    same(open_source(tmp_path / "by_ase.extxyz")[0], divided[3])


def test_a_batch_has_their_groups(divided):
    batches = FrameBatches(source_from_frames(divided), ("energy",), {"backbone": 4.0})
    groups = batches.batch([0, 1, 3]).structures.charge_groups()
    np.testing.assert_array_equal(groups.member, [0, 0, 0, 0, 2, 1, 1, 2, 4, 3, 3, 4])
    np.testing.assert_array_equal(groups.charge, [1.0, 0.25, 0.75, np.nan, 1.0])
    assert groups.potential[3] == 0.5
    assert batches.batch([0]).structures.groups is None


def test_a_file_that_contradicts_itself_is_refused_with_the_frame(tmp_path, divided):
    wrong = replace(divided[1].structure, fragment_charges=np.array([0.5, 0.75]))
    write_extxyz(tmp_path / "wrong.extxyz", [divided[0], replace(divided[1], structure=wrong)])
    with pytest.raises(UserMistake, match=r"frame 1 .*add up to \+1.25 e"):
        open_source(tmp_path / "wrong.extxyz")


def test_fragments_state_the_total_charge_of_a_frame(tmp_path, divided):
    open_ = replace(divided[1].structure, total_charge=None)
    write_extxyz(tmp_path / "open.extxyz", [replace(divided[1], structure=open_)])
    assert open_source(tmp_path / "open.extxyz").total_charges.tolist() == [1.0]


def test_the_label_fragment_charge_is_no_constraint(shared_data):
    source = open_source(shared_data / "xtb_distant_pairs" / "val.extxyz")
    assert source.in_fragments == 0
    assert "fragment_charge" in source.unused


def test_what_is_divided_is_said(tmp_path, divided):
    paths = [str(tmp_path / name) for name in ("a.extxyz", "b.extxyz")]
    for path in paths:
        write_extxyz(path, divided)
    assert "by fragment in 6 frames" in render(describe(paths))
    sets = DataSets(paths, split={})
    sets.prepare({"backbone": 4.0}, {})
    assert any("6 frames with fragments" in note for note in sets.notes)
