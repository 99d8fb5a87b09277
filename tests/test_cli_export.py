"""``qeqtrain export`` from the command line."""

from __future__ import annotations

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
