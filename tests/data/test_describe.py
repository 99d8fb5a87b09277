from __future__ import annotations

import io
import json

import numpy as np
import pytest

from qeqtrain.data.convert import convert
from qeqtrain.data.describe import describe, render
from qeqtrain.data.labels import Conventions
from qeqtrain.data.sources import open_source
from qeqtrain.data.writing import write_extxyz
from qeqtrain.errors import UserMistake


@pytest.fixture
def path(tmp_path, frames):
    path = tmp_path / "frames.extxyz"
    write_extxyz(path, frames)
    return path


def test_a_description_is_plain_values(path):
    assert json.loads(json.dumps(describe(path))) == describe(path)


def test_a_description_counts_what_is_there(path, frames):
    d = describe(path)
    assert (d["frames"], d["atoms"]) == (16, sum(len(f) for f in frames))
    assert d["labels"]["stress"] == 4
    assert d["total_charges"] == {"-1": 4, "0": 8, "+1": 4}
    assert d["periodicity"] == {"none": 12, "all directions": 4}
    assert d["elements"]["O"] == 12


def test_the_text_shows_the_labels_the_charges_and_the_fingerprint(path):
    text = render(describe(path))
    for words in ("16 frames", "+1", "energy", "eV/A^3", "charges by element", "fingerprint"):
        assert words in text
    assert max(len(line) for line in text.splitlines()) <= 110


def test_an_unstated_dipole_origin_is_said(tmp_path, path):
    text = path.read_text().replace(" dipole_origin=center_of_mass", "")
    path.write_text(text)
    assert "data.dipole_origin=" in render(describe(path))


def test_an_absent_total_charge_is_a_warning_with_a_remedy(tmp_path, make_molecule):
    path = tmp_path / "open.extxyz"
    write_extxyz(path, [make_molecule(charge=None)])
    d = describe(path)
    assert d["total_charge_unknown"] == 1
    assert any("data.total_charge=zero" in w for w in d["warnings"])


def test_charges_that_do_not_add_up_are_a_warning(tmp_path, make_molecule):
    frame = make_molecule()
    frame.labels["charges"][0] += 0.1
    path = tmp_path / "off.extxyz"
    write_extxyz(path, [frame])
    d = describe(path)
    assert np.isclose(d["charge_sum_residual_e"], 0.1)
    assert any("add up to the total charge within 0.1 e" in w for w in d["warnings"])


def test_conversion_keeps_every_frame_and_says_what_it_wrote(tmp_path, path):
    out = tmp_path / "out.h5"
    summary = convert(path, out, pairs_cutoff=4.0, stream=io.StringIO())
    assert summary.frames == 16
    assert summary.labels["forces"] == 16
    store, origin = open_source(out), open_source(path)
    assert store.pairs_cutoff == 4.0
    assert store.fingerprint == origin.fingerprint == summary.fingerprint


def test_conversion_applies_the_conventions(tmp_path, make_molecule):
    path = tmp_path / "open.extxyz"
    write_extxyz(path, [make_molecule(charge=None)])
    convert(path, tmp_path / "out.h5", Conventions("zero"), stream=io.StringIO())
    assert open_source(tmp_path / "out.h5")[0].structure.total_charge == 0.0


def test_conversion_to_extxyz_and_back_is_exact(tmp_path, path):
    convert(path, tmp_path / "a.h5", stream=io.StringIO())
    convert(tmp_path / "a.h5", tmp_path / "b.extxyz", stream=io.StringIO())
    assert open_source(tmp_path / "b.extxyz").fingerprint == open_source(path).fingerprint


def test_wrong_arguments_of_a_conversion_come_together(tmp_path):
    with pytest.raises(UserMistake) as caught:
        convert(tmp_path / "a.h5", tmp_path / "b.csv", pairs_cutoff=-1.0)
    assert len(caught.value.problems) == 3


def test_a_large_file_is_described_as_a_small_one(path, tmp_path, frames, monkeypatch, capsys):
    write_extxyz(tmp_path / "more.extxyz", frames[:5])
    expected = [describe(path), describe([path, tmp_path / "more.extxyz"])]
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    monkeypatch.setattr("qeqtrain.data.streamed.LARGE", path.stat().st_size - 1)
    monkeypatch.setattr("qeqtrain.data.streamed._WORKERS", 1)
    assert describe(path) == expected[0]
    assert describe([path, tmp_path / "more.extxyz"]) == expected[1]
    assert "frames.extxyz is large: read into a temporary store" in capsys.readouterr().err
    assert not list(folder.iterdir())


def test_a_large_file_that_is_damaged_is_refused_and_leaves_nothing(tmp_path, monkeypatch):
    (tmp_path / "bad.json").write_text('{"mp-1": {"mp-1-0": {"structure": {"sites": [')
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    monkeypatch.setattr("qeqtrain.data.streamed.LARGE", 10)
    with pytest.raises(UserMistake, match=r"bad.json"):
        describe(tmp_path / "bad.json")
    assert not list(folder.iterdir())
