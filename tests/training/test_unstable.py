"""A bad label and an exploding learning rate, from the command line: exit code and message."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from ase.io import read, write

from tests.training.processes import begin, command, end, last, write_clusters

SMALL = ("qet", "backbone.channels=4", "backbone.layers=1", "trainer.max_epochs=3")


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen clusters, one of which has an energy whose square no number can hold."""
    file = write_clusters(tmp_path_factory.mktemp("data"), 16)
    clusters = read(file, ":")
    clusters[3].calc.results["energy"] = 1e200
    write(file.with_name("bad.extxyz"), clusters)
    return file


def test_a_structure_whose_loss_is_no_number_costs_its_steps_and_is_named(
    frames: Path, tmp_path: Path
) -> None:
    data = frames.with_name("bad.extxyz")
    words = (*SMALL, "data.batch_structures=4", "potential.scale=1.0")
    words = (*words, "potential.references={Na: -2.0, Cl: -2.0}")
    shown = end(begin(command(data, tmp_path / "run", *words)))
    assert "3 steps were skipped" in shown
    assert re.search(r"with these structures: [^,\s]*3\b", shown)
    assert all(w.isfinite().all() for w in last(tmp_path / "run")["state_dict"].values())


def test_a_learning_rate_that_explodes_ends_with_code_three_after_going_back(
    frames: Path, tmp_path: Path
) -> None:
    words = (*SMALL, "optim.lr=1e30", "trainer.max_bad_steps=3", "trainer.max_epochs=20")
    shown = end(begin(command(frames, tmp_path / "run", *words)), code=3)
    assert shown.count("Going back to") == 2
    assert re.search(
        r"training diverged: .*3 steps in a row.*lower optim\.lr.*went back 2", shown
    )
    assert all(w.isfinite().all() for w in last(tmp_path / "run")["state_dict"].values())


def test_a_full_disk_is_a_message_and_what_was_saved_stays_whole(
    frames: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    words = (*SMALL, "trainer.checkpoint_every_steps=1")
    end(begin(command(frames, folder, *words, "trainer.max_steps=2")))
    before = last(folder)["global_step"]
    room = (folder / "checkpoints" / "last.ckpt").stat().st_size // 2
    more = command(frames, folder, *words, "trainer.max_steps=6", "resume=auto")
    limited = [*("sh", "-c", f'ulimit -f {room // 512}; exec "$@"', "sh"), *more]
    shown = end(begin(limited), code=2)
    assert "no checkpoint could be written" in shown
    assert f"qeqtrain fit resume={folder}" in shown
    assert last(folder)["global_step"] == before
    assert not list((folder / "checkpoints").glob("*.part"))
    end(begin(more))
    assert last(folder)["global_step"] == 6
