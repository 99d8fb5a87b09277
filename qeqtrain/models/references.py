"""Reference energies that know the total charge.

What one electron more or less costs is electronvolts, mostly the same for every geometry: left
to the network, most of what it learns from several charge states is one offset each. Here the
offset is taken out beforehand, from the data, or learned by a network of its own. The terms
belong to a whole structure: unlike energies of elements they do not add up over parts that are
far apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from ase.data import chemical_symbols
from torch import Tensor, nn

from qeqtrain.errors import UserMistake
from qeqtrain.nn.mlp import MLP
from qeqtrain.structures import Structures

ChargeReferenceKind = Literal["none", "per_charge", "per_composition", "learned"]
SAME_CHARGE = 1e-3
"""Total charges that differ by less, e, are one charge state; tables round to it."""

Composition = tuple[tuple[int, int], ...]
"""Atomic number and count of every element, sorted."""


class ChargeReferences(nn.Module):
    """An energy of every structure from its total charge (and what else a variant reads)."""

    def forward(self, structures: Structures) -> Tensor:
        """Energy of every structure, eV, float64, shape ``(B,)``."""
        raise NotImplementedError

    def unseen(self, numbers: np.ndarray, total_charge: float) -> str:
        """Say what of a structure was never met; empty where nothing, or nothing is read.

        Total charges themselves are looked after by the potential.
        """
        del numbers, total_charge
        return ""

    def plain(self) -> dict[str, Any]:
        """Everything but the weights, in plain values, for :func:`build_charge_references`."""
        raise NotImplementedError


class PerCharge(ChargeReferences):
    """One energy per total charge.

    Between known charges the energy is interpolated linearly, beyond them it goes on as
    between the outermost two: only where unseen charges are allowed does that matter.

    Args:
        energies: pairs of total charge, e, and energy, eV.
    """

    def __init__(self, energies: Iterable[Sequence[float]]) -> None:
        super().__init__()
        table = sorted((float(q), float(e)) for q, e in energies) or [(0.0, 0.0)]
        columns = torch.tensor(table, dtype=torch.float64).T.contiguous()
        self.register_buffer("charges", columns[0], persistent=False)
        self.register_buffer("energies", columns[1], persistent=False)

    def forward(self, structures: Structures) -> Tensor:
        """Energy of every structure, eV, float64, shape ``(B,)``."""
        q = structures.total_charge
        last = self.charges.shape[0] - 1
        if last == 0:
            return self.energies.expand_as(q)
        right = torch.searchsorted(self.charges, q.contiguous()).clamp(1, last)  # (B,)
        left = right - 1
        low, high = self.charges[left], self.charges[right]
        part = (q - low) / (high - low)
        return torch.lerp(self.energies[left], self.energies[right], part)

    def plain(self) -> dict[str, Any]:
        """Kind and table."""
        table = torch.stack([self.charges, self.energies], dim=1)
        return {"kind": "per_charge", "energies": table.tolist()}


class PerComposition(ChargeReferences):
    """One energy per composition and total charge.

    What was not met in training has the energy of its total charge alone; a potential lets it
    come to that only where unseen charge states are allowed.

    Args:
        energies: composition (atoms by atomic number), total charge, e, and energy, eV.
        fallback: pairs of total charge and energy, for what is not in the table.
    """

    def __init__(
        self,
        energies: Iterable[tuple[Mapping[Any, int], float, float]],
        fallback: Iterable[Sequence[float]],
    ) -> None:
        super().__init__()
        states = [(_sorted(c), _thousandths(q), float(e)) for c, q, e in energies]
        self.table = {(counts, q): energy for counts, q, energy in states}
        self.fallback = PerCharge(fallback)
        # A structure is looked up by one integer, a sum of random ones over its atoms: sums may
        # wrap around, and nothing has to wait for the device.
        span = np.iinfo(np.int64)
        random = np.random.default_rng(0).integers(span.min, span.max, len(chemical_symbols))
        weights = torch.from_numpy(random)
        keys = torch.zeros(len(self.table), dtype=torch.int64)
        for row, (counts, q) in enumerate(self.table):
            for z, n in counts:
                keys[row] += n * weights[z]
            keys[row] += q * weights[0]
        order = keys.argsort()
        values = torch.tensor(list(self.table.values()), dtype=torch.float64)
        self.register_buffer("weights", weights, persistent=False)
        self.register_buffer("keys", keys[order], persistent=False)
        self.register_buffer("energies", values[order], persistent=False)

    def forward(self, structures: Structures) -> Tensor:
        """Energy of every structure, eV, float64, shape ``(B,)``."""
        otherwise = self.fallback(structures)
        if not self.table:
            return otherwise
        thousandths = (structures.total_charge * 1000.0).round().long()
        keys = structures.sum_over_atoms(self.weights[structures.numbers])
        keys = keys + thousandths * self.weights[0]  # (B,)
        row = torch.searchsorted(self.keys, keys).clamp(max=len(self.table) - 1)
        return torch.where(self.keys[row] == keys, self.energies[row], otherwise)

    def unseen(self, numbers: np.ndarray, total_charge: float) -> str:
        """Say that this composition was not met with this charge, and with which it was."""
        counts = _counted(numbers)
        if (counts, _thousandths(total_charge)) in self.table:
            return ""
        seen = sorted(q / 1000.0 for known, q in self.table if known == counts)
        name = "".join(f"{chemical_symbols[z]}{n if n > 1 else ''}" for z, n in counts)
        known = f"only with {signed(seen)}" if seen else "not at all"
        return (
            f"{name} with total charge {signed([total_charge])}: reference energies are by "
            f"composition and total charge, and training met {name} {known}"
        )

    def plain(self) -> dict[str, Any]:
        """Kind and tables."""
        rows = [
            [{str(z): n for z, n in counts}, q / 1000.0, energy]
            for (counts, q), energy in self.table.items()
        ]
        return {
            "kind": "per_composition",
            "energies": rows,
            "fallback": self.fallback.plain()["energies"],
        }


class LearnedReference(ChargeReferences):
    """A small network of the total charge; zero before training.

    Args:
        scale: eV per unit of the network's output.
        spin: whether it reads the multiplicity as well.
        width: of its hidden layer.
    """

    def __init__(self, scale: float = 1.0, *, spin: bool = False, width: int = 16) -> None:
        super().__init__()
        self.scale, self.spin, self.width = float(scale), bool(spin), int(width)
        self.network = MLP([2 if spin else 1, width, 1])
        last = self.network.layers[-1]
        for parameter in last.parameters():
            nn.init.zeros_(parameter)

    def forward(self, structures: Structures) -> Tensor:
        """Energy of every structure, eV, float64, shape ``(B,)``."""
        inputs = [structures.total_charge]
        if self.spin:
            inputs.append(structures.spin - 1.0)  # unpaired electrons
        kind = next(self.network.parameters()).dtype
        said = self.network(torch.stack(inputs, dim=-1).to(kind))  # (B, 1)
        return self.scale * said.squeeze(-1).double()

    def plain(self) -> dict[str, Any]:
        """Kind and sizes."""
        return {"kind": "learned", "scale": self.scale, "spin": self.spin, "width": self.width}


def build_charge_references(plain: Mapping[str, Any] | None) -> ChargeReferences | None:
    """Rebuild a variant from its plain values; ``None`` where there is none.

    Raises:
        UserMistake: a kind that this version does not know.
    """
    if plain is None:
        return None
    given = {k: v for k, v in plain.items() if k != "kind"}
    variants: dict[str, type[ChargeReferences]] = {
        "per_charge": PerCharge,
        "per_composition": PerComposition,
        "learned": LearnedReference,
    }
    if plain["kind"] not in variants:
        raise UserMistake(
            f"charge references {plain['kind']!r}; expected {', '.join(variants)}"
        )
    return variants[plain["kind"]](**given)


def signed(charges: Iterable[float]) -> str:
    """Write total charges with their signs: ``-1, 0, +1``."""
    return ", ".join(f"{q:+g}" if q else "0" for q in charges)


def _thousandths(charge: float) -> int:
    return round(float(charge) / SAME_CHARGE)


def _sorted(composition: Mapping[Any, int]) -> Composition:
    return tuple(sorted((int(z), int(n)) for z, n in composition.items()))


def _counted(numbers: np.ndarray) -> Composition:
    elements, counts = np.unique(numbers, return_counts=True)
    return tuple(zip(elements.tolist(), counts.tolist(), strict=True))
