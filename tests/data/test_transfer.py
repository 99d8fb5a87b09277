from __future__ import annotations

import gc
from dataclasses import replace

import numpy as np
import pytest
import torch

from qeqtrain.data.batching import Batch, FrameBatches, StatefulLoader
from qeqtrain.data.plan import BatchPlan
from qeqtrain.data.sources import open_source, source_from_frames
from qeqtrain.data.transfer import _SLOTS, Sender, new_reader, receive
from qeqtrain.data.writing import write_store
from tests.data.test_gathering import LABELS, ORDER, same, tensors


class Reader:
    """Both ends of a transfer, in one process."""

    def __init__(self) -> None:
        self.name = new_reader(self)
        self.sender = Sender(self.name)

    def pass_on(self, batch):
        sent = self.sender.send(
            batch.structures, {"labels": batch.labels, "present": batch.present}
        )
        structures, others = receive(*sent)
        return Batch(structures, others["labels"], others["present"], batch.ids), sent

    @property
    def slots(self):
        return _SLOTS[self.name]


@pytest.fixture
def batches(frames):
    return FrameBatches(source_from_frames(frames), LABELS, {"backbone": 4.0})


def test_a_batch_arrives_as_it_was_sent(batches):
    batch = batches.batch(ORDER)
    again, (_, _, _, slot, *_) = Reader().pass_on(batch)
    assert same(again, batch)
    inside = sum(v.nbytes for v in tensors(batch).values())
    assert inside < slot.nbytes < 1.5 * inside + 64 * 50


def test_a_batch_of_groups_and_one_of_nothing_arrive(frames):
    s = replace(
        frames[0].structure,
        fragments=np.array([0, 0, 1]),
        fragment_charges=np.array([0.0, -1.0]),
    )
    source = source_from_frames([replace(frames[0], structure=s), frames[1]])
    batches = FrameBatches(source, LABELS, {"backbone": 4.0})
    reader = Reader()
    for chosen in ([0, 1], []):
        batch = batches.batch(chosen)
        again, _ = reader.pass_on(batch)
        assert (again.structures.groups is None) == (not chosen)
        assert same(again, batch)


def test_memory_is_used_again_once_no_tensor_of_a_batch_is_left(batches):
    reader = Reader()
    held = reader.pass_on(batches.batch(ORDER))[0].structures.positions
    expected = held.clone()
    for _ in range(5):
        reader.pass_on(batches.batch(ORDER[::-1]))
    assert len(reader.slots) == 2  # one is held, the other goes round
    assert torch.equal(held, expected)
    del held
    _, sent = reader.pass_on(batches.batch(ORDER))
    assert sent[2] == 0
    assert sent[3] is None  # the reader has this memory already


def test_memory_that_has_become_too_small_is_replaced(batches):
    reader = Reader()
    for chosen in ([0], range(16), [1]):
        batch = batches.batch(chosen)
        assert same(reader.pass_on(batch)[0], batch)
    assert len(reader.slots) == 1


def test_memory_goes_with_its_reader(batches):
    reader = Reader()
    batch, _ = reader.pass_on(batches.batch(ORDER))
    name = reader.name
    del reader
    gc.collect()
    assert name not in _SLOTS
    assert same(batch, batches.batch(ORDER))


@pytest.mark.slow
def test_batches_of_workers_stay_as_they_are_while_others_come(frames, tmp_path):
    write_store(tmp_path / "all.h5", frames)
    batches = FrameBatches(open_source(tmp_path / "all.h5"), LABELS, {"backbone": 4.0})
    plan = BatchPlan(np.ones(len(batches)), 2.0)
    helped = StatefulLoader(batches, plan, workers=2)
    next(iter(helped))  # an epoch that is left in the middle keeps no memory
    for epoch in range(3):
        helped.set_epoch(epoch)
        kept = list(helped)
        expected = [batches.batch(i) for i in plan.epoch(epoch)]
        assert all(same(a, b) for a, b in zip(kept, expected, strict=True))
