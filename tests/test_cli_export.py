"""``qeqtrain export`` from the command line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import qeqtrain
from qeqtrain.cli import main
from tests.models.test_archive import write_checkpoint
from tests.systems import small_qet


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "a.ckpt", small_qet())


def test_a_checkpoint_becomes_a_file_of_its_own(checkpoint: Path, tmp_path, capsys) -> None:
    out = tmp_path / "a.safetensors"
    assert main(["export", str(checkpoint), str(out), "--dtype", "float32"]) == 0
    said = capsys.readouterr().out
    assert "float32" in said
    assert "elements: H O Na Mg Cl Cu" in said
    assert str(qeqtrain.load(out).dtype) == "torch.float32"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--dtype", "float46"], "did you mean 'float64'"),
        (["nowhere/a.safetensors"], "there is no folder nowhere"),
        (["a.ckpt"], "is the file that is read"),
    ],
)
def test_mistakes_are_answered_before_anything_is_written(
    checkpoint: Path, monkeypatch, capsys, words: list[str], message: str
) -> None:
    monkeypatch.chdir(checkpoint.parent)
    before = checkpoint.read_bytes()
    words = ["b.safetensors", *words] if words[0].startswith("--") else words
    assert main(["export", "a.ckpt", *words]) == 2
    assert message in capsys.readouterr().err
    assert [p.name for p in checkpoint.parent.iterdir()] == ["a.ckpt"]
    assert checkpoint.read_bytes() == before


WITHOUT = """
import sys
BANNED = {"hydra", "omegaconf", "pytorch_lightning", "wandb"}
class Refuse:
    def find_spec(self, name, *_):
        if name.split(".")[0] in BANNED:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Refuse())
from qeqtrain.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("verb", ["predict", "evaluate", "export"])
def test_verbs_take_it_where_hydra_and_lightning_are_absent(
    checkpoint: Path, tmp_path, verb: str
) -> None:
    assert main(["export", str(checkpoint), str(tmp_path / "a.safetensors")]) == 0
    from tests.test_readme import write_waters

    write_waters(tmp_path / "in.extxyz", 0)
    words = {
        "predict": ["in.extxyz", "out.extxyz"],
        "evaluate": ["in.extxyz", "--out", "report"],
        "export": ["again.safetensors"],
    }
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, verb, "a.safetensors", *words[verb]],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
