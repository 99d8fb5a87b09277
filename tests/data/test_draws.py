"""Every frame as often as the weight of its set says, epoch after epoch."""

from __future__ import annotations

import numpy as np
import pytest

from qeqtrain.data.draws import Draws
from qeqtrain.data.plan import BatchPlan

OWNER = np.repeat([0, 1, 2], [8, 6, 10])


def counted(draws: Draws, epochs: range) -> np.ndarray:
    """How often each frame came in some epochs."""
    drawn = np.concatenate([draws.epoch(e) for e in epochs])
    return np.bincount(drawn, minlength=len(draws.owner))


def test_whole_weights_repeat_every_frame_in_each_epoch() -> None:
    draws = Draws(OWNER, [1.0, 3.0, 2.0])
    for epoch in range(3):
        found = counted(draws, range(epoch, epoch + 1))
        assert found.tolist() == [1] * 8 + [3] * 6 + [2] * 10


def test_a_quarter_of_a_set_comes_in_each_epoch_and_all_of_it_in_four() -> None:
    draws = Draws(OWNER, [0.25, 1.0, 1.0])
    for epoch in range(8):
        assert (draws.epoch(epoch) < 8).sum() == 2
    assert counted(draws, range(4))[:8].tolist() == [1] * 8
    assert counted(draws, range(4, 8))[:8].tolist() == [1] * 8


@pytest.mark.parametrize("weight", [0.07, 0.3, 0.5, 1.4, 2.9])
def test_no_frame_is_drawn_twice_more_than_another(weight: float) -> None:
    draws = Draws(OWNER, [weight, 1.0, 1.0], seed=3)
    for epochs in range(1, 12):
        found = counted(draws, range(epochs))[:8]
        assert found.max() - found.min() <= 1
        assert found.sum() == epochs * draws.counts()[0]


def test_the_count_of_an_epoch_is_that_of_the_weights_and_never_changes() -> None:
    draws = Draws(OWNER, [0.5, 1.5, 0.01])
    assert draws.counts() == [4, 9, 1]  # a set that is mixed in is not left out
    assert {len(draws.epoch(e)) for e in range(20)} == {14}


def test_draws_follow_from_seed_and_epoch_alone() -> None:
    draws = Draws(OWNER, [0.5, 1.0, 0.3], seed=1)
    again = Draws(OWNER, [0.5, 1.0, 0.3], seed=1)
    other = Draws(OWNER, [0.5, 1.0, 0.3], seed=2)
    epochs = [draws.epoch(e) for e in (7, 0, 3)]
    same = zip(epochs, [again.epoch(e) for e in (7, 0, 3)], strict=True)
    assert all(np.array_equal(a, b) for a, b in same)
    assert not all(
        np.array_equal(a, b) for a, b in zip(epochs, map(other.epoch, (7, 0, 3)), strict=True)
    )


def test_the_costliest_epoch_is_never_exceeded() -> None:
    costs = np.random.default_rng(0).uniform(1.0, 9.0, len(OWNER))
    draws = Draws(OWNER, [0.3, 1.5, 0.7])
    bound = np.sort(costs[draws.costliest(costs)])
    for epoch in range(30):
        assert (np.sort(costs[draws.epoch(epoch)]) <= bound).all()


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_plan_with_draws_has_as_many_batches_in_every_epoch_and_keeps_its_budget(
    ranks: int,
) -> None:
    random = np.random.default_rng(1)
    owner = np.repeat([0, 1], [120, 90])
    costs = random.integers(2, 30, len(owner)).astype(float)
    costs[[3, 130]] = 170.0  # alone, whenever they are drawn
    draws = Draws(owner, [0.35, 1.6], seed=2)
    plan = BatchPlan(costs, 80.0, 2, ranks, True, None, draws)
    for epoch in range(25):
        batches = plan.epoch(epoch)
        assert len(batches) == len(plan)
        drawn = np.sort(np.concatenate(batches))
        assert np.array_equal(drawn, draws.epoch(epoch))
        assert all(costs[b].sum() <= 80.0 * ranks for b in batches if len(b) > 1)
        shares = [np.concatenate([plan.share(b, r) for b in batches]) for r in range(ranks)]
        assert np.array_equal(np.sort(np.concatenate(shares)), drawn)


def test_one_set_of_weight_one_makes_the_plan_of_a_single_set() -> None:
    costs = np.random.default_rng(0).integers(2, 30, 50).astype(float)
    plain = BatchPlan(costs, 80.0, 5, 2)
    drawn = BatchPlan(costs, 80.0, 5, 2, draws=Draws(np.zeros(50, dtype=int), [1.0], 5))
    for epoch in range(3):
        pairs = zip(plain.epoch(epoch), drawn.epoch(epoch), strict=True)
        assert all(np.array_equal(a, b) for a, b in pairs)
