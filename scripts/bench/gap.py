"""Two fragments with no edge between them: what is left is the interaction of their charges.

``xtb_distant_pairs`` holds pairs of molecules at centre distances of 3.6 to 9 A. Where they are
far apart, a network with a cutoff of 5 A has no edge across the gap.

    python scripts/bench/gap.py errors LABELS.extxyz ANSWERS.extxyz
    python scripts/bench/gap.py split FOLDER OUT --below 7     extrapolation: see below
    python scripts/bench/gap.py fragments FOLDER OUT           charges known per fragment

``split`` keeps frames below a separation for training and validation; its test file has the
validation frames of that range and *all* frames beyond. ``fragments`` copies a folder's files,
with a column ``fragment`` and the integer charges of both fragments in every comment line.
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
    from collections.abc import Iterator, Mapping, Sequence

    from ase import Atoms

FRAGMENTS = {
    "nh4-pf6": (5, (1, -1)),
    "formate-h2o": (4, (-1, 0)),
    "na-h2o": (1, (1, 0)),
    "hf-hf": (2, (0, 0)),
}
"""Atoms of the first fragment, which come first, and the charges of both, e, by ``pair``."""
APART = 6.5
"""Separation of centres, A, beyond which 17 of 309 frames still have atoms within 5 A of each
other across the gap, nearly all of them NH4+ and PF6-; beyond 7.2 A none has."""
RANGE = 7.0
"""Separation, A, up to which models are trained that are then tested beyond."""
COLUMNS = {
    "e_rmse_apart": f"E beyond {APART:g} A",
    "e_rmse_near": f"E below {RANGE:g} A",
    "e_rmse_far": f"E beyond {RANGE:g} A",
    "fragment_q_rmse": "fragment q, me",
    "fragment_q_rmse_apart": f"fragment q beyond {APART:g} A",
}
"""What a table of models shows of :func:`measures`."""


def applies(frames: Sequence[Atoms]) -> bool:
    """Whether these are frames of the set."""
    return all("fragment_charge" in atoms.info for atoms in frames)


def rms(values: np.ndarray) -> float:
    """Root of the mean square."""
    return float(np.sqrt(np.mean(np.square(values))))


def measures(
    frames: Sequence[Atoms], predictions: Sequence[Mapping[str, object]]
) -> dict[str, float]:
    """Measure errors by separation: energy in meV/atom, charge of the first fragment in me."""
    separation = np.array([atoms.info["separation"] for atoms in frames])
    pairs = np.array([atoms.info["pair"] for atoms in frames])
    energy = np.array(
        [
            1e3 * (p["energy"] - trial.common.labels(atoms)["energy"]) / len(atoms)
            for atoms, p in zip(frames, predictions, strict=True)
        ]
    )
    errors = {"e": energy}
    if predictions[0]["charges"] is not None:
        errors["fragment_q"] = np.array(
            [
                1e3
                * (
                    p["charges"][: FRAGMENTS[a.info["pair"]][0]].sum()
                    - a.info["fragment_charge"]
                )
                for a, p in zip(frames, predictions, strict=True)
            ]
        )
    out: dict[str, float] = {}
    for name, error in errors.items():
        out[f"{name}_rmse"] = rms(error)
        for suffix, chosen in {
            "apart": separation > APART,
            "near": separation < RANGE,
            "far": separation >= RANGE,
        }.items():
            if chosen.any():
                out[f"{name}_rmse_{suffix}"] = rms(error[chosen])
                for pair in sorted(set(pairs[chosen])):
                    of_pair = error[chosen & (pairs == pair)]
                    out[f"{name}_rmse_{suffix}_{pair}"] = rms(of_pair)
                    out[f"{name}_bias_{suffix}_{pair}"] = float(of_pair.mean())
    return {key: round(value, 4) for key, value in out.items()}


def blocks(file: Path) -> Iterator[tuple[str, Atoms]]:
    """Give the text of every frame beside what ASE reads in it."""
    lines = file.read_text().splitlines(keepends=True)
    start = 0
    for atoms in read(file, ":"):
        end = start + 2 + len(atoms)
        yield "".join(lines[start:end]), atoms
        start = end


def write_split(source: Path, out: Path, below: float) -> None:
    """Train and validate below a separation, test below and beyond."""
    texts: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for split in ("train", "val"):
        for text, atoms in blocks(source / f"{split}.extxyz"):
            if atoms.info["separation"] < below:
                texts[split].append(text)
            if atoms.info["separation"] >= below or split == "val":
                texts["test"].append(text)
    out.mkdir(parents=True, exist_ok=True)
    for split, found in texts.items():
        (out / f"{split}.extxyz").write_text("".join(found))
        sys.stdout.write(f"{out / split}.extxyz: {len(found)} frames\n")


def with_fragments(text: str, pair: str) -> str:
    """Add a column that numbers the fragments, and their charges to the comment line."""
    first, charges = FRAGMENTS[pair]
    count, comment, *atoms = text.splitlines()
    head, properties, rest = comment.partition("Properties=")
    columns, _, rest = rest.partition(" ")
    stated = f'fragment_charges="{charges[0]} {charges[1]}"'
    comment = f"{head}{properties}{columns}:fragment:I:1 {stated} {rest}"
    rows = [f"{line} {int(i >= first):8d}" for i, line in enumerate(atoms)]
    return "\n".join([count, comment, *rows, ""])


def write_fragments(source: Path, out: Path) -> None:
    """Copy the files of a folder with fragments and their charges."""
    out.mkdir(parents=True, exist_ok=True)
    for file in sorted(source.glob("*.extxyz")):
        found = [with_fragments(text, atoms.info["pair"]) for text, atoms in blocks(file)]
        (out / file.name).write_text("".join(found))
        sys.stdout.write(f"{out / file.name}: {len(found)} frames\n")


def table(found: Mapping[str, float]) -> Iterator[str]:
    """Tabulate errors by range of separation, over all frames and per pair."""
    ranges = {"apart": f"> {APART:g} A", "near": f"< {RANGE:g} A", "far": f">= {RANGE:g} A"}
    names = {
        "e_rmse": "E RMSE, meV/atom",
        "e_bias": "E bias",
        "fragment_q_rmse": "fragment q RMSE, me",
        "fragment_q_bias": "bias",
    }
    rows = []
    for suffix, words in ranges.items():
        for pair in ("", *FRAGMENTS):
            tail = f"_{suffix}_{pair}" if pair else f"_{suffix}"
            cells = [found.get(f"{name}{tail}") for name in names]
            if cells[0] is not None:
                shown = ["-" if value is None else f"{value:.3g}" for value in cells]
                rows.append([f"{words}, {pair or 'all'}", *shown])
    yield from shared.markdown(["separation", *names.values()], rows)


def main() -> None:
    """Errors of one model, or files for an experiment."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    errors = verbs.add_parser("errors", help="of one model by separation")
    errors.add_argument("labels", type=Path)
    errors.add_argument("answers", type=Path, help="of `qeqtrain predict`, same frames")
    for name, words in {
        "split": "files for the test of extrapolation",
        "fragments": "files that state the charge of every fragment",
    }.items():
        verb = verbs.add_parser(name, help=words)
        verb.add_argument("folder", type=Path, help="with train and val files")
        verb.add_argument("out", type=Path, help="folder to write")
        if name == "split":
            verb.add_argument("--below", type=float, default=RANGE, help="A, of training")
    options = parser.parse_args()
    if options.verb == "split":
        write_split(options.folder, options.out, options.below)
    elif options.verb == "fragments":
        write_fragments(options.folder, options.out)
    else:
        found = measures(read(options.labels, ":"), trial.answers(options.answers))
        sys.stdout.write("\n".join(table(found)) + "\n")


if __name__ == "__main__":
    main()
