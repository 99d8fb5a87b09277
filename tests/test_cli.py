from __future__ import annotations

import json
import re
import resource
from pathlib import Path

import pytest

from qeqtrain.cli import VERBS, main
from qeqtrain.cli.folder import set_latest
from qeqtrain.cli.resuming import differences
from qeqtrain.recipe import load_recipe

MISTAKES = {
    ("fti",): "did you mean 'fit'?",
    ("fit", "quickstrat"): "did you mean 'quickstart'?",
    ("fit",): "expected a recipe, or resume=RUN",
    ("fit", "quickstart", "qet"): "expected one recipe",
    ("fit", "--optim", "quickstart"): "unknown option '--optim'",
    ("fit", "quickstart", "optim.lrr=1e-3"): "did you mean 'lr'?",
    ("fit", "resume=nowhere"): "expected the folder of a run",
    ("check", "quickstart", "backbone.cutof=4"): "did you mean 'cutoff'?",
    ("check",): "expected one recipe, met none",
    ("evaluate", "nothere.ckpt", "nothere.extxyz"): "nothere.extxyz: no such file",
    ("evaluate", "qet-matk", "x.extxyz"): "did you mean 'qet-matq'?",
    ("evaluate", "qet-matq", "--split", "tets"): "did you mean 'test'?",
    ("evaluate", "qet-matq", "--unseen-charge-states", "alow"): "did you mean 'allow'?",
    ("predict", "qet-matq", "in.extxyz"): "expected MODEL IN OUT",
    ("predict", "qet-matq", "in.extxyz", "out.txt"): "expected a name that ends in",
    ("data", "inof"): "did you mean 'info'?",
    ("data", "info"): "expected one or several paths",
    ("data", "info", "x.extxyz", "--count", "3"): "--count has no use here",
    ("data", "info", "x.extxyz", "data.nan=mising"): "did you mean 'missing'?",
    ("data", "info", "x.extxyz", "data.dipole_orign=x"): "did you mean 'dipole_origin'?",
    ("data", "info", "x.extxyz", "seed=3"): "expected data.key=value",
    ("data", "convert", "x.extxyz"): "expected SRC... OUT",
    ("data", "generate", "alkali_halides"): "expected FAMILY OUT --count N",
    ("list", "recipse"): "did you mean 'recipes'?",
    ("show", "quickstart", "charge=nne"): "did you mean 'none'?",
    ("copy", "quickstart", "nofolder/x.yaml"): "there is no folder nofolder",
    ("copy", "quickstart", "x.txt"): "ends in .yaml",
}


@pytest.mark.parametrize("words", MISTAKES, ids=" ".join)
def test_a_mistake_ends_with_code_2_and_what_was_meant(
    words: tuple[str, ...], capsys, tmp_path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    told = capsys.readouterr()
    assert MISTAKES[words] in told.err
    assert "Traceback" not in told.err
    assert not told.out


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself_with_an_example(verb: str, capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        main([verb, "--help"])
    assert ended.value.code == 0
    assert f"qeqtrain {verb}" in capsys.readouterr().out.split("example")[1]


def test_help_names_every_verb_and_the_exit_codes(capsys) -> None:
    assert main(["--help"]) == 0
    told = capsys.readouterr().out
    assert all(verb in told for verb in VERBS)
    assert "75" in told


def seconds(run, *words: str) -> float:
    """CPU time of a command, best of three: other work on the machine must not count."""
    times = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        run(*words)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(times)


def test_help_answers_in_less_than_a_second(qeqtrain) -> None:
    assert seconds(qeqtrain, "--help") < 0.5
    assert seconds(qeqtrain, "fit", "--help") < 0.5


def test_a_mistake_in_a_recipe_is_answered_in_less_than_a_second(qeqtrain) -> None:
    assert seconds(qeqtrain, "fit", "quickstart", "backbone.cutof=4") < 1.0


def test_mistakes_of_a_recipe_come_together_and_before_its_data_are_read(qeqtrain) -> None:
    done = qeqtrain("fit", "quickstart", "backbone.cutof=4", "optim.lr=fast", "loss=non")
    assert done.returncode == 2
    lines = done.stderr.splitlines()
    assert sum(line.startswith("error: ") for line in lines) == 5  # 3 and two missing files
    assert "qeqtrain data generate" in done.stderr
    assert lines[-1] == "5 mistakes; usage: qeqtrain fit --help"


def test_a_fault_of_ours_shows_its_traceback(monkeypatch, capsys) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("something of ours")

    monkeypatch.setattr("qeqtrain.cli.recipes.run_list", fail)
    assert main(["list"]) == 1
    told = capsys.readouterr().err
    assert "Traceback" in told
    assert "something of ours" in told


def test_list_names_recipes_and_parts(capsys) -> None:
    main(["list"])
    main(["list", "parts"])
    told = capsys.readouterr().out
    assert re.search(r"^quickstart +QET", told, re.MULTILINE)
    assert re.search(r"^charge=diagonal +\w", told, re.MULTILINE)


def test_list_names_foundation_models_with_licence_and_digest(capsys) -> None:
    main(["list", "models"])
    told = capsys.readouterr().out
    assert "qet-matq" in told
    assert "licence" in told
    assert "sha256" in told


def test_show_prints_a_recipe_that_runs_as_it_is(capsys, tmp_path) -> None:
    assert main(["show", "quickstart", "backbone.cutoff=4.5"]) == 0
    printed = tmp_path / "printed.yaml"
    printed.write_text(capsys.readouterr().out)
    again = load_recipe(str(printed), check_files=False)
    shown = load_recipe("quickstart", ["backbone.cutoff=4.5"], check_files=False)
    assert again.settings == shown.settings
    assert "${" not in printed.read_text()


def test_copy_writes_a_recipe_that_composes_elsewhere(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["copy", "quickstart", "mine.yaml"]) == 0
    assert main(["copy", "quickstart", "mine.yaml"]) == 2
    assert "exists" in capsys.readouterr().err
    assert main(["show", "mine.yaml", "seed=4"]) == 0


def test_a_folder_that_is_not_empty_is_refused(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("QEQTRAIN_RUN_FOLDER", raising=False)
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "thing").touch()
    (tmp_path / "train.extxyz").touch()
    for folder, problem in {"used": "is not empty", "train.extxyz/x": "cannot be made"}.items():
        assert main(["fit", "qet", "data.train=train.extxyz", f"run_folder={folder}"]) == 2
        assert problem in capsys.readouterr().err


def test_a_mistake_in_the_data_leaves_no_folder_behind(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("QEQTRAIN_RUN_FOLDER", raising=False)
    (tmp_path / "train.extxyz").write_text("1\nenergy=1.0\nH 0 0 0\n")
    assert main(["fit", "qet", "data.train=train.extxyz"]) == 2
    assert "error: " in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["train.extxyz"]


def test_latest_follows_the_newest_run(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("first", "second"):
        set_latest(Path("runs/qet") / name)
    assert (tmp_path / "runs" / "qet" / "latest").readlink() == Path("second")


def test_length_logger_and_hardware_may_differ_on_resuming() -> None:
    old = load_recipe("quickstart", check_files=False).settings
    free = ("trainer.max_epochs=7", "logger=wandb", "trainer.devices=2", "data.workers=1")
    new = load_recipe("quickstart", free, check_files=False).settings
    assert list(differences(old, new)) == []


def test_anything_else_makes_it_another_run(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.extxyz").touch()
    run = tmp_path / "run"
    run.mkdir()
    asked = ["data.train=train.extxyz", "seed=3"]
    recipe = load_recipe("qet", asked).with_absolute_paths()
    (run / "recipe.yaml").write_text(recipe.as_yaml())
    argv = ["qeqtrain", "fit", "qet", *asked]
    (run / "run.json").write_text(json.dumps({"sessions": [{"argv": argv}]}))
    for named in ([], ["qet"]):
        assert main(["fit", *named, "resume=run", "optim.lr=1", "backbone.layers=1"]) == 2
        told = capsys.readouterr().err
        assert "optim.lr is 1, the run has 0.001" in told
        assert "backbone.layers is 1, the run has 3" in told
        assert "seed" not in told


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["data", "convert", "a.extxyz", "a.extxyz"], "is a file that is read"),
        (["data", "convert", "a.extxyz", "folder.h5"], "is a folder"),
        (["data", "convert", "a.extxyz", "b.h5", "--pairs-cutoff", "nan"], "a length in A"),
        (["data", "info", "a.extxyz", "--json", "folder.h5"], "is a folder"),
        (["data", "info", "a.extxyz", "--json", "no/where.json"], "there is no folder no"),
        (["data", "generate", "alkali_halides", "a.extxyz/b.h5", "--count", "1"], "no folder"),
        (
            ["data", "generate", "alkali_halides", "b.h5", "--count", "1", "--seed", "-1"],
            "seed",
        ),
        (
            ["data", "generate", "alkali_halides", "b.h5", "--count", "1", "--elements", ","],
            "expected symbols, as in Sr,Cl",
        ),
        (["copy", "qet", "no/where.yaml"], "there is no folder"),
    ],
)
def test_results_without_a_place_are_refused_before_the_work(
    words: list[str], said: str, tmp_path, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.h5").mkdir()
    text = 'Properties=species:S:1:pos:R:3 energy=-1.0 charge=0 pbc="F F F"'
    (tmp_path / "a.extxyz").write_text(f"1\n{text}\nH 0.0 0.0 0.0\n")
    before = (tmp_path / "a.extxyz").read_bytes()
    assert main(words) == 2
    assert said in capsys.readouterr().err
    assert (tmp_path / "a.extxyz").read_bytes() == before
