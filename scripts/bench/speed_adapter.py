"""qeqtrain under the shared speed harness: one process, one JSON line.

Same shape as the harness's adapter for matgl gives its QET: 64 channels, 3 blocks, 32
Gaussians, one trained hardness per species, no stress. Batches are ready before the clock runs.

    OMP_NUM_THREADS=1 python scripts/bench/speed_adapter.py --features 64 --system periodic
"""

from __future__ import annotations

import time
from importlib.metadata import version
from typing import TYPE_CHECKING

import shared

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from ase import Atoms
    from torch import Tensor

harness = shared.load("bench/harness.py")


def build(
    args: argparse.Namespace, frames: Sequence[Atoms], species: list[int]
) -> dict[str, object]:
    """Make the potential and what the harness asks of it (see its docstring)."""
    start = time.perf_counter()
    from qeqtrain.models.potential import build_potential
    from qeqtrain.models.qet import qet_spec
    from qeqtrain.neighbors import with_pairs
    from qeqtrain.structures import Structure, Structures, collate

    import_s = time.perf_counter() - start
    spec = qet_spec(
        cutoff=args.cutoff,
        channels=args.features,
        layers=args.layers,
        radial_functions=args.radial_functions,
        hardness="species",
    )
    spec["backbone"]["radial_basis"] = args.radial_basis
    zero = dict.fromkeys(species, 0.0)
    potential = build_potential(spec, elements=species, references=zero, scale=1.0)

    def one(atoms: Atoms) -> Structure:
        return with_pairs(Structure.from_atoms(atoms, total_charge=0.0), potential.cutoffs)

    def make(atoms: Sequence[Atoms]) -> Structures:
        return collate([one(a) for a in atoms])

    def energy_forces(batch: Structures, _train: bool) -> tuple[Tensor, Tensor]:
        out = potential(batch, forces=True, stress=False)
        return out.energy, out.forces

    def count(batch: Structures) -> int:
        return 2 * len(batch.edges["backbone"].sender)

    return {
        "model": potential,
        "make": make,
        "energy_forces": energy_forces,
        "nl": one,
        "edges": count,
        "import_s": import_s,
        "version": version("qeqtrain"),
    }


def main() -> None:
    """Run the harness."""
    parser = harness.parser()
    parser.add_argument("--radial-functions", type=int, default=32)
    parser.add_argument(
        "--radial-basis", default="gaussian", choices=["gaussian", "smooth_bessel"]
    )
    harness.run("qeqtrain-qet", build, parser.parse_args())


if __name__ == "__main__":
    main()
