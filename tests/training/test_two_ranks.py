"""Two real processes (gloo) train what one with twice the budget trains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.processes import begin, command, end, last, write_clusters

SMALL = (
    *("backbone.channels=4", "backbone.layers=1", "potential.dtype=float64"),
    "optim.gradient_clip=null",
)
SYSTEMS = {
    "QET": ("qet", *SMALL),
    "NequIP-LR": ("qet", "model=nequip_lr", *SMALL, "backbone.l_max=1"),
    "gaussian, additive": ("qet", *SMALL, "charge=gaussian", "coupling=additive"),
    "no charges": ("qet", *SMALL, "charge=none", "loss.charges=0"),
}


RECORDER = """
import pytorch_lightning as pl
import torch


class FirstStep(pl.Callback):
    'Writes down what the first step and the first validation gave.'

    def __init__(self, file: str) -> None:
        self.file = file

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == 1 and trainer.is_global_zero:
            moments = trainer.optimizers[0].state_dict()["state"]
            gradients = {i: m["exp_avg"] / 0.1 for i, m in moments.items()}
            torch.save({"gradients": gradients}, self.file)

    def on_validation_end(self, trainer, module):
        if trainer.is_global_zero and trainer.current_epoch == 0:
            known = torch.load(self.file, weights_only=True)
            torch.save({**known, "errors": module.errors}, self.file)
"""


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clusters of 3 to 7 atoms; an odd number is left for training."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "recorder.py").write_text(RECORDER, encoding="utf-8")
    return write_clusters(folder, 24)


def recording(file: Path) -> tuple[str, ...]:
    """Words that write the first step down."""
    return (
        "+callbacks.first._target_=recorder.FirstStep",
        f"+callbacks.first.file={file}",
    )


def largest_difference(one: dict[Any, Any], other: dict[Any, Any]) -> float:
    """Largest difference between tensors of the same names."""
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one)


@pytest.mark.parametrize(
    "system",
    [s if s == "QET" else pytest.param(s, marks=pytest.mark.slow) for s in SYSTEMS],
)
def test_two_ranks_equal_one_with_twice_the_budget(
    frames: Path, tmp_path: Path, system: str
) -> None:
    # 19 frames, two at a time: once an epoch the second rank has nothing to do.
    words = (*SYSTEMS[system], "trainer.max_steps=50")
    for ranks in (1, 2):
        own = (f"trainer.devices={ranks}", f"data.batch_structures={2 // ranks}")
        record = recording(tmp_path / f"first-{ranks}.pt")
        end(begin(command(frames, tmp_path / str(ranks), *words, *own, *record), frames.parent))
    first = [torch.load(tmp_path / f"first-{n}.pt", weights_only=True) for n in (1, 2)]
    assert largest_difference(first[0]["gradients"], first[1]["gradients"]) < 1e-10
    assert first[0]["errors"] == pytest.approx(first[1]["errors"], rel=1e-12, abs=1e-12)
    one, two = (last(tmp_path / str(n)) for n in (1, 2))
    assert one["global_step"] == two["global_step"] == 50
    assert largest_difference(one["state_dict"], two["state_dict"]) < 1e-8
