"""Published files: given, cached, downloaded and checked."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from ase.build import bulk

from qeqtrain.errors import UserMistake
from qeqtrain.evaluation.benchmarks import references
from qeqtrain.evaluation.benchmarks.references import Reference, atoms_of, published_rows
from tests.evaluation.benchmarks.conftest import pymatgen_form
from tests.systems import shared_file

CONTENT = b'{"a": 1}'


@pytest.fixture
def reference(server, tmp_path: Path, monkeypatch) -> Reference:
    address, folder, _ = server
    (folder / "file.json").write_bytes(CONTENT)
    monkeypatch.delenv("QEQTRAIN_BENCHMARKS", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    digest = hashlib.sha256(CONTENT).hexdigest()
    return Reference("file.json", f"{address}/file.json", digest, "a test")


def test_a_file_is_downloaded_once(reference: Reference, server, tmp_path: Path) -> None:
    found = reference.find()
    assert found.as_published
    assert found.path == tmp_path / "cache" / "qeqtrain" / "benchmarks" / "file.json"
    assert references.read_json(found.path) == {"a": 1}
    assert reference.find() == found
    assert len(server[2]) == 1
    assert list(found.path.parent.iterdir()) == [found.path]


def test_a_damaged_copy_in_the_cache_is_downloaded_again(reference: Reference, server) -> None:
    path = reference.find().path
    path.write_bytes(CONTENT[:3])
    assert reference.find().path.read_bytes() == CONTENT
    assert len(server[2]) == 2


def test_a_download_that_differs_is_not_kept(reference: Reference, server) -> None:
    (server[1] / "file.json").write_bytes(b"something else")
    with pytest.raises(UserMistake, match=r"sha256 .* expected .*not kept"):
        reference.find()
    assert list(references.benchmark_folders()[-1].iterdir()) == []


def test_without_a_network_the_message_says_where_the_file_goes(
    reference: Reference, server, tmp_path: Path
) -> None:
    (server[1] / "file.json").unlink()
    with pytest.raises(UserMistake, match=r"cannot be reached.*put it into .*benchmarks"):
        reference.find()


def test_a_folder_of_the_users_own_comes_first(
    reference: Reference, server, tmp_path: Path, monkeypatch
) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "file.json").write_bytes(b"[]")
    monkeypatch.setenv("QEQTRAIN_BENCHMARKS", str(mine))
    found = reference.find()
    assert found.path.parent == mine
    assert not found.as_published
    assert "a part of it or another version" in found.note("somewhere", 0)
    with pytest.raises(UserMistake, match=r"there is no file\.json in that folder"):
        reference.find(str(tmp_path))
    assert server[2] == []


def test_structures_of_the_published_form_become_atoms() -> None:
    expected = bulk("NaCl", "rocksalt", a=5.6)
    found = atoms_of(pymatgen_form(expected))
    assert found.get_chemical_symbols() == expected.get_chemical_symbols()
    assert abs(found.positions - expected.positions).max() < 1e-12
    assert found.pbc.all()
    assert found.info["charge"] == 0.0


def test_published_rows_are_read_with_their_names() -> None:
    folder = shared_file("data", "eval_refs", "matcalc-benchmark-pbe.csv").parent
    rows = {row.model: row.errors for row in published_rows(str(folder))}
    assert rows["TensorNet (OMat24)"]["K"] == pytest.approx(15.613, abs=1e-3)
    assert rows["CHGNet (MPtrj)"]["CV"] == pytest.approx(23.573, abs=1e-3)
    assert "log(sigma)" not in rows["CHGNet (MPtrj)"]  # an empty cell is no number
