"""A small source model, frames beside it, and runs that begin with it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from qeqtrain.data.sets import DataSets
from qeqtrain.models import archive
from qeqtrain.models.potential import Potential, build_potential
from qeqtrain.training.finetuning.settings import FineTuning
from qeqtrain.training.loss import Loss
from qeqtrain.training.optim import Optimization
from qeqtrain.training.run import fit
from qeqtrain.training.trainer import TrainerSettings
from tests.crosses import BACKBONES, CHARGES, COUPLINGS

CONSTANTS = {"Na": -3.0, "Cl": -7.0, "K": -4.0, "Br": -6.0}
"""Energies of elements in the labels, eV."""


def write_frames(
    path: Path,
    count: int,
    *,
    elements: tuple[str, str] = ("Na", "Cl"),
    seed: int = 0,
    mixed: bool = True,
) -> Path:
    """Write rattled clusters of two elements with Morse energies, forces and charges."""
    random = np.random.default_rng(seed)
    frames = []
    for k in range(count):
        n = 3 + k % 3 if mixed else 4
        symbols = [elements[i % 2] for i in range(n)]
        corners = np.stack(np.unravel_index(np.arange(n), (2, 2, 2)), axis=1)
        positions = 2.6 * corners + 0.15 * random.normal(size=(n, 3))
        r = positions[:, None] - positions[None]
        d = np.linalg.norm(r, axis=-1) + 1e3 * np.eye(n)
        gap = np.exp(-(d - 2.5))
        energy = 0.5 * (gap**2 - 2 * gap).sum() + sum(CONSTANTS[s] for s in symbols)
        forces = -(((-2 * gap**2 + 2 * gap) / d)[:, :, None] * r).sum(1)
        signs = np.array([0.5 if s in ("Na", "K") else -0.5 for s in symbols])
        charges = signs - signs.mean()
        head = 'Properties=species:S:1:pos:R:3:forces:R:3:charges:R:1 charge=0 pbc="F F F"'
        rows = [
            f"{s} {' '.join(f'{x:.10f}' for x in (*p, *f, q))}"
            for s, p, f, q in zip(symbols, positions, forces, charges, strict=True)
        ]
        frames.append("\n".join((str(n), f"{head} energy={energy:.10f}", *rows)))
    path.write_text("\n".join(frames) + "\n")
    return path


def source_model(
    backbone: str = "tensornet",
    charge: str = "diagonal",
    coupling: str = "feature",
    elements: tuple[int, ...] = (11, 17),
    **changes: Any,
) -> Potential:
    """Make a small model in float64; its weights are random, always the same."""
    node = dict(COUPLINGS[coupling])
    if coupling == "second":
        node["backbone"] = {**BACKBONES[backbone], **changes}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        return build_potential(
            {
                "backbone": {**BACKBONES[backbone], **changes},
                "charge": CHARGES[charge],
                "coupling": node,
                "dtype": "float64",
            },
            elements=elements,
            references=dict.fromkeys(elements, -1.0),
            scale=0.3,
            average_neighbors=4.0,
            charge_range=(-1.0, 1.0),
            conventions={"total_charge": "zero", "charge_states": [0.0]},
        )


def save(potential: Potential, path: Path) -> Path:
    """Write a checkpoint as training does."""
    state = {archive.RAW + k: v for k, v in potential.state_dict().items()}
    entry = {"format": archive.FORMAT, "potential": potential.header()}
    torch.save({"state_dict": state, "qeqtrain": entry}, path)
    return path


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Checkpoint of a small source model of sodium and chlorine."""
    return save(source_model(), tmp_path / "source.ckpt")


@pytest.fixture
def tune(tmp_path: Path, source: Path) -> Callable[..., dict[str, Any]]:
    """Fine-tune the source, or another file, on clusters."""

    def run(
        name: str = "run",
        *,
        model: Path = source,
        elements: tuple[str, str] = ("Na", "Cl"),
        optim: Optimization | None = None,
        loss: Loss | None = None,
        resume: bool = False,
        nodes: dict[str, Any] | None = None,
        mixed: bool = True,
        max_epochs: int = 2,
        callbacks: dict[str, Any] | None = None,
        **finetune: Any,
    ) -> dict[str, Any]:
        files = [
            write_frames(tmp_path / f"{part}.extxyz", n, elements=elements, seed=s, mixed=mixed)
            for part, n, s in (("train", 12, 0), ("val", 6, 1))
        ]
        return fit(
            data=DataSets(str(files[0]), val=str(files[1]), batch_structures=4),
            potential=nodes or archive.load(model).spec,
            loss=loss or Loss(charges=1.0),
            optim=optim or Optimization(lr=3e-3, ema=None),
            trainer=TrainerSettings(max_epochs=max_epochs, accelerator="cpu"),
            callbacks=callbacks,
            seed=1,
            folder=tmp_path / name,
            recipe={"seed": 1},
            resume=resume,
            finetune=FineTuning(str(model), **finetune),
        )

    return run
