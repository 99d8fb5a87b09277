from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from qeqtrain.cli import VERBS
from qeqtrain.models import archive
from qeqtrain.models.potential import Potential, build_potential
from qeqtrain.recipe import load_recipe
from tests.crosses import BACKBONES, COUPLINGS, small_cross

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def commands() -> list[list[str]]:
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    split = [shlex.split(line, comments=True) for line in lines]
    return [words for words in split if words]


def write_waters(path: Path, seed: int) -> None:
    """Rattled water molecules with made-up labels."""
    random = np.random.default_rng(seed)
    water = np.array([[0.0, 0.0, 0.12], [0.0, 0.76, -0.47], [0.0, -0.76, -0.47]])
    frames = []
    for _ in range(24):
        rows = np.hstack(
            [water + 0.05 * random.normal(size=(3, 3)), random.normal(size=(3, 3))]
        )
        head = f"Properties=species:S:1:pos:R:3:forces:R:3:charges:R:1 energy={random.normal()}"
        lines = [
            f"{symbol} {' '.join(map(str, row))} {q}"
            for symbol, row, q in zip("OHH", rows, (-0.6, 0.3, 0.3), strict=True)
        ]
        frames.append("\n".join(("3", f'{head} charge=0 pbc="F F F"', *lines)))
    path.write_text("\n".join(frames) + "\n")


def test_the_readme_shows_every_verb() -> None:
    assert {words[1] for words in commands()} >= set(VERBS) - {"data"}


def test_the_recipe_of_the_readme_is_one(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_waters(tmp_path / "train.extxyz", 0)
    (recipe,) = blocks("yaml")
    (tmp_path / "mine.yaml").write_text(recipe)
    assert load_recipe("mine.yaml").settings["loss"]["forces"] == 10.0


def keep(potential: Potential, folder: Path) -> None:
    """Write a potential as the best checkpoint of a run."""
    (folder / "checkpoints").mkdir(parents=True)
    state = {archive.RAW + k: v for k, v in potential.state_dict().items()}
    header = {**potential.header(), "conventions": {}}
    entry = {"format": archive.FORMAT, "potential": header}
    torch.save({"state_dict": state, "qeqtrain": entry}, folder / "checkpoints" / "best.ckpt")


def run_block(word: str) -> dict[str, Any]:
    """Run the only block of Python with a word in it."""
    (code,) = [block for block in blocks("python") if word in block]
    found: dict[str, Any] = {}
    exec(code, found)
    return found


def test_the_crystal_of_the_readme_has_the_constant_it_says(tmp_path, monkeypatch) -> None:
    spec = {
        "backbone": BACKBONES["nequip"],
        "charge": {
            "_target_": "qeqtrain.nn.charges.PQEqCharges",
            "mode": "self_consistent",
        },
        "coupling": COUPLINGS["full"],
        "dtype": "float64",
    }
    potential = build_potential(spec, elements=(3, 9), references={}, scale=1.0)
    keep(potential, tmp_path / "runs" / "reaxnet")
    monkeypatch.chdir(tmp_path)
    found = run_block("dielectric_constant")
    assert torch.allclose(found["epsilon"], 1.69 * torch.eye(3).double(), atol=0.005)
    born = found["answer"].born_charges[0]
    assert torch.allclose(born, 0.50 * torch.eye(3).double(), atol=0.005)


def test_the_dimer_in_a_field_keeps_what_the_readme_says_of_it(tmp_path, monkeypatch) -> None:
    keep(small_cross("tensornet", "gaussian", "full"), tmp_path / "runs" / "salt")
    monkeypatch.chdir(tmp_path)
    found = run_block("induced")
    assert found["alpha"][2, 2] > 0.05
    assert abs(found["induced"][2]) > 0.005


@pytest.mark.slow
def test_the_readme_runs_as_it_stands(tmp_path, qeqtrain) -> None:
    write_waters(tmp_path / "train.extxyz", 0)
    write_waters(tmp_path / "other.extxyz", 1)
    for program, *words in commands():
        assert program == "qeqtrain"
        done = qeqtrain(*words)
        assert done.returncode == 0, f"{words}: {done.stderr}"
    for code in blocks("python"):
        if "polarizability" in code:  # a test of its own
            continue
        words = [sys.executable, "-c", code]
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "labelled.extxyz").stat().st_size > 0
    assert (tmp_path / "errors.json").stat().st_size > 0
