"""The potential of a recipe, fitted to its data: elements, references, scale, conventions."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, get_args

import torch
from ase.data import atomic_numbers, chemical_symbols

from qeqtrain.data.charge_references import charge_energies, count_compositions
from qeqtrain.data.labels import plural
from qeqtrain.data.mixed import MixedSets
from qeqtrain.data.statistics import count_states
from qeqtrain.errors import UserMistake, nearest
from qeqtrain.models.charge_states import StatesRead, checked_policy
from qeqtrain.models.potential import Potential, build_potential
from qeqtrain.models.references import ChargeReferenceKind
from qeqtrain.training.given import Given, given_labels, without_given
from qeqtrain.training.mixing import Mixing

if TYPE_CHECKING:
    from qeqtrain.data.prepared import PreparedFrames
    from qeqtrain.data.statistics import Statistics


def sketch_potential(nodes: Mapping[str, Any]) -> Potential:
    """Build a potential for hydrogen: it tells cutoffs and charges before data are read."""
    return build_potential(
        nodes,
        elements=(1,),
        references={},
        scale=1.0,
        average_neighbors=1.0,
        charge_range=(-1.0, 1.0),
    )


def potential_for(nodes: Mapping[str, Any], data: PreparedFrames) -> Potential:
    """Build the potential of a recipe for prepared data.

    Args:
        nodes: the recipe's ``potential``.
        data: prepared; the potential keeps its conventions, charge states and multiplicities.

    Raises:
        UserMistake: elements or references of the recipe do not cover the data.
    """
    statistics = data.statistics
    trained = sorted(int(z) for z in statistics.elements)
    elements = _elements(nodes.get("elements", "auto"), sorted(int(z) for z in data.elements))
    conventions = dict(data.conventions)
    conventions["charge_states"] = sorted(float(q) for q in statistics.total_charges)
    conventions["spins"] = sorted(float(s) for s in statistics.spins)
    conventions["unseen_charge_states"] = checked_policy(
        nodes.get("unseen_charge_states", "error")
    )
    conventions["untrained_elements"] = [z for z in elements if z not in trained]
    given = _given(nodes, elements, data)
    mixing = Mixing(data, given) if isinstance(data, MixedSets) else None
    if mixing is not None:
        statistics = mixing.statistics
    elif given is not None:
        source, _ = data.source_of("train")
        statistics = without_given(statistics, given, source)
    wanted = nodes.get("references", "least_squares")
    references = _references(wanted, trained, statistics)
    if mixing is not None:
        conventions |= mixing.strangers(elements, conventions["sets"])
        mixing.compare_with(references, fitted=wanted not in ("none", None))
    references, charge_references = _charge_references(nodes, references, data, given, mixing)
    return build_potential(
        nodes,
        elements=elements,
        references=references,
        scale=_scale(nodes.get("scale", "force_rms"), elements, statistics),
        average_neighbors=statistics.average_neighbors,
        charge_range=statistics.charge_range,
        charge_references=charge_references,
        conventions=conventions,
        mixture=None if mixing is None else mixing.plain(),
    )


def _given(nodes: Mapping[str, Any], elements: list[int], data: PreparedFrames) -> Given | None:
    """Energies and forces beneath the network, of training frames, or ``None``."""
    with torch.random.fork_rng(devices=[]):  # this draft draws no numbers of the run
        draft = build_potential(
            nodes,
            elements=elements,
            references={},
            scale=1.0,
            charge_range=(-1.0, 1.0),
        )
    by_charge = nodes.get("charge_references", "none") not in ("none", None)
    return given_labels(draft, data, every=by_charge)


def unseen_state_notes(potential: Potential, data: PreparedFrames) -> list[str]:
    """Look for charge states of validation and test frames that training frames lack.

    Args:
        potential: built for the data.
        data: prepared.

    Returns:
        What there is, where the potential's policy allows it.

    Raises:
        UserMistake: it does not, naming split, states and remedies.
    """
    seen = potential.states_seen
    if seen.everything:
        return []
    found = []
    for split in ("val", "test"):
        source, frames = data.source_of(split)
        met: Counter[str] = Counter()
        for charge, count in count_states(source.total_charges[frames]).items():
            met.update(seen.strange_charge(charge) * count)
        for spin, count in count_states(source.spins[frames]).items():
            met.update(seen.strange_spin(spin) * count)
        if not met:
            for numbers, charge, count in count_compositions(source, frames):
                met.update(seen.strange_state(numbers, charge) * count)
        found += [f"{split}: {text} ({plural(n, 'frame')})" for text, n in met.items()]
    if found and potential.unseen_charge_states == "error":
        raise UserMistake(
            *(
                f"{text}; give training such frames, take them out, or accept the "
                "extrapolation with potential.unseen_charge_states=allow"
                for text in found
            )
        )
    return found


def _charge_references(
    nodes: Mapping[str, Any],
    references: dict[int, float],
    data: PreparedFrames,
    given: Given | None,
    mixing: Mixing | None = None,
) -> tuple[dict[int, float], dict[str, Any] | None]:
    """Energies of elements, eV, and what knows the total charge beside them, plain values."""
    wanted = nodes.get("charge_references", "none")
    if wanted in ("none", None):
        return references, None
    kinds = get_args(ChargeReferenceKind)
    if wanted not in kinds:
        raise UserMistake(
            f"potential.charge_references is {wanted!r}; expected {' | '.join(kinds)}"
            f"{nearest(str(wanted), kinds)}"
        )
    fitted = nodes.get("references", "least_squares") == "least_squares"
    source, frames = data.source_of("train")
    beneath = None
    if given is not None:
        frames, beneath = given.frames, given.energies
    if mixing is not None:  # brought to the scale of the main set
        beneath = mixing.differences(frames) + (0.0 if beneath is None else beneath)
    found = charge_energies(source, frames, None if fitted else references, beneath)
    if wanted == "learned":
        # What it learns is then of order one; the elements stay as they are without it.
        spin = StatesRead.of(nodes).spin
        return references, {"kind": wanted, "scale": found.spread or 1.0, "spin": spin}
    table = [[q, energy] for q, energy in found.charges.items()]
    references = {**references, **found.elements}
    if wanted == "per_charge":
        return references, {"kind": wanted, "energies": table}
    states = [[{str(z): n for z, n in counts.items()}, q, e] for counts, q, e in found.states]
    return references, {"kind": wanted, "energies": states, "fallback": table}


def _scale(
    wanted: object, elements: list[int], statistics: Statistics
) -> float | dict[int, float]:
    """Energy scale of the network: force RMS of the data (eV/A read as eV), or as given."""
    known = (statistics.force_rms, statistics.energy_rms)
    overall = next((float(x) for x in known if math.isfinite(x) and x > 0.0), 1.0)
    if wanted == "force_rms":
        return overall
    if wanted == "force_rms_per_element":
        # An element without forces has the scale of all together.
        by_element = statistics.force_rms_by_element
        return {z: by_element.get(z, 0.0) or overall for z in elements}
    if isinstance(wanted, bool) or not isinstance(wanted, int | float) or not wanted > 0.0:
        raise UserMistake(
            f"potential.scale is {wanted!r}; expected force_rms, force_rms_per_element, or a "
            "number above 0"
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
