"""Which structures make which batch: a plan of global batches, the same on every rank.

A plan follows from (sizes, budget, ranks, seed, epoch) alone, so that any rank, and any later
run, works it out for itself. The number of batches is the same in every epoch, which Lightning
assumes. Batches are filled largest structures first, each into the emptiest batch: with sizes
rounded to coarse classes and shuffled within, this is a random plan whose batches differ little
in cost; with equal sizes it is a plain shuffle.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from qeqtrain.data.draws import Draws

_CLASS = np.log(1.25)  # sizes within 25 % of each other are shuffled together
_SLACK = 0.97  # how full batches are meant to be where sizes differ


def _fill(costs: np.ndarray, order: np.ndarray, batches: int) -> tuple[list[list[int]], float]:
    """Put each item, in order, into the batch with the smallest cost so far."""
    if batches == 0:
        return [], 0.0
    filled: list[list[int]] = [[] for _ in range(batches)]
    heap = [(0.0, b) for b in range(batches)]
    for i in order.tolist():
        load, b = heap[0]
        filled[b].append(i)
        heapq.heapreplace(heap, (load + float(costs[i]), b))
    return filled, max(load for load, _ in heap)


@dataclass(frozen=True)
class BatchPlan:
    """Batches of every epoch.

    Attributes:
        costs: of each structure (1, its atoms, or its edges), shape ``(n,)``.
        budget: cost that one batch of one rank may have; a structure beyond it is alone.
        seed: of the shuffle.
        ranks: a global batch holds ``ranks`` times the budget.
        shuffle: without it, structures come in order, whatever the epoch.
        weights: of each structure in the division of a batch over ranks; ``None``: its cost.
        draws: which structures a shuffled epoch has, some perhaps several times; ``None``: each
            once.
    """

    costs: np.ndarray
    budget: float
    seed: int = 0
    ranks: int = 1
    shuffle: bool = True
    weights: np.ndarray | None = field(default=None, repr=False)
    draws: Draws | None = field(default=None, repr=False)

    def _divided(self, drawn: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Structures that share batches, and those that are alone in theirs."""
        alone = self.costs[drawn] > self.budget * self.ranks
        return drawn[~alone], drawn[alone]

    @cached_property
    def _costliest(self) -> tuple[np.ndarray, np.ndarray]:
        """What :meth:`_divided` makes of an epoch that costs as much as any."""
        every = np.arange(len(self.costs))
        return self._divided(every if self.draws is None else self.draws.costliest(self.costs))

    @cached_property
    def _batches(self) -> int:
        """Smallest number of batches that keeps to the budget, whatever the epoch."""
        shared, budget = self._costliest[0], self.budget * self.ranks
        if not len(shared):
            return 0
        costs = self.costs[shared]
        equal = bool(costs.min() == costs.max())
        if equal:
            return int(-(-len(shared) // max(int(budget // costs[0]), 1)))
        batches = max(int(np.ceil(costs.sum() / (budget * _SLACK))), 1)
        falling = shared[np.argsort(-costs, kind="stable")]
        while _fill(self.costs, falling, batches)[1] > budget:
            batches += max(batches // 100, 1)
        return batches

    def __len__(self) -> int:
        """Count the global batches of an epoch."""
        if not self.shuffle:
            return len(self._ordered)
        return self._batches + len(self._costliest[1])

    @cached_property
    def _ordered(self) -> list[np.ndarray]:
        """Batches of the unshuffled plan: structures in order, a new batch when one is full."""
        batches: list[list[int]] = []
        load = np.inf
        for i, cost in enumerate(self.costs.tolist()):
            if load + cost > self.budget * self.ranks or not batches:
                batches.append([])
                load = 0.0
            batches[-1].append(i)
            load += cost
        return [np.array(b, dtype=np.int64) for b in batches]

    def epoch(self, epoch: int) -> list[np.ndarray]:
        """Global batches of one epoch, as indices of structures."""
        if not self.shuffle:
            return self._ordered
        random = np.random.default_rng([self.seed, epoch, 0x51E9])
        shared, alone = self._costliest
        if self.draws is not None:
            shared, alone = self._divided(self.draws.epoch(epoch))
        batches = len(self) - len(alone)
        shuffled = random.permutation(shared)
        costs = self.costs[shuffled]
        classes = np.floor(np.log(np.maximum(costs, 1.0)) / _CLASS)
        order = shuffled[np.argsort(-classes, kind="stable")]
        filled, fullest = _fill(self.costs, order, batches)
        if fullest > self.budget * self.ranks:
            order = shuffled[np.argsort(-costs, kind="stable")]
            filled, _ = _fill(self.costs, order, batches)
        made = [np.array(b, dtype=np.int64) for b in filled]
        made += [np.array([i]) for i in alone]
        return [made[i] for i in random.permutation(len(made))]

    def share(self, batch: np.ndarray, rank: int) -> np.ndarray:
        """Indices of a global batch that one rank works on; may be empty."""
        if self.ranks == 1:
            return batch
        costs = self.costs if self.weights is None else self.weights
        order = batch[np.argsort(-costs[batch], kind="stable")]
        shares, _ = _fill(costs, order, self.ranks)
        return np.sort(np.array(shares[rank], dtype=np.int64))
