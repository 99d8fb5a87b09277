from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.slow


def run(*words: str, cwd: Path, **environment: str) -> str:
    outside = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, *words],
        cwd=cwd,
        env={**outside, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package as it would be published, built by its own back end (no network)."""
    folder = tmp_path_factory.mktemp("wheel")
    code = f"from hatchling.build import build_wheel; print(build_wheel({str(folder)!r}))"
    name = run("-c", code, cwd=ROOT).split()[-1]
    return folder / name


def test_recipes_and_parts_are_in_the_wheel(wheel: Path) -> None:
    inside = set(zipfile.ZipFile(wheel).namelist())
    for folder in ("configs", "recipes"):
        for path in (ROOT / folder).rglob("*.yaml"):
            assert f"qeqtrain/{path.relative_to(ROOT).as_posix()}" in inside
    assert not any(name.startswith(("tests/", "scripts/")) for name in inside)
    assert any(name.endswith("licenses/LICENSE") for name in inside)


def test_the_installed_package_composes_every_recipe_in_a_foreign_folder(
    wheel: Path, tmp_path: Path
) -> None:
    site, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    elsewhere.mkdir()
    zipfile.ZipFile(wheel).extractall(site)
    code = """
import qeqtrain
from qeqtrain.recipe import load_recipe
from qeqtrain.recipe.folders import recipe_names, shipped
print(qeqtrain.__file__, shipped("recipes"))
for name in recipe_names():
    load_recipe(name, only_show=True)
    print("composed", name)
"""
    told = run("-c", code, cwd=elsewhere, PYTHONPATH=str(site))
    assert str(site / "qeqtrain" / "recipes") in told
    files = (ROOT / "recipes").rglob("*.yaml")
    count = sum(file.parent.name != "sweep" for file in files)
    assert told.count("composed") == count
    (elsewhere / "mine.yaml").write_text(
        "defaults: [base, override /data: quickstart, _self_]\nseed: 12\n"
    )
    shown = "import sys; from qeqtrain.cli import main; sys.exit(main(['show', 'mine.yaml']))"
    assert "seed: 12" in run("-c", shown, cwd=elsewhere, PYTHONPATH=str(site))
