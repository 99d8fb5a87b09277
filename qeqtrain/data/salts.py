"""Geometries of ionic clusters and crystals, every one from (seed, index) alone."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np

from qeqtrain.data.elements import ATOMIC_NUMBERS
from qeqtrain.data.xtb import Geometry
from qeqtrain.errors import UserMistake, nearest


@dataclass(frozen=True)
class Salt:
    """A compound of two elements.

    Attributes:
        cation, anion: symbols.
        length: A, near the minimum of GFN1-xTB: from cation to anion in rock salt, the edge of
            the cubic cell in fluorite.
    """

    cation: str
    anion: str
    length: float

    @property
    def elements(self) -> frozenset[str]:
        """Both symbols."""
        return frozenset((self.cation, self.anion))


ALKALI_HALIDES = (
    Salt("Li", "F", 1.95),
    Salt("Li", "Cl", 2.45),
    Salt("Na", "F", 2.30),
    Salt("Na", "Cl", 2.75),
    Salt("K", "Cl", 3.05),
)
ALKALINE_EARTH_CHLORIDES = (
    Salt("Mg", "Cl", 6.50),
    Salt("Ca", "Cl", 6.97),
    Salt("Sr", "Cl", 7.25),
    Salt("Ba", "Cl", 7.60),
)
CHARGES = (0, 1, -1)  # e; the order in which the charge states of one geometry come
_BLOCKS = ((2, 2, 4), (2, 3, 3), (2, 2, 5))  # 16, 18 and 20 atoms
_CLOSEST = 0.75  # of the salt's distance; nearer atoms are drawn again
_FCC = np.array([[0.0, 0.0, 0.0], [0.0, 0.5, 0.5], [0.5, 0.0, 0.5], [0.5, 0.5, 0.0]])


def _drawn(salts: Sequence[Salt], random: np.random.Generator) -> Salt:
    return salts[int(random.integers(len(salts)))]


def _grid(shape: tuple[int, int, int]) -> np.ndarray:
    axes = np.meshgrid(*(np.arange(n) for n in shape), indexing="ij")
    return np.stack(axes, axis=-1).reshape(-1, 3)


def _chessboard(grid: np.ndarray, salt: Salt) -> np.ndarray:
    """Cations and anions in turn."""
    kinds = np.array([ATOMIC_NUMBERS[salt.cation], ATOMIC_NUMBERS[salt.anion]])
    return kinds[grid.sum(axis=1) % 2]


def _deformation(largest: float, random: np.random.Generator) -> np.ndarray:
    strain = random.uniform(-largest, largest, size=(3, 3))
    return random.uniform(0.96, 1.08) * (np.eye(3) + 0.5 * (strain + strain.T))


def alkali_halide_cluster(
    index: int, seed: int, salts: Sequence[Salt] = ALKALI_HALIDES
) -> Geometry:
    """Sample ``index`` of the clusters: three in a row are one geometry at charge 0, +1, -1.

    A piece of rock salt of 16 to 20 atoms, stretched or compressed along each axis and rattled.
    """
    number, state = divmod(index, len(CHARGES))
    random = np.random.default_rng([seed, number, 1])
    salt = _drawn(salts, random)
    grid = _grid(_BLOCKS[int(random.integers(len(_BLOCKS)))])
    while True:
        stretch = random.uniform(0.96, 1.10) * random.uniform(0.97, 1.03, size=3)
        rattle = random.normal(scale=random.uniform(0.03, 0.09), size=grid.shape)
        positions = salt.length * (grid * stretch + rattle)
        gaps = np.linalg.norm(positions[:, None] - positions[None], axis=-1)
        if gaps[np.triu_indices(len(grid), 1)].min() > _CLOSEST * salt.length:
            break
    charge = CHARGES[state]
    name = f"alkali_halide_clusters/{seed}/{number}"
    return Geometry(
        numbers=_chessboard(grid, salt),
        positions=positions - positions.mean(axis=0),
        cell=None,
        total_charge=charge,
        source_id=f"{name}/{charge:+d}" if charge else f"{name}/0",
        group=name,
    )


def alkali_halide_crystal(
    index: int, seed: int, salts: Sequence[Salt] = ALKALI_HALIDES
) -> Geometry:
    """Sample ``index`` of the crystals: a cubic cell of 8 atoms, strained and rattled."""
    random = np.random.default_rng([seed, index, 2])
    salt = _drawn(salts, random)
    grid = _grid((2, 2, 2))
    cell = 2.0 * salt.length * _deformation(0.04, random)
    rattle = random.normal(scale=random.uniform(0.01, 0.06), size=grid.shape)
    name = f"alkali_halides/{seed}/{index}"
    return Geometry(
        numbers=_chessboard(grid, salt),
        positions=(grid / 2.0) @ cell + salt.length * rattle,
        cell=cell,
        total_charge=0,
        source_id=name,
        group=name,
    )


def alkaline_earth_chloride(
    index: int, seed: int, salts: Sequence[Salt] = ALKALINE_EARTH_CHLORIDES
) -> Geometry:
    """Sample ``index`` of the chlorides: fluorite, 12 atoms, strained and rattled."""
    random = np.random.default_rng([seed, index, 3])
    salt = _drawn(salts, random)
    quarter = np.full(3, 0.25)
    sites = np.concatenate([_FCC, _FCC + quarter, _FCC - quarter])
    cell = salt.length * _deformation(0.03, random)
    rattle = random.normal(scale=random.uniform(0.03, 0.15), size=sites.shape)  # A
    kinds = [ATOMIC_NUMBERS[salt.cation]] * 4 + [ATOMIC_NUMBERS[salt.anion]] * 8
    name = f"alkaline_earth_chlorides/{seed}/{index}"
    return Geometry(
        numbers=np.array(kinds),
        positions=sites @ cell + rattle,
        cell=cell,
        total_charge=0,
        source_id=name,
        group=name,
    )


@dataclass(frozen=True)
class Family:
    """A kind of data that can be generated.

    Attributes:
        sample: geometry of an index, a seed and the salts to draw from.
        salts: all of them.
        meaning: one line for ``--help``.
    """

    sample: Callable[[int, int, Sequence[Salt]], Geometry]
    salts: tuple[Salt, ...]
    meaning: str

    @property
    def elements(self) -> list[str]:
        """Symbols of all salts, in order of atomic number."""
        every = {symbol for salt in self.salts for symbol in salt.elements}
        return sorted(every, key=ATOMIC_NUMBERS.__getitem__)

    def made_of(self, elements: Collection[str]) -> tuple[Salt, ...]:
        """Choose the salts made of these elements alone; all salts if none is named.

        Raises:
            UserMistake: an element no salt has, or one that makes no salt with the others.
        """
        if not elements:
            return self.salts
        known = self.elements
        problems = [
            f"--elements: no salt here has {symbol}{nearest(symbol, known)} "
            f"(there are {', '.join(known)})"
            for symbol in elements
            if symbol not in known
        ]
        chosen = tuple(salt for salt in self.salts if salt.elements <= set(elements))
        met = {symbol for salt in chosen for symbol in salt.elements}
        if not problems and met != set(elements):
            salts = ", ".join(salt.cation + " with " + salt.anion for salt in self.salts)
            alone = ", ".join(symbol for symbol in elements if symbol not in met)
            problems = [
                f"--elements {','.join(elements)}: makes no salt with {alone} in it "
                f"(there are {salts})"
            ]
        if problems:
            raise UserMistake(*problems)
        return chosen


FAMILIES: dict[str, Family] = {
    "alkali_halide_clusters": Family(
        alkali_halide_cluster,
        ALKALI_HALIDES,
        "pieces of rock salt, 16 to 20 atoms, each geometry at total charge 0, +1 and -1",
    ),
    "alkali_halides": Family(
        alkali_halide_crystal,
        ALKALI_HALIDES,
        "periodic cells of 8 atoms, strained and rattled, with stress",
    ),
    "alkaline_earth_chlorides": Family(
        alkaline_earth_chloride,
        ALKALINE_EARTH_CHLORIDES,
        "periodic cells of 12 atoms of fluorite, strained and rattled, with stress",
    ),
}
