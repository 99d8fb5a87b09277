"""Chemical symbols, without importing anything heavy."""

from __future__ import annotations

_TABLE = """
X H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br
Kr Rb Sr Y Zr Nb Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er
Tm Yb Lu Hf Ta W Re Os Ir Pt Au Hg Tl Pb Bi Po At Rn Fr Ra Ac Th Pa U Np Pu Am Cm Bk Cf Es Fm Md
No Lr Rf Db Sg Bh Hs Mt Ds Rg Cn Nh Fl Mc Lv Ts Og
"""

SYMBOLS: tuple[str, ...] = tuple(_TABLE.split())
"""Symbols by atomic number; index 0 is no element."""

ATOMIC_NUMBERS: dict[str, int] = {s: z for z, s in enumerate(SYMBOLS) if z}
"""Atomic numbers by symbol."""


def formula(numbers: object) -> str:
    """Write a composition as ``Na8Cl8``, elements in order of atomic number."""
    counts: dict[int, int] = {}
    for z in numbers:  # type: ignore[attr-defined]
        counts[int(z)] = counts.get(int(z), 0) + 1
    return "".join(f"{SYMBOLS[z]}{c if c > 1 else ''}" for z, c in sorted(counts.items()))
