"""Finding, reading and refusing model files."""

from __future__ import annotations

import functools
import hashlib
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

import qeqtrain
from qeqtrain.errors import UserMistake
from qeqtrain.models import archive
from qeqtrain.models.potential import Potential
from tests.systems import batch_of, shared_file, small_qet, triclinic, water


def write_checkpoint(path: Path, potential: Potential, **changes: object) -> Path:
    state = {archive.RAW + k: torch.zeros_like(v) for k, v in potential.state_dict().items()}
    state |= {archive.AVERAGED + k: v for k, v in potential.state_dict().items()}
    entry = {"format": archive.FORMAT, "potential": potential.header()} | changes
    torch.save({"state_dict": state, "qeqtrain": entry}, path)
    return path


def test_a_checkpoint_predicts_what_the_trained_average_did(tmp_path: Path) -> None:
    potential = small_qet(seed=3)
    loaded = qeqtrain.load(write_checkpoint(tmp_path / "a.ckpt", potential))
    batch = batch_of([triclinic(), water(1.0)], potential)
    expected, found = potential(batch), loaded(batch)
    torch.testing.assert_close(found.energy, expected.energy, rtol=0, atol=0)
    torch.testing.assert_close(found.forces, expected.forces, rtol=0, atol=0)


def test_a_run_folder_stands_for_its_best_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    write_checkpoint(tmp_path / "checkpoints" / "last.ckpt", small_qet(seed=1))
    assert archive.best_checkpoint(tmp_path).name == "last.ckpt"
    write_checkpoint(tmp_path / "checkpoints" / "best.ckpt", small_qet(seed=2))
    assert archive.best_checkpoint(tmp_path).name == "best.ckpt"


def test_precision_can_be_chosen_at_loading_and_constants_stay_exact(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "a.ckpt", small_qet())
    loaded = qeqtrain.load(path, dtype="float32").double()
    assert loaded.dtype == torch.float64
    fresh = small_qet()
    for name, buffer in loaded.named_buffers():
        assert torch.equal(buffer, fresh.get_buffer(name)), name


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda p: p.write_bytes(p.read_bytes()[:-100]), "damaged or not a checkpoint"),
        (lambda p: p.write_bytes(b"garbage"), "not a checkpoint"),
        (lambda p: torch.save({"state_dict": {}}, p), "holds no potential"),
        (lambda p: write_checkpoint(p, small_qet(), format=99), "format 99"),
        (lambda p: torch.save({"state_dict": {}, "qeqtrain": 3}, p), "not one that qeqtrain"),
    ],
)
def test_files_that_are_no_whole_checkpoint_are_refused(
    tmp_path: Path, damage, message
) -> None:
    path = write_checkpoint(tmp_path / "a.ckpt", small_qet())
    damage(path)
    with pytest.raises(UserMistake, match=message):
        qeqtrain.load(path)


def test_a_file_cannot_run_code(tmp_path: Path) -> None:
    potential = small_qet()
    potential.spec["coupling"] = {"_target_": "os.system", "command": "true"}
    with pytest.raises(UserMistake, match="no part that may be built"):
        qeqtrain.load(write_checkpoint(tmp_path / "a.ckpt", potential))


def test_unknown_names_are_answered_with_the_nearest() -> None:
    with pytest.raises(UserMistake, match="did you mean 'qet-matq'"):
        qeqtrain.load("qet-matk")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """Serve a folder on this machine, as the publisher's address would."""
    folder = tmp_path / "published"
    folder.mkdir()

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            return

    handler = functools.partial(Quiet, directory=str(folder))
    running = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=running.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{running.server_port}"
    running.shutdown()
    running.server_close()
    thread.join()


@pytest.fixture
def published(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> archive.FoundationModel:
    """Stand in for a foundation model, with two small files on that server."""
    monkeypatch.delenv("QEQTRAIN_MODELS", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    hashes = {}
    for name in ("state.pt", "model.json"):
        (tmp_path / "published" / name).write_bytes(name.encode() * 1000)
        hashes[name] = hashlib.sha256(name.encode() * 1000).hexdigest()
    return replace(archive.FOUNDATION_MODELS["qet-matq"], url=server, files=hashes)


def test_missing_files_are_downloaded_once_and_checked(
    published: archive.FoundationModel, tmp_path: Path
) -> None:
    folder = published.folder()
    assert folder == tmp_path / "cache" / "qeqtrain" / "models" / "qet-matq"
    assert sorted(p.name for p in folder.iterdir()) == ["model.json", "state.pt"]
    for file in (tmp_path / "published").iterdir():
        file.unlink()  # the second time must not ask the server
    assert published.folder() == folder


def test_a_download_with_another_checksum_is_not_kept(
    published: archive.FoundationModel, tmp_path: Path
) -> None:
    (tmp_path / "published" / "state.pt").write_bytes(b"something else")
    with pytest.raises(UserMistake, match="not kept"):
        published.folder()
    cache = tmp_path / "cache" / "qeqtrain" / "models" / "qet-matq"
    assert list(cache.iterdir()) == []


def test_without_a_network_the_message_names_file_and_folder(
    published: archive.FoundationModel,
) -> None:
    unreachable = replace(published, url="http://127.0.0.1:9")
    with pytest.raises(UserMistake, match=r"put state\.pt, model\.json into .*qet-matq"):
        unreachable.folder()


def test_a_damaged_file_on_disk_is_refused(
    published: archive.FoundationModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QEQTRAIN_MODELS", str(tmp_path))
    (tmp_path / "qet-matq").mkdir()
    for name in published.files:
        (tmp_path / "qet-matq" / name).write_bytes(b"damaged")
    with pytest.raises(UserMistake, match="sha256"):
        published.folder()


def test_the_foundation_model_loads_from_the_users_folder(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = shared_file("foundation", "qet-matq", "state.pt").parents[1]
    monkeypatch.setenv("QEQTRAIN_MODELS", str(folder))
    potential = qeqtrain.load("qet-matq")
    assert len(potential.elements) == 89
    # The published tutorial's caesium chloride: -6.532 eV, 0.8196 e.
    from ase.build import bulk

    found = potential(bulk("CsCl", "cesiumchloride", a=4.207706))
    assert abs(float(found.energy[0]) + 6.532) < 5e-4
    assert abs(float(found.charges[0]) - 0.8196) < 5e-5


def test_elements_absent_from_the_training_data_are_warned_about(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = shared_file("foundation", "qet-matq", "state.pt").parents[1]
    monkeypatch.setenv("QEQTRAIN_MODELS", str(folder))
    from ase import Atoms

    with pytest.warns(UserWarning, match="Ar: listed by the model but absent"):
        qeqtrain.load("qet-matq")(Atoms("Ar2", [[0, 0, 0], [0, 0, 3.8]]))
