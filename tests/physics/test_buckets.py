"""Buckets of structures of similar size."""

from __future__ import annotations

import torch

from qeqtrain.physics.buckets import LARGEST, buckets_by_size

CPU = torch.device("cpu")


def shapes(counts: list[int], kinds: list[int] | None = None) -> list[tuple[int, int]]:
    return [b.shape for _, b in buckets_by_size(counts, kinds or [0] * len(counts), CPU)]


def test_small_structures_are_padded_and_large_ones_are_not() -> None:
    assert shapes([3, 24, 300, 301, 100, 110]) == [(2, 24), (2, 110), (1, 300), (1, 301)]


def test_kinds_are_kept_apart() -> None:
    assert shapes([5, 6, 5], [0, 3, 3]) == [(1, 5), (2, 6)]


def test_the_matrices_of_a_bucket_stay_small() -> None:
    assert all(b * n * n <= LARGEST for b, n in shapes([800] * 10))


def test_structures_without_atoms_are_in_no_bucket() -> None:
    assert shapes([0, 0]) == []


def test_values_come_back_where_they_were() -> None:
    counts = [3, 1, 4]
    values = torch.arange(8.0, dtype=torch.float64)
    out = torch.zeros_like(values)
    for _, bucket in buckets_by_size(counts, [0, 1, 0], CPU):
        block = bucket.gather(values)
        assert block[bucket.mask == 0].abs().sum() == 0
        out = bucket.scatter(block + 1.0, out)
    torch.testing.assert_close(out, values + 1.0)
