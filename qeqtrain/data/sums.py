r"""What a set of frames adds up to: sums that are taken in one pass and joined over parts.

Reference energies are the least-squares solution of :math:`A x = e` (atoms of each element,
total energies). Normal equations would square the condition of ``A`` and lose the meV of totals
of a million eV; what is kept instead is the triangular factor of a QR decomposition of
:math:`(A \,|\, e - A a)`, with ``a`` a first guess of the references. Factors of two sets,
stacked and decomposed again, are the factor of both (tall-skinny QR; Demmel, Grigori, Hoemmen
and Langou, SIAM J. Sci. Comput. 34, A206, 2012), so that memory does not grow with the number
of frames and nothing is lost by the order in which they come. Directions that compositions
leave open stay out of the solution, which a ridge that goes to zero would give.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np

from qeqtrain.data.labels import LABELS
from qeqtrain.data.tally import PREFIX

PLACE = "statistics/"
_BLOCK = 16384  # frames whose compositions are laid out together
_GUESSED = 2000  # frames that the first guess is made from
_OPEN = 1e-10  # relative singular value below which compositions leave a direction open


def fit_references(counts: np.ndarray, energies: np.ndarray) -> np.ndarray:
    """Energies of elements by least squares, eV, shape ``(n_elements,)``.

    Of all solutions the one of smallest norm, where compositions do not tell elements apart.

    Args:
        counts: atoms of each element in every frame, shape ``(n_frames, n_elements)``.
        energies: total energies, eV, float64, shape ``(n_frames,)``.
    """
    solution, *_ = np.linalg.lstsq(counts, energies, rcond=_OPEN)
    # A second pass on what is left removes rounding where totals are a million eV.
    rest, *_ = np.linalg.lstsq(counts, energies - counts @ solution, rcond=_OPEN)
    return solution + rest


def _factor(rows: np.ndarray) -> np.ndarray:
    return rows if len(rows) <= rows.shape[1] else np.linalg.qr(rows, mode="r")


@dataclass(frozen=True)
class EnergySums:
    """Energies against compositions, as factors of constant size.

    Attributes:
        elements: atomic numbers, sorted; Z of them.
        guess: first guess of the references, eV, shape ``(Z,)``.
        total: factor of (counts | energy less guess), shape ``(k, Z + 1)``, k at most Z + 1.
        per_atom: the same with every frame divided by its number of atoms.
        frames: how many frames went in.
    """

    elements: tuple[int, ...]
    guess: np.ndarray
    total: np.ndarray
    per_atom: np.ndarray
    frames: int

    @classmethod
    def of(
        cls, elements: Sequence[int], counts: np.ndarray, energies: np.ndarray
    ) -> EnergySums:
        """Sum up some frames.

        Args:
            elements: atomic numbers of the columns of ``counts``.
            counts: atoms of each element in every frame, shape ``(n, Z)``.
            energies: total energies, eV, shape ``(n,)``.
        """
        step = max(len(energies) // _GUESSED, 1)
        guess = np.zeros(len(elements))
        if len(energies):
            guess = fit_references(counts[::step], energies[::step])
        rows = np.column_stack([counts, energies - counts @ guess])
        n_atoms = counts.sum(axis=1)[:, None]
        return cls(
            tuple(elements), guess, _factor(rows), _factor(rows / n_atoms), len(energies)
        )

    def _over(self, elements: tuple[int, ...], guess: np.ndarray) -> EnergySums:
        """Write the same sums for more elements and another guess."""
        at = [elements.index(z) for z in self.elements]
        factors = []
        for factor in (self.total, self.per_atom):
            wide = np.zeros((len(factor), len(elements) + 1))
            wide[:, at] = factor[:, :-1]
            wide[:, -1] = factor[:, -1] + factor[:, :-1] @ (self.guess - guess[at])
            factors.append(wide)
        return EnergySums(elements, guess, *factors, self.frames)

    def merge(self, other: EnergySums) -> EnergySums:
        """Join with the sums of other frames."""
        if not other.frames or not self.frames:
            return self if self.frames else other
        elements = tuple(sorted({*self.elements, *other.elements}))
        known = dict(zip(other.elements, other.guess.tolist(), strict=True))
        known |= dict(zip(self.elements, self.guess.tolist(), strict=True))
        guess = np.array([known[z] for z in elements])
        a, b = self._over(elements, guess), other._over(elements, guess)
        return EnergySums(
            elements,
            guess,
            _factor(np.concatenate([a.total, b.total])),
            _factor(np.concatenate([a.per_atom, b.per_atom])),
            self.frames + other.frames,
        )

    def references(self) -> np.ndarray:
        """Energy of each element by least squares, of smallest norm, eV, shape ``(Z,)``."""
        if not self.frames:
            return np.zeros(len(self.elements))
        counts, energies = self.total[:, :-1], self.total[:, -1]
        _, sizes, axes = np.linalg.svd(counts, full_matrices=True)
        told = np.zeros(len(axes), dtype=bool)
        told[: len(sizes)] = sizes > _OPEN * sizes.max(initial=0.0)
        step, *_ = np.linalg.lstsq(counts, energies, rcond=_OPEN)
        # The guess may reach into directions that compositions leave open; the norm must not.
        open_ = axes[~told]
        found: np.ndarray = self.guess - open_.T @ (open_ @ self.guess) + step
        return found

    def references_near(self, known: Mapping[int, float]) -> np.ndarray:
        """Energies of elements by least squares, as near as can be to known ones, ``(Z,)``.

        Where compositions leave a direction open, known energies (0 without one) decide it; of
        a set of salts of one composition, say, they tell the elements apart.

        Args:
            known: energies, eV, by atomic number.
        """
        near = np.array([known.get(z, 0.0) for z in self.elements])
        if not self.frames:
            return near
        counts = self.total[:, :-1]
        left = self.total[:, -1] + counts @ (self.guess - near)
        step, *_ = np.linalg.lstsq(counts, left, rcond=_OPEN)
        found: np.ndarray = near + step
        return found

    def rms(self) -> float:
        """What references leave of the energy, root mean square, eV per atom."""
        if not self.frames:
            return float("nan")
        counts, energies = self.total[:, :-1], self.total[:, -1]
        step, *_ = np.linalg.lstsq(counts, energies, rcond=_OPEN)
        rest = self.per_atom[:, -1] - self.per_atom[:, :-1] @ step
        return float(np.sqrt(rest @ rest / self.frames))


@dataclass(frozen=True)
class Sums:
    """What some frames add up to.

    Attributes:
        frames, atoms: how many.
        smallest, largest: atoms of the smallest and of the largest frame.
        elements: atomic numbers, sorted; Z of them.
        element_atoms, element_frames: atoms, and frames, with each element, ``(Z,)``.
        labelled: frames that carry each label.
        force_atoms, force_squares: atoms with forces, and their squares, (eV/A)^2, ``(Z,)``.
        force_largest: eV/A.
        charge_range: smallest and largest charge, e; ``None`` without charges.
        energies: against compositions.
    """

    frames: int
    atoms: int
    smallest: int
    largest: int
    elements: tuple[int, ...]
    element_atoms: np.ndarray
    element_frames: np.ndarray
    labelled: dict[str, int]
    force_atoms: np.ndarray
    force_squares: np.ndarray
    force_largest: float
    charge_range: tuple[float, float] | None
    energies: EnergySums

    def merge(self, other: Sums) -> Sums:
        """Join with the sums of other frames."""
        if not other.frames or not self.frames:
            return self if self.frames else other
        elements = tuple(sorted({*self.elements, *other.elements}))

        def added(name: str) -> np.ndarray:
            total = np.zeros(len(elements))
            for part in (self, other):
                total[[elements.index(z) for z in part.elements]] += getattr(part, name)
            return total

        ranges = [r for r in (self.charge_range, other.charge_range) if r is not None]
        return Sums(
            frames=self.frames + other.frames,
            atoms=self.atoms + other.atoms,
            smallest=min(self.smallest, other.smallest),
            largest=max(self.largest, other.largest),
            elements=elements,
            element_atoms=added("element_atoms"),
            element_frames=added("element_frames"),
            labelled={n: self.labelled[n] + other.labelled[n] for n in LABELS},
            force_atoms=added("force_atoms"),
            force_squares=added("force_squares"),
            force_largest=max(self.force_largest, other.force_largest),
            charge_range=(min(r[0] for r in ranges), max(r[1] for r in ranges))
            if ranges
            else None,
            energies=self.energies.merge(other.energies),
        )

    def arrays(self) -> dict[str, np.ndarray]:
        """Give the sums as arrays, for a store; :meth:`from_arrays` is the way back."""
        plain = {
            "frames": self.frames,
            "atoms": self.atoms,
            "smallest": self.smallest,
            "largest": self.largest,
            "elements": self.elements,
            "element_atoms": self.element_atoms.tolist(),
            "element_frames": self.element_frames.tolist(),
            "labelled": self.labelled,
            "force_atoms": self.force_atoms.tolist(),
            "force_squares": self.force_squares.tolist(),
            "force_largest": self.force_largest,
            "charge_range": self.charge_range,
            "energy_elements": self.energies.elements,
            "energy_frames": self.energies.frames,
        }
        text = np.frombuffer(json.dumps(plain).encode(), dtype=np.uint8)
        return {
            f"{PLACE}plain": text,
            f"{PLACE}energy_guess": self.energies.guess,
            f"{PLACE}energy_total": self.energies.total,
            f"{PLACE}energy_per_atom": self.energies.per_atom,
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Sums:
        """Take sums from the arrays of a store."""
        plain = json.loads(arrays[f"{PLACE}plain"].tobytes())
        energies = EnergySums(
            tuple(plain.pop("energy_elements")),
            *(arrays[f"{PLACE}energy_{n}"] for n in ("guess", "total", "per_atom")),
            plain.pop("energy_frames"),
        )
        for name in ("element_atoms", "element_frames", "force_atoms", "force_squares"):
            plain[name] = np.array(plain[name], dtype=np.float64)
        plain["elements"] = tuple(plain["elements"])
        if plain["charge_range"] is not None:
            plain["charge_range"] = tuple(plain["charge_range"])
        plain["labelled"] = {name: plain["labelled"].get(name, 0) for name in LABELS}
        return cls(**plain, energies=energies)


def sums_of(
    tally: Mapping[str, np.ndarray],
    sizes: np.ndarray,
    present: Mapping[str, np.ndarray],
    energies: np.ndarray | None,
    frames: np.ndarray | None = None,
) -> Sums:
    """Sum up frames from their shares (:mod:`qeqtrain.data.tally`).

    Args:
        tally: shares of all frames.
        sizes: atoms of each frame.
        present: by label, which frames carry it.
        energies: total energies, eV, of all frames; ``None`` without.
        frames: indices of those that count; all by default.
    """
    chosen = np.ones(len(sizes), dtype=bool)
    if frames is not None:
        chosen[:] = False
        chosen[frames] = True
    count = int(chosen.sum())
    rows = np.repeat(chosen, tally[f"{PREFIX}kinds"])
    owner = np.repeat(np.cumsum(chosen) - 1, tally[f"{PREFIX}kinds"])[rows]
    elements, column = np.unique(tally[f"{PREFIX}element"][rows], return_inverse=True)
    atoms = tally[f"{PREFIX}atoms"][rows].astype(np.float64)

    def has(label: str) -> np.ndarray:
        return present[label][chosen] if label in present else np.zeros(count, dtype=bool)

    def by_element(weights: np.ndarray) -> np.ndarray:
        return np.bincount(column, weights=weights, minlength=len(elements))

    forced, charged = has("forces")[owner], has("charges")
    squares = tally[f"{PREFIX}force_squares"][rows]
    largest = tally[f"{PREFIX}force_largest"][chosen][has("forces")]
    low = tally[f"{PREFIX}charge_low"][chosen][charged]
    high = tally[f"{PREFIX}charge_high"][chosen][charged]
    symbols = tuple(int(z) for z in elements)
    ends = np.searchsorted(owner, np.arange(count + 1))
    parts = [EnergySums(symbols, np.zeros(len(symbols)), *[np.zeros((0, 1))] * 2, 0)]
    for start in range(0, count if energies is not None else 0, _BLOCK):
        stop = min(start + _BLOCK, count)
        counts = np.zeros((stop - start, len(elements)))
        span = slice(ends[start], ends[stop])
        counts[owner[span] - start, column[span]] = atoms[span]
        known = has("energy")[start:stop]
        assert energies is not None
        block = energies[chosen][start:stop][known]
        parts.append(EnergySums.of(symbols, counts[known], block))
    return Sums(
        frames=count,
        atoms=int(sizes[chosen].sum()),
        smallest=int(sizes[chosen].min(initial=np.iinfo(np.int64).max)),
        largest=int(sizes[chosen].max(initial=0)),
        elements=symbols,
        element_atoms=by_element(atoms),
        element_frames=by_element(np.ones(len(atoms))),
        labelled={name: int(has(name).sum()) for name in LABELS},
        force_atoms=by_element(atoms * forced),
        force_squares=by_element(squares * forced),
        force_largest=float(largest.max(initial=0.0)),
        charge_range=(float(low.min()), float(high.max())) if len(low) else None,
        energies=reduce(EnergySums.merge, parts),
    )
