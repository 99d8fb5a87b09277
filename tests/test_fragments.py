"""Fragments as they are stated, and mistakes in stating them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from qeqtrain.errors import UserMistake
from qeqtrain.fragments import read_fragments, total_of_fragments

NAN = float("nan")


def read(column: Any, charges: Any = None, potentials: Any = None) -> dict[str, Any]:
    arrays = {} if column is None else {"fragment": column}
    info = {"fragment_charges": charges, "fragment_potentials": potentials}
    return read_fragments(arrays, info, 4)


def test_fragments_are_numbered_from_zero_in_their_own_order() -> None:
    found = read([7, 3, 3, 7], [1.0, -1.0])
    np.testing.assert_array_equal(found["fragments"], [1, 0, 0, 1])
    np.testing.assert_array_equal(found["fragment_charges"], [1.0, -1.0])
    assert found["fragment_potentials"] is None


def test_a_fragment_is_held_where_it_has_a_potential() -> None:
    found = read([0, 0, 1, 1], [NAN, 1.0], [0.5, NAN])
    np.testing.assert_array_equal(found["fragment_charges"], [NAN, 1.0])
    np.testing.assert_array_equal(found["fragment_potentials"], [0.5, NAN])


def test_potentials_alone_hold_every_fragment() -> None:
    found = read([0, 0, 1, 1], None, [0.5, -0.5])
    assert np.isnan(found["fragment_charges"]).all()


def test_one_fragment_may_be_stated_as_one_number() -> None:
    np.testing.assert_array_equal(read([0, 0, 0, 0], 1)["fragment_charges"], [1.0])


def test_without_any_key_there_is_nothing() -> None:
    assert read(None) == {}


def test_the_label_fragment_charge_constrains_nothing() -> None:
    assert read_fragments({}, {"fragment_charge": 0.987}, 4) == {}


@pytest.mark.parametrize(
    ("column", "charges", "potentials", "message"),
    [
        (None, [1.0], None, "fragment_charges without fragments; add a column 'fragment'"),
        ([0, 0, 1, 1], None, None, "2 fragments without charges; state fragment_charges"),
        ([0, 0, 1, 1], [1.0], None, "1 value; expected one for each of the 2 fragments"),
        ([0, 0, 1, 1], [1.0, NAN], None, "fragment 1 has neither of a charge"),
        ([0, 0, 1, 1], [1.0, 0.0], [NAN, 0.5], "fragment 1 has both of a charge"),
        ([0, 0, 1], [1.0, 0.0], None, "whole number for each of the 4 atoms"),
        ([0, 0, 1, 1.5], [1.0, 0.0], None, "whole number for each of the 4 atoms"),
        ([0, 0, 1, 1], ["a", "b"], None, "expected numbers"),
        ([0, 0, 1, 1], [np.inf, 0.0], None, "expected finite numbers, or NaN"),
    ],
)
def test_mistakes_say_what_was_met_and_what_is_expected(
    column: Any, charges: Any, potentials: Any, message: str
) -> None:
    with pytest.raises(UserMistake, match=message):
        read(column, charges, potentials)


def test_charges_of_fragments_make_the_total_charge_or_agree_with_it() -> None:
    fields = read([0, 0, 1, 1], [2.0, -1.0])
    assert total_of_fragments(fields, None) == 1.0
    assert total_of_fragments(fields, 1.0) == 1.0
    with pytest.raises(UserMistake, match=r"add up to \+1 e, and the total charge is \+0 e"):
        total_of_fragments(fields, 0.0)


def test_a_held_fragment_leaves_the_total_charge_alone() -> None:
    fields = read([0, 0, 1, 1], [NAN, 1.0], [0.5, NAN])
    assert total_of_fragments(fields, None) is None
    assert total_of_fragments(fields, 0.0) == 0.0
