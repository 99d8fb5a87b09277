"""A potential: backbone, charge model and coupling, with references and units around them.

The parts are modules that do not know each other. Here they meet, in the order in which the
papers describe them: features, charges at rest, energy of every atom, energy of the charges.
Reference energies are added in float64 outside the network, so that totals of a million eV keep
their meV; derivatives are those of the energy that is returned (``physics/response.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import torch
from ase.data import atomic_masses, chemical_symbols
from torch import Tensor, nn

from qeqtrain.errors import UserMistake
from qeqtrain.models.domain import Domain
from qeqtrain.models.memory import Memory, checked_memory, worked_out_again
from qeqtrain.models.mixture import Mixture
from qeqtrain.models.parts import build_part
from qeqtrain.models.references import ChargeReferences, build_charge_references
from qeqtrain.neighbors import Reach
from qeqtrain.nn.atomic_dipoles import AtomicDipoles
from qeqtrain.nn.charges import ChargeResponse, Charges
from qeqtrain.nn.tables import reading_tables
from qeqtrain.physics.coulomb import dipole
from qeqtrain.physics.fields import in_field
from qeqtrain.physics.recomputing import recomputing
from qeqtrain.physics.response import respond
from qeqtrain.structures import Prediction, Structures

DTYPES = {"float32": torch.float32, "float64": torch.float64}


class Compiled(Protocol):
    """Code that answers in a potential's place.

    Attributes:
        threads: that it was made for; ``None``: it is made for as many as torch has when it is
            asked, and when it is there several threads of Python may ask at once.
    """

    threads: int | None

    def answer(
        self, potential: Potential, structures: Structures, *, forces: bool, stress: bool
    ) -> Prediction | None:
        """Predict without a graph behind, or give ``None`` where there is no code for it."""

    def is_made(
        self, potential: Potential, *, forces: bool, stress: bool, threads: int
    ) -> bool:
        """Tell whether there is code for a question, and so many threads of torch."""


class Ask(Protocol):
    """Whatever predicts with a potential's weights as :meth:`Potential.forward` does."""

    def __call__(
        self,
        potential: Potential,
        structures: Structures,
        *,
        forces: bool = True,
        stress: bool | None = None,
        born_charges: bool | None = False,
    ) -> Prediction:
        """Predict a batch; the result keeps its graph in training."""


class Potential(Domain, nn.Module):
    """Energy, forces, stress and charges of molecules and crystals.

    Args:
        backbone: structures and species to features, ``(N, C)``.
        charge: features to :class:`~qeqtrain.nn.charges.Charges`, or to nothing.
        coupling: features and charges to an energy of every atom, ``(N,)``, and the choice of
            what the charges themselves add (:class:`~qeqtrain.nn.couplings.Coupling`).
        elements: atomic numbers the model knows; their order is the species index.
        references: energy of every element, eV.
        scale: eV per unit of the network's output, for all elements or by atomic number.
        average_neighbors: of the training data; some backbones divide by its root.
        charge_range: smallest and largest charge of the training data, e, or ``None``.
        charge_references: energy of a structure by its total charge, or ``None``.
        conventions: of the data it was trained on, plain values.
        baselines: energies by name that the network adds to, each a map from structures to
            eV, ``(B,)``, with the ``cutoffs`` of the neighbour lists it reads.
        atomic_dipoles: dipoles of atoms that are learned beside the charges, or ``None``.
        mixture: what differs between the data sets it was trained on; ``None``: there is one.
        spec: the recipe nodes of the parts, kept so that a file can rebuild them.

    Attributes:
        compiled: asked first for predictions that nobody differentiates, if it is set
            (:func:`qeqtrain.load` does with ``compiled=True``).
    """

    def __init__(
        self,
        backbone: nn.Module,
        charge: nn.Module,
        coupling: nn.Module,
        *,
        elements: Sequence[int],
        references: Mapping[int, float],
        scale: float | Mapping[int, float],
        average_neighbors: float = 1.0,
        charge_range: Sequence[float] | None = None,
        charge_references: ChargeReferences | None = None,
        conventions: Mapping[str, Any] | None = None,
        baselines: Mapping[str, nn.Module] | None = None,
        atomic_dipoles: AtomicDipoles | None = None,
        mixture: Mixture | None = None,
        spec: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.charge = charge
        self.coupling = coupling
        self.baselines = nn.ModuleDict(baselines)
        self.atomic_dipoles = atomic_dipoles
        self.mixture = mixture
        self.elements = tuple(int(z) for z in elements)
        self.scale: float | dict[int, float] = (
            {z: float(scale[z]) for z in self.elements}
            if isinstance(scale, Mapping)
            else float(scale)
        )
        self.average_neighbors = float(average_neighbors)
        self.charge_range = None if charge_range is None else [float(q) for q in charge_range]
        self.charge_references = charge_references
        self.references = {z: float(references.get(z, 0.0)) for z in self.elements}
        self.conventions = dict(conventions or {})
        self.spec = dict(spec or {})
        self.compiled: Compiled | None = None
        self.memory: Memory = "auto"
        """How evaluations that are not trained spend it (:mod:`qeqtrain.models.memory`)."""
        self.unseen_charge_states = str(self.conventions.get("unseen_charge_states", "error"))
        index = torch.full((len(chemical_symbols),), -1)
        index[list(self.elements)] = torch.arange(len(self.elements))
        energies = torch.tensor(list(self.references.values()), dtype=torch.float64)
        self.register_buffer("species_index", index, persistent=False)
        self.register_buffer("reference_energies", energies, persistent=False)
        by_species = None
        if isinstance(self.scale, dict):
            by_species = torch.tensor(list(self.scale.values()), dtype=torch.float64)
        self.register_buffer("species_scale", by_species, persistent=False)
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
    def cutoffs(self) -> dict[str, Reach]:
        """Neighbour lists the model reads: cutoff in A, or a rule for it, by consumer."""
        found = {**self.backbone.cutoffs, **self.charge.cutoffs}
        for baseline in self.baselines.values():
            found |= baseline.cutoffs
        return found

    @property
    def has_fixed_charges(self) -> bool:
        """Whether charges come from a table of elements: nothing of them is trained."""
        return bool(getattr(self.charge, "fixed", False))

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
        born_charges: bool | None = False,
        polarizability: bool | None = False,
    ) -> Prediction:
        """Predict.

        Args:
            structures: a batch with neighbour lists, one ``ase.Atoms``, or a list of them.
            forces: wanted or not.
            stress: wanted or not; ``None`` means wherever all directions are periodic.
            born_charges: wanted or not; ``None`` means wherever they are defined, and NaN
                elsewhere.
            polarizability: the same.

        Raises:
            UserMistake: an element the model was not trained on, a missing total charge, a
                field that the model has no answer to, or Born charges or a polarizability that
                are not defined: without charges, or along the periodic directions of charges
                that flow.
        """
        batch = structures
        if not isinstance(batch, Structures):
            batch = self.structures_of(batch).to(self.device)
        if batch.numbers.device.type == "cpu":
            self.refuse_unknown_elements(batch.numbers)
            self.refuse_fields(batch)
        for name, asked in (("born_charges", born_charges), ("polarizability", polarizability)):
            if asked:
                self.refuse_undefined(name, batch)
        if stress is None:
            stress = bool(batch.on_host("pbc").all(dim=-1).any())
        create_graph = torch.is_grad_enabled() and (
            self.training or batch.positions.requires_grad
        )
        further = self.has_charges and (born_charges, polarizability) != (False, False)
        if self.compiled and not (create_graph or further):
            answer = self.compiled.answer(self, batch, forces=forces, stress=stress)
            if answer is not None:
                return answer
        memory = "plain" if create_graph else checked_memory(self.memory)
        again = worked_out_again(memory, batch)
        with recomputing(again), reading_tables(not create_graph):
            return respond(
                self.evaluate,
                batch,
                forces=forces,
                stress=stress,
                create_graph=create_graph,
                born_charges=born_charges is not False and self.has_charges,
                polarizability=polarizability is not False and self.has_charges,
                field=self.field,
            )

    def evaluate(self, structures: Structures) -> Prediction:
        r"""Energy and charges of a batch, without derivatives.

        In an electric field F charges move from :math:`q^0` to :math:`q`, and the functional
        that they minimise knows what the field has done, :math:`-\int \mu \cdot dF`. A readout
        that has learnt what charges are worth has learnt it at rest: it reads :math:`q^0`, and
        that work is added. So :math:`-\partial E/\partial F` is the dipole with any coupling.
        """
        species = self.species_index[structures.numbers]  # (N,)

        # What surrounds every atom.
        features = self.backbone(structures, species)  # (N, C)

        # Charges at rest; a variational coupling has a say in what they minimise.
        response = self.coupling.response(features)
        charges = self._charges(structures, features, species, response)

        # Energy of every atom, which may depend on the charges.
        rest, work = self._without_field(structures, features, species, response, charges)
        atomic = self.coupling(structures, species, features, rest).double()  # (N,)
        atomic = self._scale_of(species) * atomic  # (N,) eV
        references = self.reference_energies.index_select(0, species)  # (N,) eV
        if self.mixture is not None:
            references = references + self.mixture.energies_of(structures, species)
        energy = structures.sum_over_atoms(atomic + references)  # (B,) eV
        if self.charge_references is not None:
            energy = energy + self.charge_references(structures)

        # Energy of the charges themselves, and what lies beneath the network.
        if rest is not None:
            energy = energy + self.coupling.energy_of(rest) + work
        for baseline in self.baselines.values():
            energy = energy + baseline(structures)

        if charges is None:
            return Prediction(energy=energy, atomic_energies=atomic)
        said = charges.charges  # of the kind that the data set has
        if self.mixture is not None:
            said = self.mixture.charges_of(structures, species, said)
        return Prediction(
            energy=energy,
            charges=said,
            dipole=dipole(
                charges.charges,
                self.masses[structures.numbers],
                structures,
                charges.dipoles,
            ),
            chemical_potential=charges.chemical_potential,
            electrostatic_potential=charges.electrostatic_potential,
            electronegativity=charges.electronegativity,
            hardness=charges.hardness,
            atomic_energies=atomic,
            atomic_dipoles=charges.dipoles,
        )

    def _charges(
        self,
        structures: Structures,
        features: Tensor,
        species: Tensor,
        response: ChargeResponse | None,
    ) -> Charges | None:
        """Charges at rest, with dipoles of atoms where they are learned."""
        charges: Charges | None = self.charge(structures, features, species, response)
        if charges is None or self.atomic_dipoles is None:
            return charges
        return self.atomic_dipoles.added(charges, structures, features)

    def _without_field(
        self,
        structures: Structures,
        features: Tensor,
        species: Tensor,
        response: ChargeResponse | None,
        charges: Charges | None,
    ) -> tuple[Charges | None, Tensor | float]:
        """Give the charges that the coupling reads, and the work of the field, eV, ``(B,)``."""
        if charges is None or not self.coupling.reads_rest or not in_field(structures):
            return charges, 0.0
        none = torch.zeros_like(structures.electric_field)
        calm = replace(structures, electric_field=none)
        rest = self._charges(calm, features, species, response)
        return rest, charges.energy - rest.energy

    @property
    def fixed_cutoffs(self) -> dict[str, Reach]:
        """Neighbour lists that :meth:`fixed_energy` reads; none where nothing is given."""
        found = dict(self.charge.cutoffs) if self._charges_are_fixed else {}
        for baseline in self.baselines.values():
            found |= {**self.backbone.cutoffs, **baseline.cutoffs}
        return found

    @property
    def adds_fixed_energy(self) -> bool:
        """Whether an energy is added that no weight has a say in."""
        return bool(self.baselines) or self._charges_are_fixed

    @property
    def _charges_are_fixed(self) -> bool:
        """Whether the energy of the charges has nothing to learn, as that of a fixed table."""
        added = self.coupling.charge_energy != "none" and not self.coupling.responds
        return self.has_fixed_charges and added

    def fixed_energy(self, structures: Structures) -> Tensor:
        """Add up the energies that training does not change, eV, float64, shape ``(B,)``.

        Baselines, and charges whose parameters are fixed: what is left of the labels when they
        are taken off is what references and scale are fitted to.

        Args:
            structures: with the edges of :attr:`fixed_cutoffs`.
        """
        energy = torch.zeros_like(structures.total_charge)
        for baseline in self.baselines.values():
            energy = energy + baseline(structures)
        if self._charges_are_fixed:
            species = self.species_index[structures.numbers]
            nothing = structures.positions[:, :0]
            energy = energy + self.coupling.energy_of(self.charge(structures, nothing, species))
        return energy

    def _scale_of(self, species: Tensor) -> Tensor | float:
        """Give eV per unit of the network's output, one number or one per atom, ``(N,)``."""
        if self.species_scale is None:
            return self.scale
        return self.species_scale.index_select(0, species)

    def header(self) -> dict[str, Any]:
        """Everything but the weights, in plain values, for :func:`build_potential`."""
        return {
            "spec": self.spec,
            "elements": list(self.elements),
            "references": {str(z): e for z, e in self.references.items()},
            "scale": {str(z): s for z, s in self.scale.items()}
            if isinstance(self.scale, dict)
            else self.scale,
            "average_neighbors": self.average_neighbors,
            "charge_range": self.charge_range,
            "charge_references": None
            if self.charge_references is None
            else self.charge_references.plain(),
            "conventions": self.conventions,
            **({} if self.mixture is None else {"mixture": self.mixture.plain()}),
        }


def build_potential(
    spec: Mapping[str, Any],
    *,
    elements: Sequence[int],
    references: Mapping[int, float],
    scale: float | Mapping[int, float],
    average_neighbors: float = 1.0,
    charge_range: Sequence[float] | None = None,
    charge_references: Mapping[str, Any] | None = None,
    conventions: Mapping[str, Any] | None = None,
    mixture: Mapping[str, Any] | None = None,
) -> Potential:
    """Assemble a potential from the recipe nodes of its parts.

    Args:
        spec: nodes ``backbone``, ``charge`` and ``coupling``, each with a ``_target_``,
            ``baselines`` with such nodes by name, ``dtype`` (``float32`` or ``float64``), and
            whether ``atomic_dipoles`` are learned.
        elements: atomic numbers the model will know.
        references: energy of every element, eV.
        scale: eV per unit of the network's output, for all elements or by atomic number.
        average_neighbors: of the training data.
        charge_range: smallest and largest charge of the training data, e, if it has any.
        charge_references: plain values of a
            :class:`~qeqtrain.models.references.ChargeReferences`, or ``None``.
        conventions: of the training data, plain values.
        mixture: plain values of a :class:`~qeqtrain.models.mixture.Mixture`, or ``None``.

    Raises:
        UserMistake: a ``_target_`` outside the package that was not allowed, or parts that do
            not go together.
    """
    plain = {k: spec[k] for k in ("backbone", "charge", "coupling")}
    plain["dtype"] = spec.get("dtype", "float32")
    plain["baselines"] = {k: v for k, v in (spec.get("baselines") or {}).items() if v}
    if spec.get("atomic_dipoles"):
        plain["atomic_dipoles"] = True
    known: dict[str, Any] = {"elements": list(elements), "average_neighbors": average_neighbors}
    backbone = build_part(plain["backbone"], known)
    baselines = {k: build_part(node, known) for k, node in plain["baselines"].items()}

    def build(node: Mapping[str, Any], attributes: int) -> nn.Module:
        return build_part(node, {**known, "attributes": attributes})

    known |= {
        "channels": backbone.out_channels,
        "data_charge_range": charge_range,
        "build": build,
    }
    charge = build_part(plain["charge"], known)
    known |= {"charge_features": charge.features, "equilibrated": charge.equilibrated}
    coupling = build_part(plain["coupling"], known)
    if getattr(charge, "trains_potential", False) and not coupling.reads_potential:
        raise UserMistake(
            "charge.train_widths is true, but widths of charge=diagonal only shape a potential "
            "that this coupling does not read; say charge.train_widths=false, "
            "coupling=feature, or charge=gaussian"
        )
    dipoles = None
    if plain.get("atomic_dipoles"):
        if charge.features == 0:
            raise UserMistake(
                "potential.atomic_dipoles is true, but charge=none has no charges that they "
                "could stand beside; say potential.atomic_dipoles=false, or choose "
                "charge=gaussian, diagonal or local"
            )
        dipoles = AtomicDipoles(backbone.cutoffs["backbone"], backbone.out_channels)
    potential = Potential(
        backbone,
        charge,
        coupling,
        elements=elements,
        references=references,
        scale=scale,
        average_neighbors=average_neighbors,
        charge_range=charge_range,
        charge_references=build_charge_references(charge_references),
        conventions=conventions,
        baselines=baselines,
        atomic_dipoles=dipoles,
        mixture=Mixture(**mixture, elements=elements) if mixture else None,
        spec=plain,
    )
    return potential.to(DTYPES[plain["dtype"]])
