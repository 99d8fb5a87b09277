"""Which frames an epoch has, where data sets have weights.

A set of weight w counts w times in every epoch: of weight 1 each frame once, of weight 3 three
times, of weight 0.25 a quarter of the frames, another quarter in the next epoch. What is not
whole is dealt from one shuffled round of the set, epoch after epoch from where the last one
stopped, so that after any number of epochs no frame was drawn twice more than another. The
count of an epoch never changes; everything follows from (sets, weights, seed, epoch) alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np


@dataclass(frozen=True)
class Draws:
    """Frames of every epoch.

    Attributes:
        owner: data set of every frame, shape ``(n,)``.
        weights: how often each set counts in an epoch, above 0.
        seed: of the rounds.
    """

    owner: np.ndarray
    weights: Sequence[float]
    seed: int = 0

    @cached_property
    def _frames(self) -> list[np.ndarray]:
        """Frames of every set."""
        return [np.flatnonzero(self.owner == k) for k in range(len(self.weights))]

    @cached_property
    def _rounds(self) -> list[np.ndarray]:
        """Frames of every set in the order in which they are dealt."""
        return [
            np.random.default_rng([self.seed, k, 0xD2A3]).permutation(frames)
            for k, frames in enumerate(self._frames)
        ]

    def _parts(self, k: int) -> tuple[int, int]:
        """How often all frames of a set come, and how many come once more."""
        whole = int(self.weights[k])
        count = len(self._frames[k])
        more = round((self.weights[k] - whole) * count)
        if whole == 0 and more == 0 and count:
            more = 1  # a set that is mixed in is not left out
        return whole, more

    def counts(self) -> list[int]:
        """Frames of every set in each epoch."""
        parts = (self._parts(k) for k in range(len(self.weights)))
        return [
            whole * len(frames) + more
            for (whole, more), frames in zip(parts, self._frames, strict=True)
        ]

    def epoch(self, epoch: int) -> np.ndarray:
        """Indices of the frames of one epoch, sorted; repeated ones stand side by side."""
        drawn = []
        for k, dealt in enumerate(self._rounds):
            whole, more = self._parts(k)
            drawn += [dealt] * whole
            if more:
                drawn.append(dealt[(epoch * more + np.arange(more)) % len(dealt)])
        return np.sort(np.concatenate(drawn)) if drawn else np.zeros(0, dtype=np.int64)

    def costliest(self, costs: np.ndarray) -> np.ndarray:
        """Indices of an epoch that costs at least as much as any other, frame by frame.

        Args:
            costs: of every frame, shape ``(n,)``.
        """
        drawn = []
        for k, frames in enumerate(self._frames):
            whole, more = self._parts(k)
            falling = frames[np.argsort(-costs[frames], kind="stable")]
            drawn += [frames] * whole + [falling[:more]]
        return np.sort(np.concatenate(drawn)) if drawn else np.zeros(0, dtype=np.int64)
