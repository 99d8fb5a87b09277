"""What is in a file, for a person who is about to train on it (``qeqtrain data info``)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypedDict

import numpy as np

from qeqtrain.data.elements import SYMBOLS
from qeqtrain.data.labels import LABELS, Conventions, plural
from qeqtrain.data.requirements import charge_problems, charge_residuals
from qeqtrain.data.sanity import sanity_warnings, stress_slope
from qeqtrain.data.source import Source
from qeqtrain.data.splits import families
from qeqtrain.data.statistics import labelled_rows, statistics
from qeqtrain.data.streamed import streamed_source
from qeqtrain.units import EV_PER_A3_TO_GPA, MILLI

_BAR = 24  # characters of the longest bar
_RESIDUAL = 0.01  # e; sums of charges this far from the total charge deserve a word


class Description(TypedDict):
    """Plain values, as ``--json`` writes them; units stand in the names or beside them."""

    files: list[str]
    frames: int
    atoms: int
    sizes: dict[str, float]
    elements: dict[str, int]
    periodicity: dict[str, int]
    labels: dict[str, int]
    total_charges: dict[str, int]
    total_charge_unknown: int
    spins: dict[str, int]
    in_fragments: int
    groups: int
    geometries: int
    references_eV: dict[str, float]
    energy_rms_meV_per_atom: float | None
    energy_range_eV: list[float] | None
    force_rms_eV_per_A: float | None
    force_max_eV_per_A: float | None
    stress_rms_GPa: float | None
    stress_slope_GPa: float | None
    charge_range_e: list[float] | None
    charge_by_element_e: dict[str, list[float]]
    charge_sum_residual_e: float | None
    dipole_max_eA: float | None
    pairs_cutoff_A: float | None
    unused_keys: list[str]
    fingerprint: str
    notes: list[str]
    warnings: list[str]


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _periodicity(periodic: np.ndarray) -> dict[str, int]:
    names = ("none", "one direction", "two directions", "all directions")
    counts = np.bincount(periodic.sum(axis=1), minlength=4)
    return {n: int(c) for n, c in zip(names, counts, strict=True) if c}


def _charges_by_element(source: Source) -> dict[str, list[float]]:
    """Smallest, mean and largest charge of each element, e."""
    if "charges" not in source.present:
        return {}
    rows = np.repeat(source.present["charges"], source.sizes)
    values, numbers = source.column("charges")[rows], source.numbers[rows]
    return {
        SYMBOLS[int(z)]: [float(f(values[numbers == z])) for f in (np.min, np.mean, np.max)]
        for z in np.unique(numbers)
    }


def _spins(source: Source) -> dict[str, int]:
    known = source.spins[~np.isnan(source.spins)]
    values, counts = np.unique(known, return_counts=True)
    return {f"{v:g}": int(c) for v, c in zip(values, counts, strict=True)}


def _warnings(source: Source) -> list[str]:
    warnings = charge_problems(source)
    excess = charge_residuals(source)
    if len(excess) and np.abs(excess).max() > _RESIDUAL and not warnings:
        warnings.append(
            f"charges add up to the total charge within {np.abs(excess).max():.3g} e only; a "
            "charge model that conserves charge cannot do better on them"
        )
    charges = source.total_charges[~np.isnan(source.total_charges)]
    if np.abs(charges - np.rint(charges)).max(initial=0.0) > 1e-3:
        warnings.append("some total charges are not integers; is the right key read?")
    if "charges" in source.present:
        values = labelled_rows(source, np.arange(len(source)), "charges")
        if not values.any():
            warnings.append(
                "all charges are zero: leave them out with data.aliases.charges=null"
            )
    for label in ("energy", "forces"):
        if label not in source.present:
            found = f"; keys not used: {', '.join(source.unused)}" if source.unused else ""
            warnings.append(
                f"no {label}: set loss.{label}=0, or name the key that holds it with "
                f"data.aliases.{label}=...{found}"
            )
    charged = source.total_charges != 0
    if charged[source.periodic.any(axis=1) & ~np.isnan(source.total_charges)].any():
        warnings.append(
            "some periodic frames are charged: their energy depends on a background"
        )
    return warnings


def describe(
    paths: str | Path | Sequence[str | Path], conventions: Conventions | None = None
) -> Description:
    """Read files and say what they hold; large ones are read as streams.

    Raises:
        UserMistake: a file cannot be read.
    """
    with streamed_source(paths, conventions) as source:
        return _of(source)


def _of(source: Source) -> Description:
    frames = np.arange(len(source))
    stats, sums = statistics(source, frames), source.sum_up()
    here = source.present

    energies = source.column("energy")[here["energy"]] if "energy" in here else np.zeros(0)
    stress = source.column("stress")[here["stress"]] if "stress" in here else np.zeros(0)
    dipole = source.column("dipole")[here["dipole"]] if "dipole" in here else np.zeros((0, 3))
    residuals = charge_residuals(source)
    family = families(source.groups, source.geometries)
    return Description(
        files=list(dict.fromkeys(source.files)),
        frames=len(source),
        atoms=int(source.sizes.sum()),
        sizes={
            "smallest": int(source.sizes.min()),
            "median": float(np.median(source.sizes)),
            "largest": int(source.sizes.max()),
        },
        elements={
            SYMBOLS[z]: int(n) for z, n in zip(sums.elements, sums.element_frames, strict=True)
        },
        periodicity=_periodicity(source.periodic),
        labels={name: int(here[name].sum()) if name in here else 0 for name in LABELS},
        total_charges={f"{q:+g}" if q else "0": c for q, c in stats.total_charges.items()},
        total_charge_unknown=int(np.isnan(source.total_charges).sum()),
        spins=_spins(source),
        in_fragments=source.in_fragments,
        groups=len(np.unique(family)),
        geometries=len(np.unique(source.geometries)),
        references_eV={SYMBOLS[z]: e for z, e in stats.references.items()}
        if energies.size
        else {},
        energy_rms_meV_per_atom=_finite(stats.energy_rms * MILLI),
        energy_range_eV=[float(energies.min()), float(energies.max())]
        if energies.size
        else None,
        force_rms_eV_per_A=_finite(stats.force_rms),
        force_max_eV_per_A=sums.force_largest if sums.labelled["forces"] else None,
        stress_slope_GPa=_finite(stress_slope(source)[0] * EV_PER_A3_TO_GPA),
        stress_rms_GPa=(
            float(np.sqrt(np.mean(stress**2))) * EV_PER_A3_TO_GPA if stress.size else None
        ),
        charge_range_e=None if stats.charge_range is None else list(stats.charge_range),
        charge_by_element_e=_charges_by_element(source),
        charge_sum_residual_e=float(np.abs(residuals).max()) if residuals.size else None,
        dipole_max_eA=float(np.linalg.norm(dipole, axis=1).max()) if dipole.size else None,
        pairs_cutoff_A=source.pairs_cutoff,
        unused_keys=list(source.unused),
        fingerprint=source.fingerprint,
        notes=list(source.notes),
        warnings=_warnings(source) + sanity_warnings(source, sums),
    )


def _bars(counts: Mapping[str, int]) -> list[str]:
    """Rows of a histogram: name, count, bar."""
    most = max(counts.values(), default=1)
    width = max((len(n) for n in counts), default=0)
    digits = max((len(f"{c:,}") for c in counts.values()), default=0)
    return [
        f"  {name:>{width}}  {count:>{digits},}  {'#' * max(round(_BAR * count / most), 1)}"
        for name, count in counts.items()
    ]


def _scales(d: Description) -> list[str]:
    lines = []
    if d["energy_range_eV"] is not None:
        low, high = d["energy_range_eV"]
        lines.append(
            f"  energy   {low:,.3f} to {high:,.3f} eV; {d['energy_rms_meV_per_atom']:,.1f} "
            "meV/atom RMS about least-squares references"
        )
    if d["force_rms_eV_per_A"] is not None:
        lines.append(
            f"  forces   {d['force_rms_eV_per_A']:.3f} eV/A RMS of components, largest "
            f"{d['force_max_eV_per_A']:.2f} eV/A"
        )
    if d["stress_rms_GPa"] is not None:
        slope = d["stress_slope_GPa"]
        grows = "" if slope is None else f"; {slope:+.0f} GPa per unit of ln V of a material"
        lines.append(f"  stress   {d['stress_rms_GPa']:.3f} GPa RMS of components{grows}")
    if d["charge_range_e"] is not None:
        low, high = d["charge_range_e"]
        lines.append(
            f"  charges  {low:+.3f} to {high:+.3f} e; sum less total charge at most "
            f"{d['charge_sum_residual_e'] or 0.0:.1e} e"
        )
    if d["dipole_max_eA"] is not None:
        lines.append(
            f"  dipole   at most {d['dipole_max_eA']:.3f} e A about the centre of mass"
        )
    return lines


def _listed(counts: Mapping[str, int], most: int = 24) -> str:
    shown = [f"{k} {v:,}" for k, v in counts.items()]
    more = f" and {len(shown) - most} more" if len(shown) > most else ""
    return ", ".join(shown[:most]) + more


def render(d: Description) -> str:
    """Write a description as text."""
    sizes = d["sizes"]
    spread = (
        f"{sizes['smallest']:g} to {sizes['largest']:g} a frame, median {sizes['median']:g}"
    )
    if sizes["smallest"] == sizes["largest"]:
        spread = f"{sizes['largest']:g} a frame"
    lines = [
        ", ".join(d["files"]),
        f"  {plural(d['frames'], 'frame')}, {plural(d['atoms'], 'atom')} ({spread})",
        f"  {plural(d['geometries'], 'distinct geometry', 'distinct geometries')}, "
        f"{plural(d['groups'], 'group')} that splits keep whole",
        f"  periodic in {_listed(d['periodicity'])}",
        f"  frames with {_listed(d['elements'])}",
    ]
    if d["pairs_cutoff_A"]:
        lines.append(f"  neighbour lists stored up to {d['pairs_cutoff_A']:g} A")
    lines += ["", "labels (frames)"]
    for name, count in d["labels"].items():
        share = f"{100.0 * count / d['frames']:.0f} %" if count else "none"
        lines.append(
            f"  {name:<12} {count:>9,}  {share:>6}   "
            f"{LABELS[name].meaning}, {LABELS[name].unit}"
        )
    lines += ["", "total charge (e, frames)", *_bars(d["total_charges"])]
    if d["total_charge_unknown"]:
        lines.append(f"  not stated in {plural(d['total_charge_unknown'], 'frame')}")
    if d["spins"]:
        lines.append(f"  multiplicity {_listed(d['spins'])}")
    if d["in_fragments"]:
        lines.append(
            f"  by fragment in {plural(d['in_fragments'], 'frame')} "
            "(fragment, fragment_charges, fragment_potentials)"
        )
    lines += ["", "scales", *_scales(d)]
    if d["charge_by_element_e"]:
        lines += ["", "charges by element (e: smallest, mean, largest)"]
        lines += [
            f"  {symbol:<3}" + "".join(f"{v:+9.3f}" for v in row)
            for symbol, row in list(d["charge_by_element_e"].items())[:24]
        ]
    if d["unused_keys"]:
        lines += ["", f"keys not used: {', '.join(d['unused_keys'])}"]
    for title, texts in (("left out, or to know", d["notes"]), ("warnings", d["warnings"])):
        if texts:
            lines += ["", title, *(f"  - {text}" for text in texts)]
    return "\n".join([*lines, "", f"fingerprint {d['fingerprint']}"])
