from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from qeqtrain.data import work
from qeqtrain.data.convert import convert
from qeqtrain.data.labels import Conventions
from qeqtrain.data.rejected import kind_of
from qeqtrain.data.sources import open_source
from qeqtrain.data.store import verify
from qeqtrain.data.writing import write_extxyz, write_store
from qeqtrain.errors import UserMistake

PIECE = 1200  # bytes: the file below has a dozen pieces


def sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def quietly(*arguments, **options):
    return convert(*arguments, stream=io.StringIO(), piece_size=PIECE, **options)


@pytest.fixture
def path(tmp_path, frames):
    path = tmp_path / "frames.extxyz"
    write_extxyz(path, frames)
    return path


@pytest.fixture
def bad(tmp_path, frames):
    """Six frames are bad, each in its own way."""
    made = []
    for i, frame in enumerate(frames):
        s, labels = frame.structure, dict(frame.labels)
        if i == 1:
            s = replace(s, positions=s.positions * 0.0)
        elif i == 5:
            labels["forces"] = labels["forces"] * 1000.0
        elif i == 9:
            labels["energy"] = np.float64("nan")
        elif i == 13:
            s = replace(s, cell=np.zeros((3, 3)))
        elif i == 14:  # one atom is another's image
            s = replace(
                s, positions=np.concatenate([s.positions[:-1], s.positions[:1] + s.cell[0]])
            )
        made.append(replace(frame, structure=s, labels=labels))
    path = tmp_path / "bad.extxyz"
    write_extxyz(path, made)
    lines = path.read_text().splitlines()
    at = next(k for k, line in enumerate(lines) if "source_id=made/7/" in line)
    lines[at + 1] = "Qq" + lines[at + 1][2:]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_pieces_make_the_store_that_one_reading_makes(tmp_path, path):
    done = quietly(path, tmp_path / "out.h5")
    assert done.pieces > 5
    assert open_source(tmp_path / "out.h5").fingerprint == open_source(path).fingerprint
    assert verify(tmp_path / "out.h5") > 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["frames.extxyz", "out.h5"]


@pytest.mark.parametrize("others", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_the_bytes_do_not_depend_on_the_number_of_workers(tmp_path, path, others):
    for workers in (1, others):
        quietly(path, tmp_path / f"{workers}.h5", workers=workers, pairs_cutoff=4.0)
    assert sha(tmp_path / "1.h5") == sha(tmp_path / f"{others}.h5")


def test_a_conversion_goes_on_where_it_stopped(tmp_path, path, monkeypatch):
    whole = quietly(path, tmp_path / "whole.h5")
    made, make_part = [], work.make_part

    def failing(job):
        if len(made) == 4:
            raise KeyboardInterrupt
        made.append(job.part)
        return make_part(job)

    monkeypatch.setattr(work, "make_part", failing)
    with pytest.raises(KeyboardInterrupt):
        quietly(path, tmp_path / "out.h5")
    assert not (tmp_path / "out.h5").exists()
    monkeypatch.setattr(work, "make_part", make_part)
    screen = io.StringIO()
    done = convert(path, tmp_path / "out.h5", stream=screen, piece_size=PIECE)
    assert done.resumed == 4
    assert f"4 pieces of {whole.pieces} were finished before" in screen.getvalue()
    assert sha(tmp_path / "out.h5") == sha(tmp_path / "whole.h5")


SCRIPT = """
import sys, time
from qeqtrain.data import pieces, work
from qeqtrain.data.convert import convert
make_part = work.make_part
def slowly(job):
    time.sleep(0.05)
    return make_part(job)
work.make_part = slowly
if __name__ == "__main__":
    convert(sys.argv[1], sys.argv[2], piece_size=int(sys.argv[3]), workers=int(sys.argv[4]))
"""


@pytest.mark.slow
def test_a_conversion_in_two_processes_survives_kill_9(tmp_path, path):
    quietly(path, tmp_path / "whole.h5")
    (tmp_path / "slow.py").write_text(SCRIPT)
    command = [sys.executable, "slow.py", str(path), "out.h5", str(PIECE), "2"]
    folder = tmp_path / "out.h5.parts"
    with subprocess.Popen(
        command,
        cwd=tmp_path,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": str(Path.cwd())},
    ) as process:
        until = time.monotonic() + 60
        while len(list(folder.glob("0*.json"))) < 3 and time.monotonic() < until:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    finished = len(list(folder.glob("0*.json")))
    assert finished >= 3
    assert not (tmp_path / "out.h5").exists()
    time.sleep(0.3)  # what a worker had begun it may still finish
    done = quietly(path, tmp_path / "out.h5")
    assert finished <= done.resumed < done.pieces
    assert sha(tmp_path / "out.h5") == sha(tmp_path / "whole.h5")


def test_a_part_that_was_cut_short_is_made_again(tmp_path, path, monkeypatch):
    quietly(path, tmp_path / "whole.h5")
    monkeypatch.setattr(work, "refuse_bad", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        quietly(path, tmp_path / "out.h5")
    monkeypatch.undo()
    (report,) = (tmp_path / "out.h5.parts").glob("0*.json")
    report.write_text(report.read_text()[:40])
    assert quietly(path, tmp_path / "out.h5").resumed == 0
    assert sha(tmp_path / "out.h5") == sha(tmp_path / "whole.h5")


def test_parts_of_another_conversion_are_refused(tmp_path, path, monkeypatch):
    monkeypatch.setattr(work, "refuse_bad", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        quietly(path, tmp_path / "out.h5")
    monkeypatch.undo()
    with pytest.raises(UserMistake, match="with other conventions, pairs_cutoff; remove"):
        quietly(path, tmp_path / "out.h5", Conventions("zero"), pairs_cutoff=3.0)


def test_two_conversions_do_not_work_in_one_folder(tmp_path, path):
    with (
        work.work_folder(tmp_path / "out.h5.parts", {}),
        pytest.raises(UserMistake, match="another conversion is at work"),
    ):
        quietly(path, tmp_path / "out.h5")


def test_bad_frames_are_left_out_and_all_of_them_listed(tmp_path, bad, frames):
    out = tmp_path / "out.h5"
    done = quietly(bad, out, max_force=50.0, on_bad="skip")
    assert done.frames == len(frames) - 6
    assert sum(done.rejected_counts.values()) == 6
    with done.rejected_file.open(newline="") as file:
        listed = {row["id"]: row["reason"] for row in csv.DictReader(file)}
    assert len(listed) == 6
    for i, words in (
        (1, "0 A apart"),
        (5, "--max-force 50"),
        (9, "energy is not a number"),
        (13, "periodic, but"),
        (14, "through a cell boundary"),
    ):
        assert words in listed[frames[i].source_id]
    assert any("Qq" in reason for reason in listed.values())
    kept = {f.source_id for i, f in enumerate(frames) if i not in (1, 5, 7, 9, 13, 14)}
    assert set(open_source(out).source_ids) == kept
    text = "\n".join(done.told())
    assert "6 structures left out" in text
    assert "out.h5.rejected.csv" in text
    assert any("6 frames left out on conversion" in note for note in open_source(out).notes)


def test_a_bad_frame_is_a_mistake_unless_it_may_be_left_out(tmp_path, bad):
    out = tmp_path / "out.h5"
    with pytest.raises(UserMistake, match="--on-bad skip") as caught:
        quietly(bad, out, max_force=50.0)
    assert "nearer than 0.1 A" in str(caught.value)
    assert not out.exists()
    # What was read before the mistake is not read again.
    assert quietly(bad, out, max_force=50.0, on_bad="skip").resumed > 0


def test_an_earlier_list_of_bad_frames_does_not_stay(tmp_path, path, bad):
    quietly(bad, tmp_path / "out.h5", max_force=50.0, on_bad="skip")
    assert quietly(path, tmp_path / "out.h5").rejected_file is None
    assert not (tmp_path / "out.h5.rejected.csv").exists()


def test_reasons_with_other_numbers_are_one_kind():
    assert kind_of("two atoms are 0.05 A apart") == kind_of("two atoms are 1e-3 A apart")


def test_labels_that_only_late_frames_have_are_read(tmp_path, make_molecule):
    frames = [make_molecule(i) for i in range(500)]
    for frame in frames[:-1]:
        del frame.labels["charges"]
    path = tmp_path / "late.extxyz"
    write_extxyz(path, frames)
    screen = io.StringIO()
    done = convert(path, tmp_path / "out.h5", stream=screen)
    assert done.labels["charges"] == 1
    assert "later frames have keys" in screen.getvalue()
    assert open_source(tmp_path / "out.h5").fingerprint == open_source(path).fingerprint


def test_keys_that_contradict_each_other_late_are_refused(tmp_path, make_molecule):
    path = tmp_path / "late.extxyz"
    write_extxyz(path, [make_molecule(i) for i in range(500)])
    text = path.read_text()
    at = text.rindex("energy=")
    path.write_text(text[:at] + "REF_energy=1.0 " + text[at:])
    with pytest.raises(UserMistake, match="'energy' and 'REF_energy' could all be energy"):
        convert(path, tmp_path / "out.h5", stream=io.StringIO())


def test_shards_of_a_conversion_are_one_source(tmp_path, path, frames):
    done = quietly(path, tmp_path / "shards", shard_frames=5, pairs_cutoff=4.0)
    assert [p.name for p in sorted(done.path.iterdir())] == [f"{k:05d}.h5" for k in range(4)]
    source = open_source(tmp_path / "shards")
    assert source.sizes.tolist() == [len(f) for f in frames]
    assert source.source_ids == [f.source_id for f in frames]
    assert source.fingerprint == done.fingerprint
    assert done.labels["stress"] == 4
    assert source.pairs_cutoff == 4.0
    assert not (tmp_path / "shards.parts").exists()


@pytest.mark.slow
def test_shards_are_the_same_whatever_the_workers(tmp_path, path):
    for workers in (1, 2):
        quietly(path, tmp_path / str(workers), shard_frames=7, workers=workers)
    shas = [[sha(p) for p in sorted((tmp_path / str(w)).iterdir())] for w in (1, 2)]
    assert shas[0] == shas[1]


def test_a_missing_shard_is_missed(tmp_path, path):
    quietly(path, tmp_path / "shards", shard_frames=5)
    (tmp_path / "shards" / "00002.h5").unlink()
    with pytest.raises(UserMistake, match=r"1 of 4 shards are missing \(00002.h5\)"):
        open_source(tmp_path / "shards")


def test_a_pattern_names_folders_of_shards(tmp_path, path):
    for name in ("a", "b"):
        quietly(path, tmp_path / "parts" / name, shard_frames=5)
    assert len(open_source(tmp_path / "parts" / "*")) == 2 * len(open_source(path))
    (tmp_path / "parts" / "b" / "00001.h5").unlink()
    with pytest.raises(UserMistake, match=r"b: 1 of 4 shards are missing \(00001.h5\)"):
        open_source(tmp_path / "parts" / "*")


def test_a_folder_that_is_not_empty_takes_no_shards(tmp_path, path):
    with pytest.raises(UserMistake, match="is there already"):
        quietly(path, tmp_path, shard_frames=5)
    with pytest.raises(UserMistake, match=r"leave out \.h5"):
        quietly(path, tmp_path / "out.h5", shard_frames=5)


def test_stores_and_files_are_converted_together(tmp_path, path, frames, make_molecule):
    write_store(tmp_path / "more.h5", [make_molecule(50 + i) for i in range(7)])
    quietly([path, tmp_path / "more.h5"], tmp_path / "out.h5")
    source = open_source(tmp_path / "out.h5")
    assert len(source) == len(frames) + 7
    assert source[len(frames) + 3].labels["energy"] == make_molecule(53).labels["energy"]


def test_a_file_that_ends_too_early_is_no_bad_frame(tmp_path, path):
    text = path.read_text()
    path.write_text(text[: int(0.7 * len(text))])
    with pytest.raises(UserMistake):
        quietly(path, tmp_path / "out.h5", on_bad="skip")


def test_wrong_arguments_come_together(tmp_path, path):
    with pytest.raises(UserMistake) as caught:
        quietly(path, tmp_path / "a.csv", workers=0, max_force=-1.0, on_bad="ignore")
    assert len(caught.value.problems) == 4


def test_reports_are_plain_json(tmp_path, bad, monkeypatch):
    kept = []
    monkeypatch.setattr(work.Report, "write", lambda self, path: kept.append((self, path)))
    quietly(bad, tmp_path / "out.h5", max_force=50.0, on_bad="skip")
    monkeypatch.undo()
    for number, (report, _) in enumerate(kept):
        path = tmp_path / f"{number}.json"
        report.write(path)
        assert work.Report.read(path) == report
        json.loads(path.read_text())
