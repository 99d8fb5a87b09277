"""What several ranks need of one step; see also the loss."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from qeqtrain.models.references import LearnedReference
from qeqtrain.training.loss import Loss
from qeqtrain.training.module import TrainingModule
from qeqtrain.training.optim import Optimization
from tests.crosses import small_cross


@pytest.mark.parametrize("ranks", [1, 2])
def test_on_several_ranks_a_weight_that_nothing_reads_has_a_gradient_of_zero(
    toy_batch: Callable[..., Any], ranks: int
) -> None:
    potential = small_cross("tensornet", "none", "feature").train()
    potential.charge_references = LearnedReference().double()
    loss = Loss(energy=0.0, forces=1.0, charges=0.0)  # forces know no energy by total charge
    module = TrainingModule(potential, loss, Optimization(), done=lambda: 0.0)
    module.trainer = SimpleNamespace(world_size=ranks)
    module.training_step(toy_batch(2), 0).backward()
    idle = [name for name, p in potential.named_parameters() if p.grad is None]
    assert bool(idle) == (ranks == 1)
