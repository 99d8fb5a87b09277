"""Published references: found on this machine, or downloaded once and checked.

Looked for in the folder that is given, in ``$QEQTRAIN_BENCHMARKS``, and in the user's cache,
into which they are downloaded. What the user put in a folder of his own counts as it is (a part
of a file, a newer one), and the report says so; a download has to have the published sha256.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import os
import tempfile
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from qeqtrain.errors import UserMistake

_MATCALC = (
    "https://raw.githubusercontent.com/materialsvirtuallab/matcalc/"
    "aa76b41edb9ffb62f7efb2b5d3a3f7a8b2b4747d"
)
_MATPES = (
    "https://raw.githubusercontent.com/materialyzeai/matpes/"
    "e6e8f8747e26e023554e2638844020f179cf656d"
)
_DISCOVERY = (
    "https://raw.githubusercontent.com/janosh/matbench-discovery/"
    "2c7f9fc42d018711dc2f5df573d225ea6d2d17b2"
)


@dataclass(frozen=True)
class Reference:
    """A published file.

    Attributes:
        file: its name.
        url: where it is downloaded from, a fixed version.
        sha256: of that version.
        source: how reports name it, with its licence.
    """

    file: str
    url: str
    sha256: str
    source: str

    def find(self, folder: str = "") -> Found:
        """Find the file, or download it.

        Args:
            folder: given by the user; looked into first.

        Raises:
            UserMistake: it is not in the folder given, or is nowhere and cannot be downloaded.
        """
        if folder:
            here = Path(folder) / self.file
            if not here.is_file():
                raise UserMistake(
                    f"references={folder}: there is no {self.file} in that folder"
                )
            return self._met(here)
        roots = benchmark_folders()
        for root in roots[:-1]:
            if (root / self.file).is_file():
                return self._met(root / self.file)
        cached = roots[-1] / self.file
        if not (cached.is_file() and _sha256(cached) == self.sha256):
            self._download(cached)
        return Found(cached, as_published=True)

    def _met(self, path: Path) -> Found:
        return Found(path, as_published=_sha256(path) == self.sha256)

    def _download(self, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, part = tempfile.mkstemp(dir=target.parent, prefix=f".{self.file}.")
        try:
            with (
                os.fdopen(handle, "wb") as out,
                urllib.request.urlopen(self.url, timeout=30) as reply,
            ):
                while chunk := reply.read(1 << 16):
                    out.write(chunk)
            met = _sha256(Path(part))
            if met != self.sha256:
                raise UserMistake(
                    f"{self.url}: downloaded file has sha256 {met[:16]}..., expected "
                    f"{self.sha256[:16]}...; not kept"
                )
            Path(part).replace(target)
        except (urllib.error.URLError, OSError) as error:
            raise UserMistake(
                f"{self.file} is not on this machine and {self.url} cannot be reached "
                f"({error}); put it into {target.parent}, or into a folder named by "
                "references=FOLDER or $QEQTRAIN_BENCHMARKS"
            ) from error
        finally:
            Path(part).unlink(missing_ok=True)


@dataclass(frozen=True)
class Found:
    """A reference on this machine.

    Attributes:
        path: of the file.
        as_published: whether it is the published version, byte by byte.
    """

    path: Path
    as_published: bool

    def note(self, source: str, entries: int) -> str:
        """Say where references come from, and whether they are whole."""
        whole = "" if self.as_published else f"; {self.path} is a part of it or another version"
        return f"references: {source}, {entries:,} entries{whole}"


def benchmark_folders() -> list[Path]:
    """List where references are looked for: ``$QEQTRAIN_BENCHMARKS``, the user's cache."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    given = os.environ.get("QEQTRAIN_BENCHMARKS")
    return [*([Path(given)] if given else []), cache / "qeqtrain" / "benchmarks"]


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


ELASTICITY = Reference(
    "mp-binary-pbe-elasticity-2025.1.json.gz",
    f"{_MATCALC}/benchmark_data/mp-binary-pbe-elasticity-2025.1.json.gz",
    "5689599491322805bda913663eeef8d567f64ada80c90173d50fb7b6fb0b5896",
    "matcalc mp-binary-pbe-elasticity-2025.1 (BSD-3-Clause)",
)
PHONON = Reference(
    "alexandria-binary-pbe-phonon-2025.1.json.gz",
    f"{_MATCALC}/benchmark_data/alexandria-binary-pbe-phonon-2025.1.json.gz",
    "4a524330da5173a09bca362f16ed2479a1c6882ee50913a71067444ac8e63a56",
    "matcalc alexandria-binary-pbe-phonon-2025.1 (BSD-3-Clause)",
)
EQUILIBRIUM = Reference(
    "wbm-random-pbe52-equilibrium-2025.1.json.gz",
    f"{_MATCALC}/benchmark_data/wbm-random-pbe52-equilibrium-2025.1.json.gz",
    "8fc0aa85e6c9d56b03f8c742a377a143a8fc885b5930e11af596e43c1832d9d0",
    "matcalc wbm-random-pbe52-equilibrium-2025.1 (BSD-3-Clause)",
)
ELEMENTS = Reference(
    "MP-PBE-Element-Refs.json.gz",
    f"{_MATCALC}/src/matcalc/elemental_refs/MP-PBE-Element-Refs.json.gz",
    "66b350622126ca725c0ab1197b2ec3e27f752ef25dfeff21eb1db7be9ad72f0c",
    "matcalc MP-PBE-Element-Refs (BSD-3-Clause)",
)
PUBLISHED = Reference(
    "matcalc-benchmark-pbe.csv",
    f"{_MATPES}/pages/matcalc-benchmark-pbe.csv",
    "7c8954b0f2c373093db5ea80937dcfbff6f9f661cc76d3d85cadf4fe29e7ecb4",
    "matpes matcalc-benchmark-pbe.csv (BSD-3-Clause)",
)
DIMERS = Reference(
    "diatomics-dft.json.gz",
    f"{_DISCOVERY}/site/src/lib/diatomics-dft.json.gz",
    "1fe6334a82e98208ea74169a3beaf98cd5188bdc7ac40e518697fd36c7196e3d",
    "matbench-discovery diatomics-dft (MIT), PBE",
)


def read_json(path: Path) -> Any:
    """Read JSON, compressed or not.

    Raises:
        UserMistake: it is neither.
    """
    try:
        if path.suffix == ".gz":
            with gzip.open(path, "rt", encoding="utf-8") as file:
                return json.load(file)
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, EOFError, ValueError) as error:
        raise UserMistake(f"{path}: damaged or not JSON ({error})") from error


def atoms_of(structure: Mapping[str, Any]) -> Atoms:
    """Make neutral ``ase.Atoms`` of a structure in pymatgen's dictionary form."""
    lattice, sites = structure["lattice"]["matrix"], structure["sites"]
    atoms = Atoms(
        [site["species"][0]["element"] for site in sites],
        scaled_positions=np.array([site["abc"] for site in sites], dtype=float),
        cell=np.array(lattice, dtype=float),
        pbc=True,
    )
    atoms.info["charge"] = 0.0
    return atoms


@dataclass(frozen=True)
class PublishedRow:
    """Mean absolute errors that were published of another model.

    Attributes:
        model: architecture and training data.
        errors: by column of the table.
    """

    model: str
    errors: Mapping[str, float]


def published_rows(folder: str = "") -> list[PublishedRow]:
    """Read the published figures of other models; none of them are kept in the package.

    Raises:
        UserMistake: the table is nowhere and cannot be downloaded.
    """
    with PUBLISHED.find(folder).path.open(encoding="utf-8", newline="") as file:
        return [
            PublishedRow(
                f"{line['Architecture']} ({line['Dataset']})",
                {
                    key.removesuffix(" MAE"): float(value)
                    for key, value in line.items()
                    if key.endswith(" MAE") and value
                },
            )
            for line in csv.DictReader(file)
        ]
