from __future__ import annotations

import math

import pytest

from qeqtrain.sweeps.parameters import DISTRIBUTIONS, Parameter, read_parameters


def read(**node) -> Parameter:
    problems: list[str] = []
    (parameter,) = read_parameters({"x": node}, problems)
    assert not problems
    return parameter


def mistake(**node) -> str:
    problems: list[str] = []
    assert not list(read_parameters({"x": node}, problems))
    (problem,) = problems
    return problem


E = math.e
MEDIANS = {
    "uniform": ({"min": -1, "max": 3}, 1.0),
    "log_uniform": ({"min": -2, "max": 0}, 1 / E),
    "log_uniform_values": ({"min": 1.0e-4, "max": 1.0e-2}, 1e-3),
    "inv_log_uniform": ({"min": 0, "max": 2}, 1 / E),
    "inv_log_uniform_values": ({"min": 0.01, "max": 1}, 0.1),
    "normal": ({"mu": 5.0, "sigma": 2.0}, 5.0),
    "log_normal": ({"mu": 1.0}, E),
    "beta": ({"a": 2, "b": 2}, 0.5),
    "int_uniform": ({"min": 1, "max": 3}, 2),
    "q_uniform": ({"min": 0, "max": 1, "q": 0.1}, 0.5),
    "q_log_uniform": ({"min": 0, "max": 2 * math.log(7)}, 7),
    "q_log_uniform_values": ({"min": 1, "max": 49}, 7),
    "q_normal": ({"mu": 5.2, "q": 2}, 6),
    "q_log_normal": ({"mu": 1.0, "q": 0.5}, 2.5),
    "q_beta": ({"a": 2, "b": 2, "q": 0.25}, 0.5),
    "constant": ({"value": "a"}, "a"),
    "categorical": ({"values": ["a", "b", "c"]}, "b"),
    "categorical_w_probabilities": ({"values": ["a", "b"], "probabilities": [0.4, 0.6]}, "b"),
}


def test_every_distribution_of_the_format_is_known() -> None:
    assert set(MEDIANS) == set(DISTRIBUTIONS)


@pytest.mark.parametrize("kind", MEDIANS)
def test_half_of_the_values_lie_on_either_side_of_the_median(kind: str) -> None:
    arguments, median = MEDIANS[kind]
    found = read(distribution=kind, **arguments).quantile(0.5)
    assert found == pytest.approx(median) if isinstance(median, float) else found == median
    assert type(found) is type(median)


@pytest.mark.parametrize("kind", ["normal", "log_normal", "beta", "uniform"])
def test_a_distribution_has_values_at_both_ends(kind: str) -> None:
    parameter = read(distribution=kind, **MEDIANS[kind][0])
    assert math.isfinite(parameter.quantile(0.0))
    assert parameter.quantile(0.0) < parameter.quantile(1.0)


def test_values_come_as_often_as_their_probabilities_say() -> None:
    parameter = read(values=["a", "b", "c"], probabilities=[0.2, 0.5, 0.3])
    drawn = [parameter.quantile((k + 0.5) / 1000) for k in range(1000)]
    assert [drawn.count(v) for v in "abc"] == [200, 500, 300]


def test_whole_limits_mean_whole_numbers_as_on_the_server() -> None:
    assert read(min=1, max=4).values == (1, 2, 3, 4)
    assert read(min=1.0, max=4).values is None


def test_nested_parameters_get_dotted_names() -> None:
    node = {"optim": {"parameters": {"lr": {"value": 1}, "ema": {"values": [0.9, 0.99]}}}}
    problems: list[str] = []
    assert [p.name for p in read_parameters(node, problems)] == ["optim.lr", "optim.ema"]
    assert not problems


MISTAKES = [
    ({"vales": [1]}, "did you mean 'values'?"),
    ({"distribution": "log_uniform_value", "min": 1, "max": 2}, "'log_uniform_values'?"),
    ({"distribution": "uniform", "min": 1}, "uniform needs 'max'"),
    ({"distribution": "normal", "sigm": 1}, "did you mean 'sigma'?"),
    ({"distribution": "normal", "sigma": 0}, "met 0, expected more than 0"),
    ({"distribution": "uniform", "min": "1e-4", "max": 1}, "YAML wants a point in it"),
    ({"distribution": "uniform", "min": 2, "max": 1}, "min 2 is not below max 1"),
    ({"distribution": "log_uniform_values", "min": 0, "max": 1}, "more than 0"),
    ({"distribution": "log_uniform", "min": 0, "max": 1000}, "log_uniform_values takes"),
    ({"distribution": "int_uniform", "min": 0.5, "max": 2}, "is not whole"),
    ({"distribution": "q_uniform", "min": 0, "max": 2, "q": -1}, "met -1"),
    ({"values": []}, "expected a list of values"),
    ({"values": [1, 2], "probabilities": [0.5, 0.4]}, "with the sum 1"),
    ({"values": [1, 2], "probabilities": [1.0]}, "one for each value"),
    ({}, "met nothing"),
]


@pytest.mark.parametrize(("node", "said"), MISTAKES)
def test_a_mistake_in_a_parameter_is_named(node: dict, said: str) -> None:
    problem = mistake(**node)
    assert problem.startswith("parameters.x")
    assert said in problem
