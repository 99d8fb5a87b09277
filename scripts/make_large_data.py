"""Write large files in the layouts of MPtrj and OMat24, to measure readers and conversion with.

    python scripts/make_large_data.py mptrj big.json --gigabytes 2
    python scripts/make_large_data.py aselmdb big.aselmdb --frames 1000000

Sizes follow a log-normal law with the mean of MPtrj (31 atoms, longest 444), cells have its
density, values have its digits and its range. A few thousand distinct frames are repeated under
new names. ``aselmdb`` needs the package lmdb.
"""

from __future__ import annotations

import argparse
import json
import time
import zlib
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import numpy as np

MEAN_ATOMS, LARGEST, WIDTH = 31.0, 444, 0.8  # MPtrj: mean, longest; sigma of the logarithm
VOLUME = 16.5  # A^3 an atom, the median of the samples
FORCE, STRESS = 0.3, 25.0  # eV/A and kbar, RMS of the samples
ELEMENTS = ("Li", "O", "Mg", "Si", "S", "Cl", "Co", "La", "W", "Na", "P", "Mn", "Fe", "Ni", "K")
DISTINCT = 3000
FRAMES = 10  # of a material


class Frame:
    """A random frame."""

    def __init__(self, random: np.random.Generator) -> None:
        """Draw size, cell, positions and labels."""
        size = random.lognormal(np.log(MEAN_ATOMS) - WIDTH**2 / 2, WIDTH)
        self.n = n = int(np.clip(size, 1, LARGEST))
        shape = np.eye(3) + random.normal(scale=0.1, size=(3, 3))
        self.cell = np.round(shape * (VOLUME * n / np.linalg.det(shape)) ** (1 / 3), 8)
        # On a grid, so that no two atoms meet.
        side = int(np.ceil(n ** (1 / 3)))
        grid = np.stack(np.meshgrid(*[np.arange(side)] * 3, indexing="ij"), -1).reshape(-1, 3)
        moved = grid[random.permutation(len(grid))[:n]] + random.uniform(-0.2, 0.2, (n, 3))
        self.places = moved / side
        kinds = random.choice(len(ELEMENTS), size=min(4, n), replace=False)
        self.elements = [ELEMENTS[k] for k in random.choice(kinds, size=n)]
        self.forces = np.round(random.normal(scale=FORCE, size=(n, 3)), 8)
        stress = random.normal(scale=STRESS, size=(3, 3))
        self.stress = np.round(stress + stress.T, 8)
        self.energy = float(np.round(-6.0 * n + random.normal(scale=0.5 * n**0.5), 8))
        self.magmoms = np.round(random.normal(size=n), 3) if random.random() < 0.7 else None

    def mptrj(self) -> str:
        """Write a document of MPtrj, without its braces' end."""
        positions = self.places @ self.cell
        sites = [
            {
                "species": [{"element": element, "occu": 1}],
                "abc": place.tolist(),
                "xyz": position.tolist(),
                "label": element,
                "properties": {},
            }
            for element, place, position in zip(
                self.elements, self.places, positions, strict=True
            )
        ]
        lengths = np.linalg.norm(self.cell, axis=1).tolist()
        lattice = {
            "matrix": self.cell.tolist(),
            "pbc": [True, True, True],
            **dict(zip("abc", lengths, strict=True)),
            **dict.fromkeys(("alpha", "beta", "gamma"), 90.00000000000001),
            "volume": float(np.linalg.det(self.cell)),
        }
        structure = {
            "@module": "pymatgen.core.structure",
            "@class": "Structure",
            "charge": 0.0,
            "lattice": lattice,
            "sites": sites,
        }
        document = {
            "structure": structure,
            "uncorrected_total_energy": self.energy,
            "corrected_total_energy": self.energy - 0.7,
            "energy_per_atom": self.energy / self.n,
            "force": self.forces.tolist(),
            "stress": self.stress.tolist(),
            "magmom": None if self.magmoms is None else self.magmoms.tolist(),
            "bandgap": 0.0,
        }
        return json.dumps(document)

    def row(self) -> dict[str, object]:
        """Write a row of an ASE database."""
        from ase.data import atomic_numbers

        def array(values: np.ndarray) -> dict[str, object]:
            return {
                "__ndarray__": [list(values.shape), str(values.dtype), values.ravel().tolist()]
            }

        voigt = self.stress[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]] * -0.1 / 160.21766208
        return {
            "numbers": array(np.array([atomic_numbers[e] for e in self.elements])),
            "positions": array(self.places @ self.cell),
            "unique_id": "0" * 32,
            "pbc": array(np.ones(3, dtype=bool)),
            "cell": array(self.cell),
            "calculator": "unknown",
            "calculator_parameters": {},
            "energy": self.energy,
            "forces": array(self.forces),
            "stress": array(voigt),
            "ctime": 25.0,
            "mtime": 25.0,
            "user": None,
        }


def write_mptrj(path: Path, size: int, frames: list[Frame]) -> Iterator[int]:
    """Write materials until the file has so many bytes."""
    texts = [frame.mptrj() for frame in frames]
    with path.open("w", encoding="utf-8") as file:
        file.write("{")
        for material in count():
            name = f"mp-{100000 + material}"
            members = (
                f'"{name}-0-{i}": {texts[(material * FRAMES + i) % len(texts)]}'
                for i in range(FRAMES)
            )
            file.write(("" if material == 0 else ", ") + f'"{name}": {{{", ".join(members)}}}')
            if file.tell() >= size:
                break
            yield (material + 1) * FRAMES
        file.write("}\n")


def write_aselmdb(path: Path, total: int, frames: list[Frame]) -> Iterator[int]:
    """Write rows."""
    import lmdb

    rows = [json.dumps(frame.row())[:-1] for frame in frames]
    with lmdb.open(str(path), subdir=False, map_size=2**40, sync=False) as file:
        for start in range(0, total, 10_000):
            with file.begin(write=True) as transaction:
                for i in range(start, min(start + 10_000, total)):
                    text = rows[i % len(rows)] + f', "data": {{"sid": "made-{i}"}}}}'
                    value = zlib.compress(text.encode(), 1)
                    transaction.put(str(i + 1).encode(), value)
            yield start
        with file.begin(write=True) as transaction:
            transaction.put(b"nextid", zlib.compress(str(total + 1).encode()))


def main() -> None:
    """Read the arguments and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("layout", choices=("mptrj", "aselmdb"))
    parser.add_argument("path", type=Path)
    parser.add_argument("--gigabytes", type=float, default=2.0, help="of mptrj")
    parser.add_argument("--frames", type=int, default=1_000_000, help="of aselmdb")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    if given.path.exists():
        parser.error(f"{given.path} exists")
    random = np.random.default_rng(given.seed)
    frames = [Frame(random) for _ in range(DISTINCT)]
    if given.layout == "mptrj":
        written = write_mptrj(given.path, int(given.gigabytes * 1e9), frames)
    else:
        written = write_aselmdb(given.path, given.frames, frames)
    shown = time.perf_counter()
    for done in written:
        if time.perf_counter() - shown > 10.0:
            shown = time.perf_counter()
            print(f"{done:,} frames", flush=True)
    print(f"{given.path}: {given.path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
