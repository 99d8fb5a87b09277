"""The potential of a recipe, fitted to its data: elements, references, scale, conventions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from ase.data import atomic_numbers, chemical_symbols

from qeqtrain.errors import UserMistake, nearest
from qeqtrain.models.potential import Potential, build_potential

if TYPE_CHECKING:
    from qeqtrain.data.sets import DataSets
    from qeqtrain.data.statistics import Statistics


def sketch_potential(nodes: Mapping[str, Any]) -> Potential:
    """Build a potential for hydrogen: it tells cutoffs and charges before data are read."""
    return build_potential(
        nodes, elements=(1,), references={}, scale=1.0, average_neighbors=1.0
    )


def potential_for(nodes: Mapping[str, Any], data: DataSets) -> Potential:
    """Build the potential of a recipe for prepared data.

    Args:
        nodes: the recipe's ``potential``.
        data: prepared; the potential keeps its conventions and charge states.

    Raises:
        UserMistake: elements or references of the recipe do not cover the data.
    """
    statistics = data.statistics
    trained = sorted(int(z) for z in statistics.elements)
    elements = _elements(nodes.get("elements", "auto"), sorted(int(z) for z in data.elements))
    conventions = dict(data.conventions)
    conventions["charge_states"] = sorted(float(q) for q in statistics.total_charges)
    conventions["untrained_elements"] = [z for z in elements if z not in trained]
    return build_potential(
        nodes,
        elements=elements,
        references=_references(nodes.get("references", "least_squares"), trained, statistics),
        scale=_scale(nodes.get("scale", "force_rms"), statistics),
        average_neighbors=statistics.average_neighbors,
        conventions=conventions,
    )


def _scale(wanted: object, statistics: Statistics) -> float:
    """Energy scale of the network: force RMS of the data (eV/A read as eV), or as given."""
    if wanted == "force_rms":
        known = (statistics.force_rms, statistics.energy_rms)
        return next((float(x) for x in known if math.isfinite(x) and x > 0.0), 1.0)
    if isinstance(wanted, bool) or not isinstance(wanted, int | float) or not wanted > 0.0:
        raise UserMistake(
            f"potential.scale is {wanted!r}; expected force_rms or a number above 0"
        )
    return float(wanted)


def _elements(wanted: object, met: list[int]) -> list[int]:
    """Atomic numbers of the model: those of the data, or those the recipe lists."""
    if wanted == "auto":
        return met
    if isinstance(wanted, str) or not isinstance(wanted, Iterable):
        raise UserMistake(
            f"potential.elements is {wanted!r}; expected auto or a list such as [Na, Cl]"
        )
    listed = sorted({_number(symbol, "potential.elements") for symbol in wanted})
    missing = [chemical_symbols[z] for z in met if z not in listed]
    if missing:
        raise UserMistake(
            f"potential.elements lacks {', '.join(missing)}, which the data have; "
            "add them, or say potential.elements=auto"
        )
    return listed


def _references(wanted: object, met: list[int], statistics: Statistics) -> dict[int, float]:
    """Reference energy of every element, eV."""
    if wanted == "least_squares":
        return {int(z): float(e) for z, e in statistics.references.items()}
    if wanted in ("none", None):
        return {}
    if not isinstance(wanted, Mapping):
        raise UserMistake(
            f"potential.references is {wanted!r}; expected least_squares, none, or a mapping "
            "of symbols to eV"
        )
    given = {_number(s, "potential.references"): float(e) for s, e in wanted.items()}
    missing = [chemical_symbols[z] for z in met if z not in given]
    if missing:
        raise UserMistake(f"potential.references lacks {', '.join(missing)}; give them in eV")
    return given


def _number(symbol: object, where: str) -> int:
    if symbol in atomic_numbers:
        return int(atomic_numbers[symbol])
    raise UserMistake(
        f"{where} names {symbol!r}; expected chemical symbols"
        f"{nearest(str(symbol), atomic_numbers)}"
    )
