"""Fixtures of the tests of models."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from qeqtrain.models import threads


@pytest.fixture
def two_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Two threads, and no batch too small for them."""
    before = torch.get_num_threads()
    monkeypatch.setattr(threads, "LEAST", 1)
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)
