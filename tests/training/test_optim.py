"""Schedules, averages and optimisers."""

from __future__ import annotations

import math

import pytest
import torch

from qeqtrain.errors import UserMistake
from qeqtrain.training.optim import Optimization


def test_the_rate_rises_over_the_warm_up_and_falls_to_its_last_share() -> None:
    optim = Optimization(warmup=0.1, final_lr=0.01)
    assert optim.lr_factor(0.05) == pytest.approx(0.5)
    assert optim.lr_factor(0.1) == pytest.approx(1.0)
    assert optim.lr_factor(0.55) == pytest.approx(0.505)
    assert optim.lr_factor(1.0) == pytest.approx(0.01)


def test_the_first_step_is_not_wasted_on_a_rate_of_zero() -> None:
    assert Optimization(warmup=0.02).lr_factor(0.0) == pytest.approx(0.02)


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_schedules_never_rise_after_the_warm_up(schedule: str) -> None:
    optim = Optimization(schedule=schedule)
    factors = [optim.lr_factor(x / 100) for x in range(2, 101)]
    assert factors == sorted(factors, reverse=True)
    assert factors[0] == pytest.approx(1.0)


def test_the_optimiser_follows_the_share_of_the_run() -> None:
    optim = Optimization(lr=0.5, warmup=0.0)
    weight = torch.nn.Parameter(torch.ones(1))
    optimizer = optim.build_optimizer([weight])
    share = 0.0
    schedule = optim.build_schedule(optimizer, lambda: share, "score")["scheduler"]
    assert isinstance(optimizer, torch.optim.AdamW)
    share = 0.5
    optimizer.step()
    schedule.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.5 * optim.lr_factor(0.5))


def test_a_plateau_lowers_the_rate_when_the_score_stands_still() -> None:
    optim = Optimization(lr=1.0, schedule="plateau", patience=2, factor=0.1, final_lr=0.05)
    optimizer = optim.build_optimizer([torch.nn.Parameter(torch.ones(1))])
    schedule = optim.build_schedule(optimizer, lambda: 0.0, "score")
    assert schedule["monitor"] == "score"
    rates = []
    for score in (3.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0):
        schedule["scheduler"].step(score)
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([1.0] * 4 + [0.1] * 3 + [0.05])


def test_the_average_of_a_model_follows_the_recursion() -> None:
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(model.weight)
    averaged = Optimization(ema=0.9).build_average(model)
    assert averaged is not None
    expected = 0.0
    for n in range(20):
        with torch.no_grad():
            model.weight.add_(1.0)
        averaged.update_parameters(model)
        decay = min(0.9, (1 + n) / (10 + n))
        value = model.weight.item()
        expected = value if n == 0 else decay * expected + (1 - decay) * value
    assert averaged.module.weight.item() == pytest.approx(expected, rel=1e-6)
    assert not any(p.requires_grad for p in averaged.parameters())


def test_the_average_of_a_long_run_has_the_decay_that_was_asked_for() -> None:
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(model.weight)
    averaged = Optimization(ema=0.99).build_average(model)
    assert averaged is not None
    averaged.n_averaged.fill_(10_000)
    torch.nn.init.ones_(model.weight)
    averaged.update_parameters(model)
    assert averaged.module.weight.item() == pytest.approx(0.01)


def test_buffers_of_the_average_are_those_of_the_model() -> None:
    model = torch.nn.BatchNorm1d(2)
    averaged = Optimization().build_average(model)
    assert averaged is not None
    model.running_mean.fill_(3.0)
    averaged.update_parameters(model)
    assert averaged.module.running_mean.tolist() == [3.0, 3.0]


def test_no_average_is_kept_when_none_is_asked_for() -> None:
    assert Optimization(ema=None).build_average(torch.nn.Linear(1, 1)) is None


def test_other_optimisers_come_by_name() -> None:
    node = {"_target_": "torch.optim.SGD", "momentum": 0.5}
    built = Optimization(lr=0.1, optimizer=node).build_optimizer(
        [torch.nn.Parameter(torch.ones(1))]
    )
    assert isinstance(built, torch.optim.SGD)
    assert built.param_groups[0]["momentum"] == 0.5


def test_a_stranger_s_optimiser_does_not_run() -> None:
    optim = Optimization(optimizer={"_target_": "os.system", "command": "true"})
    with pytest.raises(UserMistake, match=r"os\.system"):
        optim.build_optimizer([torch.nn.Parameter(torch.ones(1))])


def test_an_argument_the_optimiser_does_not_take_is_a_mistake() -> None:
    optim = Optimization(optimizer={"_target_": "torch.optim.AdamW", "momentun": 0.9})
    with pytest.raises(UserMistake, match="momentun"):
        optim.build_optimizer([torch.nn.Parameter(torch.ones(1))])


def test_values_out_of_range_are_mistakes_that_come_together() -> None:
    with pytest.raises(UserMistake) as caught:
        Optimization(lr=0.0, warmup=2.0, ema=1.0, schedule="cosin", gradient_clip=-math.inf)
    assert len(caught.value.problems) == 5
    assert "did you mean 'cosine'?" in str(caught.value)


# Weights that stay as they are


def net() -> torch.nn.Module:
    return torch.nn.ModuleDict(
        {"backbone": torch.nn.Linear(2, 2), "coupling": torch.nn.Linear(2, 1)}
    )


@pytest.mark.parametrize(
    ("options", "moving"),
    [
        ({}, ["backbone.bias", "backbone.weight", "coupling.bias", "coupling.weight"]),
        ({"train": ["coupling.*"]}, ["coupling.bias", "coupling.weight"]),
        ({"freeze": ["*.bias"]}, ["backbone.weight", "coupling.weight"]),
        ({"train": ["coupling.*"], "freeze": ["*.bias"]}, ["coupling.weight"]),
    ],
)
def test_patterns_say_which_weights_move(options, moving) -> None:
    model = net()
    Optimization(**options).freeze_weights(model)
    assert sorted(n for n, p in model.named_parameters() if p.requires_grad) == moving


def test_a_pattern_without_a_weight_is_answered_with_the_nearest() -> None:
    with pytest.raises(UserMistake) as met:
        Optimization(train=["couplin.weight", "xyz"]).freeze_weights(net())
    told = str(met.value)
    assert "optim.train: no weight is named 'couplin.weight'; did you mean" in told
    assert "no weight is named 'xyz'; the model has backbone, coupling" in told
    with pytest.raises(UserMistake, match="leave no weight to train"):
        Optimization(train=["backbone.*"], freeze=["back*"]).freeze_weights(net())
