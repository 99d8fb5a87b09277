"""What data must have before a run starts, said in the words of the recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from qeqtrain.data.elements import SYMBOLS
from qeqtrain.data.labels import LABELS, UNDECIDED, plural
from qeqtrain.data.source import Source
from qeqtrain.data.splits import families
from qeqtrain.errors import UserMistake
from qeqtrain.neighbors import Reach
from qeqtrain.physics.fields import FieldCoupling, field_mistakes

# A net charge per atom beyond this, on average, is no net charge: electron counts begin at 1.
_COUNT_LIKE = 0.5  # e
# Rounding and fits leave sums of charges this far from the total charge, not further.
_CONTRADICTION = 0.1  # e


def label_problems(source: Source, frames: np.ndarray, asked: Sequence[str]) -> list[str]:
    """Labels that the loss asks for and no frame has."""
    problems = []
    available = [n for n in LABELS if n in source.present and source.present[n][frames].any()]
    for name in asked:
        if name in available:
            continue
        stem = name.rstrip("s")
        likely = [k for k in UNDECIDED.get(name, ((), ""))[0] if k in source.unused]
        likely += [k for k in source.unused if stem in k.lower()]
        remedy = f"set loss.{name}=0"
        if likely:
            key = likely[0]
            remedy += f", or name the key that holds them: data.aliases.{name}={key}"
        problems.append(
            f"the loss asks for {name}, but no frame of {source.name} has "
            f"{'it' if name in {'energy', 'stress', 'dipole'} else 'them'} "
            f"(labels there: {', '.join(available) or 'none'}); {remedy}"
            + (f" (keys not used: {', '.join(source.unused)})" if source.unused else "")
        )
    return problems


def charge_problems(source: Source) -> list[str]:
    """Total charges that are not known, and charges that are no net charges."""
    problems = []
    unknown = np.flatnonzero(np.isnan(source.total_charges))
    if len(unknown):
        problems.append(
            f"{source.name}: {plural(len(unknown), 'frame')} of {len(source):,} state no total "
            f"charge (first: {source.source_ids[unknown[0]]}); write charge=... in the comment "
            "line, or say what it means with data.total_charge=zero | sum_of_charges"
        )
    excess = charge_residuals(source)
    if len(excess):
        per_atom = float(np.median(np.abs(excess)) / np.mean(source.sizes))
        if per_atom > _COUNT_LIKE:
            problems.append(
                f"{source.name}: charges exceed the total charge by {per_atom:.2f} e per atom: "
                "these look like electron counts, not net charges; name another key with "
                "data.aliases.charges=..., or leave them out with data.aliases.charges=null"
            )
    return problems


def reach_problems(
    source: Source, frames: np.ndarray, cutoffs: Mapping[str, Reach]
) -> list[str]:
    """Frames that a rule for the cutoff refuses, as a charge model does a charged slab.

    What it cannot take is told by the periodic directions and the total charge: of every set of
    directions the frames of least and of greatest charge are tried.

    Args:
        source: with total charges.
        frames: those to be tried.
        cutoffs: A, or rules, by consumer (``Potential.cutoffs``).
    """
    problems: list[str] = []
    rules = [reach for reach in cutoffs.values() if callable(reach)]
    kinds = source.periodic[frames]
    for kind in np.unique(kinds, axis=0) if rules else ():
        alike = frames[(kinds == kind).all(axis=1)]
        size = np.abs(source.total_charges[alike])
        for i in dict.fromkeys((int(alike[size.argmin()]), int(alike[size.argmax()]))):
            try:
                for rule in rules:
                    rule(source[i].structure)
            except UserMistake as mistake:
                problems += [f"{source.source_ids[i]}: {text}" for text in mistake.problems]
                break
    return problems


def charge_notes(source: Source) -> list[str]:
    """Charges that add up to something else than the total charge, as notes."""
    excess = np.abs(charge_residuals(source))
    wrong = int((excess > _CONTRADICTION).sum())
    if not wrong:
        return []
    return [
        f"{source.name}: in {plural(wrong, 'frame')} the charges do not add up to the total "
        f"charge (by up to {excess.max():.2f} e); a model keeps to the total charge"
    ]


def field_notes(source: Source) -> list[str]:
    """Frames in an electric field, as a note."""
    count = int(source.fields.any(axis=1).sum())
    if not count:
        return []
    return [f"{source.name}: {plural(count, 'frame')} in an electric field"]


def field_problems(source: Source, frames: np.ndarray, coupling: FieldCoupling) -> list[str]:
    """Frames in an electric field that a model has no answer to, the first of them named.

    Args:
        source: with fields.
        frames: those to be looked at.
        coupling: what of the model follows a field (``Potential.field``).
    """
    chosen = frames[source.fields[frames].any(axis=1)]
    if not len(chosen):
        return []
    at = (source.fields, source.cells, source.periodic)
    wrong = field_mistakes(*(torch.from_numpy(x[chosen]) for x in at), coupling)
    return [
        f"{source.source_ids[chosen[i]]} (and {plural(len(wrong) - 1, 'frame')} more): {text}"
        if len(wrong) > 1
        else f"{source.source_ids[chosen[i]]}: {text}"
        for i, text in list(wrong.items())[:1]
    ]


def born_charge_problems(
    source: Source, frames: np.ndarray, coupling: FieldCoupling
) -> list[str]:
    """Born charges as labels, all of them where the model's are not defined.

    Args:
        source: with Born charges that the loss asks for.
        frames: those to be looked at.
        coupling: what of the model follows a field (``Potential.field``).
    """
    if coupling == "every" or "born_charges" not in source.present:
        return []
    labelled = source.present["born_charges"][frames]
    if not labelled.any() or (labelled & ~source.periodic[frames].any(axis=1)).any():
        return []
    return [
        f"loss.born_charges needs frames without periodic directions, and the "
        f"{plural(int(labelled.sum()), 'frame')} of {source.name} with Born charges have some, "
        "along which charges of this model flow and Born charges are not defined; set "
        "loss.born_charges=0, or use a charge model with shells"
    ]


def fragment_notes(source: Source) -> list[str]:
    """Frames that are divided into fragments, as a note: not every model minds them."""
    if not source.in_fragments:
        return []
    return [
        f"{source.name}: {plural(source.in_fragments, 'frame')} with fragments of known charge "
        "or potential; a charge model minds them unless charge.fragments=ignore"
    ]


def charge_residuals(source: Source) -> np.ndarray:
    """Sum of the charges less the total charge, e, for frames that have both."""
    if "charges" not in source.present:
        return np.zeros(0)
    sums = np.add.reduceat(source.column("charges"), source.offsets[:-1])
    known = source.present["charges"] & ~np.isnan(source.total_charges)
    return (sums - source.total_charges)[known]


def leaks(parts: Mapping[str, tuple[Source, np.ndarray]]) -> list[str]:
    """Geometries or groups that stand in two splits, as notes."""
    groups: list[str] = []
    geometries: list[np.ndarray] = []
    owner: list[np.ndarray] = []
    for code, (source, frames) in enumerate(parts.values()):
        groups += [source.groups[i] for i in frames]
        geometries.append(source.geometries[frames])
        owner.append(np.full(len(frames), code))
    if not groups:
        return []
    owners = np.concatenate(owner)
    family = families(groups, np.concatenate(geometries))
    names = list(parts)
    notes = []
    for code in range(1, len(names)):
        shared = np.intersect1d(family[owners == 0], family[owners == code])
        if len(shared):
            count = int(np.isin(family[owners == code], shared).sum())
            notes.append(
                f"{plural(count, 'frame')} of {names[code]} share a material or a geometry "
                f"with {names[0]} ({groups[int(shared[0])]}); their errors flatter"
            )
    return notes


def partial_notes(
    parts: Mapping[str, tuple[Source, np.ndarray]], asked: Sequence[str]
) -> list[str]:
    """Labels that the loss asks for and some frames lack, as notes."""
    notes = []
    for split, (source, frames) in parts.items():
        for label in asked:
            count = int(source.present[label][frames].sum()) if label in source.present else 0
            if count < len(frames):
                notes.append(
                    f"{split}: {count:,} of {len(frames):,} frames have {label}; "
                    "the others count for nothing there"
                )
    return notes


def elements_of(source: Source, frames: np.ndarray) -> list[int]:
    """Atomic numbers of some frames, sorted."""
    mask = np.zeros(len(source), dtype=bool)
    mask[frames] = True
    return [int(z) for z in np.unique(source.numbers[np.repeat(mask, source.sizes)])]


def stranger_notes(parts: Mapping[str, tuple[Source, np.ndarray]]) -> list[str]:
    """Elements that are tested but never trained, as notes."""
    known = set(elements_of(*parts["train"]))
    notes = []
    for split in ("val", "test"):
        new = sorted(set(elements_of(*parts[split])) - known)
        if new:
            symbols = ", ".join(SYMBOLS[z] for z in new)
            notes.append(f"{split} has elements that no training frame has: {symbols}")
    return notes


def require(source: Source, labels: Sequence[str] = ()) -> None:
    """Make sure that a source can be evaluated: total charges known, labels there.

    Raises:
        UserMistake: all that is missing.
    """
    problems = label_problems(source, np.arange(len(source)), labels) + charge_problems(source)
    if problems:
        raise UserMistake(*problems)
