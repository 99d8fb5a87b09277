"""qeqtrain under the shared speed harness: one process, one JSON line.

Two models, in the shapes that the harness's adapters give their peers: QET as matgl (64
channels, 3 blocks, 32 Gaussians, one trained hardness per species), NequIP as nequip (natural
parity, radial networks 2 x 64). No stress. Batches are ready before the clock runs.

    OMP_NUM_THREADS=1 python scripts/bench/speed_adapter.py --features 64 --system periodic
    OMP_NUM_THREADS=1 python scripts/bench/speed_adapter.py --model nequip --lmax 2 --compile
"""

from __future__ import annotations

import time
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import shared

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from ase import Atoms
    from torch import Tensor

harness = shared.load("bench/harness.py")


def qet(args: argparse.Namespace) -> dict[str, Any]:
    """Describe QET."""
    from qeqtrain.models.qet import qet_spec

    spec = qet_spec(
        cutoff=args.cutoff,
        channels=args.features,
        layers=args.layers,
        radial_functions=args.radial_functions,
        hardness="species",
    )
    spec["backbone"]["radial_basis"] = args.radial_basis
    spec["backbone"] |= knots(args)
    return spec


def knots(args: argparse.Namespace) -> dict[str, int]:
    """Give the option of the backbone that ``--knots`` stands for."""
    return {"radial_knots": args.knots} if args.knots else {}


def nequip(args: argparse.Namespace) -> dict[str, Any]:
    """Describe NequIP without charges, read out by one linear map as its peer is."""
    return {
        "backbone": {
            "_target_": "qeqtrain.nn.nequip.NequIP",
            "cutoff": args.cutoff,
            "channels": args.features,
            "l_max": args.lmax,
            "layers": args.layers,
            "parity": False,
            "radial_width": 64,
            "radial_depth": 2,
            "train_bessel": False,
            **knots(args),
        },
        "charge": {"_target_": "qeqtrain.nn.charges.NoCharges"},
        "coupling": {"_target_": "qeqtrain.nn.couplings.FeatureCoupling", "hidden": []},
    }


MODELS = {"qet": qet, "nequip": nequip}


def build(
    args: argparse.Namespace, frames: Sequence[Atoms], species: list[int]
) -> dict[str, object]:
    """Make the potential and what the harness asks of it (see its docstring)."""
    start = time.perf_counter()
    from qeqtrain.models.compiling import CompiledResponse
    from qeqtrain.models.potential import build_potential
    from qeqtrain.models.threads import respond_by_threads
    from qeqtrain.neighbors import with_pairs
    from qeqtrain.structures import Structure, Structures, collate

    import_s = time.perf_counter() - start
    zero = dict.fromkeys(species, 0.0)
    potential = build_potential(
        MODELS[args.model](args),
        elements=species,
        references=zero,
        scale=1.0,
        average_neighbors=30.0,
    )

    ask = partial(respond_by_threads, potential)
    if args.compile:
        ask = partial(ask, ask=CompiledResponse(potential))

    def one(atoms: Atoms) -> Structure:
        return with_pairs(Structure.from_atoms(atoms, total_charge=0.0), potential.cutoffs)

    def make(atoms: Sequence[Atoms]) -> Structures:
        return collate([one(a) for a in atoms])

    def energy_forces(batch: Structures, _train: bool) -> tuple[Tensor, Tensor]:
        out = ask(batch, forces=True, stress=False)
        return out.energy, out.forces

    def eager(batch: Structures, _train: bool) -> tuple[Tensor, Tensor]:
        out = potential(batch, forces=True, stress=False)
        return out.energy, out.forces

    def count(batch: Structures) -> int:
        return 2 * len(batch.edges["backbone"].sender)

    return {
        "model": potential,
        "make": make,
        "energy_forces": energy_forces,
        "eager": eager,
        "nl": one,
        "edges": count,
        "import_s": import_s,
        "version": version("qeqtrain"),
    }


def main() -> None:
    """Run the harness."""
    parser = harness.parser()
    parser.add_argument("--model", default="qet", choices=sorted(MODELS))
    parser.add_argument("--radial-functions", type=int, default=32, help="of QET")
    parser.add_argument(
        "--radial-basis", default="gaussian", choices=["gaussian", "smooth_bessel"]
    )
    parser.add_argument("--knots", type=int, help="radial networks are evaluated on so many")
    args = parser.parse_args()
    harness.run(f"qeqtrain-{args.model}", build, args)


if __name__ == "__main__":
    main()
