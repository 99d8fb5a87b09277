"""Adapters begin as nothing, and end as ordinary weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from ase import Atoms

from qeqtrain.errors import UserMistake
from qeqtrain.training.finetuning.adapters import adapt, fold, unfold
from qeqtrain.training.optim import Optimization
from tests.training.finetuning.conftest import source_model

SALT = Atoms("NaClNa", [[0.0, 0.0, 0.0], [0.3, 0.0, 2.4], [2.1, 1.3, 0.2]], info={"charge": 0})
BACKBONES = ["tensornet", "nequip"]


def adapted(backbone: str, rank: int = 1) -> Any:
    model = source_model(backbone)
    adapt(model, rank)
    Optimization().freeze_weights(model)
    return model.eval()


@pytest.mark.parametrize("backbone", BACKBONES)
def test_adapters_change_nothing_at_first(backbone: str) -> None:
    expected = source_model(backbone).eval()(SALT).energy
    assert torch.allclose(adapted(backbone)(SALT).energy, expected, rtol=0.0, atol=1e-12)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_maps_of_the_backbone_are_adapted_and_fewer_numbers_move(backbone: str) -> None:
    plain, model = source_model(backbone), adapted(backbone)
    moving = {n: w.numel() for n, w in model.named_parameters() if w.requires_grad}
    ups = [n for n in moving if n.startswith("backbone.") and n.endswith(".up")]
    assert len(ups) >= 6
    assert not [n for n in moving if n.endswith(".original")]
    assert sum(moving.values()) < 0.7 * sum(w.numel() for w in plain.parameters())


@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_folded_checkpoint_is_an_ordinary_model(backbone: str) -> None:
    torch.manual_seed(0)
    model = adapted(backbone)
    for name, weight in model.named_parameters():
        if name.endswith(".up"):
            torch.nn.init.normal_(weight, std=0.1)
    expected = model(SALT).energy.detach()
    whole = {k: v.clone() for k, v in model.state_dict().items()}
    checkpoint: dict[str, Any] = {"state_dict": model.state_dict()}
    fold(checkpoint)
    plain = source_model(backbone).eval()
    first = plain(SALT).energy.detach()
    plain.load_state_dict(checkpoint["state_dict"])
    assert torch.allclose(plain(SALT).energy, expected, rtol=0.0, atol=1e-12)
    assert (expected - first).abs().max() > 1e-4
    unfold(checkpoint)
    assert checkpoint["state_dict"].keys() == whole.keys()
    assert all(torch.equal(v, whole[k]) for k, v in checkpoint["state_dict"].items())


def test_frozen_matrices_get_no_adapters() -> None:
    model = source_model()
    Optimization(freeze=["backbone.*"]).freeze_weights(model)
    adapt(model, 1)
    assert not [n for n, _ in model.named_parameters() if "backbone" in n and "up" in n]


def test_a_rank_beyond_every_matrix_is_a_mistake() -> None:
    with pytest.raises(UserMistake, match=r"finetune\.rank=99"):
        adapt(source_model(), 99)
