"""Energies of elements of several data sets: one scale for each method behind the labels.

Two functionals differ by electronvolts per atom, most of which is an energy of every element.
The main set is fitted by least squares, alone or with sets that share its energies; any other
set as near to the main one as its compositions let it be. In a set of a single salt, say, the
sum over the salt is its own, and how it is divided between the two elements is the main set's.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce

from qeqtrain.data.elements import ATOMIC_NUMBERS, SYMBOLS
from qeqtrain.data.one_set import References
from qeqtrain.data.sums import EnergySums
from qeqtrain.errors import UserMistake

Energies = dict[int, float]
"""Energies of elements, eV, by atomic number."""


def given_energies(name: str, references: References, elements: tuple[int, ...]) -> Energies:
    """Read the energies that a recipe gives for a set; none where it gives none.

    Args:
        name: of the set.
        references: as in the recipe.
        elements: atomic numbers that occur in the set.

    Raises:
        UserMistake: an element is missing.
    """
    if isinstance(references, str):
        return {}
    found = {ATOMIC_NUMBERS[symbol]: float(e) for symbol, e in references.items()}
    missing = [SYMBOLS[z] for z in elements if z not in found]
    if missing:
        raise UserMistake(
            f"data.sets.{name}.references lacks {', '.join(missing)}; give them in eV, or say "
            f"data.sets.{name}.references=own"
        )
    return found


def fitted_energies(
    sums: Mapping[str, EnergySums], references: Mapping[str, References], main: str
) -> dict[str, Energies]:
    """Fit the energies of elements of every set, eV.

    Args:
        sums: energies against compositions, of every set.
        references: of every set, as in the recipe; what is given is not fitted.
        main: the set whose energies others are as near to as can be, or share. An element that
            it lacks has the energy of the first set with it.

    Returns:
        For every set, energies of all elements that occur in any.
    """
    shared = [name for name, choice in references.items() if choice == "main" and name != main]
    pool = reduce(EnergySums.merge, [sums[name] for name in (main, *shared)])
    base: Energies = dict(zip(pool.elements, pool.references().tolist(), strict=True))
    own: dict[str, Energies] = {}
    for name, choice in references.items():
        if name != main and choice != "main":
            near = sums[name].references_near(base).tolist()
            own[name] = dict(zip(sums[name].elements, near, strict=True))
            base = {**own[name], **base}
    return {name: {**base, **own.get(name, {})} for name in references}
