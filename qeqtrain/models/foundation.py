"""Published models by name: where they come from, where they are found, how they are read.

Files are looked for in ``$QEQTRAIN_MODELS``, then in the user's cache; what can be downloaded
is, and is held against its published digest.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qeqtrain.errors import UserMistake
from qeqtrain.models.potential import Potential
from qeqtrain.models.qet import read_matgl
from qeqtrain.models.reaxnet import FILES, PUBLISHED_CHARGES, read_reaxnet


def first_line(error: BaseException) -> str:
    """Give the first line of an error's message, or else its name."""
    return (str(error).splitlines() or [type(error).__name__])[0][:120]


@dataclass(frozen=True)
class FoundationModel:
    """A published model and where its files are.

    Attributes:
        name: what users call it.
        summary: one line about it.
        source: where it comes from.
        license: of the weights.
        page: where a person finds the files.
        url: folder the files are downloaded from; ``None``: a person has to.
        files: sha256 of every file by its name; ``None`` where it is not known.
        convention: of its messages.
        elements: how many it covers.
        reader: builds the potential from the folder and the conventions of its data.
        untrained: atomic numbers it lists without having seen them.
    """

    name: str
    summary: str
    source: str
    license: str
    page: str
    url: str | None
    files: Mapping[str, str | None]
    convention: str
    elements: int
    reader: Callable[[Path, Mapping[str, Any]], Potential]
    untrained: tuple[int, ...] = ()

    def read(self) -> Potential:
        """Find the files, download and check them if need be, and build the potential."""
        folder = self.folder()
        conventions: dict[str, Any] = {
            "total_charge": "zero",
            "charge_states": [0.0],
            "untrained_elements": list(self.untrained),
            "source": self.source,
        }
        unknown = [file for file, digest in self.files.items() if digest is None]
        if unknown:  # then at least what was read can be told later
            conventions["files"] = {file: _sha256(folder / file) for file in unknown}
        return self.reader(folder, conventions)

    def folder(self) -> Path:
        """Find the folder with the files: ``$QEQTRAIN_MODELS``, the cache, or a download.

        Raises:
            UserMistake: a file differs from the published one, or cannot be downloaded: which
                to put where is said.
        """
        for root in model_folders():
            here = root / self.name
            if all((here / f).is_file() for f in self.files):
                self._check(here)
                return here
        here = model_folders()[-1] / self.name
        if self.url is None:
            raise UserMistake(
                f"{self.name} is not on this machine and cannot be downloaded by name: get "
                f"{', '.join(self.files)} from {self.page} and put them into {here}, or set "
                f"QEQTRAIN_MODELS to the folder that holds {self.name}/"
            )
        here.mkdir(parents=True, exist_ok=True)
        for file in self.files:
            self._download(file, here)
        return here

    def _check(self, folder: Path) -> None:
        for file, expected in self.files.items():
            if expected is None:
                continue
            met = _sha256(folder / file)
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
            met, expected = _sha256(Path(part)), self.files[file]
            if expected is not None and met != expected:
                raise UserMistake(
                    f"{url}: downloaded file has sha256 {met[:16]}..., "
                    f"expected {expected[:16]}...; not kept"
                )
            Path(part).replace(folder / file)
        except (urllib.error.URLError, OSError) as error:
            names = ", ".join(self.files)
            raise UserMistake(
                f"{self.name} is not on this machine and {url} cannot be reached "
                f"({first_line(error)}); put {names} into {folder}, or set QEQTRAIN_MODELS "
                f"to the folder that holds {self.name}/"
            ) from error
        finally:
            Path(part).unlink(missing_ok=True)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


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
        page="https://github.com/materialyzeai/matgl",
        convention="legacy",
        elements=89,
        reader=lambda folder, conventions: read_matgl(
            folder, "legacy", conventions=conventions
        ),
        untrained=(2, 10, 18),
    ),
    "reaxnet": FoundationModel(
        name="reaxnet",
        summary="ReaxNet trained on MPtrj: energies, forces, stress; polarizable charges",
        source="figshare doi 10.6084/m9.figshare.28407524; arXiv 2410.13820",
        license="not established (the authors' programmes are GPL-3.0)",
        page="https://doi.org/10.6084/m9.figshare.28407524",
        url=None,
        files=dict.fromkeys(FILES),
        convention="even-only irreps; charges as in the authors' training labels",
        elements=89,
        reader=lambda folder, conventions: read_reaxnet(
            folder, PUBLISHED_CHARGES, conventions=conventions
        ),
    ),
}
"""Published models by name."""
