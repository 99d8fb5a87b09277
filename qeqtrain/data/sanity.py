"""Labels that are numbers, and still cannot be right: signs, units, strays.

Nothing here is certain; each finding says what was looked at, so that a user can judge.
"""

from __future__ import annotations

import numpy as np

from qeqtrain.data.labels import plural
from qeqtrain.data.source import Source
from qeqtrain.data.statistics import compositions
from qeqtrain.data.sums import Sums
from qeqtrain.units import EV_PER_A3_TO_GPA

_STRAY = 20.0  # times the usual distance from the references
_LEAST = 0.2  # eV per atom; nothing nearer to the references is a stray
_STRONG_FORCES = (
    30.0  # eV/A, root mean square of components: more than melts and collisions have
)
_WEAK_FORCES = 1e-3  # eV/A
_STRONG_STRESS = 100.0  # GPa, root mean square of components
_ENOUGH = 20  # frames without which nothing is said
_SHOWN = 3


def strays(source: Source, sums: Sums) -> tuple[np.ndarray, np.ndarray]:
    """Frames whose energy lies far from what their composition suggests.

    Returns:
        Their indices, furthest first, and their distances, eV per atom.
    """
    none = np.zeros(0, dtype=np.int64), np.zeros(0)
    if "energy" not in source.present or sums.energies.frames < _ENOUGH:
        return none
    known = np.flatnonzero(source.present["energy"])
    elements, counts = compositions(source, known)
    by_element = dict(
        zip(sums.energies.elements, sums.energies.references().tolist(), strict=True)
    )
    # Frames kept apart may have elements that the sums know nothing of.
    strange = np.array([z not in by_element for z in elements])
    judged = ~counts[:, strange].any(axis=1)
    known, counts = known[judged], counts[judged]
    references = np.array([by_element.get(z, 0.0) for z in elements])
    rest = (source.column("energy")[known] - counts @ references) / counts.sum(axis=1)
    distance = np.abs(rest - np.median(rest))
    far = np.flatnonzero(distance > max(_STRAY * float(np.median(distance)), _LEAST))
    far = far[np.argsort(-distance[far], kind="stable")]
    return known[far], distance[far]


def stress_slope(source: Source) -> tuple[float, int]:
    """How the mean stress of a material grows with its volume, d(stress)/d(ln V), eV/A^3.

    A bulk modulus: positive where stress is positive in tension. Frames are compared within
    their group and composition.

    Returns:
        The slope by least squares over all materials, and the number of frames it rests on.
    """
    if "stress" not in source.present:
        return float("nan"), 0
    chosen = np.flatnonzero(source.present["stress"])
    _, counts = compositions(source, chosen)
    cells = np.concatenate([p.columns["cell"][()] for p in source.parts])[chosen]
    volume = np.log(np.abs(np.linalg.det(cells)))
    pull = np.trace(source.column("stress")[chosen], axis1=1, axis2=2) / 3.0
    groups = np.unique([source.groups[i] for i in chosen], return_inverse=True)[1]
    alone = np.array([source.groups[i].startswith("geometry:") for i in chosen])
    groups = np.where(alone, -1, groups)  # of no stated material: by composition
    kind = np.unique(np.column_stack([groups, counts]), axis=0, return_inverse=True)[1].ravel()
    size = np.bincount(kind)
    x = volume - (np.bincount(kind, volume) / size)[kind]
    y = pull - (np.bincount(kind, pull) / size)[kind]
    compared = (size[kind] > 1) & (np.abs(x) > 1e-4)
    if compared.sum() < _ENOUGH:
        return float("nan"), int(compared.sum())
    x, y = x[compared], y[compared]
    return float(x @ y / (x @ x)), int(compared.sum())


def energy_grows_with_size(source: Source) -> bool:
    """Whether larger frames have larger energies; true where that cannot be told."""
    if "energy" not in source.present:
        return True
    known = source.present["energy"]
    energies, sizes = source.column("energy")[known], source.sizes[known].astype(np.float64)
    one_sign = bool((energies < 0).all() or (energies > 0).all())
    if len(energies) < _ENOUGH or not one_sign or np.log(sizes).std() < 0.3:
        return True
    slope = np.polyfit(np.log(sizes), np.log(np.abs(energies)), 1)[0]
    return bool(slope > 0.3)


def sanity_warnings(source: Source, sums: Sums) -> list[str]:
    """Labels that look wrong, each with what to do about it."""
    warnings = []
    frames, distances = strays(source, sums)
    if len(frames):
        shown = ", ".join(
            f"{source.source_ids[i]} {d:.2f}"
            for i, d in zip(frames[:_SHOWN].tolist(), distances, strict=False)
        )
        warnings.append(
            f"{plural(len(frames), 'energy', 'energies')} far from what the composition "
            f"suggests ({shown} eV/atom off): other settings, a correction, or a mistake; look "
            "at them, and convert without them"
        )
    if not energy_grows_with_size(source):
        warnings.append(
            "energies do not grow with the number of atoms: are they per atom? Energies are "
            "totals, eV"
        )
    forces = float(np.sqrt(sums.force_squares.sum() / max(3.0 * sums.force_atoms.sum(), 1.0)))
    if forces > _STRONG_FORCES or (sums.force_atoms.any() and forces < _WEAK_FORCES):
        warnings.append(
            f"forces of {forces:.3g} eV/A (root mean square) are unusual: check their unit "
            "(eV/A; 1 Hartree/bohr is 51.4), or leave out the frames with --max-force on "
            "conversion"
        )
    if "stress" in source.present:
        stress = source.column("stress")[source.present["stress"]]
        strong = float(np.sqrt(np.mean(stress**2))) * EV_PER_A3_TO_GPA
        if strong > _STRONG_STRESS:
            warnings.append(
                f"stress of {strong:.3g} GPa (root mean square) is unusual: is it in eV/A^3? "
                "(1 eV/A^3 is 160.2 GPa or 1602 kbar)"
            )
        slope, count = stress_slope(source)
        if slope < 0.0:
            warnings.append(
                f"stress falls as materials expand ({slope * EV_PER_A3_TO_GPA:.3g} GPa per "
                f"unit of ln V, {plural(count, 'frame')}): its sign looks like VASP's; write "
                "it with tension positive, (1/V) dE/dstrain"
            )
    return warnings
