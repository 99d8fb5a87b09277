r"""What differs between the data sets that one potential was trained on.

Methods behind labels differ in two ways that no geometry tells. Energies lie on other scales:
every set has its own energies of elements, those of the potential and a difference. And charges
of Bader, DDEC6, Hirshfeld or Mulliken are different quantities: the charges :math:`q` that the
potential equilibrates are those of the main set; what it says for a set of another kind t is

.. math::

    q'_i = q_i + d_i - \frac{1}{n_g} \sum_{j \in g} d_j, \qquad
    d_i = s_t(Z_i)\, q_i + b_t(Z_i)

with a slope and an offset per element that are learned and begin at zero, so that every kind
begins as the main one. The affine map alone would not keep the total charge; taking off the
mean over the atoms g among which charge flows (a structure, or a fragment of it) gives the
nearest charges, in the sense of least squares, that do. Energies, forces, dipoles and Born
charges are made of :math:`q` itself: a dipole does not depend on how it is divided among atoms.

Beyond energies of elements the energy is the same for all sets; methods whose bonds differ are
not reconciled here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from qeqtrain.errors import UserMistake, nearest
from qeqtrain.structures import Structures

if TYPE_CHECKING:
    from qeqtrain.models.potential import Potential


class Mixture(nn.Module):
    """Energies of elements and kinds of charges, by data set.

    Args:
        sets: by name, in the order of their indices: ``charge_type`` (``None``: that of the
            main set) and ``energies`` of elements less those of the potential, eV, by atomic
            number; absent ones are zero.
        main: the set whose charges are equilibrated, and for which the potential speaks unless
            it is told otherwise.
        elements: atomic numbers in the order of the species index.
        chosen: the set for which the potential speaks; the main one unless given.
    """

    def __init__(
        self,
        sets: Mapping[str, Mapping[str, Any]],
        main: str,
        elements: Sequence[int],
        chosen: str | None = None,
    ) -> None:
        super().__init__()
        self.names, self.main, self.chosen = tuple(sets), main, chosen or main
        said = {name: one.get("charge_type") for name, one in sets.items()}
        own = said[main] or next((kind for kind in said.values() if kind), None)
        kinds = [kind or own for kind in said.values()]
        self.charge_types: dict[str, str | None] = dict(zip(sets, kinds, strict=True))
        self.mapped = tuple(dict.fromkeys(k for k in kinds if k != own))
        """Kinds of charges that are mapped from those of the main set."""
        rows = [
            [float(energies.get(z, 0.0)) for z in elements]
            for one in sets.values()
            for energies in [{int(z): e for z, e in (one.get("energies") or {}).items()}]
        ]
        index = [0 if k == own else 1 + self.mapped.index(k) for k in kinds]
        energies = torch.tensor(rows, dtype=torch.float64)  # (S, species)
        self.register_buffer("energies", energies, persistent=False)
        self.register_buffer("kind_of_set", torch.tensor(index), persistent=False)
        shape = (len(self.mapped), len(elements))
        self.slope = nn.Parameter(torch.zeros(shape)) if self.mapped else None
        self.offset = nn.Parameter(torch.zeros(shape)) if self.mapped else None
        self._elements = tuple(int(z) for z in elements)

    def index_of(self, structures: Structures) -> Tensor:
        """Data set of every structure, the chosen one where none is stated, ``(B,)``."""
        chosen = self.names.index(self.chosen)
        if structures.data_set is None:
            return torch.full_like(structures.total_charge, chosen, dtype=torch.int64)
        stated = structures.data_set
        return torch.where(stated < 0, chosen, stated)

    def energies_of(self, structures: Structures, species: Tensor) -> Tensor:
        """Energy of every atom beside the potential's own of its element, eV, ``(N,)``."""
        owner = self.index_of(structures).index_select(0, structures.batch)  # (N,)
        return self._entry(self.energies, owner, species)

    def charges_of(self, structures: Structures, species: Tensor, charges: Tensor) -> Tensor:
        """Charges of the kind that each structure's data set has, e, float64, ``(N,)``.

        Args:
            structures: B of them.
            species: index of every atom's element, ``(N,)``.
            charges: those at rest, e, float64, ``(N,)``.
        """
        if self.slope is None or self.offset is None:
            return charges
        kind = self.kind_of_set.index_select(0, self.index_of(structures))  # (B,)
        kind = kind.index_select(0, structures.batch)  # (N,)
        change = self._entry(_with_zeros(self.slope), kind, species) * charges
        change = change + self._entry(_with_zeros(self.offset), kind, species)  # (N,)
        groups = structures.charge_groups()
        total = groups.sum_over_atoms(change)  # (G,)
        count = groups.sum_over_atoms(torch.ones_like(change)).clamp(min=1.0)
        return charges + change - (total / count).index_select(0, groups.member)

    def _entry(self, table: Tensor, row: Tensor, species: Tensor) -> Tensor:
        return table.reshape(-1).index_select(0, row * table.shape[1] + species)

    def differences(self, data_set: int | None) -> dict[int, float]:
        """Energies of elements of one data set less those of the potential, eV.

        Args:
            data_set: its index; ``None``: the chosen one.
        """
        row = self.names.index(self.chosen) if data_set is None else data_set
        return dict(zip(self._elements, self.energies[row].tolist(), strict=True))

    def plain(self) -> dict[str, Any]:
        """Everything but the weights, in plain values."""
        return {
            "main": self.main,
            "chosen": self.chosen,
            "sets": {
                name: {
                    "charge_type": self.charge_types[name],
                    "energies": {
                        str(z): e for z, e in zip(self._elements, row, strict=True) if e != 0.0
                    },
                }
                for name, row in zip(self.names, self.energies.tolist(), strict=True)
            },
        }


def _with_zeros(table: Tensor) -> Tensor:
    """Put the main kind, of which nothing is changed, before the others; float64."""
    return torch.cat([torch.zeros_like(table[:1]), table]).double()


def choose_set(potential: Potential, name: str) -> None:
    """Let a potential speak for one of the data sets it was trained on.

    Its energies, charges and conventions (what an absent total charge means, names of labels)
    are then those of that set, wherever a structure does not state another.

    Args:
        potential: changed in place.
        name: of the set.

    Raises:
        UserMistake: there is no such set.
    """
    mixture = potential.mixture
    if mixture is None:
        raise UserMistake(
            f"data.set={name}: the model was trained on one data set, which has no name; leave "
            "data.set out"
        )
    if name not in mixture.names:
        raise UserMistake(
            f"data.set={name}: the model was trained on {', '.join(mixture.names)}"
            f"{nearest(name, mixture.names)}"
        )
    mixture.chosen = name
    own = potential.conventions.get("sets", {}).get(name, {})
    potential.conventions = {**potential.conventions, **own}


def as_one_set(potential: Potential) -> None:
    """Make a potential of several data sets one of that alone for which it speaks.

    Energies are on the scale of that set; charges are those that are equilibrated.

    Args:
        potential: changed in place.
    """
    mixture = potential.mixture
    if mixture is None:
        return
    more = mixture.differences(None)
    potential.references = {z: e + more[z] for z, e in potential.references.items()}
    energies = torch.tensor(list(potential.references.values()), dtype=torch.float64)
    potential.reference_energies = energies.to(potential.reference_energies.device)
    potential.mixture = None
    potential.conventions = {k: v for k, v in potential.conventions.items() if k != "sets"}
