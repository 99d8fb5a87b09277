"""W&B's own agent, against a server on this machine that answers what agents ask."""

from __future__ import annotations

import gzip
import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from qeqtrain.sweeps.definition import read_definition
from qeqtrain.sweeps.remote import for_server

ID = "a1b2c3d4"
KEY = "k" * 40
SWEEP = """
command: ["${env}", qeqtrain, fit, smoke/qet, data.train=water.extxyz, "data.split={val: 3}",
          trainer.max_epochs=1, logger=wandb, logger.mode=offline, "${args_no_hyphens}"]
method: random
run_cap: 2
metric: {name: val/score, goal: minimize}
parameters:
  backbone: {values: [tensornet, nequip]}
  optim: {parameters: {lr: {min: 1.0e-5, max: 1.0e-2}, ema: {values: [null, 0.9]}}}
"""
TRIALS = [
    {"backbone": {"value": "nequip"}, "optim": {"value": {"lr": 1e-05, "ema": None}}},
    {"backbone": {"value": "tensornet"}, "optim": {"value": {"lr": 0.01, "ema": 0.9}}},
]


class Server(ThreadingHTTPServer):
    """Answers as W&B's server would: who asks, which sweep, and two trials, then the end."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.config = ""
        self.asked: list[str] = []
        self.given = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def answer(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        if "upsertSweep" in query:
            self.config = variables["config"]
            project = {"name": "p", "entity": {"name": "e"}}
            sweep = {"id": "1", "name": ID, "project": project, "config": self.config}
            return {"upsertSweep": {"sweep": sweep, "configValidationWarnings": []}}
        if "agentHeartbeat" in query:
            agent = {"agent": {"id": "agent"}, "commands": "[]"}
            if any(json.loads(variables["runState"]).values()):
                return {"agentHeartbeat": agent}  # one trial at a time
            self.given += 1
            number = self.given - 1
            command = {"id": str(number), "type": "exit"}
            if number < len(TRIALS):
                command |= {"type": "run", "run_id": f"run{number}", "args": TRIALS[number]}
                command["program"] = yaml.safe_load(self.config)["program"]
            return {"agentHeartbeat": {**agent, "commands": json.dumps([command])}}
        if "createAgent" in query:
            return {"createAgent": {"agent": {"id": "agent"}}}
        if "sweep(sweepName" in query:
            sweep = {"id": "1", "name": ID, "config": self.config, "state": "RUNNING"}
            return {"project": {"sweep": {**sweep, "runs": {"edges": []}}}}
        viewer = {"id": "v", "entity": "e", "username": "e", "flags": "{}", "email": "e@e"}
        info = {"cliVersionInfo": {"max_cli_version": "9.9"}, "latestLocalVersionInfo": None}
        return {"viewer": {**viewer, "teams": {"edges": []}}, "serverInfo": info}


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        sent = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Content-Encoding") == "gzip":
            sent = gzip.decompress(sent)
        try:
            body = json.loads(sent)
        except ValueError:  # figures of the client's own use, and the like
            body = {}
        self.server.asked.append(str(body.get("query")))
        data = self.server.answer(str(body.get("query")), body.get("variables") or {})
        text = json.dumps({"data": data}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    do_GET = do_POST  # noqa: N815 (names are those of the standard library)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as made:
        thread = threading.Thread(target=made.serve_forever, daemon=True)
        thread.start()
        yield made
        made.shutdown()
        thread.join()


@pytest.fixture
def sweep_file(water: Path) -> Path:
    file = water.parent / "mine.yaml"
    file.write_text(SWEEP)
    return file


def environment(server: Server, folder: Path) -> dict[str, str]:
    """An account on the server; ``qeqtrain`` is on the path."""
    script = folder / "bin" / "qeqtrain"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\nexec {sys.executable} -m qeqtrain "$@"\n')
    script.chmod(0o755)
    return {
        "WANDB_BASE_URL": server.url,
        "WANDB_API_KEY": KEY,
        "WANDB_MODE": "online",
        "WANDB_ENTITY": "e",
        "HOME": str(folder),
        "PATH": f"{script.parent}:/usr/bin:/bin",
    }


@pytest.mark.slow
def test_w_and_b_s_agent_runs_the_trials_of_a_registered_sweep(
    server: Server, sweep_file: Path, qeqtrain
) -> None:
    folder = sweep_file.parent
    done = qeqtrain("sweep", "mine.yaml", **environment(server, folder))
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"qeqtrain sweep e/qeqtrain/{ID}" in done.stdout
    content = yaml.safe_load(server.config)
    assert content["parameters"]["backbone"] == {"values": ["tensornet", "nequip"]}
    assert (folder / "runs").exists(), done.stdout + done.stderr
    runs = sorted(p for p in (folder / "runs/smoke/qet").iterdir() if not p.is_symlink())
    recipes = [yaml.safe_load((run / "recipe.yaml").read_text()) for run in runs]
    assert [r["optim"]["lr"] for r in recipes] == [1e-05, 0.01]
    assert [r["optim"]["ema"] for r in recipes] == [None, 0.9]
    assert recipes[0]["backbone"]["_target_"].endswith("NequIP")
    assert all((run / "checkpoints" / "best.ckpt").is_file() for run in runs)


def test_what_is_registered_has_what_the_command_line_added(sweep_file: Path) -> None:
    definition = read_definition(str(sweep_file)).with_more(["loss.forces=3"], 7)
    content = for_server(definition)
    assert content["command"][-2:] == ["loss.forces=3", "${args_no_hyphens}"]
    assert content["command"].count("logger=wandb") == 1
    assert content["run_cap"] == 7
    assert definition.written is not None
    assert "loss.forces=3" not in definition.written["command"]


def test_trials_of_a_registered_sweep_log_to_the_server(sweep_file: Path) -> None:
    sweep_file.write_text(SWEEP.replace("logger=wandb, logger.mode=offline, ", ""))
    assert "logger=wandb" in for_server(read_definition(str(sweep_file)))["command"]
