"""Conversion of an MPtrj file against the plain way: rate a core, and resident memory.

The plain way is what a short script does: ``json.load``, then an ``ase.Atoms`` with its results
for every frame, kept in memory or (``--write``) written as extended XYZ. It has to hold the
file, and so is timed on a small one; ``qeqtrain data convert`` may be given a larger. Each
runs in a process of its own, in turns; start-up is part of the time.

    python scripts/make_large_data.py mptrj small.json --gigabytes 0.2
    python scripts/make_large_data.py mptrj big.json --gigabytes 2.1
    python scripts/bench/conversion.py small.json big.json small.json
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

KBAR = -0.1 / 160.21766208  # of VASP's stress in eV/A^3
VOIGT = ([0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1])


def plainly(path: Path, out: Path | None) -> int:
    """Read a file the plain way; how many frames there are."""
    from ase import Atoms
    from ase.calculators.singlepoint import SinglePointCalculator
    from ase.io import write

    with path.open() as file:
        materials = json.load(file)
    made = []
    for frames in materials.values():
        for name, frame in frames.items():
            sites = frame["structure"]["sites"]
            atoms = Atoms(
                [site["species"][0]["element"] for site in sites],
                positions=[site["xyz"] for site in sites],
                cell=frame["structure"]["lattice"]["matrix"],
                pbc=True,
            )
            results = {
                "energy": frame["uncorrected_total_energy"],
                "forces": np.array(frame["force"]),
                "stress": (np.array(frame["stress"]) * KBAR)[VOIGT],
            }
            if frame["magmom"] is not None:
                results["magmoms"] = np.array(frame["magmom"])
            atoms.calc = SinglePointCalculator(atoms, **results)
            atoms.info["source_id"] = name
            made.append(atoms)
    if out is not None:
        write(out, made, format="extxyz")
    return len(made)


def cost(command: list[str]) -> tuple[float, float]:
    """User CPU seconds of a process and its children, and the largest of their memories, MB."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    own = float(done.stdout.split()[-1])
    return after.ru_utime - before, own / 1024


OURS = """
import resource, sys
from qeqtrain.cli import main
if __name__ == "__main__":
    code = main(["data", "convert", *sys.argv[1:3], "--workers", "1", "data.total_charge=zero"])
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    sys.exit(code)
"""


def main() -> None:
    """Convert the files in turns with the plain way on the first, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--write", action="store_true", help="the plain way: written, too")
    parser.add_argument("--plain", action="store_true", help="the plain way, in this process")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.files[0].absolute().parent) as folder:
        out = Path(folder) / "out.extxyz"
        if given.plain:
            plainly(given.files[0], out if given.write else None)
            print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
            return
        print("| way | file, MB | user CPU s | MB/CPU-s | resident, MB |")
        print("| --- | ---: | ---: | ---: | ---: |")
        plain = [sys.executable, __file__, "--plain", str(given.files[0])]
        plain += ["--write"] if given.write else []
        for file in given.files:
            stored = str(Path(folder) / "out.h5")
            ours = [sys.executable, "-c", OURS, str(file), stored]
            for way, path, command in (
                ("plain", given.files[0], plain),
                ("qeqtrain", file, ours),
            ):
                seconds, memory = cost(command)
                size = path.stat().st_size / 1e6
                print(
                    f"| {way} | {size:,.0f} | {seconds:.1f} | {size / seconds:.1f} "
                    f"| {memory:,.0f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
