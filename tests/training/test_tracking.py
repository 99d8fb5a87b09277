"""Weights & Biases: offline without a word too many, never a prompt, never a hang."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qeqtrain.errors import UserMistake
from qeqtrain.training.tracking import Wandb, answers, has_key
from tests.conftest import ROOT
from tests.recipes.conftest import water

__all__ = ["water"]

NODE = {"_target_": "qeqtrain.training.tracking.Wandb"}
Train = Callable[..., dict[str, Any]]


@pytest.fixture(autouse=True)
def _nobody_is_logged_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Forget the keys and proxies of whoever runs the tests."""
    names = ("API_KEY", "MODE", "BASE_URL", "IDENTITY_TOKEN_FILE", "PROJECT")
    for name in (*(f"WANDB_{n}" for n in names), "HTTPS_PROXY", "https_proxy", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def test_without_a_key_it_says_so_and_stays_offline() -> None:
    assert "no key found" in str(Wandb()._why_offline())


def test_a_key_is_found_in_the_environment_and_in_netrc(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert not has_key("https://api.wandb.ai")
    file = tmp_path / "netrc"
    file.write_text(f"machine api.wandb.ai login user password {'k' * 40}\n")
    file.chmod(0o600)
    monkeypatch.setenv("NETRC", str(file))
    assert has_key("https://api.wandb.ai")
    assert not has_key("https://wandb.example.org")
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    assert has_key("https://wandb.example.org")


def test_a_server_that_does_not_answer_is_found_out_quickly() -> None:
    begun = time.monotonic()
    # A socket that listens to nobody: connections beyond its backlog are never accepted.
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        assert not answers(f"http://127.0.0.1:{closed.getsockname()[1]}", timeout=1.0)
    assert time.monotonic() - begun < 3.0


def test_a_server_that_answers_is_found() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        assert answers(f"http://127.0.0.1:{server.getsockname()[1]}", timeout=5.0)


def test_with_a_key_but_no_network_it_stays_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    assert "does not answer" in str(Wandb(timeout=1.0)._why_offline())


def test_an_unknown_mode_is_a_mistake() -> None:
    with pytest.raises(UserMistake, match="did you mean 'offline'"):
        Wandb(mode="ofline")  # type: ignore[arg-type]


def test_switched_off_by_the_environment_there_is_no_logger(
    monkeypatch: pytest.MonkeyPatch, train: Train, tmp_path: Path
) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    train(logger=NODE, max_epochs=1)
    assert not (tmp_path / "run" / "wandb").exists()


@pytest.mark.slow
def test_a_run_is_logged_offline_with_one_line(
    train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(logger=NODE, max_epochs=2, log_every=2)
    shown = capsys.readouterr()
    assert shown.out.count("W&B:") == 1
    assert "wandb" not in shown.err.lower()
    assert list((tmp_path / "run" / "wandb").glob("offline-run-*/run-*.wandb"))


ALONE = {"WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_API_KEY": "k" * 40}
"""An account on a server that is not there."""


@pytest.mark.slow
def test_with_the_network_closed_training_starts_within_15_seconds(
    water: Path, tmp_path: Path
) -> None:
    words = ("smoke/qet", f"data.train={water}", "data.split={val: 3}", "logger=wandb")
    process = subprocess.Popen(
        [sys.executable, "-m", "qeqtrain", "fit", *words, "run_folder=closed"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **ALONE},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    times = {line: time.monotonic() for line in process.stdout}
    process.stdout.close()
    assert process.wait() == 0, "".join(times)
    said = [line for line in times if line.startswith("W&B:")]
    assert said == [
        "W&B: http://127.0.0.1:9 does not answer; logging offline "
        "(upload later with: wandb sync)\n"
    ]
    assert next(iter(times)) == said[0]  # before any data are read
    trained = next(moment for line, moment in times.items() if line.strip().startswith("1 "))
    assert trained - times[said[0]] < 15.0
    (files,) = (tmp_path / "closed" / "wandb").glob("offline-run-*/files")
    pictures = {p.parent.name + "/" + p.name.partition("_")[0] for p in files.rglob("*.png")}
    assert {"parity/energy", "parity/forces", "parity/charges", "best/charges"} <= pictures
