"""Numbers that are not finite never reach the weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from qeqtrain.errors import Diverged, EquilibrationFailed
from qeqtrain.training.optim import Optimization

Train = Callable[..., dict[str, Any]]


def spoil(count: int, value: float) -> Callable[[list[Any]], None]:
    """Damage the energy labels of the first batches."""

    def damage(batches: list[Any]) -> None:
        for batch in batches[:count]:
            batch.labels["energy"][0] = value

    return damage


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """Read raw and averaged weights."""
    content = torch.load(
        folder / "checkpoints" / "last.ckpt", map_location="cpu", weights_only=True
    )
    return content["state_dict"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e300])
def test_a_bad_label_costs_its_step_and_nothing_else(
    train: Train, toy_data: Any, tmp_path: Path, value: float
) -> None:
    data = toy_data()
    data.spoil = spoil(1, value)
    summary = train(data=data, max_epochs=3)
    assert summary["skipped_steps"] == 3
    assert all(torch.isfinite(w).all() for w in weights(tmp_path / "run").values())
    assert "score" in summary["errors"]


def test_a_skipped_step_leaves_weights_and_averages_as_they_were(
    train: Train, toy_data: Any, tmp_path: Path
) -> None:
    data = toy_data(train=2)
    data.spoil = spoil(1, float("nan"))
    train(data=data, max_epochs=1)
    train("longer", data=data, max_epochs=3)
    one, three = weights(tmp_path / "run"), weights(tmp_path / "longer")
    assert all(torch.equal(value, three[name]) for name, value in one.items())


def test_several_bad_steps_in_a_row_end_the_run_and_name_the_structures(
    train: Train, toy_data: Any, tmp_path: Path
) -> None:
    data = toy_data(train=12)
    data.spoil = spoil(6, float("nan"))
    with pytest.raises(Diverged, match=r"frame-\d+.*last\.ckpt"):
        train(data=data, max_epochs=2, max_bad_steps=4, max_rollbacks=0)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["state"] == "diverged"
    assert all(torch.isfinite(w).all() for w in weights(tmp_path / "run").values())


def test_steps_that_are_not_finite_push_no_good_state_out(train: Train, tmp_path: Path) -> None:
    with pytest.raises(Diverged, match="no weights had been validated yet"):
        train(max_epochs=30, optim=Optimization(lr=1e30), checkpoint_every_steps=1)
    start = torch.load(tmp_path / "run" / "checkpoints" / "previous.ckpt", weights_only=True)
    assert start["global_step"] == 0  # last.ckpt is the one step that was finite


def test_one_bad_structure_is_found_among_the_others_of_its_batch(
    train: Train, toy_data: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = toy_data()
    data.spoil = spoil(1, float("nan"))  # frame-0, in a batch with frame-1
    summary = train(data=data, max_epochs=2)
    assert summary["skipped_structures"] == ["frame-0"]
    assert "2 steps were skipped" in capsys.readouterr().out


def test_after_several_bad_steps_a_good_state_is_taken_up_at_half_the_rate(
    train: Train, toy_data: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = toy_data()

    def spoil_once(batches: list[Any]) -> None:
        data.train_batches = Bad(batches, 3)

    data.spoil = spoil_once
    constant = Optimization(schedule="constant", warmup=0.0, lr=1e-3)
    train(data=data, max_epochs=2, max_bad_steps=2, checkpoint_every_steps=1, optim=constant)
    content = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert content["callbacks"]["Recovery"] == {"rollbacks": 1}
    assert content["optimizer_states"][0]["param_groups"][0]["lr"] == 5e-4
    assert "Going back to last.ckpt" in capsys.readouterr().out


class Bad(list):  # type: ignore[type-arg]
    """Batches of which two in a row are damaged once, on the way to the model."""

    def __init__(self, batches: list[Any], at: int) -> None:
        super().__init__(batches)
        self.at, self.handed = at, 0

    def __getitem__(self, index: Any) -> Any:
        batch = super().__getitem__(index)
        self.handed += 1
        if self.at <= self.handed < self.at + 2:
            labels = {**batch.labels, "energy": batch.labels["energy"] * float("nan")}
            return replace(batch, labels=labels)
        return batch


def test_a_gradient_far_beyond_the_usual_is_skipped(train: Train, toy_data: Any) -> None:
    data = toy_data()

    def spoil_late(batches: list[Any]) -> None:
        data.train_batches = Huge(batches, 25)

    data.spoil = spoil_late
    assert train(data=data, max_epochs=5)["skipped_steps"] == 0
    summary = train("guarded", data=data, max_epochs=5, spike_factor=100.0)
    assert summary["skipped_steps"] == 1


class Huge(Bad):
    """Batches of which one has a large energy, once."""

    def __getitem__(self, index: Any) -> Any:
        batch = list.__getitem__(self, index)
        self.handed += 1
        if self.handed == self.at:
            labels = {**batch.labels, "energy": batch.labels["energy"] + 1e6}
            return replace(batch, labels=labels)
        return batch


def test_charges_that_cannot_be_found_cost_their_step_and_are_named_in_the_end(
    train: Train, toy_data: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise EquilibrationFailed("structure 0 (H2O): atoms 0 and 1 coincide")

    monkeypatch.setattr("qeqtrain.nn.charges.DiagonalCharges.forward", fail)
    with pytest.raises(Diverged, match=r"frame-\d+.*H2O\): atoms 0 and 1 coincide"):
        train(data=toy_data(train=12), max_epochs=2, max_bad_steps=2, max_rollbacks=0)


def test_a_rank_whose_charges_cannot_be_found_counts_with_the_others_all_the_same(
    train: Train, toy_data: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[list[float]] = []  # 2 energies, 10 atoms with forces and charges

    class Ranks:
        is_available = is_initialized = staticmethod(lambda: True)
        get_world_size = staticmethod(lambda: 1)

        @staticmethod
        def all_reduce(counts: torch.Tensor) -> None:
            counted.append(counts.tolist())

    def fail(*_: Any) -> None:
        raise EquilibrationFailed("structure 0 (H2O): atoms 0 and 1 coincide")

    monkeypatch.setattr("qeqtrain.training.loss.distributed", Ranks)
    monkeypatch.setattr("qeqtrain.nn.charges.DiagonalCharges.forward", fail)
    with pytest.raises(Diverged):
        train(data=toy_data(train=12), max_epochs=2, max_bad_steps=3, max_rollbacks=0)
    assert counted == 3 * [[2.0, 30.0, 10.0]]


def test_an_adjoint_that_cannot_be_solved_costs_its_step_as_well(
    train: Train, toy_data: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise EquilibrationFailed("structure 1 (NaCl): the solver stalled")

    monkeypatch.setattr(torch.Tensor, "backward", fail)
    with pytest.raises(Diverged, match=r"frame-\d+.*NaCl\): the solver stalled"):
        train(data=toy_data(train=12), max_epochs=2, max_bad_steps=2, max_rollbacks=0)
