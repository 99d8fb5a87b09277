"""Valence electrons of the VASP potentials behind MatPES (the PBE_54 set of its inputs).

Established from the electron counts of Bader analyses of 88 elemental crystals, whose mean is
the number of valence electrons within 2e-6. Boron lacks an analysis; each of VASP's potentials
of it has three. Whoever uses other potentials says so with ``data.valences``.
"""

from __future__ import annotations

MATPES: dict[str, float] = {
    symbol: float(count)
    for count, symbols in {
        1: "H",
        2: "He",
        3: "Al B Li",
        4: "Be C Si",
        5: "As Bi N P Sb",
        6: "O S Se Te",
        7: "Br Cl F I Na",
        8: "Ar Kr Mg Ne Xe",
        9: "Co Cs Ir K Lu Rb",
        10: "Ba Ca Hf Pd Pt Sr Ti",
        11: "Ac Ag Au La Nb Sc Ta V Y",
        12: "Cd Ce Cr Hg Mo Th Zn Zr",
        13: "Ga In Mn Pa Pr Re Tc Tl",
        14: "Fe Ge Nd Os Pb Ru Sn U W",
        15: "Np Pm Rh",
        16: "Ni Pu Sm",
        17: "Cu Eu",
        18: "Gd",
        19: "Tb",
        20: "Dy",
        21: "Ho",
        22: "Er",
        23: "Tm",
        24: "Yb",
    }.items()
    for symbol in symbols.split()
}
"""Valence electrons by symbol."""
