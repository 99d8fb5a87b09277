"""The table of speeds: made from the results file alone, and the one that README.md shows."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]
BENCH = ROOT / "scripts" / "bench"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The command as a module; its neighbours are found as when it is run."""
    names = ("shared", "table_cases", "table_layout", "table")
    for name in names:
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(str(BENCH))
    module = importlib.import_module("table")
    yield module
    for name in names:
        sys.modules.pop(name, None)


def line(program: str, run: str = "2026-01-01T00:00:00", **other: object) -> dict[str, object]:
    """One made-up measurement of NequIP on crystals."""
    needs = {
        "needs_of": "nequip",
        "flop_per_atom_training": 2e7,
        "traffic_per_atom_training": 1e6,
        "flop_per_atom_inference": 5e6,
        "traffic_per_atom_inference": 4e6,
    }
    ours = program.startswith("qeqtrain")
    return {
        "program": program,
        "network": "nequip",
        "system": "periodic",
        "device": "cpu",
        "threads": 1,
        "batch": 8,
        "repeat": 1,
        "compiled": False,
        "batch_atoms": 400,
        "step_cpu_ms": 400.0 if ours else 1000.0,
        "infer_cpu_ms": 100.0 if ours else 500.0,
        "step_ms_min": 400.0 if ours else 1000.0,
        "infer_ms_min": 100.0,
        "rss_mb": 500 if ours else 1000,
        "calib": [[80.0, 10.0], [100.0, 40.0]],
        "torch": "2",
        "hardware": "a processor",
        "run": run,
        "date": run[:10],
        "commit": "abc",
        **(needs if ours else {}),
        **other,
    }


def test_ratios_are_ours_over_the_mean_of_both_runs_of_the_rival(script) -> None:
    before = {"step_cpu_ms": 900.0}
    text = "\n".join(script.table([line("nequip", **before), line("qeqtrain"), line("nequip")]))
    assert "| nequip | 900 / 1000 | 1 |" in text
    assert "| qeqtrain | 400 | **0.42** | 100 | **0.20** | 500 | **0.50** |" in text
    # 400 atoms x 20 MFLOP at 100 GFLOP/s are 80 ms; 4 MB an atom at 40 GB/s are 40 ms.
    assert "| 20 %, 40 % |" in text


def test_only_the_last_run_of_a_case_is_shown(script) -> None:
    new = "2026-02-02T00:00:00"
    old = [line("nequip"), line("qeqtrain", step_cpu_ms=1.0)]
    text = "\n".join(script.table([*old, line("nequip", new), line("qeqtrain", new)]))
    assert "**0.40**" in text
    assert "2026-02-02" in text
    assert "2026-01-01" not in text


def test_two_threads_are_read_by_the_clock_and_set_beside_one(script) -> None:
    both = [line("qeqtrain"), line("qeqtrain", threads=2, step_ms_min=250.0)]
    text = "\n".join(script.table(both))
    assert "a processor, 2 threads, least time by the clock" in text
    assert "2 threads against one, training: qeqtrain periodic 8: 1.60." in text
    coded = [
        line("qeqtrain", compiled=True, step_ms_min=160.0),
        line("qeqtrain", compiled=True, threads=2, step_ms_min=80.0),
    ]
    text = "\n".join(script.table([*both, *coded]))
    assert "qeqtrain periodic 8: 1.60, qeqtrain compiled periodic 8: 2.00." in text
    another = line("qeqtrain", "2026-02-02T00:00:00", threads=2)
    assert "against one" not in "\n".join(script.table([both[0], another]))


def test_a_compiled_run_has_a_row_of_its_own(script) -> None:
    lines = [line("nequip"), line("qeqtrain"), line("qeqtrain", compiled=True, step_cpu_ms=200)]
    text = "\n".join(script.table(lines))
    assert "| qeqtrain, compiled | 200 | **0.20** |" in text


def test_a_gpu_is_read_by_the_clock_and_by_the_memory_of_torch(script) -> None:
    there = {"device": "cuda", "gpu": "a GPU", "gpu_mb": 300, "calib": [[1e4, 1e3], [2e4, 4e3]]}
    text = "\n".join(script.table([line("qeqtrain", step_ms_min=8.0, **there)]))
    assert "*a GPU, time by the clock" in text
    # 400 x 20 MFLOP at 20 TFLOP/s are 0.4 ms of 8; 1.6 GB at 4 TB/s are 0.4 ms of 100.
    assert "| qeqtrain | 8 | - | 100 | - | 300 | - | 5 %, 0 % |" in text


@pytest.mark.parametrize("word", ["0", "x2", "a", "1x0"])
def test_a_size_without_sense_is_refused(script, word: str) -> None:
    with pytest.raises(SystemExit, match=f"--sizes {word}"):
        script.Size.read(word)


def test_readme_shows_the_table_of_the_results_file(script) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert script.in_readme(text, script.read(script.RESULTS)) == text


def test_results_say_what_was_measured_and_nothing_of_the_machine_but_its_kind(script) -> None:
    lines = script.read(script.RESULTS)
    assert lines
    for found in lines:
        assert found["command"].startswith("python scripts/bench/table.py")
        assert {"commit", "hardware", "torch", "date", "threads", "device"} <= found.keys()
        words = json.dumps({**found, "hardware": "", "command": found["command"]})
        assert "/" not in words.replace("scripts/bench/table.py", "")
