"""What a potential may be asked: the elements, total charges and spins it was trained on.

Anything else is refused in words, or remarked where the user allowed it; a total charge is
never assumed in silence.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from ase.data import chemical_symbols
from torch import Tensor, nn

from qeqtrain.errors import UserMistake
from qeqtrain.fragments import read_fragments, total_of_fragments
from qeqtrain.models.charge_states import REMEDY, StatesRead, StatesSeen, checked_policy
from qeqtrain.models.references import ChargeReferences
from qeqtrain.neighbors import Reach, with_pairs
from qeqtrain.physics.fields import FieldCoupling, field_mistakes
from qeqtrain.physics.naming import name_of
from qeqtrain.structures import Structure, Structures, collate

CHARGE_KEYS = ("charge", "total_charge")
"""Where ``Atoms.info`` may state the total charge."""
FIELD_KEY = "electric_field"
"""Where ``Atoms.info`` may state the electric field, V/A."""


class Domain:
    """The part of a potential that turns ``ase.Atoms`` into a batch it can answer for.

    Attributes:
        elements: atomic numbers the model knows.
        conventions: of its training data, plain values.
        charge: the charge model.
        spec: recipe nodes of its parts.
        charge_references: energies by total charge, or ``None``.
        unseen_charge_states: ``error`` or ``allow``.
    """

    elements: tuple[int, ...]
    conventions: dict[str, Any]
    charge: nn.Module
    spec: dict[str, Any]
    charge_references: ChargeReferences | None
    unseen_charge_states: str

    @property
    def cutoffs(self) -> dict[str, Reach]:
        """Neighbour lists the model reads, by consumer."""
        raise NotImplementedError

    @property
    def has_charges(self) -> bool:
        """Whether charges are predicted."""
        return bool(self.charge.features > 0)

    @property
    def field(self) -> FieldCoupling:
        """What follows an electric field (:data:`~qeqtrain.physics.fields.FieldCoupling`)."""
        return cast("FieldCoupling", getattr(self.charge, "field", "none"))

    def structures_of(
        self,
        atoms: Any | Sequence[Any],
        total_charge: float | None = None,
        electric_field: Sequence[float] | np.ndarray | None = None,
        lists: Callable[[Structure, Mapping[str, Reach]], Structure] = with_pairs,
    ) -> Structures:
        """Convert ``ase.Atoms``, one or several, with the neighbour lists the model reads.

        Args:
            atoms: their ``info["charge"]`` is the total charge; fragments of known charge or
                potential are stated as :mod:`qeqtrain.fragments` says.
            total_charge: e, for all of them; must not contradict ``info``.
            electric_field: V/A, three numbers, for all of them; without it that of
                ``info["electric_field"]``, which it must not contradict.
            lists: gives a structure its neighbour lists.

        Raises:
            UserMistake: what is stated contradicts itself, or the model has no answer to it.
        """
        several = [atoms] if hasattr(atoms, "numbers") else list(atoms)
        ready: list[Structure] = []
        strange: list[str] = []
        for one in several:
            groups = read_fragments(one.arrays, one.info, len(one))
            charge = self._total_charge(one, total_charge, groups)
            spin = one.info.get("spin_multiplicity", one.info.get("spin"))
            name = _Formula(one)
            structure = Structure.from_atoms(
                one,
                total_charge=charge,
                spin=spin,
                electric_field=stated_field(one.info, electric_field),
                **groups,
            )
            self.refuse_unknown_elements(torch.from_numpy(np.unique(structure.numbers)))
            self.refuse_field(structure, name)
            said = self.refuse_unseen_states(structure, name)
            strange += [text for text in said if text not in strange]
            ready.append(lists(structure, self.cutoffs))
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

    def refuse_unseen_states(self, structure: Structure, name: object) -> list[str]:
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

    def refuse_field(self, structure: Structure, name: object) -> None:
        """Raise for an electric field that the model has no answer to.

        Args:
            structure: in a field or not.
            name: of the structure, for the message.

        Raises:
            UserMistake: naming structure, field, direction and remedy.
        """
        if structure.electric_field is not None:
            at = (structure.electric_field, structure.cell, structure.pbc)
            field, cell, pbc = (torch.from_numpy(np.asarray(x))[None] for x in at)
            for text in field_mistakes(field, cell, pbc, self.field).values():
                raise UserMistake(f"{name}: {text}")

    def refuse_fields(self, batch: Structures) -> None:
        """Raise for electric fields that the model has no answer to.

        Args:
            batch: on the CPU.

        Raises:
            UserMistake: naming structure, field, direction and remedy.
        """
        wrong = field_mistakes(batch.electric_field, batch.cell, batch.pbc, self.field)
        if wrong:
            raise UserMistake(*(f"{name_of(batch, i)}: {text}" for i, text in wrong.items()))

    def refuse_undefined(self, name: str, batch: Structures) -> None:
        """Raise for Born charges or a polarizability that do not exist.

        Args:
            name: ``born_charges`` or ``polarizability``.
            batch: the structures.

        Raises:
            UserMistake: the model has no charges, or they flow along a periodic direction.
        """
        words = name.replace("_", " ").replace("born", "Born")
        if not self.has_charges:
            raise UserMistake(
                f"{words} asked of a model without charges; expected a model with "
                "charge=gaussian, diagonal or local"
            )
        periodic = batch.pbc.any(dim=-1)
        if self.field != "every" and bool(periodic.any()):
            first = name_of(batch, int(torch.nonzero(periodic)[0]))
            raise UserMistake(
                f"{first} has a periodic direction, along which {words} of flowing charge are "
                f"not defined; expected molecules, or a charge model with shells; {name}=None "
                "gives NaN there"
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
        return self.charge_where_absent(_Formula(atoms, "the structure "), remedy)

    def charge_where_absent(self, name: object, remedy: str) -> float:
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


class _Formula:
    """Name of a structure, worked out where a message needs it: for 1000 atoms 2 ms.

    Args:
        atoms: an ``ase.Atoms``.
        before: text before the formula.
    """

    def __init__(self, atoms: Any, before: str = "") -> None:
        self.atoms, self.before = atoms, before

    def __str__(self) -> str:
        return f"{self.before}{self.atoms.get_chemical_formula()}"


def stated_field(
    info: Mapping[str, Any], given: Sequence[float] | np.ndarray | None
) -> np.ndarray | None:
    """Find the electric field of a structure, V/A, shape ``(3,)``, or ``None`` without one.

    Args:
        info: of ``ase.Atoms``; ``electric_field`` counts.
        given: as an argument; it must not contradict ``info``.

    Raises:
        UserMistake: something else than three finite numbers, or a contradiction.
    """
    told = _three(info.get(FIELD_KEY), f"atoms.info['{FIELD_KEY}']")
    field = _three(given, FIELD_KEY)
    if told is None or field is None:
        return told if field is None else field
    if not np.allclose(told, field, rtol=1e-8, atol=1e-12):
        raise UserMistake(
            f"{FIELD_KEY}={field.tolist()} contradicts atoms.info['{FIELD_KEY}']="
            f"{told.tolist()}; remove one of them"
        )
    return field


def _three(value: object, name: str) -> np.ndarray | None:
    if value is None:
        return None
    try:
        numbers = np.array(value, dtype=np.float64)
    except (TypeError, ValueError):
        numbers = np.array(np.nan)
    if numbers.shape != (3,) or not np.isfinite(numbers).all():
        raise UserMistake(f"{name} is {value!r}; expected three numbers, in V/A")
    return numbers
