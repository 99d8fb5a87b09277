"""Structures in, Prediction out: the two ends of every potential.

A :class:`Structure` is one molecule or crystal in numpy arrays, as readers make it and stores
keep it; :func:`collate` joins several into :class:`Structures`, flat torch tensors that a model
reads. Geometry stays in float64 throughout; a network casts edge vectors to its own precision.

Signs and shapes, once for the whole package:

* shape legend: B structures, N atoms in the batch, n atoms in the largest structure,
  P pairs, E = 2P directed edges, C channels, K wave vectors;
* an edge runs from sender to receiver: ``r = r_receiver - r_sender + shift @ cell``;
* cell vectors are rows; stress is (1/V) dE/dstrain, tension positive;
* a pair of neighbours is listed *once*. Whatever depends on the distance alone (radial
  networks, screened Coulomb kernels) is then worked out once per pair instead of twice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Pairs:
    """Neighbour pairs of one structure within ``cutoff``, each pair once (numpy).

    Attributes:
        sender, receiver: atom indices, shape ``(P,)``.
        shift: periodic image of the receiver in units of cell vectors, shape ``(P, 3)``.
        cutoff: distance, A, within which every pair is listed.
    """

    sender: np.ndarray
    receiver: np.ndarray
    shift: np.ndarray
    cutoff: float

    def __len__(self) -> int:
        """Count the pairs."""
        return len(self.sender)


@dataclass(frozen=True)
class Structure:
    """One molecule or crystal (numpy, float64).

    Attributes:
        numbers: atomic numbers, shape ``(n,)``.
        positions: A, shape ``(n, 3)``.
        cell: lattice vectors as rows, A, shape ``(3, 3)``; zero rows along open directions.
        pbc: periodic directions, shape ``(3,)``.
        total_charge: e, or ``None`` where it is not known.
        spin: multiplicity 2S+1, or ``None`` where it is not known.
        electric_field: V/A, shape ``(3,)``, or ``None``.
        external_potential: potential applied to every atom, V, shape ``(n,)``, or ``None``.
        fragments: which of m fragments every atom belongs to, 0 to m - 1, shape ``(n,)``, or
            ``None``: charge then flows through the whole structure.
        fragment_charges: total charge of every fragment, e, shape ``(m,)``; NaN where the
            fragment is held at a potential instead.
        fragment_potentials: V, shape ``(m,)``, read where ``fragment_charges`` is NaN.
        data_set: which of the data sets that a model was trained on its energies and charges
            are to agree with, or ``None``: the one that the model speaks for.
        pairs: neighbour lists by consumer (``backbone``, ``charge``).
    """

    numbers: np.ndarray
    positions: np.ndarray
    cell: np.ndarray
    pbc: np.ndarray
    total_charge: float | None = None
    spin: float | None = None
    electric_field: np.ndarray | None = None
    external_potential: np.ndarray | None = None
    fragments: np.ndarray | None = None
    fragment_charges: np.ndarray | None = None
    fragment_potentials: np.ndarray | None = None
    data_set: int | None = None
    pairs: Mapping[str, Pairs] = field(default_factory=dict)

    def __len__(self) -> int:
        """Count the atoms."""
        return len(self.numbers)

    @classmethod
    def from_atoms(cls, atoms: Any, **given: Any) -> Structure:
        """Take the geometry of an ``ase.Atoms``; charge, spin and fields come as keywords."""
        pbc = np.asarray(atoms.pbc, dtype=bool)
        cell = np.array(atoms.cell.array, dtype=np.float64)
        return cls(
            numbers=np.asarray(atoms.numbers, dtype=np.int64),
            positions=np.array(atoms.positions, dtype=np.float64),
            cell=cell,
            pbc=pbc,
            **given,
        )


@dataclass(frozen=True)
class Edges:
    """Neighbour pairs of a batch within ``cutoff``, each pair once (torch).

    Attributes:
        sender, receiver: atom indices in the batch, int64, shape ``(P,)``.
        shift: periodic image of the receiver in units of cell vectors, float64, ``(P, 3)``.
        cutoff: A; the shortest, where every structure has its own.
        reach: cutoff of every structure's list, A, float64, shape ``(B,)``; ``None`` where
            they are all the same.
    """

    sender: Tensor
    receiver: Tensor
    shift: Tensor
    cutoff: float
    reach: Tensor | None = None

    def reaches(self, structures: int) -> Tensor:
        """Cutoff of the list of each of B structures, A, float64, shape ``(B,)``."""
        if self.reach is not None:
            return self.reach
        none = torch.zeros(structures, dtype=torch.float64, device=self.shift.device)
        return none + self.cutoff

    def both_directions(self) -> Edges:
        """List every pair twice, once from each end: E = 2P directed edges."""
        return Edges(
            torch.cat([self.sender, self.receiver]),
            torch.cat([self.receiver, self.sender]),
            torch.cat([self.shift, -self.shift]),
            self.cutoff,
        )


@dataclass(frozen=True)
class ChargeGroups:
    r"""Sets of atoms among which charge flows freely; every atom is in one of G groups.

    Without constraints each structure is one group and its total charge is given. A fragment
    of known charge is a group of its own; so is an electrode, whose charge is open while its
    potential is held: what is minimised is then the grand potential
    :math:`\Omega = E - \sum_g \phi_g Q_g`.

    Attributes:
        member: group of every atom, int64, shape ``(N,)``.
        charge: total charge, e, float64, shape ``(G,)``; NaN where the potential is held.
        potential: V, float64, shape ``(G,)``; read where ``charge`` is NaN.
        structure: the one each group belongs to, int64, shape ``(G,)``.
        whole: whether every structure is known to be one group of given charge.
    """

    member: Tensor
    charge: Tensor
    potential: Tensor
    structure: Tensor
    whole: bool = False

    def __len__(self) -> int:
        """Count the groups, G."""
        return self.structure.shape[0]

    @property
    def held(self) -> Tensor:
        """Mark the groups whose potential is held, bool, shape ``(G,)``."""
        return self.charge.isnan()

    def sum_over_atoms(self, values: Tensor) -> Tensor:
        """Add up a quantity per atom, ``(N, ...)``, into one per group, ``(G, ...)``."""
        total = values.new_zeros((self.structure.shape[0], *values.shape[1:]))
        return total.index_add(0, self.member, values)

    def map(self, change: Callable[[Tensor], Tensor]) -> ChargeGroups:
        """Apply a function to every tensor."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        values = {k: change(v) if isinstance(v, Tensor) else v for k, v in values.items()}
        return ChargeGroups(**values)


@dataclass(frozen=True)
class Structures:
    """A batch of B structures with N atoms in all, as flat tensors.

    Attributes:
        numbers: atomic numbers, int64, shape ``(N,)``.
        positions: A, float64, shape ``(N, 3)``.
        batch: index of the structure that each atom belongs to, sorted, int64, ``(N,)``.
        cell: rows, A, float64, shape ``(B, 3, 3)``; zero along open directions.
        pbc: bool, shape ``(B, 3)``.
        total_charge: e, float64, shape ``(B,)``.
        spin: multiplicity 2S+1, float64, shape ``(B,)``; NaN where it is not known.
        electric_field: V/A, float64, shape ``(B, 3)``.
        external_potential: V, float64, shape ``(N,)``, or ``None`` where none is applied.
        groups: fragments and electrodes, or ``None`` where no structure has any.
        data_set: index of the data set that energies and charges are to agree with, int64,
            shape ``(B,)``; -1 where it is not stated, ``None`` where it is for no structure.
        edges: neighbour pairs by consumer (``backbone``, ``charge``).
        twins: by name, a tensor here and its values where the host can read them; see
            :meth:`on_host`.
        places: in the batch that they were taken from; empty: these are all of it.
    """

    numbers: Tensor
    positions: Tensor
    batch: Tensor
    cell: Tensor
    pbc: Tensor
    total_charge: Tensor
    spin: Tensor
    electric_field: Tensor
    external_potential: Tensor | None = None
    groups: ChargeGroups | None = None
    data_set: Tensor | None = None
    edges: Mapping[str, Edges] = field(default_factory=dict)
    twins: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict, repr=False)
    places: tuple[int, ...] = ()

    def __len__(self) -> int:
        """Count the structures, B (known without asking the device)."""
        return self.cell.shape[0]

    @property
    def n_atoms(self) -> int:
        """Count the atoms, N."""
        return self.positions.shape[0]

    def sum_over_atoms(self, values: Tensor) -> Tensor:
        """Add up a quantity per atom, ``(N, ...)``, into one per structure, ``(B, ...)``."""
        total = values.new_zeros((self.cell.shape[0], *values.shape[1:]))
        return total.index_add(0, self.batch, values)

    def atom_counts(self) -> Tensor:
        """Atoms of each structure, float64, shape ``(B,)``."""
        return self.sum_over_atoms(torch.ones_like(self.positions[:, 0]))

    def charge_groups(self) -> ChargeGroups:
        """Sets of atoms that share charge: the groups given, or one for each structure."""
        if self.groups is not None:
            return self.groups
        every = torch.arange(self.cell.shape[0], device=self.batch.device)
        none = torch.zeros_like(self.total_charge)
        return ChargeGroups(self.batch, self.total_charge, none, every, whole=True)

    def edge_vectors(self, consumer: str) -> Tensor:
        """Vectors from sender to receiver of one consumer's pairs, A, shape ``(P, 3)``."""
        edges = self.edges[consumer]
        if self.cell.shape[0] == 1:  # no cell for every pair; len() would fix a traced size
            image = edges.shift @ self.cell[0]
        else:
            cell = self.cell.index_select(0, self.batch.index_select(0, edges.sender))
            image = torch.einsum("pa,pab->pb", edges.shift, cell)
        ends = self.positions.index_select(0, edges.receiver)
        return ends - self.positions.index_select(0, edges.sender) + image

    def map(self, change: Callable[[Tensor], Tensor]) -> Structures:
        """Apply a function to every tensor."""
        values: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        for name, value in values.items():
            if isinstance(value, Tensor):
                values[name] = change(value)
            elif isinstance(value, ChargeGroups):
                values[name] = value.map(change)
        values["twins"] = {}
        values["edges"] = {
            consumer: replace(
                e,
                sender=change(e.sender),
                receiver=change(e.receiver),
                shift=change(e.shift),
                reach=None if e.reach is None else change(e.reach),
            )
            for consumer, e in self.edges.items()
        }
        return Structures(**values)

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Structures:
        """Move every tensor to a device; what it was on the host stays known there."""
        moved = self.map(lambda t: t.to(device, non_blocking=non_blocking))
        mine, theirs = self._readable(), moved._readable()
        if self.positions.device.type == "cpu":
            if moved.positions.device.type == "cpu":
                return moved
            return replace(moved, twins={k: (t, mine[k]) for k, t in theirs.items()})
        kept = {
            k: (theirs[k], twin)
            for k, (tensor, twin) in self.twins.items()
            if tensor is mine.get(k)
        }
        return replace(moved, twins=kept)

    def _readable(self) -> dict[str, Tensor]:
        """List the tensors that decide what is computed, and how much of it."""
        names = ("numbers", "positions", "batch", "cell", "pbc", "total_charge")
        found = {name: getattr(self, name) for name in (*names, "electric_field")}
        for consumer, edges in self.edges.items():
            found[f"edges.{consumer}"] = edges.sender
            if edges.reach is not None:
                found[f"reach.{consumer}"] = edges.reach
        return found

    def on_host(self, name: str, tensor: Tensor | None = None) -> Tensor:
        """Give the values of a tensor where they can be read, without gradient.

        Reading a number from a GPU waits for all that it was asked before. A batch that came
        from the host is still known there; a tensor that was exchanged since is not, and is
        then copied back.

        Args:
            name: of an attribute, ``edges.CONSUMER`` for the senders of a list,
                ``reach.CONSUMER`` for its cutoffs, or what :meth:`with_twin` was told.
            tensor: the one in use under this name; needed for those of :meth:`with_twin`.
        """
        if tensor is None:
            tensor = self._readable()[name]
        if tensor.device.type == "cpu":
            return tensor.detach()
        known = self.twins.get(name)
        if known is not None and known[0] is tensor:
            return known[1]
        return tensor.detach().cpu()

    def with_twin(self, name: str, tensor: Tensor, twin: Tensor) -> Structures:
        """Remember where the host can read the values of a tensor."""
        return replace(self, twins={**self.twins, name: (tensor, twin)})

    def moving(self, positions: Tensor, cell: Tensor) -> Structures:
        """Exchange positions and cell for equal ones with another history."""
        twins = dict(self.twins)
        for name, old, new in (
            ("positions", self.positions, positions),
            ("cell", self.cell, cell),
        ):
            if name in twins and twins[name][0] is old:
                twins[name] = (new, twins[name][1])
        return replace(self, positions=positions, cell=cell, twins=twins)

    def pin_memory(self) -> Structures:
        """Copy into page-locked memory, for transfers to a GPU that do not wait."""
        return self.map(lambda t: t.pin_memory())


@dataclass(frozen=True)
class Prediction:
    """What a potential says of a batch; ``None`` where the model or the question has no answer.

    Attributes:
        energy: total, references included, eV, float64, shape ``(B,)``.
        forces: -dE/dr, eV/A, float64, shape ``(N, 3)``.
        stress: (1/V) dE/dstrain, eV/A^3, float64, ``(B, 3, 3)``; NaN for structures of the
            batch that are not periodic in all directions, ``None`` if none is.
        charges: e, float64, shape ``(N,)``.
        dipole: about the centre of mass, e A, float64, shape ``(B, 3)``; NaN for structures
            with a periodic direction, where it is not defined.
        chemical_potential: +dE/dQ of the charge equilibration, eV/e, shape ``(B,)``; NaN for
            structures in which charge does not flow through all atoms.
        electrostatic_potential: at every atom, of the charges alone, V, shape ``(N,)``.
        electronegativity, hardness: of every atom, eV/e and eV/e^2, shape ``(N,)``; potentials
            and fields that are applied are part of the electronegativity.
        atomic_energies: eV, shape ``(N,)``; the network's share, without references.
        atomic_dipoles: of every atom by itself, e A, shape ``(N, 3)``; a part of ``dipole``.
        born_charges: ``[i, a, b]`` is d dipole_a / d position_b of atom i at a fixed origin, e,
            float64, ``(N, 3, 3)``; with a periodic direction see ``physics/response.py``.
        polarizability: d dipole_a / d field_b, e A^2/V, float64, shape ``(B, 3, 3)``.
    """

    energy: Tensor
    forces: Tensor | None = None
    stress: Tensor | None = None
    charges: Tensor | None = None
    dipole: Tensor | None = None
    chemical_potential: Tensor | None = None
    electrostatic_potential: Tensor | None = None
    electronegativity: Tensor | None = None
    hardness: Tensor | None = None
    atomic_energies: Tensor | None = None
    atomic_dipoles: Tensor | None = None
    born_charges: Tensor | None = None
    polarizability: Tensor | None = None

    def detach(self) -> Prediction:
        """Cut every tensor off the autograd graph."""
        values: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        values = {k: None if v is None else v.detach() for k, v in values.items()}
        return Prediction(**values)


def reach_of(lists: Sequence[Pairs]) -> Tensor | None:
    """Cutoff of every list, A, if they differ."""
    found = [p.cutoff for p in lists]
    return torch.tensor(found, dtype=torch.float64) if len(set(found)) > 1 else None


def collate(structures: Sequence[Structure]) -> Structures:
    """Join structures into one batch.

    Args:
        structures: each with its total charge set and the same consumers in ``pairs``.

    Raises:
        ValueError: a total charge is missing, or neighbour lists differ in their consumers.
    """
    unknown = [i for i, s in enumerate(structures) if s.total_charge is None]
    if unknown:
        raise ValueError(
            f"structures {unknown[:5]} have no total charge; state it, or choose a policy "
            "(data.total_charge = zero | sum_of_charges)"
        )
    sizes = np.fromiter((len(s) for s in structures), dtype=np.int64, count=len(structures))
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    consumers = list(structures[0].pairs) if structures else []
    if any(list(s.pairs) != consumers for s in structures):
        raise ValueError("structures of a batch need neighbour lists for the same consumers")

    def flat(parts: list[np.ndarray], shape: tuple[int, ...], dtype: type) -> Tensor:
        joined = np.concatenate(parts) if parts else np.zeros(shape)
        return torch.from_numpy(np.ascontiguousarray(joined, dtype=dtype))

    def per_structure(values: list[Any], shape: tuple[int, ...], dtype: type) -> Tensor:
        array: np.ndarray = np.array(values, dtype=dtype)
        return torch.from_numpy(array.reshape(len(structures), *shape))

    edges = {}
    for name in consumers:
        lists = [s.pairs[name] for s in structures]
        edges[name] = Edges(
            flat([p.sender + o for p, o in zip(lists, offsets, strict=False)], (0,), np.int64),
            flat(
                [p.receiver + o for p, o in zip(lists, offsets, strict=False)], (0,), np.int64
            ),
            flat([p.shift for p in lists], (0, 3), np.float64),
            cutoff=min(p.cutoff for p in lists),
            reach=reach_of(lists),
        )
    external = None
    if any(s.external_potential is not None for s in structures):
        applied = [s.external_potential for s in structures]
        zeros = [np.zeros(n) for n in sizes]
        external = flat(
            [z if a is None else a for a, z in zip(applied, zeros, strict=True)],
            (0,),
            np.float64,
        )
    groups = None
    if any(s.fragments is not None for s in structures):
        groups = _collate_groups(structures)
    data_set = None
    if any(s.data_set is not None for s in structures):
        stated = [-1 if s.data_set is None else s.data_set for s in structures]
        data_set = per_structure(stated, (), np.int64)
    none = np.zeros(3)
    fields_ = [none if s.electric_field is None else s.electric_field for s in structures]
    return Structures(
        numbers=flat([s.numbers for s in structures], (0,), np.int64),
        positions=flat([s.positions for s in structures], (0, 3), np.float64),
        batch=torch.from_numpy(np.repeat(np.arange(len(structures)), sizes)),
        cell=per_structure([s.cell for s in structures], (3, 3), np.float64),
        pbc=per_structure([s.pbc for s in structures], (3,), np.bool_),
        total_charge=per_structure([s.total_charge for s in structures], (), np.float64),
        spin=per_structure(
            [np.nan if s.spin is None else s.spin for s in structures], (), np.float64
        ),
        electric_field=per_structure(fields_, (3,), np.float64),
        external_potential=external,
        groups=groups,
        data_set=data_set,
        edges=edges,
    )


def _collate_groups(structures: Sequence[Structure]) -> ChargeGroups:
    """Join fragments; a structure without any is one group with its total charge."""
    member, charge, potential, owner = [], [], [], []
    count = 0
    for i, one in enumerate(structures):
        fragments, charges = one.fragments, one.fragment_charges
        if fragments is None:
            fragments, charges = np.zeros(len(one)), np.array([one.total_charge])
        held = one.fragment_potentials
        if charges is None:
            charges = np.full(len(held) if held is not None else 0, np.nan)
        member.append(np.asarray(fragments, dtype=np.int64) + count)
        charge.append(np.asarray(charges, dtype=np.float64))
        potential.append(np.zeros(len(charges)) if held is None else np.nan_to_num(held))
        owner.append(np.full(len(charges), i))
        count += len(charges)
    joined = [torch.from_numpy(np.concatenate(x)) for x in (member, charge, potential, owner)]
    return ChargeGroups(joined[0], joined[1], joined[2], joined[3])
