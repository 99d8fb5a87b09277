"""A trained model begins to read the total charge, and is what it was before it does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ase import Atoms

from qeqtrain.errors import UserMistake
from qeqtrain.models import archive
from qeqtrain.models.potential import Potential
from qeqtrain.structures import Prediction
from qeqtrain.testing import check_potential
from qeqtrain.training.finetuning.conditions import with_conditions
from tests.training.finetuning.conftest import save, source_model

Tune = Callable[..., dict[str, Any]]


def reading(model: Potential, conditions: Any) -> Potential:
    """Let a model read conditions, of which it knows some."""
    made = with_conditions(model, conditions)
    made.conventions = {**made.conventions, "charge_states": [-1.0, 0.0, 1.0], "spins": [1, 2]}
    return made


def predicted(model: Potential, charge: int) -> Prediction:
    places = [[0.0, 0.0, 0.0], [0.3, 0.0, 2.4], [2.1, 1.3, 0.2]]
    info = {"charge": charge, "spin": 1 + charge % 2}
    return model.eval()(Atoms("NaClNa", places, info=info))


def bend(model: Potential) -> float:
    """How far charges are from linear in the total charge, e."""
    low, middle, high = (predicted(model, q).charges for q in (-1, 0, 1))
    return float((low + high - 2.0 * middle).abs().max())


@pytest.mark.parametrize("conditions", ["charge", "charge_and_spin"])
@pytest.mark.parametrize("backbone", ["tensornet", "nequip"])
def test_before_the_first_step_every_prediction_is_the_sources(
    backbone: str, conditions: Any
) -> None:
    before = source_model(backbone)
    made = reading(before, conditions)
    assert made.spec["backbone"]["conditioning"] == conditions
    for charge in (-1, 0, 1):
        expected, found = predicted(before, charge), predicted(made, charge)
        for name in ("energy", "forces", "charges"):
            assert torch.allclose(
                getattr(found, name), getattr(expected, name), rtol=0.0, atol=1e-12
            )


@pytest.mark.parametrize("backbone", ["tensornet", "nequip"])
def test_charges_cease_to_be_linear_in_the_total_charge(backbone: str) -> None:
    model = reading(source_model(backbone), "charge")
    assert bend(model) < 1e-13
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for weight in model.backbone.conditioning.network.parameters():
            torch.nn.init.normal_(weight, std=0.5)
    assert bend(model) > 1e-7
    check_potential(model)


def test_a_model_that_reads_others_is_refused() -> None:
    model = source_model(conditioning="charge")
    assert with_conditions(model, "charge") is model
    with pytest.raises(UserMistake, match=r"reads charge already"):
        with_conditions(model, "charge_and_spin")


def test_a_run_trains_what_begins_to_be_read(tune: Tune, tmp_path: Path) -> None:
    source = source_model()
    source.conventions["charge_states"] = [-2.0, 0.0]
    path = save(source, tmp_path / "before.ckpt")
    tune(model=path, conditioning="charge")
    after = archive.load(tmp_path / "run")
    last = after.backbone.conditioning.network.layers[-1]
    assert last.bias.abs().max() > 0.0
    # Of the source's charge states it knows what the new data taught it.
    assert after.states_seen.charges == (0.0,)
