from __future__ import annotations

from pathlib import Path

import pytest

from qeqtrain.recipe import Recipe, load_recipe
from qeqtrain.recipe.building import build
from qeqtrain.recipe.folders import (
    group_names,
    option_names,
    recipe_names,
    shipped,
    sweep_names,
)

RECIPES = recipe_names()
FINE_TUNING = {
    name for name in RECIPES if load_recipe(name, only_show=True).settings["finetune"]
}
LARGE = ("mptrj", "omat", "matpes", "hdf5")
OPTIONS = [f"{group}={option}" for group in group_names() for option in option_names(group)]


def prepared(name: str, water: Path, *overrides: str) -> Recipe:
    return load_recipe(name, ["data=files", f"data.train={water}", "data.val=null", *overrides])


def test_the_recipes_are_all_found() -> None:
    files = list(shipped("recipes").rglob("*.yaml"))
    assert len(RECIPES) + len(sweep_names()) == len(files) >= 3
    assert {"quickstart", "qet", "smoke/qet"} <= set(RECIPES)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_composes_without_a_mistake(name: str) -> None:
    load_recipe(name, only_show=True)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_says_how_to_run_it_and_what_to_expect(name: str) -> None:
    head = (shipped("recipes") / f"{name}.yaml").read_text().partition("defaults:")[0]
    verb = "finetune" if name in FINE_TUNING else "fit"
    assert f"qeqtrain {verb} {name}" in head
    assert "# Expect:" in head


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_of_every_group_composes(option: str) -> None:
    load_recipe("quickstart", [option], only_show=True)


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_opens_with_a_sentence_about_itself(option: str) -> None:
    group, name = option.split("=")
    lines = (shipped("configs") / group / f"{name}.yaml").read_text().splitlines()
    first = next(line for line in lines if "@package" not in line)
    assert first.startswith("# ")
    assert len(first) > 20


@pytest.mark.parametrize("name", [n for n in RECIPES if n.partition("/")[0] in LARGE])
def test_a_recipe_of_a_large_set_says_what_to_get_and_how_to_launch_it(name: str) -> None:
    head = (shipped("recipes") / f"{name}.yaml").read_text().partition("defaults:")[0]
    told = "https://" in head and "qeqtrain data convert" in head
    assert told or f"as in {name.partition('/')[0]}/" in head
    assert "srun qeqtrain fit" in head
    assert "trainer.max_steps=100" in head
    settings = load_recipe(name, only_show=True).settings
    assert settings["trainer"]["accelerator"] == "gpu"
    assert settings["trainer"]["devices"] == "auto"
    assert settings["data"]["batch_atoms"] > 0


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_becomes_objects(name: str, water: Path) -> None:
    from qeqtrain.training.assembly import sketch_potential

    source = ["finetune.model=qet-matq"] if name in FINE_TUNING else []
    built = build(prepared(name, water, *source))
    if name in FINE_TUNING:
        assert built["finetune"].model
        return  # the parts of its model are the source's
    sketch = sketch_potential(built["potential"])
    learned = sketch.has_charges and not sketch.has_fixed_charges
    assert learned == built["loss"].needs("charges")
    assert sketch.has_charges or built["potential"]["charge"]["_target_"].endswith("NoCharges")


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_makes_its_first_step(name: str, water: Path, qeqtrain) -> None:
    words = (
        *("data=files", f"data.train={water}", "data.val=null", "trainer.accelerator=cpu"),
        *("trainer.max_steps=1", "trainer.max_epochs=1"),
    )
    no_stress = "loss.stress=0"  # molecules have none
    if name in FINE_TUNING:
        begun = qeqtrain("fit", "smoke/qet", *words, "run_folder=source")
        assert begun.returncode == 0, begun.stderr
        words = (*words, "finetune.model=source")
    verb = "finetune" if name in FINE_TUNING else "fit"
    done = qeqtrain(verb, name, *words, no_stress, "run_folder=run")
    assert done.returncode == 0, done.stderr
    assert (water.parent / "run" / "checkpoints" / "last.ckpt").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("option", ["charge=none", "callbacks=early_stopping", "logger=wandb"])
def test_an_option_that_changes_the_run_makes_its_first_step(
    option: str, water: Path, qeqtrain
) -> None:
    words = ("loss.charges=0", f"data.train={water}", "trainer.max_epochs=1", option)
    done = qeqtrain("fit", "smoke/qet", *words, "run_folder=run")
    assert done.returncode == 0, done.stderr
