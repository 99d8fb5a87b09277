"""Where potentials are kept: checkpoints, run folders, foundation models.

A checkpoint is a file of plain values and tensors, read with ``weights_only=True``: nothing in
it is ever executed. Its entry ``qeqtrain`` carries a format number; one function per step
upgrades older formats. Reading one needs torch alone, not the programmes that trained it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tempfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from qeqtrain.errors import UserMistake, nearest
from qeqtrain.models.potential import DTYPES, Potential, build_potential
from qeqtrain.models.qet import read_matgl

FORMAT = 1
"""Number of the checkpoint format written today."""

UPGRADES: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}
"""From a format number to the function that brings an entry to the next."""

RAW, AVERAGED = "potential.", "averaged.module."
"""Prefixes of the trained weights and of their running average in a checkpoint's state."""


def restore(header: Mapping[str, Any], state: Mapping[str, Tensor]) -> Potential:
    """Rebuild a potential from what :meth:`Potential.header` gave and its weights."""
    scale = header["scale"]
    potential = build_potential(
        header["spec"],
        elements=header["elements"],
        references={int(z): e for z, e in header["references"].items()},
        scale={int(z): s for z, s in scale.items()} if isinstance(scale, Mapping) else scale,
        average_neighbors=header["average_neighbors"],
        charge_range=header.get("charge_range"),  # absent from older files, as the next
        charge_references=header.get("charge_references"),
        conventions=header["conventions"],
    )
    potential.load_state_dict(dict(state))
    return potential


def load(
    model: str | Path,
    *,
    device: torch.device | str | None = None,
    dtype: Literal["float32", "float64"] | torch.dtype | None = None,
) -> Potential:
    """Load a potential, ready to predict.

    Args:
        model: a checkpoint, a run folder (its best checkpoint), or a foundation model's name.
            Averaged weights are taken where training kept an average.
        device: ``cpu`` unless given.
        dtype: precision of the network; as trained unless given.

    Raises:
        UserMistake: no such file or model, or a file that is not a whole checkpoint.
    """
    if isinstance(dtype, str) and dtype not in DTYPES:
        raise UserMistake(f"dtype {dtype!r}: expected {' or '.join(DTYPES)}")
    path = Path(model)
    if path.exists():
        potential = _read_checkpoint(best_checkpoint(path))
    elif str(model) in FOUNDATION_MODELS:
        potential = FOUNDATION_MODELS[str(model)].read()
    else:
        names = ", ".join(FOUNDATION_MODELS)
        raise UserMistake(
            f"{model}: no such file or run folder, and no foundation model of that name "
            f"({names}){nearest(str(model), FOUNDATION_MODELS)}"
        )
    if dtype is not None:
        potential = potential.to(DTYPES[dtype] if isinstance(dtype, str) else dtype)
    return potential.to(device or "cpu").eval()


def best_checkpoint(path: Path) -> Path:
    """Find the checkpoint that stands for ``path``: itself, or the best of a run folder."""
    if path.is_file():
        return path
    for name in ("best.ckpt", "last.ckpt", "previous.ckpt"):
        if (path / "checkpoints" / name).is_file():
            return path / "checkpoints" / name
    raise UserMistake(f"{path}: a folder without checkpoints/best.ckpt; expected a run folder")


def read_entry(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read what a checkpoint says of its potential, upgraded to today's format.

    Returns:
        The entry ``qeqtrain`` and the whole ``state_dict``.

    Raises:
        UserMistake: not a checkpoint of ours, damaged, or written by a newer version.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise UserMistake(
            f"{path}: damaged or not a checkpoint ({_first_line(error)})"
        ) from error
    except Exception as error:  # torch raises pickle's own errors for foreign files
        if type(error).__name__ != "UnpicklingError":
            raise
        raise UserMistake(
            f"{path}: not a checkpoint of qeqtrain ({_first_line(error)})"
        ) from error
    if not isinstance(content, dict) or "qeqtrain" not in content:
        raise UserMistake(f"{path}: holds no potential of qeqtrain")
    entry = content["qeqtrain"]
    if not isinstance(entry, dict) or not {"format", "potential"} <= set(entry):
        raise UserMistake(f"{path}: its entry 'qeqtrain' is not one that qeqtrain writes")
    while entry["format"] in UPGRADES:
        entry = UPGRADES[entry["format"]](entry)
    if entry["format"] != FORMAT:
        raise UserMistake(
            f"{path}: written in format {entry['format']}, this version reads up to {FORMAT}; "
            "update qeqtrain"
        )
    return entry, content["state_dict"]


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]


def _read_checkpoint(path: Path) -> Potential:
    entry, state = read_entry(path)
    prefix = AVERAGED if any(k.startswith(AVERAGED) for k in state) else RAW
    weights = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    return restore(entry["potential"], weights)


@dataclass(frozen=True)
class FoundationModel:
    """A published model and where its files are.

    Attributes:
        name: what users call it.
        summary: one line about it.
        source: where it comes from.
        license: of the weights.
        url: folder the files are downloaded from.
        files: sha256 of every file by its name.
        convention: of its messages.
        elements: how many it covers.
        untrained: atomic numbers it lists without having seen them.
    """

    name: str
    summary: str
    source: str
    license: str
    url: str
    files: Mapping[str, str]
    convention: Literal["corrected", "legacy"]
    elements: int
    untrained: tuple[int, ...] = ()

    def read(self) -> Potential:
        """Find the files, download and check them if need be, and build the potential."""
        return read_matgl(
            self.folder(),
            self.convention,
            conventions={
                "total_charge": "zero",
                "charge_states": [0.0],
                "untrained_elements": list(self.untrained),
                "source": self.source,
            },
        )

    def folder(self) -> Path:
        """Find the folder with the files: ``$QEQTRAIN_MODELS``, the cache, or a download.

        Raises:
            UserMistake: a file differs from the published one, or cannot be downloaded.
        """
        for root in model_folders():
            here = root / self.name
            if all((here / f).is_file() for f in self.files):
                self._check(here)
                return here
        here = model_folders()[-1] / self.name
        here.mkdir(parents=True, exist_ok=True)
        for file in self.files:
            self._download(file, here)
        return here

    def _check(self, folder: Path) -> None:
        for file, expected in self.files.items():
            met = hashlib.sha256((folder / file).read_bytes()).hexdigest()
            if met != expected:
                raise UserMistake(
                    f"{folder / file}: sha256 {met[:16]}..., expected {expected[:16]}...; "
                    "the file is damaged or another model's: remove it to download it again"
                )

    def _download(self, file: str, folder: Path) -> None:
        url = f"{self.url}/{file}"
        handle, part = tempfile.mkstemp(dir=folder, prefix=f".{file}.")
        try:
            with (
                os.fdopen(handle, "wb") as out,
                urllib.request.urlopen(url, timeout=20) as reply,
            ):
                _copy_with_progress(reply, out, file)
            met = hashlib.sha256(Path(part).read_bytes()).hexdigest()
            if met != self.files[file]:
                raise UserMistake(
                    f"{url}: downloaded file has sha256 {met[:16]}..., "
                    f"expected {self.files[file][:16]}...; not kept"
                )
            Path(part).replace(folder / file)
        except (urllib.error.URLError, OSError) as error:
            names = ", ".join(self.files)
            raise UserMistake(
                f"{self.name} is not on this machine and {url} cannot be reached "
                f"({_first_line(error)}); put {names} into {folder}, or set QEQTRAIN_MODELS "
                f"to the folder that holds {self.name}/"
            ) from error
        finally:
            Path(part).unlink(missing_ok=True)


def model_folders() -> list[Path]:
    """List where foundation models are looked for: ``$QEQTRAIN_MODELS``, the user's cache."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    given = os.environ.get("QEQTRAIN_MODELS")
    return [*([Path(given)] if given else []), cache / "qeqtrain" / "models"]


def _copy_with_progress(source: Any, out: Any, name: str) -> None:
    """Copy a download, with a bar on a terminal."""
    total = int(source.headers.get("Content-Length") or 0)
    if not (sys.stderr.isatty() and total):
        shutil.copyfileobj(source, out)
        return
    done = 0
    while chunk := source.read(1 << 16):
        out.write(chunk)
        done += len(chunk)
        bar = "#" * (30 * done // total)
        sys.stderr.write(f"\r{name} [{bar:<30}] {done / 1e6:.1f} MB")
    sys.stderr.write("\n")


FOUNDATION_MODELS = {
    "qet-matq": FoundationModel(
        name="qet-matq",
        summary="QET trained on MatQ: energies, forces, stress, charges of inorganic solids",
        source="matgl pretrained_models/QET-MatQ-PES (2025-12-01); arXiv 2511.07249",
        license="BSD-3-Clause, Materials Virtual Lab",
        url=(
            "https://raw.githubusercontent.com/materialyzeai/matgl/"
            "e9cde2291acd0b4c4a342428e7dd5e4d596b7bf9/pretrained_models/QET-MatQ-PES"
        ),
        files={
            "state.pt": "d53162dc7d3a7038d9b7f2dc39d67869a9a1925561a10c4b9ca65a641f9213a9",
            "model.json": "dbbef0a038dc0b35ddfe36fe638a64e79a05d8583de77b1ae67db760065735f9",
        },
        convention="legacy",
        elements=89,
        untrained=(2, 10, 18),
    ),
}
"""Published models by name."""
