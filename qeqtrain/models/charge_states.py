"""Total charges and multiplicities that a model met in training, and what others mean to it.

A network that reads the total charge interpolates between those it was shown; of another one it
knows nothing, and nothing in its answer would say so. Where the charge only enters the solve of
a charge model, any is as good as the next.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from qeqtrain.errors import UserMistake
from qeqtrain.models.references import SAME_CHARGE, ChargeReferences, signed
from qeqtrain.structures import Structure

UnseenPolicy = Literal["error", "allow"]
POLICIES = ("error", "allow")
REMEDY = (
    'train on such structures, or accept an extrapolation with unseen_charge_states="allow" '
    "(--unseen-charge-states allow)"
)


@dataclass(frozen=True)
class StatesRead:
    """What a model reads beside the geometry.

    Attributes:
        charge: the total charge enters the network or its reference energies.
        spin: the multiplicity enters the network.
    """

    charge: bool
    spin: bool

    @classmethod
    def of(cls, nodes: Mapping[str, Any], charge_references: object = None) -> StatesRead:
        """Find out from recipe nodes.

        Args:
            nodes: parts of the model; ``conditioning`` is looked for in all of them.
            charge_references: anything but ``None`` and ``none`` reads the total charge.
        """
        found = set(_conditions(nodes))
        referenced = charge_references not in (None, "none")
        return cls(bool(found) or referenced, "charge_and_spin" in found)


@dataclass(frozen=True)
class StatesSeen:
    """What a model met in training, of what it reads.

    Attributes:
        charges: total charges, e; ``None`` where they are not read or not known.
        spins: multiplicities 2S+1; ``None`` likewise.
        references: reference energies with a memory of their own.
    """

    charges: tuple[float, ...] | None
    spins: tuple[float, ...] | None
    references: ChargeReferences | None = None

    @property
    def everything(self) -> bool:
        """Whether no structure can be strange."""
        return self.charges is None and self.spins is None

    def strange(self, structure: Structure) -> list[str]:
        """Say what of a structure was never met: value, what was met, in words."""
        charge, spin = structure.total_charge, structure.spin
        said = []
        if charge is not None:
            said += self.strange_charge(charge) or self.strange_state(structure.numbers, charge)
        if spin is not None:
            said += self.strange_spin(spin)
        return said

    def strange_charge(self, charge: float) -> list[str]:
        """Say that a total charge, e, was never met; nothing if it was."""
        if self.charges is None or _among(charge, self.charges):
            return []
        return [
            f"total charge {signed([charge])}: the model reads the total charge and was "
            f"trained on {signed(self.charges)} only"
        ]

    def strange_spin(self, spin: float) -> list[str]:
        """Say that a multiplicity was never met; nothing if it was."""
        if self.spins is None or _among(spin, self.spins):
            return []
        seen = ", ".join(f"{s:g}" for s in self.spins)
        return [
            f"multiplicity {spin:g}: the model reads the multiplicity and was trained on "
            f"{seen} only"
        ]

    def strange_state(self, numbers: np.ndarray, charge: float) -> list[str]:
        """Say that atoms were never met with a total charge, where that is remembered."""
        said = "" if self.references is None else self.references.unseen(numbers, charge)
        return [said] if said else []


def checked_policy(policy: str) -> str:
    """Give the policy back.

    Raises:
        UserMistake: it is none.
    """
    if policy not in POLICIES:
        raise UserMistake(f"unseen_charge_states is {policy!r}; expected error or allow")
    return policy


def _among(value: float, seen: Iterable[float]) -> bool:
    return any(abs(value - known) <= SAME_CHARGE for known in seen)


def _conditions(node: Any) -> Iterable[str]:
    """Go through every ``conditioning`` of nested nodes that is not ``none``."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            if key == "conditioning" and value not in (None, "none"):
                yield str(value)
            else:
                yield from _conditions(value)
