from __future__ import annotations

from dataclasses import replace

import pytest

from qeqtrain.sweeps.definition import Definition
from qeqtrain.sweeps.hyperband import Hyperband
from qeqtrain.sweeps.parameters import read_parameters
from qeqtrain.sweeps.search import Past, grid_size, propose


def definition(method: str, cap: int | None = None, **nodes) -> Definition:
    problems: list[str] = []
    parameters = tuple(read_parameters(nodes, problems))
    assert not problems
    return Definition("s", "qet", (), method, "val/score", False, parameters, run_cap=cap)


def trials(sweep: Definition, count: int, value=lambda parameters: 1.0) -> list[Past]:
    past: list[Past] = []
    while len(past) < count and (found := propose(sweep, past)) is not None:
        past.append(Past(found.parameters, found.place, value(found.parameters)))
    return past


def test_a_grid_has_every_combination_once() -> None:
    sweep = definition("grid", a={"values": [1, 2]}, b={"values": ["x", "y", "z"]})
    found = [tuple(t.parameters.values()) for t in trials(sweep, 99)]
    assert found == [(a, b) for a in (1, 2) for b in "xyz"]
    assert grid_size(sweep) == 6
    assert len(trials(replace(sweep, run_cap=4), 99)) == 4


def test_a_random_search_repeats_nothing_and_ends_when_it_has_had_everything() -> None:
    sweep = definition("random", 50, a={"values": [1, 2]}, b={"min": 1, "max": 3})
    found = [tuple(t.parameters.values()) for t in trials(sweep, 99)]
    assert len(found) == len(set(found)) == 6


def test_a_proposal_follows_from_the_trials_alone() -> None:
    sweep = definition("random", 9, a={"min": 0.0, "max": 1.0})
    past = trials(sweep, 9)
    assert propose(sweep, past[:4]) == propose(sweep, past[:4])
    assert propose(sweep, past[:4]).parameters == past[4].parameters  # type: ignore[union-attr]


def bowl(parameters: dict) -> float:
    wrong = {"good": 0.0, "bad": 1.0, "worse": 2.0}[parameters["kind"]]
    return (parameters["x"] - 0.7) ** 2 + wrong


def test_a_bayesian_search_comes_closer_than_a_random_one() -> None:
    pytest.importorskip("optuna", reason="the extra `sweep` is not installed")
    nodes = {
        "x": {"min": -10.0, "max": 10.0},
        "kind": {"values": ["worse", "bad", "good"]},
        "n": {"min": 1, "max": 64},
    }
    best = {
        method: min(t.value for t in trials(definition(method, 16, **nodes), 16, bowl))
        for method in ("random", "bayes")
    }
    assert best["bayes"] < 0.3 * best["random"]


def test_a_bayesian_search_goes_on_with_trials_that_run_or_were_lost() -> None:
    pytest.importorskip("optuna", reason="the extra `sweep` is not installed")
    sweep = definition("bayes", 40, x={"min": 0.0, "max": 1.0}, a={"values": [1, "b", None]})
    past = trials(sweep, 12, lambda p: p["x"])
    running = Past(past[-1].parameters, past[-1].place)
    lost = Past(past[0].parameters, past[0].place, None, lost=True)
    found = propose(sweep, [lost, *past[1:-1], running])
    assert found is not None
    assert found.parameters not in [dict(t.parameters) for t in past]


CURVES = [[5.0, 4.0, 3.0], [5.0, 3.0, 2.0], [5.0, 2.0, 1.0]]


def test_the_best_third_goes_on_from_a_rung() -> None:
    rule = Hyperband((3,), 3.0)
    ended = [
        rule.ends(mine, [c for c in CURVES if c is not mine], maximize=False) for mine in CURVES
    ]
    assert ended == [True, True, False]
    upward = [[-value for value in curve] for curve in CURVES]
    assert ended == [
        rule.ends(mine, [c for c in upward if c is not mine], maximize=True) for mine in upward
    ]


def test_nothing_is_ended_between_rungs_or_before_enough_trials_have_come() -> None:
    rule = Hyperband((3, 9), 3.0)
    assert not rule.ends([9.0, 9.0], CURVES, maximize=False)
    assert not rule.ends([9.0, 9.0, 9.0], CURVES[:1], maximize=False)
    assert rule.ends([9.0, 9.0, 9.0, 9.0], CURVES[:2], maximize=False)


def test_a_trial_without_numbers_is_ended_first() -> None:
    nothing = [float("nan")] * 3
    assert Hyperband((3,), 3.0).ends(nothing, CURVES, maximize=False)
