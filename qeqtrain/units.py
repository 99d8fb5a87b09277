"""Units of the package, and the constants that convert into them.

Everywhere inside the package: eV, Angstrom, elementary charges, eV/A, eV/A^3, e A, V/A.
Conversions happen only where data enter or leave. Hartree and Bohr are those of CODATA 2014,
the set that ASE uses, so that files converted with ASE and here carry the same numbers.
"""

from __future__ import annotations

HARTREE = 27.211386024367243
"""One Hartree in eV (CODATA 2014, as in ``ase.units``)."""

BOHR = 0.5291772105638411
"""One Bohr radius in Angstrom (CODATA 2014, as in ``ase.units``)."""

COULOMB_CONSTANT = 14.399645478425668
"""e^2 / (4 pi epsilon_0) in eV A/e^2."""

EV_PER_A3_TO_GPA = 160.21766208
"""One eV/A^3 in GPa."""

MILLI = 1.0e3
"""Factor from eV, e to the meV, me of printed tables."""
