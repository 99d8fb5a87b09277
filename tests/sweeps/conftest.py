"""Data that trials can read."""

from __future__ import annotations

from tests.recipes.conftest import water

__all__ = ["water"]
