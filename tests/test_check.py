from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from qeqtrain.cli import main
from qeqtrain.data.frames import Frame
from qeqtrain.data.writing import write_store
from qeqtrain.structures import Structure

SMALL = ["backbone.channels=4", "backbone.layers=1"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    frames = []
    for i in range(30):
        s = Structure(
            np.array([11, 17, 11, 17]),
            2.7 * np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]])
            + random.normal(scale=0.1, size=(4, 3)),
            np.zeros((3, 3)),
            np.zeros(3, dtype=bool),
            total_charge=0.0,
        )
        charges = np.array([0.7, -0.7, 0.7, -0.7])
        labels = {
            "energy": np.float64(-30.0 - (i == 4) * 9.0 + 0.01 * random.normal()),
            "forces": random.normal(size=(4, 3)),
            "charges": charges,
        }
        frames.append(Frame(s, labels, f"f/{i}"))
    write_store(tmp_path / "train.h5", frames)
    return tmp_path / "train.h5"


def run(*words: object) -> int:
    return main([str(w) for w in words])


def test_check_tells_the_cost_of_a_step_and_what_looks_wrong(path, tmp_path, capsys):
    out = tmp_path / "check.json"
    words = ["check", "qet", f"data.train={path}", *SMALL, "data.split.val=3", "--json", out]
    assert run(*words) == 0
    text = capsys.readouterr().out
    assert "s for the largest batch (28 atoms) on this" in text
    found = json.loads(out.read_text())
    assert found["probe"]["batches"] == 4
    assert found["probe"]["seconds"] > 0
    assert found["statistics"]["n_frames"] == 27
    assert found["statistics"]["coverage"]["charges"] == 1.0
    if "f/4" in text:  # unless it validates
        assert any("far from what the composition suggests" in w for w in found["warning"])


def test_info_says_what_looks_wrong_and_reads_a_store_from_end_to_end(path, tmp_path, capsys):
    out = tmp_path / "info.json"
    assert run("data", "info", path, "--verify", "--json", out) == 0
    assert "bytes are as they were written" in capsys.readouterr().out
    found = json.loads(out.read_text())
    assert any("f/4 2.25 eV/atom off" in w for w in found["warnings"])
    assert found["force_max_eV_per_A"] > 1.0
    assert found["elements"] == {"Na": 30, "Cl": 30}


def test_a_damaged_store_and_a_file_without_checksums_fail_together(path, tmp_path, capsys):
    raw = bytearray(path.read_bytes())
    at = raw.index(np.array([0.7, -0.7, 0.7, -0.7]).tobytes())
    raw[at] ^= 1
    path.write_bytes(raw)
    (tmp_path / "x.extxyz").write_text("1\n\nH 0 0 0\n")
    assert run("data", "info", "--verify", path, tmp_path / "x.extxyz") == 2
    told = capsys.readouterr().err
    assert "labels/charges differ from their checksums" in told
    assert "has no checksums to --verify" in told


def test_convert_is_told_on_the_command_line(path, tmp_path, capsys):
    shards = tmp_path / "shards"
    words = ["--shard-frames", 12, "--workers", 1, "--on-bad", "skip", "--max-force", 2.5]
    assert run("data", "convert", path, shards, *words) == 0
    told = capsys.readouterr().out
    assert "structures left out" in told
    assert "is beyond --max-force 2.5" in told
    assert (tmp_path / "shards.rejected.csv").exists()
    assert run("data", "convert", path, tmp_path / "b.h5", "--on-bad", "perhaps") == 2
    assert "expected error | skip" in capsys.readouterr().err
