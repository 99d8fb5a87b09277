from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch

from qeqtrain.data import store
from qeqtrain.data.batching import FrameBatches, collate_frames
from qeqtrain.data.contiguous import BLOCK, Checksums, ContiguousColumn, OpenFile
from qeqtrain.data.joined import Joined
from qeqtrain.data.source import Source
from qeqtrain.data.sources import source_from_frames
from qeqtrain.data.writing import write_store
from qeqtrain.errors import UserMistake
from qeqtrain.structures import ChargeGroups

LABELS = ("energy", "forces", "stress", "charges", "dipole", "born_charges")
ORDER = [13, 2, 3, 4, 15, 0, 1, 2]


def lazily(path) -> Source:
    columns, header = store.open_store(path, in_memory=0)
    return Source(columns, name="lazy", **vars(header))


def tensors(batch):
    found = {f"labels/{k}": v for k, v in batch.labels.items()}
    found |= {f"present/{k}": v for k, v in batch.present.items()}
    for name, value in vars(batch.structures).items():
        if isinstance(value, torch.Tensor):
            found[name] = value
        elif isinstance(value, ChargeGroups):
            found |= {f"groups/{k}": torch.as_tensor(v) for k, v in vars(value).items()}
    for consumer, edges in batch.structures.edges.items():
        for end in ("sender", "receiver", "shift"):
            found[f"{consumer}/{end}"] = getattr(edges, end)
        found[f"{consumer}/cutoff"] = torch.tensor(edges.cutoff)
        if edges.reach is not None:
            found[f"{consumer}/reach"] = edges.reach
    return found


def same(one, other) -> bool:
    a, b = tensors(one), tensors(other)
    return (
        one.ids == other.ids
        and a.keys() == b.keys()
        and all(
            v.dtype == b[k].dtype and torch.equal(v.nan_to_num(), b[k].nan_to_num())
            for k, v in a.items()
        )
    )


@pytest.fixture
def varied(frames):
    """Some in a field, some with a potential applied, most with neither."""
    random = np.random.default_rng(3)
    for i in (1, 4):
        s = replace(frames[i].structure, electric_field=random.normal(size=3))
        frames[i] = replace(frames[i], structure=s)
    s = replace(frames[3].structure, external_potential=random.normal(size=len(frames[3])))
    frames[3] = replace(frames[3], structure=s)
    return frames


def in_memory(frames, tmp_path, cutoff):
    return source_from_frames(frames)


def in_file(frames, tmp_path, cutoff):
    write_store(tmp_path / "all.h5", frames, pairs_cutoff=cutoff)
    return lazily(tmp_path / "all.h5")


def in_shards(frames, tmp_path, cutoff):
    folder = tmp_path / "shards"
    write_store(folder / "0.h5", frames[:3], pairs_cutoff=cutoff)
    write_store(folder / "1.h5", frames[3:13], pairs_cutoff=cutoff)
    write_store(folder / "2.h5", frames[13:], pairs_cutoff=cutoff)
    return Joined([lazily(folder / f"{i}.h5") for i in range(3)])


def mixed(frames, tmp_path, cutoff):
    write_store(tmp_path / "rest.h5", frames[5:], pairs_cutoff=cutoff)
    return Joined([source_from_frames(frames[:5]), lazily(tmp_path / "rest.h5")])


@pytest.mark.parametrize("make", [in_memory, in_file, in_shards, mixed])
@pytest.mark.parametrize("cutoff", [None, 3.0, 4.0, 5.0])
def test_a_gathered_batch_is_the_frames_joined_one_by_one(varied, tmp_path, make, cutoff):
    cutoffs = {"backbone": 4.0, "charge": 3.0, "ruled": lambda s: 1.1 * len(s) ** 0.5}
    batches = FrameBatches(make(varied, tmp_path, cutoff), LABELS, cutoffs)
    for chosen in (ORDER, [5], range(16)):
        slowly = collate_frames([batches.complete(i) for i in chosen], LABELS)
        assert same(batches.batch(chosen), slowly)


def test_the_origins_of_a_split_are_what_is_gathered(frames, tmp_path):
    source = in_file(frames, tmp_path, None)
    part = FrameBatches(source, LABELS, {"backbone": 4.0}, np.array([9, 3, 14]))
    whole = FrameBatches(source, LABELS, {"backbone": 4.0})
    assert same(part.batch([2, 0]), whole.batch([14, 9]))


def test_lists_of_a_store_are_read_and_not_kept(frames, tmp_path, monkeypatch):
    batches = FrameBatches(in_file(frames, tmp_path, 5.0), LABELS, {"backbone": 4.0})
    monkeypatch.setattr("qeqtrain.data.source.find_pairs", None)
    batches.batch(range(16))
    assert not batches._pairs


def test_a_missing_total_charge_is_refused(make_molecule):
    source = source_from_frames([make_molecule(), make_molecule(1, charge=None)])
    with pytest.raises(ValueError, match=r"structures \[1\] have no total charge"):
        FrameBatches(source, LABELS, {"backbone": 4.0}).batch([0, 1])


def column_in(path, values):
    checks = Checksums()
    for start in range(0, len(values), 1000):
        checks.update(values[start : start + 1000])
    path.write_bytes(b"head" + values.tobytes())
    blocks = checks.blocks()
    return ContiguousColumn(OpenFile(path), "x", 4, values.dtype, values.shape, blocks)


def test_a_contiguous_column_reads_like_an_array(tmp_path):
    values = np.random.default_rng(0).normal(size=(50_000, 3))
    column = column_in(tmp_path / "column", values)
    assert np.array_equal(column[()], values)
    for rows in (slice(0, 0), slice(7, 9), slice(10_000, 33_000), slice(49_999, None)):
        assert np.array_equal(column[rows], values[rows])
    assert np.array_equal(column[123], values[123])
    assert np.array_equal(pickle.loads(pickle.dumps(column))[5:6], values[5:6])


def test_a_flipped_bit_is_met_with_the_block_it_lies_in_and_only_there(tmp_path):
    values = np.arange(200_000, dtype=np.int64)
    column_in(tmp_path / "column", values)
    raw = bytearray((tmp_path / "column").read_bytes())
    raw[4 + 2 * BLOCK + 17] ^= 8
    checked = column_in(tmp_path / "column", values)
    (tmp_path / "column").write_bytes(raw)
    per_block = BLOCK // 8
    assert checked[:per_block][-1] == per_block - 1
    with pytest.raises(UserMistake, match="differ from their checksum"):
        checked[3 * per_block - 1]
    (tmp_path / "column").write_bytes(raw[: 3 * BLOCK])
    with pytest.raises(UserMistake, match="ends too early"):
        checked[4 * per_block :]
