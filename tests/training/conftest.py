"""Small data with labels from a formula, and small potentials, for tests of training."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from qeqtrain.neighbors import Reach, with_pairs
from qeqtrain.structures import Structure, Structures, collate
from qeqtrain.training.loss import Loss
from qeqtrain.training.optim import Optimization
from qeqtrain.training.run import fit
from qeqtrain.training.trainer import TrainerSettings

SPEC: dict[str, Any] = {
    "backbone": {
        "_target_": "qeqtrain.nn.tensornet.TensorNet",
        "cutoff": 4.0,
        "channels": 8,
        "layers": 1,
        "radial_functions": 5,
    },
    "charge": {"_target_": "qeqtrain.nn.charges.DiagonalCharges", "cutoff": 4.0},
    "coupling": {"_target_": "qeqtrain.nn.couplings.FeatureCoupling"},
    "dtype": "float32",
}


@dataclass
class ToyBatch:
    """What a training batch looks like to the loop."""

    structures: Structures
    labels: dict[str, torch.Tensor]
    present: dict[str, torch.Tensor]
    ids: tuple[str, ...]


def morse_frame(
    rng: np.random.Generator, n: int = 5
) -> tuple[Structure, dict[str, np.ndarray]]:
    """A cluster of Na and Cl with Morse energies, exact forces and charges by element."""
    corners = np.stack(np.unravel_index(np.arange(8), (2, 2, 2)), axis=1)
    positions = 2.6 * corners[:n] + rng.normal(size=(n, 3)) * 0.2
    numbers = np.where(np.arange(n) % 2, 17, 11)
    r = positions[:, None] - positions[None]
    d = np.linalg.norm(r, axis=-1) + 1e3 * np.eye(n)
    gap = np.exp(-(d - 2.5))
    energy = 0.5 * (gap**2 - 2 * gap).sum() - 2.0 * n
    slope = -2 * gap**2 + 2 * gap
    forces = -(slope / d)[:, :, None] * r
    charge = float(rng.integers(-1, 2))
    charges = np.where(numbers == 11, 0.6, -0.6)
    charges = charges - charges.mean() + charge / n
    structure = Structure(numbers, positions, np.zeros((3, 3)), np.zeros(3, bool), charge)
    labels = {"energy": np.array(energy), "forces": forces.sum(1), "charges": charges}
    labels["dipole"] = charges @ positions
    return structure, labels


class ToyLoader:
    """Shuffled batches; resumes in the middle of an epoch."""

    def __init__(self, batches: list[ToyBatch], seed: int | None) -> None:
        self.batches, self.seed = batches, seed
        self.epoch = self.position = 0
        self.restored = False
        self.sampler, self.batch_sampler = self, None

    def __len__(self) -> int:
        return len(self.batches)

    def set_epoch(self, epoch: int) -> None:
        if epoch != self.epoch:
            self.epoch, self.position, self.restored = epoch, 0, False

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.epoch, "position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.epoch, self.position, self.restored = state["epoch"], state["position"], True

    def __iter__(self) -> Iterator[ToyBatch]:
        return self._generate()

    def _generate(self) -> Iterator[ToyBatch]:
        start = self.position if self.restored else 0
        self.restored = False
        order = np.arange(len(self.batches))
        if self.seed is not None:
            order = np.random.default_rng([self.seed, self.epoch]).permutation(order)
        for i in range(start, len(order)):
            self.position = i + 1
            yield self.batches[order[i]]


@dataclass
class ToyStatistics:
    """What the potential is built from."""

    elements: tuple[int, ...] = (11, 17)
    references: dict[int, float] = field(default_factory=lambda: {11: -2.0, 17: -2.0})
    force_rms: float = 1.0
    force_rms_by_element: dict[int, float] = field(default_factory=lambda: {11: 0.5, 17: 2.0})
    average_neighbors: float = 4.0
    charge_range: tuple[float, float] = (-0.8, 0.8)
    energy_rms: float = 1.0
    total_charges: dict[float, int] = field(default_factory=lambda: {-1.0: 4, 0.0: 4, 1.0: 4})
    spins: dict[float, int] = field(default_factory=dict)


class ToyData:
    """Stands for the recipe's data sets."""

    def __init__(
        self, train: int = 12, val: int = 4, per_batch: int = 2, seed: int = 0
    ) -> None:
        self.counts, self.per_batch, self.seed = (train, val), per_batch, seed
        self.statistics = ToyStatistics()
        self.conventions = {"total_charge": "error"}
        self.elements, self.notes = (11, 17), ["a note"]
        self.fingerprint = f"toy-{train}-{val}-{seed}"
        self.spoil: Callable[[list[ToyBatch]], None] | None = None

    def prepare(self, cutoffs: dict[str, Reach], labels: dict[str, bool]) -> None:
        rng = np.random.default_rng(self.seed)
        self.labels_asked = labels
        self.frames = [morse_frame(rng) for _ in range(sum(self.counts))]
        self.use_cutoffs({name: c for name, c in cutoffs.items() if not callable(c)})

    def refuse_fields(self, coupling: str) -> None:
        """No frame is in a field."""

    def use_cutoffs(self, cutoffs: dict[str, Reach]) -> None:
        train, val = self.counts
        frames = [(with_pairs(s, cutoffs), labels) for s, labels in self.frames]
        ids = [f"frame-{i}" for i in range(train + val)]
        self.split_ids = {"train": ids[:train], "val": ids[train:], "test": []}
        batches = [
            make_batch(frames[i : i + self.per_batch], ids[i : i + self.per_batch])
            for i in range(0, train + val, self.per_batch)
        ]
        split = train // self.per_batch
        self.train_batches, self.val_batches = batches[:split], batches[split:]
        if self.spoil is not None:
            self.spoil(self.train_batches)

    def train_loader(self, rank: int = 0, ranks: int = 1) -> ToyLoader:
        return ToyLoader(self.train_batches, self.seed)

    def val_loader(self, rank: int = 0, ranks: int = 1) -> ToyLoader:
        return ToyLoader(self.val_batches, None)


def make_batch(
    frames: list[tuple[Structure, dict[str, np.ndarray]]], ids: list[str]
) -> ToyBatch:
    """Join frames that all have the same labels."""
    labels = {}
    for name in frames[0][1]:
        parts = [f[1][name] for f in frames]
        joined = np.concatenate(parts) if name in ("forces", "charges") else np.stack(parts)
        labels[name] = torch.from_numpy(joined)
    present = {name: torch.ones(len(frames), dtype=torch.bool) for name in labels}
    return ToyBatch(collate([f[0] for f in frames]), labels, present, tuple(ids))


@pytest.fixture
def toy_batch() -> Callable[..., ToyBatch]:
    """Make a batch of clusters."""

    def make(count: int = 3, seed: int = 0, cutoff: float = 4.0) -> ToyBatch:
        rng = np.random.default_rng(seed)
        cutoffs = {"backbone": cutoff, "charge": cutoff}
        frames = [morse_frame(rng, n=4 + i) for i in range(count)]
        frames = [(with_pairs(s, cutoffs), labels) for s, labels in frames]
        return make_batch(frames, [f"frame-{i}" for i in range(count)])

    return make


@pytest.fixture
def toy_data() -> type[ToyData]:
    """Stand for the recipe's data sets."""
    return ToyData


@pytest.fixture
def train(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Run ``fit`` on toy data with settings given by keyword."""

    def run(
        name: str = "run",
        *,
        data: ToyData | None = None,
        loss: Loss | None = None,
        optim: Optimization | None = None,
        resume: bool = False,
        callbacks: dict[str, Any] | None = None,
        logger: dict[str, Any] | None = None,
        seed: int = 1,
        spec: dict[str, Any] | None = None,
        **settings: Any,
    ) -> dict[str, Any]:
        settings.setdefault("accelerator", "cpu")
        return fit(
            data=data or ToyData(),
            potential=spec or SPEC,
            loss=loss or Loss(charges=1.0),
            optim=optim or Optimization(lr=3e-3),
            trainer=TrainerSettings(**settings),
            logger=logger,
            callbacks=callbacks,
            seed=seed,
            folder=tmp_path / name,
            recipe={"seed": 1},
            resume=resume,
        )

    return run
