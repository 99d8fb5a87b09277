"""Small models in files, and a server of references on this machine."""

from __future__ import annotations

import functools
import gzip
import json
import threading
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch

from qeqtrain.evaluation.benchmarks.model import Model
from qeqtrain.models import archive
from qeqtrain.models.potential import Potential
from tests.systems import small_qet


def save(path: Path, potential: Potential) -> Path:
    state = {archive.RAW + k: v for k, v in potential.state_dict().items()}
    entry = {"format": archive.FORMAT, "potential": potential.header()}
    torch.save({"state_dict": state, "qeqtrain": entry}, path)
    return path


@pytest.fixture
def model(tmp_path: Path) -> Model:
    """A small untrained QET in a file."""
    return Model(str(save(tmp_path / "small.ckpt", small_qet())))


class Quiet(SimpleHTTPRequestHandler):
    """Serves a folder and counts what was asked for."""

    asked: list[str]

    def log_message(self, *_: object) -> None:
        self.asked.append(self.path)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, Path, list[str]]]:
    """Address of a server, the folder it serves, and what it was asked for."""
    folder = tmp_path / "served"
    folder.mkdir()
    handler = type("Handler", (Quiet,), {"asked": []})
    running = ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(handler, directory=str(folder))
    )
    thread = threading.Thread(target=running.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{running.server_port}", folder, handler.asked
    running.shutdown()
    running.server_close()
    thread.join()


def pymatgen_form(atoms: Any) -> dict[str, Any]:
    """A structure in the dictionary form of the published files."""
    return {
        "lattice": {"matrix": atoms.cell.array.tolist()},
        "sites": [
            {"species": [{"element": s, "occu": 1}], "abc": x.tolist()}
            for s, x in zip(
                atoms.get_chemical_symbols(),
                atoms.get_scaled_positions(wrap=False),
                strict=True,
            )
        ],
    }


@pytest.fixture
def write_reference(tmp_path: Path) -> Callable[[str, Any], Path]:
    """Writes a reference file of its own into a folder, and returns the folder."""

    def write(name: str, content: Any) -> Path:
        folder = tmp_path / "references"
        folder.mkdir(exist_ok=True)
        with gzip.open(folder / name, "wt", encoding="utf-8") as file:
            json.dump(content, file)
        return folder

    return write
