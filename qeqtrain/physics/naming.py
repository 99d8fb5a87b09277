"""How an error names one structure of a batch."""

from __future__ import annotations

from collections import Counter

from qeqtrain.structures import Structures


def name_of(structures: Structures, index: int) -> str:
    """Name a structure by its place in the batch and its composition."""
    from ase.data import chemical_symbols  # on the way to an error only

    numbers = structures.numbers[structures.batch == index].tolist()
    counts = Counter(chemical_symbols[z] for z in numbers)
    formula = "".join(f"{symbol}{n if n > 1 else ''}" for symbol, n in sorted(counts.items()))
    place = structures.places[index] if structures.places else index
    return f"structure {place} of the batch ({formula or 'no atoms'})"
