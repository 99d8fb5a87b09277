"""A run begins where the source ends, says so, and moves what it is told to."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from qeqtrain.cli import main
from qeqtrain.data.sets import DataSets
from qeqtrain.errors import UserMistake
from qeqtrain.evaluation.benchmarks.card import model_card
from qeqtrain.models import archive
from qeqtrain.training.finetuning.settings import FineTuning
from qeqtrain.training.finetuning.tables import errors_of
from qeqtrain.training.optim import Optimization
from tests.training.finetuning.conftest import save, source_model, write_frames

Tune = Callable[..., dict[str, Any]]


def said(folder: Path) -> dict[str, Any]:
    """Read what run.json says of the source and the tables."""
    found: dict[str, Any] = json.loads((folder / "run.json").read_text())["finetuned_from"]
    return found


def weights(path: Path) -> dict[str, torch.Tensor]:
    return dict(archive.load(path).named_parameters())


def test_the_tables_begin_with_the_errors_of_the_source(
    tune: Tune, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tune()
    data = DataSets(str(tmp_path / "train.extxyz"), val=str(tmp_path / "val.extxyz"))
    potential = archive.load(source)
    data.prepare(potential.cutoffs, {"energy": True})
    expected, _ = errors_of(potential, data.val_loader())
    tables = said(tmp_path / "run")["tables"]["val"]
    assert tables["zero-shot"] == pytest.approx(expected)
    assert tables["refitted"]["energy_rmse"] < 0.2 * expected["energy_rmse"]
    assert tables["refitted"]["forces_rmse"] == pytest.approx(expected["forces_rmse"])
    best = archive.load(tmp_path / "run")
    after, _ = errors_of(best, data.val_loader())
    assert tables["fine-tuned"] == pytest.approx(after)
    shown = capsys.readouterr().out
    assert shown.index("zero-shot") < shown.index("epoch") < shown.index("fine-tuned")


def test_the_run_ends_below_where_it_began(tune: Tune, tmp_path: Path) -> None:
    tune(max_epochs=15, optim=Optimization(lr=1e-2, ema=None))
    tables = said(tmp_path / "run")["tables"]["val"]
    assert tables["fine-tuned"]["energy_rmse"] < tables["refitted"]["energy_rmse"]
    assert tables["fine-tuned"]["forces_rmse"] < 0.8 * tables["refitted"]["forces_rmse"]


def test_a_checkpoint_names_its_source(tune: Tune, source: Path, tmp_path: Path) -> None:
    tune()
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    expected = {"model": str(source), "sha256": digest}
    entry, _ = archive.read_entry(tmp_path / "run" / "checkpoints" / "best.ckpt")
    assert entry["finetuned_from"] == expected
    assert archive.load(tmp_path / "run").conventions["finetuned_from"] == expected


def test_the_licence_of_a_published_source_goes_along(
    tune: Tune, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = torch.load(source, weights_only=True)
    content["qeqtrain"]["foundation"] = {"name": "x", "source": "a shelf", "license": "BSD"}
    torch.save(content, source)
    tune("first", max_epochs=1)
    tune("second", model=tmp_path / "first", max_epochs=1)
    model = archive.load(tmp_path / "second")
    origin = model.conventions["finetuned_from"]
    assert (origin["source"], origin["license"]) == ("a shelf", "BSD")
    card, _ = model_card(model, "mine", {})
    assert "Its source: a shelf. Its licence: BSD." in card["notes"]["description"]
    assert main(["export", str(tmp_path / "second"), str(tmp_path / "model")]) == 0
    assert "licence: BSD" in capsys.readouterr().out


def test_what_the_source_fixes_is_kept(tune: Tune, source: Path, tmp_path: Path) -> None:
    tune()
    before, after = archive.load(source), archive.load(tmp_path / "run")
    assert after.spec == before.spec
    assert after.scale == before.scale
    assert after.average_neighbors == before.average_neighbors
    assert after.elements == before.elements


def test_kept_references_stay(tune: Tune, source: Path, tmp_path: Path) -> None:
    tune(references="keep")
    assert archive.load(tmp_path / "run").references == archive.load(source).references
    assert set(said(tmp_path / "run")["tables"]["val"]) == {"zero-shot", "fine-tuned"}


def moved(tune: Tune, source: Path, tmp_path: Path, **finetune: Any) -> set[str]:
    """Names of the weights that a short run moves."""
    tune(**finetune)
    before, after = weights(source), weights(tmp_path / "run")
    return {name for name in after if not torch.equal(before[name], after[name])}


def test_heads_move_alone(tune: Tune, source: Path, tmp_path: Path) -> None:
    found = moved(tune, source, tmp_path, train="heads")
    assert found
    assert not [name for name in found if name.startswith("backbone.")]


def test_patterns_say_what_moves(tune: Tune, source: Path, tmp_path: Path) -> None:
    patterns = {"train": ["backbone.*"], "freeze": ["backbone.embedding.*"]}
    found = moved(tune, source, tmp_path, **patterns)
    assert any(name.startswith("backbone.interactions") for name in found)
    assert all(name.startswith("backbone.") and ".embedding." not in name for name in found)


def test_a_pattern_said_twice_is_a_mistake(tune: Tune) -> None:
    with pytest.raises(UserMistake, match=r"optim\.train: finetune\.train says it"):
        tune(train="heads", optim=Optimization(train=["coupling.*"]))


def test_lower_layers_learn_more_slowly() -> None:
    model = source_model()
    optim = Optimization(lr=1.0)
    FineTuning("x", lr_decay=0.5).govern(optim, model)
    rates = {
        id(weight): group["lr"]
        for group in optim.build_optimizer(optim.parameter_groups(model)).param_groups
        for weight in group["params"]
    }
    by_name = {n: rates[id(w)] for n, w in model.named_parameters() if w.requires_grad}
    assert len(rates) == len(by_name)
    assert by_name["backbone.readout.weight"] == by_name["coupling.norm.weight"] == 1.0
    assert by_name["backbone.interactions.1.before.weight"] == 0.5
    assert by_name["backbone.interactions.0.before.weight"] == 0.25
    assert by_name["backbone.embedding.species.weight"] == 0.125


def test_new_elements_are_a_mistake_that_names_the_option(tune: Tune) -> None:
    with pytest.raises(UserMistake, match=r"does not know K.*finetune\.new_elements=add"):
        tune(elements=("K", "Cl"))


def test_new_elements_are_added_and_trained(
    tune: Tune, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tune(elements=("K", "Cl"), new_elements="add", max_epochs=6)
    model = archive.load(tmp_path / "run")
    tables = said(tmp_path / "run")["tables"]["val"]
    assert model.elements == (11, 17, 19)
    assert "K begins as Na" in capsys.readouterr().out
    assert model.conventions["untrained_elements"] == []
    assert "zero-shot" not in tables
    assert tables["fine-tuned"]["forces_rmse"] < tables["refitted"]["forces_rmse"]


def test_references_of_new_elements_cannot_be_kept(tune: Tune) -> None:
    with pytest.raises(UserMistake, match="references=keep"):
        tune(elements=("K", "Cl"), new_elements="add", references="keep")


def test_another_source_is_refused_when_resumed(tune: Tune, source: Path) -> None:
    tune()
    other = source_model()
    other.references[11] = 5.0
    save(other, source)
    with pytest.raises(UserMistake, match="is not the model this run began with"):
        tune(resume=True, max_epochs=3)


@pytest.mark.parametrize("rank", [None, 2])
def test_a_resumed_run_ends_as_an_uninterrupted_one(
    tune: Tune, tmp_path: Path, rank: int | None
) -> None:
    optim = {"lr": 3e-3, "schedule": "constant", "warmup": 0.0}
    tune("whole", optim=Optimization(**optim), max_epochs=4, rank=rank)
    tune("cut", optim=Optimization(**optim), max_epochs=2, rank=rank)
    tune("cut", optim=Optimization(**optim), max_epochs=4, rank=rank, resume=True)
    whole, cut = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert all(torch.equal(value, cut[name]) for name, value in whole.items())
    first = said(tmp_path / "cut")["tables"]["val"]["zero-shot"]
    assert first == said(tmp_path / "whole")["tables"]["val"]["zero-shot"]


def forgotten(tune: Tune, tmp_path: Path, name: str, **finetune: Any) -> float:
    """Force error on replayed structures after a run, meV/A."""
    replay = write_frames(tmp_path / "old.extxyz", 40, elements=("Cl", "Na"), seed=7)
    tune(name, replay=str(replay), max_epochs=12, **finetune)
    tables = said(tmp_path / name)["tables"]["replay"]
    assert tables["zero-shot"]["forces_rmse"] == pytest.approx(0.0, abs=1e-6)
    found: float = tables["fine-tuned"]["forces_rmse"]
    return found


def test_replay_forgets_less(tune: Tune, tmp_path: Path) -> None:
    without = forgotten(tune, tmp_path, "without", replay_share=0.0)
    mixed = forgotten(tune, tmp_path, "mixed", replay_share=0.6)
    assert 0.0 < mixed < 0.8 * without


def test_replay_may_use_labels_of_its_own(tune: Tune, tmp_path: Path) -> None:
    replay = write_frames(tmp_path / "old.extxyz", 20, elements=("Cl", "Na"), seed=7)
    tune(replay=str(replay), replay_labels="data", replay_share=0.5)
    tables = said(tmp_path / "run")["tables"]["replay"]
    assert tables["zero-shot"]["forces_rmse"] > 1.0


def test_a_replayed_run_resumes(tune: Tune, tmp_path: Path) -> None:
    replay = str(write_frames(tmp_path / "old.extxyz", 20, elements=("Cl", "Na"), seed=7))
    optim = {"lr": 3e-3, "schedule": "constant", "warmup": 0.0}
    shared = {"replay": replay, "replay_share": 0.4}
    tune("whole", optim=Optimization(**optim), max_epochs=4, **shared)
    tune("cut", optim=Optimization(**optim), max_epochs=2, **shared)
    tune("cut", optim=Optimization(**optim), max_epochs=4, resume=True, **shared)
    whole, cut = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert all(torch.equal(value, cut[name]) for name, value in whole.items())


def test_a_model_without_charges_gets_them(tune: Tune, tmp_path: Path) -> None:
    model = save(source_model(charge="none"), tmp_path / "neutral.ckpt")
    nodes = source_model().spec
    tune(model=model, nodes=nodes, charge="new", max_epochs=10)
    after = archive.load(tmp_path / "run")
    tables = said(tmp_path / "run")["tables"]["val"]
    assert after.has_charges
    assert tables["fine-tuned"]["charges_rmse"] < 0.9 * tables["refitted"]["charges_rmse"]
