"""What a potential may be asked: the elements, total charges and spins it was trained on.

Anything else is refused in words, or remarked where the user allowed it; a total charge is
never assumed in silence.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from ase.data import chemical_symbols
from torch import Tensor

from qeqtrain.errors import UserMistake
from qeqtrain.fragments import read_fragments, total_of_fragments
from qeqtrain.models.charge_states import REMEDY, StatesRead, StatesSeen, checked_policy
from qeqtrain.models.references import ChargeReferences
from qeqtrain.neighbors import Reach, with_pairs
from qeqtrain.structures import Structure, Structures, collate

CHARGE_KEYS = ("charge", "total_charge")
"""Where ``Atoms.info`` may state the total charge."""


class Domain:
    """The part of a potential that turns ``ase.Atoms`` into a batch it can answer for.

    Attributes:
        elements: atomic numbers the model knows.
        conventions: of its training data, plain values.
        spec: recipe nodes of its parts.
        charge_references: energies by total charge, or ``None``.
        unseen_charge_states: ``error`` or ``allow``.
    """

    elements: tuple[int, ...]
    conventions: dict[str, Any]
    spec: dict[str, Any]
    charge_references: ChargeReferences | None
    unseen_charge_states: str

    @property
    def cutoffs(self) -> dict[str, Reach]:
        """Neighbour lists the model reads, by consumer."""
        raise NotImplementedError

    def structures_of(
        self, atoms: Any | Sequence[Any], total_charge: float | None = None
    ) -> Structures:
        """Convert ``ase.Atoms``, one or several, with the neighbour lists the model reads.

        Args:
            atoms: their ``info["charge"]`` is the total charge; fragments of known charge or
                potential are stated as :mod:`qeqtrain.fragments` says.
            total_charge: e, for all of them; must not contradict ``info``.
        """
        several = [atoms] if hasattr(atoms, "numbers") else list(atoms)
        ready: list[Structure] = []
        strange: list[str] = []
        for one in several:
            groups = read_fragments(one.arrays, one.info, len(one))
            charge = self._total_charge(one, total_charge, groups)
            spin = one.info.get("spin_multiplicity", one.info.get("spin"))
            structure = Structure.from_atoms(one, total_charge=charge, spin=spin, **groups)
            self.refuse_unknown_elements(torch.from_numpy(np.unique(structure.numbers)))
            said = self.refuse_unseen_states(structure, one.get_chemical_formula())
            strange += [text for text in said if text not in strange]
            ready.append(with_pairs(structure, self.cutoffs))
        batch = collate(ready)
        untrained = self.untrained_elements(batch.numbers)
        if untrained:
            warnings.warn(
                f"{', '.join(untrained)}: listed by the model but absent from its training "
                "data; do not trust these numbers",
                stacklevel=3,
            )
        for text in strange:
            warnings.warn(f"{text}; this is an extrapolation", stacklevel=3)
        return batch

    def refuse_unseen_states(self, structure: Structure, name: str) -> list[str]:
        """Raise for a total charge or multiplicity that the model reads and never met.

        Args:
            structure: with its total charge.
            name: of the structure, for the message.

        Returns:
            What was never met, in words, where ``unseen_charge_states`` is ``allow``.

        Raises:
            UserMistake: naming what was met, what is known, and the remedy.
        """
        strange = self.states_seen.strange(structure)
        if strange and checked_policy(self.unseen_charge_states) == "error":
            raise UserMistake(*(f"{name}: {text}; {REMEDY}" for text in strange))
        return strange

    @property
    def states_seen(self) -> StatesSeen:
        """Total charges and multiplicities of the training data, of what the model reads."""
        reads = StatesRead.of(self.spec, self.charge_references)
        charges = self.conventions.get("charge_states") if reads.charge else None
        spins = self.conventions.get("spins") if reads.spin else None
        return StatesSeen(
            None if charges is None else tuple(charges),
            None if spins is None else tuple(spins),
            self.charge_references,
        )

    def refuse_unknown_elements(self, numbers: Tensor) -> None:
        """Raise for elements outside the model.

        Args:
            numbers: atomic numbers, on the CPU, shape ``(N,)``.

        Raises:
            UserMistake: naming the elements and those the model knows.
        """
        unknown = sorted({int(z) for z in numbers.unique()} - set(self.elements))
        if unknown:
            known = " ".join(chemical_symbols[z] for z in self.elements)
            names = ", ".join(chemical_symbols[z] if z > 0 else "X" for z in unknown)
            raise UserMistake(f"the model does not know {names}; it was trained on {known}")

    def untrained_elements(self, numbers: Tensor) -> list[str]:
        """Name the elements met that the model lists but never saw in training."""
        met = {int(z) for z in numbers.unique()}
        listed = sorted(met & set(self.conventions.get("untrained_elements", ())))
        return [chemical_symbols[z] for z in listed]

    def _total_charge(self, atoms: Any, given: float | None, groups: dict[str, Any]) -> float:
        """Find the total charge: the argument, ``info``, fragments, or the policy."""
        told = {k: float(atoms.info[k]) for k in CHARGE_KEYS if k in atoms.info}
        if len(set(told.values())) > 1:
            raise UserMistake(f"atoms.info contradicts itself: {told}; keep one of them")
        stated = next(iter(told.values()), None)
        if given is not None:
            if stated is not None and abs(stated - given) > 1e-8:
                raise UserMistake(
                    f"total_charge={given:g} contradicts atoms.info['charge']={stated:g}; "
                    "remove one of them"
                )
            stated = float(given)
        stated = total_of_fragments(groups, stated)
        if stated is not None:
            return stated
        remedy = "set atoms.info['charge'] or pass total_charge"
        return self.charge_where_absent(f"the structure {atoms.get_chemical_formula()}", remedy)

    def charge_where_absent(self, name: str, remedy: str) -> float:
        """Give the total charge of a structure that states none.

        Neutral, if the model has only met neutral structures or was told that absence means
        zero.

        Args:
            name: of the structure, for the message.
            remedy: how to state a total charge.

        Raises:
            UserMistake: the model was trained on several total charges.
        """
        states = self.conventions.get("charge_states", [0.0])
        silent = self.conventions.get("total_charge") == "zero"
        if not silent and any(q != 0.0 for q in states):
            seen = ", ".join(f"{q:+g}" for q in states)
            raise UserMistake(
                f"the model was trained on total charges {seen}, and {name} does not state its "
                f"own; {remedy}"
            )
        return 0.0
