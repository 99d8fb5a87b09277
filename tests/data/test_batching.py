from __future__ import annotations

import pickle
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from qeqtrain.data.batching import FrameBatches, StatefulLoader, collate_frames
from qeqtrain.data.plan import BatchPlan
from qeqtrain.data.sources import source_from_frames
from qeqtrain.data.writing import write_store
from qeqtrain.errors import UserMistake
from qeqtrain.neighbors import find_pairs

CUTOFFS = {"backbone": 4.0, "charge": 5.0}
LABELS = ("energy", "forces", "stress", "charges", "dipole")


@pytest.fixture
def batches(frames):
    return FrameBatches(source_from_frames(frames), LABELS, CUTOFFS)


def uneven(n=400, seed=0):
    sizes = np.random.default_rng(seed).lognormal(3.0, 0.8, n)
    return np.clip(np.round(sizes), 1, 400)


@pytest.mark.parametrize("costs", [np.ones(101), np.full(64, 16.0), uneven()])
@pytest.mark.parametrize("ranks", [1, 3])
def test_every_structure_is_in_one_batch_of_every_epoch(costs, ranks):
    plan = BatchPlan(costs, 8 * costs.max(), seed=1, ranks=ranks)
    for epoch in range(3):
        batches = plan.epoch(epoch)
        assert len(batches) == len(plan)
        assert sorted(np.concatenate(batches).tolist()) == list(range(len(costs)))


@pytest.mark.parametrize("budget", [400, 512, 2000])
def test_no_batch_exceeds_its_budget_and_there_are_few(budget):
    costs = uneven()
    plan = BatchPlan(costs, budget)
    for epoch in range(5):
        loads = [costs[b].sum() for b in plan.epoch(epoch)]
        assert max(loads) <= budget
        assert len(loads) <= np.ceil(costs.sum() / (0.97 * budget)) + 1


def test_a_structure_beyond_the_budget_is_alone():
    plan = BatchPlan(np.array([3.0, 50.0, 2.0]), 10.0)
    assert sorted(sorted(b.tolist()) for b in plan.epoch(0)) == [[0, 2], [1]]


def test_structures_that_all_exceed_the_budget_are_all_alone():
    plan = BatchPlan(np.array([9.0, 7.0, 8.0]), budget=5.0)
    assert sorted(b.tolist() for b in plan.epoch(0)) == [[0], [1], [2]]
    assert len(plan) == 3


def test_epochs_differ_and_repeat_from_the_seed():
    plan, same, other = (BatchPlan(uneven(), 512, seed=s) for s in (5, 5, 6))
    first = [b.tolist() for b in plan.epoch(0)]
    assert first == [b.tolist() for b in same.epoch(0)]
    assert first != [b.tolist() for b in plan.epoch(1)]
    assert first != [b.tolist() for b in other.epoch(0)]


def test_structures_meet_others_in_the_next_epoch():
    plan = BatchPlan(uneven(), 512)
    together = [
        {frozenset((a, b)) for batch in plan.epoch(e) for a in batch for b in batch if a < b}
        for e in range(2)
    ]
    assert len(together[0] & together[1]) < 0.2 * len(together[0])


@pytest.mark.parametrize(
    ("kind", "known"),
    [
        *(("structures", "atoms"), ("atoms", "atoms")),
        *(("structures", "edges"), ("atoms", "edges"), ("edges", "edges")),
    ],
)
def test_two_ranks_of_ragged_sizes_wait_little_for_each_other(kind, known):
    random = np.random.default_rng(0)
    sizes = np.clip(np.round(np.exp(random.normal(3.1, 0.9, 4000))), 1, 444)  # as in MPtrj
    edges = sizes * np.clip(random.normal(45, 8, len(sizes)), 10, 90)
    work = edges + 10.0 * sizes  # of one rank, as if a step cost so much for edges and atoms
    costs, budget = {
        "structures": (np.ones(len(sizes)), 8.0),
        "atoms": (sizes, 256.0),
        "edges": (edges, 12000.0),
    }[kind]
    weights = {"atoms": sizes, "edges": edges}[known]
    plan = BatchPlan(costs, budget, ranks=2, weights=weights)
    batches = plan.epoch(0)
    loads = np.array([[work[plan.share(b, rank)].sum() for rank in (0, 1)] for b in batches])
    efficiency = loads.sum() / (2.0 * loads.max(axis=1).sum())
    fixed = work[random.permutation(len(work))].reshape(-1, 2, 8).sum(-1)
    assert efficiency > {"atoms": 0.95, "edges": 0.97}[known]
    assert fixed.sum() / (2.0 * fixed.max(axis=1).sum()) < 0.85


def test_two_ranks_share_the_batches_of_one_rank_with_twice_the_budget():
    costs = uneven()
    one, two = BatchPlan(costs, 1024), BatchPlan(costs, 512, ranks=2)
    assert [b.tolist() for b in one.epoch(2)] == [b.tolist() for b in two.epoch(2)]
    for batch in two.epoch(2):
        shares = [two.share(batch, rank) for rank in range(2)]
        assert sorted(np.concatenate(shares).tolist()) == sorted(batch.tolist())
        loads = [costs[s].sum() for s in shares]
        assert abs(loads[0] - loads[1]) <= costs[batch].max()


def test_without_shuffling_structures_come_in_order():
    plan = BatchPlan(np.ones(10), 4, shuffle=False)
    assert [b.tolist() for b in plan.epoch(3)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert len(plan) == 3


def test_a_batch_holds_the_labels_of_its_frames_in_order(batches, frames):
    chosen = [14, 2, 7]
    batch = batches.batch(chosen)
    parts = [frames[i] for i in chosen]
    assert batch.ids == tuple(f.source_id for f in parts)
    assert batch.labels["energy"].tolist() == [float(f.labels["energy"]) for f in parts]
    assert np.array_equal(
        batch.labels["forces"], np.concatenate([f.labels["forces"] for f in parts])
    )
    assert batch.structures.total_charge.tolist() == [f.structure.total_charge for f in parts]
    assert all(v.dtype == torch.float64 for v in batch.labels.values())


def test_absent_labels_are_zero_and_masked(batches, frames):
    batch = batches.batch([14, 2])
    assert batch.present["charges"].tolist() == [False, True]
    assert batch.present["stress"].tolist() == [True, False]
    n = len(frames[14])
    assert not batch.labels["charges"][:n].any()
    assert np.array_equal(batch.labels["charges"][n:], frames[2].labels["charges"])
    assert not batch.labels["stress"][1].any()


def test_every_consumer_has_its_neighbour_list(batches, frames):
    batch = batches.batch([12, 0])
    for consumer, cutoff in CUTOFFS.items():
        edges = batch.structures.edges[consumer]
        count = sum(len(find_pairs(frames[i].structure, cutoff)) for i in (12, 0))
        assert len(edges.sender) == count
        lengths = batch.structures.edge_vectors(consumer).norm(dim=-1)
        assert float(lengths.max()) <= cutoff
        assert edges.sender.dtype == torch.int64


def test_neighbour_lists_are_found_once(batches, monkeypatch):
    first = batches.batch([12, 13])
    monkeypatch.setattr("qeqtrain.data.source.find_pairs", None)
    second = batches.batch([12, 13])
    assert torch.equal(
        first.structures.edges["charge"].sender, second.structures.edges["charge"].sender
    )


def test_a_batch_of_no_structures_has_every_key_and_no_rows(batches):
    batch = batches.batch([])
    assert len(batch) == 0
    assert set(batch.labels) == set(LABELS)
    assert batch.labels["forces"].shape == (0, 3)
    assert set(batch.structures.edges) == set(CUTOFFS)


def test_a_batch_moves_with_all_it_holds(batches):
    batch = batches.batch([0, 1]).to("meta")
    assert batch.structures.positions.is_meta
    assert batch.labels["forces"].is_meta
    assert batch.present["energy"].is_meta
    assert batch.ids == ("made/0/-1.0", "made/1/0.0")


def test_a_missing_total_charge_does_not_become_zero(make_molecule):
    with pytest.raises(ValueError, match="no total charge"):
        collate_frames([make_molecule(charge=None)], LABELS)


def ids(loader):
    return [batch.ids for batch in loader]


def loader_of(batches, workers=0, **plan):
    return StatefulLoader(
        batches, BatchPlan(np.ones(len(batches)), 3.0, **plan), workers=workers
    )


@pytest.mark.parametrize("stop", [0, 1, 3, 5])
def test_a_loader_goes_on_exactly_where_another_stopped(batches, stop):
    whole = loader_of(batches)
    whole.sampler.set_epoch(4)
    expected = ids(whole)

    first = loader_of(batches)
    first.sampler.set_epoch(4)
    reader = iter(first)
    begun = [next(reader).ids for _ in range(stop)]
    resumed = loader_of(batches)
    resumed.load_state_dict(first.state_dict())
    resumed.sampler.set_epoch(4)
    assert begun + ids(resumed) == expected


def test_a_resumed_position_serves_once(batches):
    loader = loader_of(batches)
    loader.load_state_dict({"epoch": 0, "position": 4})
    assert len(ids(loader)) == len(loader) - 4
    assert len(ids(loader)) == len(loader)


def test_a_finished_epoch_is_followed_by_a_whole_one(batches):
    done = loader_of(batches)
    ids(done)
    resumed = loader_of(batches)
    resumed.load_state_dict(done.state_dict())
    resumed.sampler.set_epoch(1)
    assert len(ids(resumed)) == len(resumed)


def test_another_plan_cannot_be_resumed_in_the_middle_of_an_epoch(batches):
    state = loader_of(batches).state_dict() | {"position": 2}
    with pytest.raises(UserMistake, match="seed was 0, is 1"):
        loader_of(batches, seed=1).load_state_dict(state)
    at_the_end = loader_of(batches, seed=1)
    at_the_end.load_state_dict(state | {"position": state["batches"]})
    assert len(ids(at_the_end)) == len(at_the_end)


def test_lightning_finds_set_epoch_on_the_sampler(batches):
    loader = loader_of(batches)
    before = ids(loader)
    loader.sampler.set_epoch(1)
    assert ids(loader) != before


@pytest.mark.slow
def test_workers_hand_out_the_same_batches(frames, tmp_path):
    path = tmp_path / "frames.h5"
    write_store(path, frames)
    from qeqtrain.data.sources import open_source

    batches = FrameBatches(open_source(path), LABELS, CUTOFFS)
    alone, helped = loader_of(batches), loader_of(batches, workers=2)
    for epoch in range(2):
        alone.sampler.set_epoch(epoch)
        helped.sampler.set_epoch(epoch)
        for a, b in zip(alone, helped, strict=True):
            assert a.ids == b.ids
            assert torch.equal(a.labels["forces"], b.labels["forces"])
    helped.load_state_dict({"epoch": 1, "position": 4})
    alone.load_state_dict({"epoch": 1, "position": 4})
    assert ids(alone) == ids(helped)


@dataclass(frozen=True)
class Rule:
    """A cutoff that grows with the structure."""

    slope: float

    def __call__(self, structure):
        return self.slope * len(structure)


def test_a_rule_gives_every_structure_its_own_cutoff(frames):
    rules = {"backbone": 4.0, "charge": Rule(1.5)}
    batches = FrameBatches(source_from_frames(frames), ("energy",), rules)
    for i, frame in enumerate(frames):
        expected = find_pairs(frame.structure, 1.5 * len(frame))
        edges = batches.batch([i]).structures.edges["charge"]
        assert len(edges.sender) == len(expected)
        assert edges.cutoff == expected.cutoff


def test_lists_by_rule_are_not_kept(frames):
    batches = FrameBatches(source_from_frames(frames), (), {"backbone": 4.0, "charge": Rule(2)})
    batches.batch([0, 13])
    assert set(batches.frame(0).structure.pairs) == {"backbone"}


def test_no_structures_have_empty_lists_by_rule_too():
    edges = collate_frames([], (), {"backbone": 4.0, "charge": Rule(1.5)}).structures.edges
    assert [len(edges[name].sender) for name in ("backbone", "charge")] == [0, 0]


def test_rules_reach_worker_processes(frames):
    batches = FrameBatches(source_from_frames(frames), (), {"backbone": 4.0, "charge": Rule(2)})
    again = pickle.loads(pickle.dumps(batches))
    assert again.batch([13]).structures.edges["charge"].cutoff == 16.0
