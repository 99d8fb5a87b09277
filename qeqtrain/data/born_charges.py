r"""Born charges as files have them: which of the two indices is the displacement.

Sums over the atoms are the total charge in both orders and tell nothing. A rotation does:
turning a molecule by a small vector :math:`\omega` turns its dipole, so that

.. math:: \sum_i \sum_b Z_{i,ab}\, (\omega \times r_i)_b = (\omega \times \mu)_a

holds for every :math:`\omega` with a the dipole's index and b the displacement's, and fails for
the transposed. On the 55 validation frames of the SPICE dipeptides (column ``bec``) the two
sides differ by 0.031 e A in the median with the displacement first, by 0.39 e A with the dipole
first, for dipoles of 0.70 e A; every single frame says so: ``bec`` there is
``displacement_dipole``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
from ase.data import atomic_masses

from qeqtrain.data.frames import Frame, RawFrame, convert_frames
from qeqtrain.data.labels import BORN_ORDERS, Conventions
from qeqtrain.errors import UserMistake

_CLEARLY = 2.0  # how many times worse the stated order has to be to be called wrong
_NOISE = 0.05  # e A; below it the orders are too much alike to be told apart
_ENOUGH = 50  # frames that are looked at

_TURN = np.zeros((3, 3, 3))  # (omega x r)_b = sum_kl _TURN[b, k, l] omega_k r_l
for _b, _k, _l in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
    _TURN[_b, _k, _l], _TURN[_b, _l, _k] = 1.0, -1.0


def rotation_residual(
    positions: np.ndarray, dipole: np.ndarray, born_charges: np.ndarray
) -> float:
    """How far a rotation of the molecule is from rotating its dipole, e A, root mean square.

    Args:
        positions: A, about the origin of the dipole, shape ``(n, 3)``.
        dipole: e A, shape ``(3,)``.
        born_charges: ``[i, a, b]``, dipole by displacement, e, shape ``(n, 3, 3)``.
    """
    met = np.einsum("iab,bkl,il->ak", born_charges, _TURN, positions)
    expected = np.einsum("akl,l->ak", _TURN, dipole)
    return float(np.sqrt(np.square(met - expected).mean()))


def residuals(frames: Iterable[Frame]) -> tuple[float, float] | None:
    """Residuals of Born charges as they are, and transposed, e A, over molecules with dipoles.

    Args:
        frames: the first fifty that tell something are looked at.

    Returns:
        Medians; ``None`` where no frame has both labels.
    """
    found: list[tuple[float, float]] = []
    for frame in frames:
        structure, labels = frame.structure, frame.labels
        if structure.pbc.any() or not {"dipole", "born_charges"} <= labels.keys():
            continue
        masses = atomic_masses[structure.numbers]
        about = structure.positions - masses @ structure.positions / masses.sum()
        born, dipole = labels["born_charges"], labels["dipole"]
        found.append(
            (
                rotation_residual(about, dipole, born),
                rotation_residual(about, dipole, born.swapaxes(1, 2)),
            )
        )
        if len(found) == _ENOUGH:
            break
    if not found:
        return None
    as_is, transposed = np.median(found, axis=0)
    return float(as_is), float(transposed)


def check_order(
    frames: Sequence[Frame], raws: Sequence[RawFrame], conventions: Conventions, name: str
) -> None:
    """Make sure that the order of Born charges is known, and right as far as dipoles tell.

    Args:
        frames: converted.
        raws: what they were converted from.
        conventions: of the user.
        name: of the file, for the message.

    Raises:
        UserMistake: the user names the key of Born charges and not their order, or turning
            molecules speaks for the other order.
    """
    key = conventions.aliases.get("born_charges")
    carried = any(key in raw.arrays for raw in raws)
    if key is not None and carried and not any("born_charges" in f.labels for f in frames):
        told = replace(conventions, born_charges_order=BORN_ORDERS[0])
        raise UserMistake(_unknown(convert_frames(raws, told, name)[0], key, name))
    found = residuals(frames)
    if found is None or found[0] < max(_NOISE, _CLEARLY * found[1]):
        return
    raise UserMistake(
        f"{name}: born_charges look transposed: where a molecule turns, its dipole follows "
        f"within {found[1]:.2g} e A if their indices are exchanged, and within "
        f"{found[0]:.2g} e A as they are; say data.born_charges_order="
        f"{' or '.join(BORN_ORDERS)}, the other one than now (the first word names the first "
        "index)"
    )


def _unknown(frames: Sequence[Frame], key: str, name: str) -> str:
    """Say that an order has to be stated, and which one the dipoles of the file speak for."""
    text = (
        f"{name}: '{key}' does not say which index is the displacement; say "
        f"data.born_charges_order={' or '.join(BORN_ORDERS)} (the first word names the first "
        "index)"
    )
    found = residuals(frames)
    if found is None or max(found) < max(_NOISE, _CLEARLY * min(found)):
        return text
    likely = BORN_ORDERS[found[0] > found[1]]
    return (
        f"{text}; the file's dipoles, which turn with the molecules, speak for {likely} "
        f"({min(found):.2g} against {max(found):.2g} e A)"
    )
