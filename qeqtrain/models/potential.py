"""A potential: backbone, charge model and coupling, with references and units around them.

The three parts are modules that do not know each other. Here they meet, in the order in which
QET's paper (arXiv 2511.07249) describes them: features, charges at rest, energy of every atom.
Reference energies are added in float64 outside the network, so that totals of a million eV keep
their meV; derivatives are those of the energy that is returned (``physics/response.py``).
"""

from __future__ import annotations

import importlib
import inspect
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from ase.data import atomic_masses, chemical_symbols
from torch import Tensor, nn

from qeqtrain.errors import UserMistake
from qeqtrain.neighbors import with_pairs
from qeqtrain.physics.coulomb import dipole
from qeqtrain.physics.response import respond
from qeqtrain.structures import Prediction, Structure, Structures, collate

DTYPES = {"float32": torch.float32, "float64": torch.float64}
CHARGE_KEYS = ("charge", "total_charge")
"""Where ``Atoms.info`` may state the total charge."""


class Potential(nn.Module):
    """Energy, forces, stress and charges of molecules and crystals.

    Args:
        backbone: structures and species to features, ``(N, C)``.
        charge: features to :class:`~qeqtrain.nn.charges.Charges`, or to nothing.
        coupling: features and charges to an energy of every atom, ``(N,)``.
        elements: atomic numbers the model knows; their order is the species index.
        references: energy of every element, eV.
        scale: eV per unit of the network's output.
        average_neighbors: of the training data; some backbones divide by its root.
        conventions: of the data it was trained on, plain values.
        spec: the recipe nodes of the three parts, kept so that a file can rebuild them.
    """

    def __init__(
        self,
        backbone: nn.Module,
        charge: nn.Module,
        coupling: nn.Module,
        *,
        elements: Sequence[int],
        references: Mapping[int, float],
        scale: float,
        average_neighbors: float = 1.0,
        conventions: Mapping[str, Any] | None = None,
        spec: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.charge = charge
        self.coupling = coupling
        self.elements = tuple(int(z) for z in elements)
        self.scale = float(scale)
        self.average_neighbors = float(average_neighbors)
        self.references = {z: float(references.get(z, 0.0)) for z in self.elements}
        self.conventions = dict(conventions or {})
        self.spec = dict(spec or {})
        index = torch.full((len(chemical_symbols),), -1)
        index[list(self.elements)] = torch.arange(len(self.elements))
        energies = torch.tensor(list(self.references.values()), dtype=torch.float64)
        self.register_buffer("species_index", index, persistent=False)
        self.register_buffer("reference_energies", energies, persistent=False)
        masses = torch.from_numpy(np.array(atomic_masses, dtype=np.float64))
        self.register_buffer("masses", masses[: len(chemical_symbols)], persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Potential:
        """Move or cast the module; constants (buffers) move, but stay in float64."""
        before = dict(self.named_buffers())
        super()._apply(fn, recurse)
        for name, old in before.items():
            owner_name, _, leaf = name.rpartition(".")
            owner = self.get_submodule(owner_name)
            new = getattr(owner, leaf)
            if new.dtype != old.dtype:
                setattr(owner, leaf, old.to(new.device))
        return self

    @property
    def cutoffs(self) -> dict[str, float]:
        """Neighbour lists the model reads: cutoff in A by consumer."""
        return {**self.backbone.cutoffs, **self.charge.cutoffs}

    @property
    def has_charges(self) -> bool:
        """Whether charges are predicted."""
        return self.charge.features > 0

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the network; geometry, charges and totals are float64 always."""
        return next(self.backbone.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.backbone.parameters()).device

    def forward(
        self,
        structures: Structures | Any | Sequence[Any],
        forces: bool = True,
        stress: bool | None = None,
    ) -> Prediction:
        """Predict.

        Args:
            structures: a batch with neighbour lists, one ``ase.Atoms``, or a list of them.
            forces: wanted or not.
            stress: wanted or not; ``None`` means wherever all directions are periodic.

        Raises:
            UserMistake: an element the model was not trained on, or a missing total charge.
        """
        batch = structures
        if not isinstance(batch, Structures):
            batch = self.structures_of(batch).to(self.device)
        if batch.numbers.device.type == "cpu":
            self.refuse_unknown_elements(batch.numbers)
        if stress is None:
            stress = bool(batch.pbc.all(dim=-1).any())
        create_graph = torch.is_grad_enabled() and (
            self.training or batch.positions.requires_grad
        )
        return respond(
            self.evaluate, batch, forces=forces, stress=stress, create_graph=create_graph
        )

    def evaluate(self, structures: Structures) -> Prediction:
        """Energy and charges of a batch, without derivatives."""
        species = self.species_index[structures.numbers]  # (N,)

        # What surrounds every atom.
        features = self.backbone(structures, species)  # (N, C)

        # Charges at rest.
        charges = self.charge(structures, features, species)

        # Energy of every atom, which may depend on its charge and potential.
        atomic = self.scale * self.coupling(features, charges).double()  # (N,) eV
        references = self.reference_energies.index_select(0, species)  # (N,) eV
        energy = structures.sum_over_atoms(atomic + references)  # (B,) eV

        if charges is None:
            return Prediction(energy=energy, atomic_energies=atomic)
        return Prediction(
            energy=energy,
            charges=charges.charges,
            dipole=dipole(charges.charges, self.masses[structures.numbers], structures),
            chemical_potential=charges.chemical_potential,
            electrostatic_potential=charges.electrostatic_potential,
            electronegativity=charges.electronegativity,
            hardness=charges.hardness,
            atomic_energies=atomic,
        )

    def structures_of(
        self, atoms: Any | Sequence[Any], total_charge: float | None = None
    ) -> Structures:
        """Convert ``ase.Atoms``, one or several, with the neighbour lists the model reads.

        Args:
            atoms: their ``info["charge"]`` is the total charge.
            total_charge: e, for all of them; must not contradict ``info``.
        """
        several = [atoms] if hasattr(atoms, "numbers") else list(atoms)
        ready = []
        for one in several:
            charge = self._total_charge(one, total_charge)
            spin = one.info.get("spin_multiplicity", one.info.get("spin"))
            structure = Structure.from_atoms(one, total_charge=charge, spin=spin)
            ready.append(with_pairs(structure, self.cutoffs))
        batch = collate(ready)
        self.refuse_unknown_elements(batch.numbers)
        untrained = self.untrained_elements(batch.numbers)
        if untrained:
            warnings.warn(
                f"{', '.join(untrained)}: listed by the model but absent from its training "
                "data; do not trust these numbers",
                stacklevel=3,
            )
        strange = sorted({s.total_charge for s in ready} - set(self._known_charges(ready)))
        if strange:
            seen = ", ".join(f"{q:+g}" for q in self.conventions["charge_states"])
            warnings.warn(
                f"total charge {', '.join(f'{q:+g}' for q in strange)}: the model reads the "
                f"total charge and was trained on {seen} only; this is an extrapolation",
                stacklevel=3,
            )
        return batch

    def _known_charges(self, structures: Sequence[Structure]) -> list[float | None]:
        """List total charges that need no warning: all, if the network does not read them."""
        reads = self.spec.get("backbone", {}).get("conditioning", "none") != "none"
        if reads and "charge_states" in self.conventions:
            return self.conventions["charge_states"]
        return [s.total_charge for s in structures]

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

    def header(self) -> dict[str, Any]:
        """Everything but the weights, in plain values, for :func:`build_potential`."""
        return {
            "spec": self.spec,
            "elements": list(self.elements),
            "references": {str(z): e for z, e in self.references.items()},
            "scale": self.scale,
            "average_neighbors": self.average_neighbors,
            "conventions": self.conventions,
        }

    def _total_charge(self, atoms: Any, given: float | None) -> float:
        """Find the total charge of ``ase.Atoms``: the argument, ``info``, or the policy."""
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
            return float(given)
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


def build_potential(
    spec: Mapping[str, Any],
    *,
    elements: Sequence[int],
    references: Mapping[int, float],
    scale: float,
    average_neighbors: float = 1.0,
    conventions: Mapping[str, Any] | None = None,
) -> Potential:
    """Assemble a potential from the recipe nodes of its parts.

    Args:
        spec: nodes ``backbone``, ``charge``, ``coupling``, each with a ``_target_``, and
            ``dtype`` (``float32`` or ``float64``).
        elements: atomic numbers the model will know.
        references: energy of every element, eV.
        scale: eV per unit of the network's output.
        average_neighbors: of the training data.
        conventions: of the training data, plain values.

    Raises:
        UserMistake: a ``_target_`` outside the package that was not allowed.
    """
    plain = {k: spec[k] for k in ("backbone", "charge", "coupling")}
    plain["dtype"] = spec.get("dtype", "float32")
    known: dict[str, Any] = {"elements": list(elements), "average_neighbors": average_neighbors}
    backbone = _part(plain["backbone"], known)
    known["channels"] = backbone.out_channels
    charge = _part(plain["charge"], known)
    known["charge_features"] = charge.features
    coupling = _part(plain["coupling"], known)
    potential = Potential(
        backbone,
        charge,
        coupling,
        elements=elements,
        references=references,
        scale=scale,
        average_neighbors=average_neighbors,
        conventions=conventions,
        spec=plain,
    )
    return potential.to(DTYPES[plain["dtype"]])


def _part(node: Mapping[str, Any], known: Mapping[str, Any]) -> nn.Module:
    """Build one part; what its keyword-only arguments ask for is filled in from ``known``.

    A file from a stranger must not run code: only modules defined in ``qeqtrain.nn``, or under
    the prefixes in the environment variable ``QEQTRAIN_ALLOW_TARGETS``, are built.
    """
    target = str(node["_target_"])
    module_name, _, name = target.rpartition(".")
    allowed = ["qeqtrain.nn.", *os.environ.get("QEQTRAIN_ALLOW_TARGETS", "").split()]
    if not any(target.startswith(prefix) for prefix in allowed):
        raise UserMistake(
            f"_target_ {target!r} is no part that may be built; allowed: {', '.join(allowed)}"
        )
    try:
        cls = getattr(importlib.import_module(module_name), name, None)
    except ModuleNotFoundError as error:
        raise UserMistake(f"_target_ {target!r}: {error}") from error
    if not (inspect.isclass(cls) and issubclass(cls, nn.Module)):
        raise UserMistake(f"_target_ {target!r} is not a torch module")
    given = {k: v for k, v in node.items() if k != "_target_"}
    wanted = inspect.signature(cls).parameters
    filled = {
        k: v
        for k, v in known.items()
        if k in wanted and wanted[k].kind is inspect.Parameter.KEYWORD_ONLY
    }
    return cls(**given, **filled)
