"""A training step costs no more than it did: counts, and time relative to a fixed work."""

from __future__ import annotations

import pytest
import torch

from tests.performance import baseline
from tests.performance.baseline import MARGIN, NETWORKS, growths, known, measure


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_step_does_no_more_work_than_before(name: str) -> None:
    assert not growths(name, measure(name, timed=False))


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_a_step_takes_no_more_time_than_before(name: str) -> None:
    said = growths(name, measure(name))
    if any("time" in text for text in said):  # a busy machine is given a second chance
        said = growths(name, measure(name))
    assert not said


@pytest.mark.parametrize("what", MARGIN)
def test_what_grew_is_named(what: str) -> None:
    before = known()["qet"]
    (text,) = growths("qet", {**before, what: 1.01 * MARGIN[what] * before[what]})
    assert f"{what} of a training step grew" in text
    assert "python -m tests.performance.baseline" in text
    assert not growths("qet", before)


def test_time_counts_in_units_of_the_fixed_work() -> None:
    once = baseline.reference()

    def twice() -> None:
        once()
        once()

    assert 1.4 < baseline.relative_time(twice, repeats=5) < 2.8
