"""Does a model know at one end of a carbon chain that a proton sits at the other?

``carbon_chain_4g`` holds C10H2 and C10H3+. The cation's extra proton makes one end CH2; the
hydrogen at the other, far end stands on a carbon of its own, as both hydrogens of C10H2 do. Its
surroundings are the same in both, its charge is not: about 105 and 148 me.

    python scripts/bench/chain.py LABELS.extxyz ANSWERS.extxyz
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import shared
import trial
from ase.io import read

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ase import Atoms

MOLECULES = ("C10H2", "C10H3")
COLUMNS = {
    "far_h_c10h2": "far H of C10H2, me",
    "far_h_c10h3": "of C10H3+",
    "far_h_difference": "their difference",
    "far_h_error": "largest error",
}
"""What a table of models shows of :func:`measures`."""


def applies(frames: Sequence[Atoms]) -> bool:
    """Whether these are frames of the set."""
    return all(atoms.get_chemical_formula() in MOLECULES for atoms in frames)


def far_hydrogens(atoms: Atoms) -> list[int]:
    """Find the hydrogens that share their carbon with no other one."""
    hydrogens = np.flatnonzero(atoms.numbers == 1)
    carbons = np.flatnonzero(atoms.numbers == 6)
    distances = atoms.get_all_distances()[np.ix_(hydrogens, carbons)]
    nearest = distances.argmin(axis=1).tolist()
    return [
        int(h)
        for h, carbon in zip(hydrogens, nearest, strict=True)
        if nearest.count(carbon) == 1
    ]


def mean_far_charges(
    frames: Sequence[Atoms], charges: Sequence[np.ndarray]
) -> dict[str, float]:
    """Average the charge of the far hydrogens over all frames of each molecule, me."""
    found: dict[str, list[float]] = {}
    for atoms, q in zip(frames, charges, strict=True):
        found.setdefault(atoms.get_chemical_formula(), []).extend(q[far_hydrogens(atoms)])
    return {name: 1e3 * float(np.mean(found[name])) for name in MOLECULES if name in found}


def measures(
    frames: Sequence[Atoms], predictions: Sequence[Mapping[str, object]]
) -> dict[str, float]:
    """Compare mean far-end charges, me; empty for a model without charges."""
    if predictions[0]["charges"] is None:
        return {}
    labels = [trial.common.labels(atoms)["charges"] for atoms in frames]
    wanted = mean_far_charges(frames, labels)
    given = mean_far_charges(frames, [p["charges"] for p in predictions])
    errors = {name: given[name] - wanted[name] for name in wanted}
    out: dict[str, float] = {}
    for name, error in errors.items():
        key = name.lower()
        out[f"far_h_{key}"] = given[name]
        out[f"far_h_{key}_label"] = wanted[name]
        out[f"far_h_{key}_error"] = error
    if len(errors) == len(MOLECULES):
        out["far_h_difference"] = given["C10H3"] - given["C10H2"]
        out["far_h_difference_label"] = wanted["C10H3"] - wanted["C10H2"]
    out["far_h_error"] = max(abs(error) for error in errors.values())
    return {key: round(value, 3) for key, value in out.items()}


def main() -> None:
    """Print the charges of one model."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("labels", type=Path, help="frames with label charges")
    parser.add_argument("answers", type=Path, help="the same frames from `qeqtrain predict`")
    options = parser.parse_args()
    found = measures(read(options.labels, ":"), trial.answers(options.answers))
    if not found:
        raise SystemExit(f"{options.answers}: has no charges; the model predicts none")
    rows = [
        [name, *(f"{found[f'far_h_{key}{end}']:.1f}" for end in ("_label", "", "_error"))]
        for key, name in (("c10h2", "C10H2"), ("c10h3", "C10H3+"))
    ]
    header = ["far-end hydrogen, mean charge, me", "label", "model", "error"]
    sys.stdout.write("\n".join(shared.markdown(header, rows)) + "\n")


if __name__ == "__main__":
    main()
