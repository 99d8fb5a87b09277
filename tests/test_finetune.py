"""``qeqtrain finetune``: what it takes from the source, and what it says of mistakes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from qeqtrain.cli import main
from qeqtrain.cli.finetune import with_source
from qeqtrain.recipe import load_recipe
from tests.training.finetuning.conftest import save, source_model, write_frames


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    """Command line that fine-tunes a small model."""
    source = save(source_model(), tmp_path / "source.ckpt")
    train = write_frames(tmp_path / "train.extxyz", 12)
    return [
        "finetune",
        "finetune/own_system",
        f"finetune.model={source}",
        f"data.train={train}",
        f"run_folder={tmp_path / 'run'}",
        "trainer.max_epochs=1",
    ]


def mistake(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run, expect a mistake, and give what was said."""
    assert main(arguments) == 2
    return capsys.readouterr().err


def test_the_recipe_of_a_run_shows_the_parts_of_the_source(
    words: list[str], tmp_path: Path
) -> None:
    assert main([*words, "data.split={val: 4}"]) == 0
    kept: dict[str, Any] = yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())
    spec = source_model().spec
    assert kept["backbone"] == spec["backbone"]
    assert kept["charge"] == spec["charge"]
    assert kept["potential"]["dtype"] == "float64"
    assert kept["data"]["total_charge"] == "zero"
    assert kept["finetune"]["model"] == str(tmp_path / "source.ckpt")
    # ... so that both verbs can go on with it.
    assert main(["fit", f"resume={tmp_path / 'run'}", "trainer.max_epochs=2"]) == 0
    longer = [word for word in words if not word.startswith(("run_folder", "trainer"))]
    longer += ["data.split={val: 4}", "trainer.max_epochs=3"]
    assert main([*longer, f"resume={tmp_path / 'run'}"]) == 0


def test_fit_sends_such_a_recipe_to_finetune(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    said = mistake(capsys, "fit", *words[1:])
    assert "run: qeqtrain finetune finetune/own_system" in said


def test_finetune_sends_other_recipes_to_fit(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    said = mistake(capsys, "finetune", "smoke/qet", words[3])
    assert "run: qeqtrain fit smoke/qet" in said
    assert "finetune=full" in said


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("backbone=nequip", "backbone: the model's parts are those of"),
        ("backbone.conditioning=charge", "finetune.conditioning"),
        ("backbone.channels=12", "backbone.channels: the model's parts"),
        ("charge=none", "finetune.charge=new"),
        ("model=nequip_lr", "model: the model's parts"),
        ("potential.references=none", "finetune.references"),
        ("potential.scale=2.0", "potential.scale: is that of"),
        ("finetune.model=nothere.ckpt", "nothere.ckpt: no such file"),
        ("finetune.train=head", "expected all, heads, or a list"),
        ("finetune.replay_share=1.5", "expected 0 to below 1"),
        ("finetune.new_element=add", "did you mean 'new_elements'"),
        ("finetune.conditioning=spin", "expected keep or charge or charge_and_spin"),
    ],
)
def test_what_cannot_be_is_said(
    words: list[str], override: str, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert expected in mistake(capsys, *words, override)


def test_parts_in_the_recipes_own_file_are_a_mistake(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text(
        "defaults:\n  - base\n  - override /backbone: nequip\n  - override /finetune: full\n"
        "  - _self_\ncharge: {cutoff: 3.0}\n"
    )
    said = mistake(capsys, "finetune", str(mine), *words[2:])
    assert "backbone: the model's parts" in said
    assert "charge.cutoff: the model's parts" in said


def test_a_new_charge_head_may_be_chosen(words: list[str], tmp_path: Path) -> None:
    model = save(source_model(charge="none"), tmp_path / "source.ckpt")
    chosen = ["finetune.charge=new", "charge=local", f"finetune.model={model}"]
    overrides = [*words[2:], *chosen]
    recipe = with_source(load_recipe(words[1], overrides), overrides)
    assert recipe.settings["charge"]["_target_"].endswith("LocalCharges")
    assert recipe.settings["backbone"] == source_model().spec["backbone"]


def test_a_model_may_begin_to_read_the_total_charge(words: list[str]) -> None:
    overrides = [*words[2:], "finetune.conditioning=charge"]
    recipe = with_source(load_recipe(words[1], overrides), overrides)
    assert recipe.settings["backbone"]["conditioning"] == "charge"


@pytest.mark.parametrize(
    ("recipe", "verb"), [("reaxnet/finetune", "finetune"), ("reaxnet/small", "fit")]
)
def test_a_copy_names_the_verb_that_runs_it(
    recipe: str, verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["copy", recipe, str(tmp_path / "mine.yaml")]) == 0
    assert f"qeqtrain {verb} {tmp_path / 'mine.yaml'}" in capsys.readouterr().out


def test_check_tells_of_a_fine_tuning(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", *words[1:], "finetune.train=heads"]) == 0
    assert "of them trained" in capsys.readouterr().out


def test_the_report_sets_errors_before_and_after_side_by_side(
    words: list[str], tmp_path: Path
) -> None:
    old = write_frames(tmp_path / "old.extxyz", 20, seed=7)
    rows = ["data.split={val: 4}", "finetune=replay", f"finetune.replay={old}"]
    assert main([*words, *rows, "finetune.rank=2"]) == 0
    said = (tmp_path / "run" / "report.md").read_text()
    assert "| quantity | unit | zero-shot | references refitted | fine-tuned |" in said
    assert said.index("validation split, before and after") < said.index("## Forgetting")
    assert "- trained further: all weights; matrices by products of rank 2" in said
    assert re.search(r"reference energies refitted, by Na [-+]\d.*, Cl [-+]\d.* eV", said)
    assert "- replayed: 20% of the structures of an epoch, on what the source said" in said
