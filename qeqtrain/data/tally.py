"""What each frame adds to the statistics of a set, kept beside it in a store.

The statistics of training belong to the training split, which is not known when a store is
written; reading all forces of a hundred million atoms again for every split would be the
price of not knowing. So a store keeps, for each frame, the few numbers of its share: which
elements, how many atoms of each, the sum of their squared forces, the range and the sum of
the charges. Any split is then summed up without touching an atom. A file that is no store gives
the same numbers, worked out from its columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

PREFIX = "tally/"
BY_ELEMENT = ("element", "atoms", "force_squares")
BY_FRAME = ("kinds", "force_largest", "charge_low", "charge_high", "charge_sum")
_ATOMS = 2**20  # looked at together where a tally is worked out anew


def tally_of(columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Work out the shares of some frames.

    Args:
        columns: ``sizes``, ``numbers`` and, where there are any, ``labels/forces`` and
            ``labels/charges`` (zero where absent).

    Returns:
        Under ``tally/``: for every frame ``kinds`` (elements in it), ``force_largest`` (eV/A),
        ``charge_low``, ``charge_high``, ``charge_sum`` (e); for every element of every frame,
        one frame after the other, ``element``, ``atoms`` and ``force_squares`` ((eV/A)^2).
    """
    sizes = np.asarray(columns["sizes"], dtype=np.int64)
    numbers = np.asarray(columns["numbers"])
    n = len(sizes)
    first = np.concatenate([[0], np.cumsum(sizes)[:-1]]) if n else np.zeros(0, dtype=np.int64)
    owner = np.repeat(np.arange(n), sizes)
    keys, kind = np.unique(owner * 256 + numbers, return_inverse=True)
    rows = len(keys)
    squares, largest = np.zeros(rows), np.zeros(n)
    if "labels/forces" in columns:
        size = np.einsum("na,na->n", columns["labels/forces"], columns["labels/forces"])
        squares = np.bincount(kind, weights=size, minlength=rows)
        largest = np.sqrt(np.maximum.reduceat(size, first)) if n else largest
    low, high, total = np.zeros(n), np.zeros(n), np.zeros(n)
    if "labels/charges" in columns and n:
        charges = columns["labels/charges"]
        low, high = np.minimum.reduceat(charges, first), np.maximum.reduceat(charges, first)
        total = np.add.reduceat(charges, first)
    found = {
        "kinds": np.bincount(keys // 256, minlength=n).astype(np.uint8),
        "element": (keys % 256).astype(np.uint8),
        "atoms": np.bincount(kind, minlength=rows).astype(np.int32),
        "force_squares": squares,
        "force_largest": largest,
        "charge_low": low,
        "charge_high": high,
        "charge_sum": total,
    }
    return {PREFIX + name: values for name, values in found.items()}


def tally_by_blocks(
    columns: Mapping[str, np.ndarray], sizes: np.ndarray
) -> dict[str, np.ndarray]:
    """Work out the shares of all frames, some at a time; every share is as in one go."""
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    read = [n for n in ("numbers", "labels/forces", "labels/charges") if n in columns]
    parts = []
    for start, stop in blocks_of(sizes):
        rows = slice(int(offsets[start]), int(offsets[stop]))
        block = {name: columns[name][rows] for name in read}
        parts.append(tally_of({"sizes": sizes[start:stop], **block}))
    if not parts:
        return tally_of({"sizes": sizes, "numbers": np.zeros(0, dtype=np.uint8)})
    return {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}


def blocks_of(sizes: np.ndarray, most: int = _ATOMS) -> Iterator[tuple[int, int]]:
    """Divide frames into runs of about ``most`` rows: first frame, and one past the last."""
    ends = np.cumsum(sizes)
    start, done = 0, 0
    while start < len(sizes):
        stop = max(int(np.searchsorted(ends, done + most, side="right")), start + 1)
        yield start, stop
        start, done = stop, int(ends[stop - 1])
