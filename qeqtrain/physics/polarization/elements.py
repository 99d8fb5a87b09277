"""PQEq's parameters of the elements, H to No: numbers as ReaxNet's published code has them.

Gao et al., arXiv 2410.13820, repository head aa8d027 (``jax_nb/parameters.py``); PQEq is of
Naserifar et al., J. Chem. Phys. 146, 124117 (2017). H, Li, N, O and P differ from the values of
plain charge equilibration that others share (Rappe and Goddard, J. Phys. Chem. 95, 3358
(1991)); why is not published. Lawrencium, listed there without a spring, is left out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from qeqtrain.errors import UserMistake
from qeqtrain.physics.polarization.parameters import Constants, Parameters

KCAL_PER_EV = 23.060549
"""kcal/mol in one eV, as the published code has it."""

PUBLISHED = Constants(energy=14.399645, solve=332.063710 / KCAL_PER_EV)
"""Coulomb constants of the published code, eV A: its charges are solved for in kcal/mol."""

WIDTH_FACTOR = 1.0 / math.sqrt(0.462770)
"""Standard deviation of a density over its radius: exponent 0.462770 / (2 R^2)."""

CORE_CHARGE = 1.0
"""Of every element, e; the shell has the opposite."""

ELEMENTS: dict[int, tuple[float, float, float, float]] = {
    1: (4.72484, 15.57338, 0.371, 2037.20061),  # H
    2: (9.66, 29.84, 1.3, 1619.41057),  # He
    3: (3.87172, 14.85384, 0.69125, 1083.03576),  # Li
    4: (4.877, 8.886, 1.24, 59.29709),  # Be
    5: (5.11, 9.5, 0.822, 109.59198),  # B
    6: (5.343, 10.126, 0.759, 198.84054),  # C
    7: (7.78778, 10.80315, 0.715, 301.87609),  # N
    8: (8.30811, 14.66128, 0.669, 414.04451),  # O
    9: (10.874, 14.948, 0.706, 596.16463),  # F
    10: (11.04, 21.1, 1.768, 842.11732),  # Ne
    11: (2.843, 4.592, 2.085, 13.77286),  # Na
    12: (3.951, 7.386, 1.5, 31.32676),  # Mg
    13: (4.06, 7.18, 1.201, 48.8329),  # Al
    14: (4.168, 6.974, 1.176, 60.04769),  # Si
    15: (6.52204, 7.13703, 1.102, 91.4776),  # P
    16: (6.928, 8.972, 1.047, 114.50472),  # S
    17: (8.564, 9.892, 0.994, 152.3228),  # Cl
    18: (9.465, 12.71, 2.108, 202.34215),  # Ar
    19: (2.421, 3.84, 2.586, 7.71165),  # K
    20: (3.231, 5.76, 2.0, 14.5642),  # Ca
    21: (3.395, 6.16, 1.75, 18.65526),  # Sc
    22: (3.47, 6.76, 1.607, 22.74409),  # Ti
    23: (3.65, 6.82, 1.47, 26.77933),  # V
    24: (3.415, 7.73, 1.402, 28.62618),  # Cr
    25: (3.325, 8.21, 1.533, 35.32593),  # Mn
    26: (3.76, 8.28, 1.393, 39.53139),  # Fe
    27: (4.105, 8.35, 1.406, 44.27516),  # Co
    28: (4.465, 8.41, 1.398, 48.8329),  # Ni
    29: (3.729, 5.002, 1.434, 53.55866),  # Cu
    30: (5.106, 8.57, 1.4, 57.75021),  # Zn
    31: (3.641, 6.32, 1.211, 40.89454),  # Ga
    32: (4.051, 6.876, 1.189, 56.86022),  # Ge
    33: (5.188, 7.618, 1.204, 77.04494),  # As
    34: (6.428, 8.262, 1.224, 88.08056),  # Se
    35: (7.79, 8.85, 1.141, 108.87334),  # Br
    36: (8.505, 11.43, 2.27, 133.65952),  # Kr
    37: (2.331, 3.692, 2.77, 7.02929),  # Rb
    38: (3.024, 4.88, 2.415, 12.03129),  # Sr
    39: (3.83, 5.62, 1.998, 14.62836),  # Y
    40: (3.4, 7.1, 1.758, 18.55104),  # Zr
    41: (3.55, 6.76, 1.603, 21.15055),  # Nb
    42: (3.465, 7.51, 1.53, 25.94248),  # Mo
    43: (3.29, 7.98, 1.5, 29.12839),  # Tc
    44: (3.575, 8.03, 1.5, 34.58997),  # Ru
    45: (3.975, 8.01, 1.509, 38.61206),  # Rh
    46: (4.32, 8.0, 1.544, 69.17994),  # Pd
    47: (4.436, 6.268, 1.622, 48.97695),  # Ag
    48: (5.034, 7.914, 1.6, 45.11735),  # Cd
    49: (3.506, 5.792, 1.404, 32.55526),  # In
    50: (3.987, 6.248, 1.354, 52.87639),  # Sn
    51: (4.899, 6.684, 1.404, 50.31268),  # Sb
    52: (5.816, 7.052, 1.38, 60.37522),  # Te
    53: (6.822, 7.524, 1.333, 62.06798),  # I
    54: (7.595, 9.95, 2.459, 82.11269),  # Xe
    55: (2.183, 3.422, 2.984, 5.58842),  # Cs
    56: (2.814, 4.792, 2.442, 8.36432),  # Ba
    57: (2.8355, 5.483, 2.071, 10.67729),  # La
    58: (2.774, 5.384, 1.925, 11.21837),  # Ce
    59: (2.858, 5.128, 2.007, 11.77531),  # Pr
    60: (2.8685, 5.241, 2.007, 10.57528),  # Nd
    61: (2.881, 5.346, 2.0, 11.03202),  # Pm
    62: (2.9115, 5.439, 1.978, 11.52999),  # Sm
    63: (2.8785, 5.575, 2.227, 11.98786),  # Eu
    64: (3.1665, 5.949, 1.968, 14.13037),  # Gd
    65: (3.018, 5.668, 1.954, 13.02211),  # Tb
    66: (3.0555, 5.743, 1.934, 13.55362),  # Dy
    67: (3.127, 5.782, 1.925, 14.0705),  # Ho
    68: (3.1865, 5.829, 1.915, 14.62836),  # Er
    69: (3.2514, 5.8658, 2.0, 15.23228),  # Tm
    70: (3.2889, 5.93, 2.158, 15.88822),  # Yb
    71: (2.9629, 4.9258, 1.896, 15.16273),  # Lu
    72: (3.7, 6.8, 1.759, 20.49776),  # Hf
    73: (5.1, 5.7, 1.605, 25.34837),  # Ta
    74: (4.63, 6.62, 1.538, 29.91565),  # W
    75: (3.96, 7.84, 1.6, 34.23337),  # Re
    76: (5.14, 7.26, 1.7, 39.06632),  # Os
    77: (5.0, 8.0, 1.866, 43.69259),  # Ir
    78: (4.79, 8.86, 1.557, 51.08672),  # Pt
    79: (4.894, 5.172, 1.618, 57.25236),  # Au
    80: (6.27, 8.32, 1.6, 66.14815),  # Hg
    81: (3.2, 5.8, 1.53, 43.69259),  # Tl
    82: (3.9, 7.06, 1.444, 47.5736),  # Pb
    83: (4.69, 7.48, 1.514, 44.87347),  # Bi
    84: (4.21, 8.42, 1.48, 48.8329),  # Po
    85: (4.75, 9.5, 1.47, 55.34395),  # At
    86: (5.37, 10.74, 2.2, 62.65353),  # Rn
    87: (2.0, 4.0, 2.3, 6.83259),  # Fr
    88: (2.843, 4.868, 2.2, 8.67007),  # Ra
    89: (2.835, 5.67, 2.108, 10.34466),  # Ac
    90: (3.175, 5.81, 2.018, 10.34466),  # Th
    91: (2.985, 5.81, 1.8, 13.07337),  # Pa
    92: (3.341, 5.706, 1.713, 13.33589),  # U
    93: (3.549, 5.434, 1.8, 13.38967),  # Np
    94: (3.243, 5.638, 1.84, 13.55362),  # Pu
    95: (2.9895, 6.007, 1.942, 14.25166),  # Am
    96: (2.8315, 6.379, 1.9, 14.43755),  # Cm
    97: (3.1935, 6.071, 1.9, 14.62836),  # Bk
    98: (3.197, 6.202, 1.9, 16.19823),  # Cf
    99: (3.333, 6.178, 1.9, 16.85603),  # Es
    100: (3.4, 6.2, 1.9, 13.95226),  # Fm
    101: (3.47, 6.22, 1.9, 18.24526),  # Md
    102: (3.475, 6.35, 1.9, 20.24779),  # No
}
"""Electronegativity, eV/e; hardness, eV/e^2; radius, A; spring, kcal/mol/A^2."""


def table_rows(numbers: Sequence[int]) -> Tensor:
    """Give electronegativity, hardness, width and stiffness in eV and A, shape ``(4, n)``.

    Args:
        numbers: atomic numbers.

    Raises:
        UserMistake: elements outside the table, naming them.
    """
    missing = sorted(set(numbers) - set(ELEMENTS))
    if missing:
        from ase.data import chemical_symbols  # on the way to an error only

        names = ", ".join(chemical_symbols[z] for z in missing)
        raise UserMistake(
            f"the table of polarizable charges has no parameters for {names}; it goes from H "
            "to No; leave these elements out, or let a network give them: charge=polarizable"
        )
    rows = []
    for number in numbers:
        chi, eta, radius, spring = ELEMENTS[number]
        rows.append((chi, eta, radius * WIDTH_FACTOR, spring / KCAL_PER_EV))
    return torch.tensor(rows, dtype=torch.float64).reshape(-1, 4).T.contiguous()


def table_parameters(numbers: Tensor) -> Parameters:
    """Look up the parameters of every atom.

    Args:
        numbers: atomic numbers, shape ``(N,)``.

    Raises:
        UserMistake: an element outside the table.
    """
    kinds = sorted(set(numbers.tolist()))
    rows = table_rows(kinds).to(numbers.device)
    index = torch.searchsorted(torch.tensor(kinds, device=numbers.device), numbers)
    chi, eta, width, stiffness = (row.index_select(0, index) for row in rows)
    return Parameters(chi, eta, width, stiffness, torch.full_like(chi, CORE_CHARGE))
