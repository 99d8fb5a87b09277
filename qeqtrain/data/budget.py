"""The budget of a batch, and who reads it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Batching:
    """How frames are put into batches.

    Attributes:
        structures, atoms, edges: budget of one batch; edges prevail over atoms, atoms over
            structures. Edges are directed, within the longest cutoff that is the same for all
            structures.
        workers: processes that read ahead; 0 reads in the training process.
        seed: of the order.
    """

    structures: int | None = 8
    atoms: int | None = None
    edges: int | None = None
    workers: int = 0
    seed: int = 0

    def mistakes(self) -> list[str]:
        """Say what makes no sense."""
        budgets = {n: getattr(self, n) for n in ("structures", "atoms", "edges")}
        problems = [
            f"data.batch_{name} is {value}; expected a positive number"
            for name, value in budgets.items()
            if value is not None and value <= 0
        ]
        if all(v is None for v in budgets.values()):
            problems.append(
                "set one of data.batch_structures, data.batch_atoms, data.batch_edges"
            )
        if not 0 <= self.seed < 2**32:
            problems.append(
                f"data.seed is {self.seed}; expected a number from 0 to {2**32 - 1}"
            )
        if self.workers < 0:
            problems.append(f"data.workers is {self.workers}; expected 0 or more")
        return problems

    @property
    def budget(self) -> tuple[str, int]:
        """Kind and size of the budget; edges prevail over atoms, atoms over structures."""
        for kind in ("edges", "atoms", "structures"):
            value: int | None = getattr(self, kind)
            if value is not None:
                return kind, value
        raise AssertionError  # refused before
