from __future__ import annotations

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from qeqtrain.errors import UserMistake
from qeqtrain.recipe.multirun import several_values
from qeqtrain.sweeps.words import from_agent, word

VALUES = [
    *(None, True, False, 3, -1.5, 1e-05, "tensornet", "data/a b.h5", "null", "it's", ""),
    *([1, 2], ["a", "b c"], {"val": 3}, {"_target_": "torch.optim.SGD", "nesterov": True}),
    *("00:01:00", "a,b", "x=[", "ü"),
]


def parsed(text: str):
    (override,) = OverridesParser.create().parse_overrides([text])
    value = override.value()
    return getattr(value, "text", value)


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_a_value_survives_the_command_line(value) -> None:
    def plain(node):
        if isinstance(node, list):
            return [plain(item) for item in node]
        if isinstance(node, dict):
            return {key: plain(item) for key, item in node.items()}
        return getattr(node, "text", node)

    assert plain(parsed(word("key", value))) == value


@pytest.mark.parametrize("value", [None, [1, None], {"lr": 1e-05, "ema": None}], ids=repr)
def test_what_an_agent_writes_is_understood(value) -> None:
    (text,) = from_agent([f"optim={value}"])
    assert parsed(text) == value


def test_an_agent_s_plain_words_stay_as_they_are() -> None:
    plain = [
        "charge=diagonal",
        "optim.lr=1e-05",
        "backbone.parity=True",
        "x=[a",
        "data.train={a",
    ]
    assert from_agent(plain) == plain


def test_several_values_of_a_key_are_told_from_one() -> None:
    single, several = several_values(
        [
            "seed=0,1,2",
            "charge=local,none",
            "optim.lr=range(1,4)",
            "data.split={val: 3}",
            "a=[1,2]",
        ]
    )
    assert single == ["data.split={val: 3}", "a=[1,2]"]
    assert several["seed"] == [0, 1, 2]
    assert several["charge"] == ["local", "none"]
    assert list(several["optim.lr"]) == [1, 2, 3]


@pytest.mark.parametrize("text", ["seed=interval(0,1)", "data.train=glob(*)"])
def test_values_without_a_list_are_refused(text: str) -> None:
    with pytest.raises(UserMistake, match="expected a list of values"):
        several_values([text])
