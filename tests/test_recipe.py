from __future__ import annotations

import os
from pathlib import Path

import pytest

from qeqtrain.errors import UserMistake
from qeqtrain.recipe import load_recipe
from qeqtrain.recipe.folders import find_recipe, recipe_names, shipped
from qeqtrain.recipe.node import override_data


def settings(recipe: str, *overrides: str) -> dict:
    return dict(load_recipe(recipe, overrides, only_show=True).settings)


def mistakes(recipe: str, *overrides: str) -> list[str]:
    with pytest.raises(UserMistake) as caught:
        load_recipe(recipe, overrides, check_files=False)
    return list(caught.value.problems)


def only(problems: list[str]) -> str:
    assert len(problems) == 1, problems
    return problems[0]


@pytest.fixture
def mine(tmp_path: Path):
    """Writes a user's own recipe and gives its path."""

    def write(text: str, name: str = "mine.yaml") -> str:
        path = tmp_path / name
        path.write_text(text)
        return str(path)

    return write


HEAD = "defaults: [base, override /data: quickstart, _self_]\n"


def test_a_value_on_the_command_line_wins() -> None:
    assert settings("quickstart", "backbone.channels=16")["backbone"]["channels"] == 16


def test_a_group_on_the_command_line_wins_over_the_bundle() -> None:
    made = settings("quickstart", "charge=none", "model=qet")
    assert made["charge"] == {"_target_": "qeqtrain.nn.charges.NoCharges"}


def test_a_fact_has_one_home() -> None:
    made = settings("quickstart", "backbone.cutoff=4.5")
    assert made["charge"]["cutoff"] == 4.5


def test_a_recipe_of_the_users_is_found_by_its_path_from_any_folder(mine, monkeypatch) -> None:
    path = mine(HEAD + "seed: 5\nbackbone:\n  layers: 1\n")
    monkeypatch.chdir("/")
    made = settings(path)
    assert (made["seed"], made["backbone"]["layers"], made["backbone"]["channels"]) == (
        5,
        1,
        64,
    )


def test_a_recipe_can_build_on_another(mine) -> None:
    path = mine("defaults: [/quickstart, override /charge: none, _self_]\nseed: 9\n")
    made = settings(path)
    assert made["seed"] == 9
    assert made["data"]["train"][0].startswith("data/quickstart")
    assert made["charge"]["_target_"].endswith("NoCharges")


def test_a_part_of_the_users_own_is_found_beside_the_recipe(mine, tmp_path) -> None:
    (tmp_path / "backbone").mkdir()
    (tmp_path / "backbone" / "tiny.yaml").write_text(
        "_target_: qeqtrain.nn.tensornet.TensorNet\nchannels: 4\n"
    )
    made = settings(mine("defaults: [base, override /backbone: tiny, _self_]\n"), "charge=none")
    assert made["backbone"]["channels"] == 4


def test_a_resolved_recipe_is_a_recipe(mine) -> None:
    path = mine(load_recipe("quickstart", check_files=False).as_yaml())
    assert settings(path) == settings("quickstart")
    assert settings(path, "charge=none", "seed=4")["charge"]["_target_"].endswith("NoCharges")


def test_numbers_of_yaml_and_of_the_command_line_mean_the_same(mine) -> None:
    path = mine(HEAD + "optim:\n  lr: 1e-4\n")
    assert (
        settings(path)["optim"]["lr"] == settings("quickstart", "optim.lr=1e-4")["optim"]["lr"]
    )


MISTAKES = {
    "backbone.cutof=4": "did you mean 'cutoff'?",
    "backbone.cutoff=abc": 'met "abc", expected a number',
    "backbone.cutoff=true": "met true, expected a number",
    "backbone.cutoff=-1": "met -1, expected more than 0",
    "backbone.cutoff=inf": "met inf, expected more than 0, and finite",
    "backbone.layers=2.5": "met 2.5, expected a whole number",
    "backbone.radial_basis=gausian": "did you mean 'gaussian'?",
    "backbone.r_max=5": "it is called 'cutoff' here",
    "backbone.num_features=5": "it is called 'channels' here",
    "backbone.num_layers=5": "it is called 'layers' here",
    "backbone.lmax=2": "it is called 'l_max' here, and TensorNet has none",
    "backbone.avg_num_neighbors=20": "it is called 'average_neighbors' here",
    "backbone=tensornett": "did you mean 'tensornet'?",
    "backbone.elements=[1]": "is filled in from the data and the other parts",
    "backbone.attributes=3": "is filled in from the data and the other parts",
    "charge=null": "did you mean 'none'?",
    "charge=gausian": "options: diagonal, gaussian, local, none",
    "data=my.extxyz": "files are given by data.train=PATH",
    "data.total_charge=zer": "did you mean 'zero'?",
    "data.batch_size=4": "it is called 'batch_structures' here",
    "loss.force=3": "it is called 'forces' here",
    "loss.charge_weight=3": "it is called 'charges' here",
    "model.cutoff=4": "did you mean 'backbone.cutoff'?",
    "optim.lrr=1e-3": "did you mean 'lr'?",
    "optim.optimizer.lr=1e-3": "is filled in",
    "optim.optimizer.weight_deacy=0": "did you mean 'weight_decay'?",
    "optim.optimizer._target_=torch.optim.Adan": "did you mean 'Adam'?",
    "potential.dtype=float16": "float32 or float64",
    "potential.elements=[Na,1]": "expected auto or a list, each item text",
    "seed=one": 'met "one", expected a whole number',
    "trainer.lr=1": "did you mean 'optim.lr'?",
    "bacbone.layers=2": "did you mean 'backbone'?",
    "modle=qet": "did you mean 'model'?",
    "backbone.layers=1,2": "one value was expected",
    "backbone.layers=[1": "cannot be read",
    "backbone.layers=${nothing}": "cannot be resolved",
    "backbone.layers=???": "must be given",
    "backbone=null": "group 'backbone' has no option 'null'",
    "+callbacks.x._target_=os.system": "may not be named in a recipe",
    "+callbacks.x._target_=pytorch_lightning.callbacks.EarlyStoping": "'EarlyStopping'",
    "+callbacks.x={_target_: pytorch_lightning.callbacks.EarlyStopping}": "callbacks.x.monitor",
    "~charge": "a group cannot be left out",
    "~backbone.cutof": "no such key",
}


@pytest.mark.parametrize("override", MISTAKES)
def test_a_mistake_is_answered_with_what_was_meant(override: str) -> None:
    assert MISTAKES[override] in only(mistakes("quickstart", override))


STRANGERS = (
    "qeqtrain.data.os.system",
    "qeqtrain.data.sources.Path",
    "qeqtrain.cli.main",
    "torch.load",
    "torch.optim.lr_scheduler.types.FunctionType",
    "builtins.eval",
    "qeqtrain..x",
    "qeqtrain",
)


@pytest.mark.parametrize("target", STRANGERS)
@pytest.mark.parametrize(
    "place", ["data", "backbone", "loss", "optim.optimizer", "callbacks.x"]
)
def test_a_recipe_cannot_name_what_is_no_part(place: str, target: str) -> None:
    problems = mistakes("quickstart", f"++{place}._target_={target}")
    assert any(f"'{target}'" in problem for problem in problems)


def test_a_part_cannot_hide_in_a_plain_value() -> None:
    problem = only(mistakes("quickstart", "+loss.energy={weight: {_target_: os.system}}"))
    assert "no part belongs here" in problem


def test_the_environment_can_allow_more_and_the_recipe_cannot(tmp_path, monkeypatch) -> None:
    (tmp_path / "myparts.py").write_text(
        "class Mine:\n    def __init__(self, size: int, *, elements):\n        pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    asked = ("quickstart", "backbone={_target_: myparts.Mine, sise: 3}", "charge=none")
    assert any("may not be named" in p for p in mistakes(*asked))
    monkeypatch.setenv("QEQTRAIN_ALLOW_TARGETS", "myparts.")
    assert any("Mine takes no 'sise'; did you mean 'size'?" in p for p in mistakes(*asked))


def test_a_checkpoint_cannot_name_what_is_no_data_either() -> None:
    for target in ("os.system", "qeqtrain.cli.main", "qeqtrain.data.os.system"):
        with pytest.raises(UserMistake, match=target):
            override_data({}, [], target)


def test_a_key_misspelt_in_a_yaml_file_is_named_with_its_line(mine) -> None:
    path = mine(HEAD + "backbone:\n  cutoff: 4.0\n  chanels: 3\n")
    problem = only(mistakes(path))
    assert problem.startswith("backbone.chanels (mine.yaml, line 4): ")
    assert "did you mean 'channels'?" in problem


def test_all_mistakes_of_a_recipe_are_told_at_once(mine) -> None:
    path = mine(
        "defaults: [base, override /data: quikstart, override /chrge: none, _self_]\n"
        "sed: 3\nloss: {energy: much}\noptim: {lr: [1], optimizer: {betas: 3}}\n"
    )
    problems = "\n".join(
        mistakes(path, "trainer=tpu", "backbone.cutof=3", "x=[", "logger.mode=1")
    )
    for expected in (
        *(
            "'quickstart'",
            "'charge'",
            "'seed'",
            "loss.energy",
            "optim.lr",
            "optim.optimizer.betas",
        ),
        *("trainer=tpu", "'cutoff'", "override 'x=['", "logger=wandb"),
    ):
        assert expected in problems, problems


def test_broken_yaml_is_named_with_file_and_line(mine) -> None:
    path = mine(HEAD + "backbone: {cutoff: 4\nloss: 3\n")
    assert f"{path}:" in only(mistakes(path))
    assert "not valid YAML" in only(mistakes(path))


BROKEN = {
    "": "no 'defaults' list",
    "- a\n- b\n": "expected keys and values",
    "seed: 3\n": "no 'defaults' list",
    "defaults: base\n": "'defaults' that are not a list",
    "defaults: [base]\n": "'_self_' must come last",
    "defaults: [bse, _self_]\n": "did you mean 'base'?",
    "defaults: [base, charge: none, _self_]\n": "write 'override /charge: none'",
    "defaults: [base, override /chrge: none, _self_]\n": "did you mean 'charge'?",
    "defaults: [base, override /charge: non, _self_]\n": "did you mean 'none'?",
    "defaults: [base, [a], _self_]\n": "expected 'override /group: option'",
    "\x00": "not a YAML file",
}


@pytest.mark.parametrize("text", BROKEN)
def test_a_recipe_that_is_no_recipe_is_refused(text: str, mine) -> None:
    assert any(BROKEN[text] in problem for problem in mistakes(mine(text), "data=quickstart"))


def test_an_unknown_recipe_is_answered_with_the_nearest() -> None:
    with pytest.raises(UserMistake, match="did you mean 'quickstart'"):
        find_recipe("quickstrat")
    with pytest.raises(UserMistake, match="no such file"):
        find_recipe("elsewhere/mine.yaml")


def test_a_missing_file_is_named_with_the_nearest(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.extxyz").touch()
    with pytest.raises(UserMistake, match=r"did you mean 'train\.extxyz'"):
        load_recipe("qet", ["data.train=trian.extxyz"])


def test_an_empty_list_of_files_is_a_mistake(tmp_path, monkeypatch) -> None:
    with pytest.raises(UserMistake, match=r"data\.train: names no file"):
        load_recipe("qet", ["data.train=[]"])


def test_missing_generated_data_are_answered_with_the_command(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserMistake) as caught:
        load_recipe("quickstart")
    commands = [p for p in caught.value.problems if "qeqtrain data generate" in p]
    script = (shipped("recipes").parent / "scripts" / "quickstart").read_text()
    assert len(commands) == 2
    for problem in commands:
        words = problem.partition("qeqtrain data generate ")[2].split()
        family, path, _, count, _, seed = words
        assert f"generate {family} {path} {count} {seed}" in script


def test_an_edit_of_a_yaml_file_in_the_checkout_is_seen() -> None:
    root = shipped("recipes")
    probe = root / "smoke" / f"probe_{os.getpid()}.yaml"
    assert "smoke/qet" in recipe_names()
    try:
        probe.write_text(HEAD + "seed: 41\n")
        assert settings(f"smoke/{probe.stem}")["seed"] == 41
        probe.write_text(HEAD + "seed: 42\n")
        assert settings(f"smoke/{probe.stem}")["seed"] == 42
    finally:
        probe.unlink()


def test_a_recipe_that_leads_back_to_itself_is_a_mistake(tmp_path) -> None:
    (tmp_path / "ring.yaml").write_text("defaults: [base, ring, _self_]\n")
    with pytest.raises(UserMistake, match="lead back to itself"):
        load_recipe(str(tmp_path / "ring.yaml"), only_show=True)


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_that_generators_do_not_take_is_a_mistake(seed: int) -> None:
    with pytest.raises(UserMistake, match=r"seed: met .* expected a whole number"):
        load_recipe("qet", [f"seed={seed}"], only_show=True)


SIZES = {
    "backbone.l_max=-1": "met -1, expected 0 or more",
    "backbone.radial_depth=-1": "met -1, expected 0 or more",
    "backbone.radial_width=0": "met 0, expected more than 0",
    "backbone.cutoff_power=0": "met 0, expected more than 0",
    "charge.hardness_floor=-1": "met -1, expected 0 or more",
    "charge.hardness_floor=inf": "met inf, expected 0 or more, and finite",
    "coupling.projection=0": "met 0, expected more than 0",
    "coupling.layers=0": "met 0, expected more than 0",
    "backbone.max_L=1": "it is called 'l_max' here",
    "backbone.invariant_layers=2": "it is called 'radial_depth' here",
    "backbone.num_polynomial_cutoff=6": "it is called 'cutoff_power' here",
}


@pytest.mark.parametrize("override", SIZES)
def test_a_size_of_nequip_lr_without_sense_or_of_another_name_is_refused(override: str) -> None:
    problem = only(mistakes("smoke/nequip_lr", "data.train=some.extxyz", override))
    assert problem.startswith(override.partition("=")[0])
    assert SIZES[override] in problem


def test_sizes_of_a_second_network_are_held_against_the_same_limits() -> None:
    node = "{_target_: qeqtrain.nn.nequip.NequIP, l_max: -1, channels: 0}"
    found = mistakes("smoke/nequip_lr", f"coupling.backbone={node}")
    assert any("coupling.backbone.l_max" in p and "0 or more" in p for p in found)
    assert any("coupling.backbone.channels" in p and "more than 0" in p for p in found)


def test_a_mistake_that_a_second_network_inherits_is_told_where_it_stands() -> None:
    assert only(
        mistakes("smoke/nequip_lr", "data.train=a.extxyz", "backbone.l_max=-1")
    ).startswith("backbone.l_max")
