r"""Energy and its derivatives written down as one graph, a function of tensors alone.

A compiled model whose forces are trained would have to be differentiated twice, which torch's
compiler does not do. So energy and forces are written down together as one graph
(``make_fx`` with symbolic sizes, weights as inputs), which is then an ordinary function with an
ordinary backward pass. Four things make that graph a right one:

* sizes that happen to be equal in the example (as many atoms as channels, say) must not be
  taken for the same size: torch's habit of doing so is switched off;
* where autograd kept an intermediate for the force, the tracer notes a ``detach`` that would
  cut the second derivative; these nodes are taken out;
* constants that layers keep by device are made before tracing, or they would be fake;
* the slope of silu, which torch cannot differentiate where it stands alone, is written out.

Weights are inputs, so a graph, and what is compiled from it, belongs to an architecture; any
potential of the same parts may be asked through it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.fx import GraphModule
from torch.fx.experimental import _config as symbolic_shapes
from torch.fx.experimental.proxy_tensor import make_fx

from qeqtrain.models.potential import Potential
from qeqtrain.neighbors import with_pairs
from qeqtrain.physics.fields import in_field
from qeqtrain.physics.response import respond
from qeqtrain.physics.tracing import tracing
from qeqtrain.structures import Edges, Prediction, Structure, Structures, collate

PER_ATOM = ("numbers", "positions", "batch")
PER_STRUCTURE = ("cell", "pbc", "total_charge", "spin", "electric_field")
TENSORS = (*PER_ATOM, *PER_STRUCTURE)
"""Inputs of a graph, before the data set and the neighbour pairs of every consumer."""

LAYOUT = 2
"""Raised whenever :func:`flat_tensors` gives other tensors or another order, so that machine
code written before is refused instead of run on what it was not made for."""

SILU_SLOPE = torch.ops.aten.silu_backward.default


class ResponseGraph:
    """One question to a potential, written down.

    Args:
        potential: with parts that can be written down (:func:`untraceable_parts`).
        forces: wanted or not.
        stress: wanted or not; NaN for structures that are not periodic in all directions.

    Attributes:
        plain: from weights and the tensors of a batch to those of a prediction.
        names: of the prediction's tensors, in order.
        consumers: of neighbour pairs, in order.
        mixed: whether structures come with the index of a data set.
        example: a batch that it was written down with.
    """

    def __init__(self, potential: Potential, *, forces: bool, stress: bool) -> None:
        self.names: list[str] = []
        self.consumers = list(potential.cutoffs)
        self.mixed = potential.mixture is not None
        self.example = _example(potential)
        if potential.mixture is not None:
            owners = potential.mixture.index_of(self.example)
            self.example = replace(self.example, data_set=owners)
        cutoffs = {name: self.example.edges[name].cutoff for name in self.consumers}
        module = _Evaluate(potential)
        states = list(module.state_dict(keep_vars=True))
        others = [n for n, _ in module.named_buffers() if n not in states]

        def ask(weights: list[Tensor], flat: list[Tensor]) -> list[Tensor]:
            state = dict(zip([*states, *others], weights, strict=True))

            def energy(structures: Structures) -> Prediction:
                found: Prediction = functional_call(module, state, (structures,))
                return found

            found = respond(
                energy,
                _rebuilt(flat, cutoffs, mixed=self.mixed),
                forces=forces,
                stress=stress,
                create_graph=True,
            )
            given = [f.name for f in fields(found) if getattr(found, f.name) is not None]
            self.names = given
            return [getattr(found, name) for name in given]

        weights, flat = weights_of(potential), self.flat(self.example)
        # Private to torch; without it two sizes that are equal by chance become one.
        with tracing(), symbolic_shapes.patch(use_duck_shape=False):
            ask(weights, flat)
            trace = make_fx(
                ask, {SILU_SLOPE: _silu_slope}, "symbolic", _allow_non_fake_inputs=True
            )
            traced = trace(weights, flat)
        self.plain = _without_detach(traced)

    def flat(self, structures: Structures) -> list[Tensor]:
        """Lay a batch out as the tensors that the graph takes."""
        return flat_tensors(structures, self.consumers)

    def prediction(self, tensors: Sequence[Tensor]) -> Prediction:
        """Name what the graph gave."""
        return Prediction(**dict(zip(self.names, tensors, strict=True)))


def untraceable_parts(potential: Potential, *, alone: bool = False) -> list[str]:
    """Name the parts that cannot be written down as a graph.

    Args:
        potential: whose parts.
        alone: whether code has to run without Python.
    """
    parts = [potential.charge, potential.coupling, *potential.baselines.values()]
    if potential.atomic_dipoles is not None:
        parts.append(potential.atomic_dipoles)
    return [type(part).__name__ for part in parts if not _goes_in(part, alone=alone)]


def _goes_in(part: nn.Module, *, alone: bool) -> bool:
    return getattr(part, "traceable", False) and not (alone and getattr(part, "opaque", False))


def is_usual(structures: Structures) -> bool:
    """Tell whether a batch has atoms and nothing of what graphs leave out."""
    if structures.groups is not None or structures.external_potential is not None:
        return False
    return structures.n_atoms > 0 and not in_field(structures)


def weights_of(potential: Potential) -> list[Tensor]:
    """All tensors of a potential: those of its state first, then other buffers."""
    state = potential.state_dict(keep_vars=True)
    others = [b for n, b in potential.named_buffers() if n not in state]
    return [*state.values(), *others]


def flat_tensors(structures: Structures, consumers: Sequence[str]) -> list[Tensor]:
    """Lay a batch out as tensors, in the way that :data:`LAYOUT` numbers."""
    flat = [getattr(structures, name) for name in TENSORS]
    if structures.data_set is not None:
        flat.append(structures.data_set)
    for name in consumers:
        edges = structures.edges[name]
        flat += [edges.sender, edges.receiver, edges.shift]
        flat.append(edges.reaches(len(structures)))
    return flat


class _Evaluate(nn.Module):
    """A potential whose call is the energy without derivatives."""

    def __init__(self, potential: Potential) -> None:
        super().__init__()
        self.potential = potential

    def forward(self, structures: Structures) -> Prediction:
        return self.potential.evaluate(structures)


def _silu_slope(gradient: Tensor, x: Tensor) -> Tensor:
    """Backward pass of silu, of differentiable operations."""
    share = torch.sigmoid(x)
    return gradient * share * (1.0 + x * (1.0 - share))


def _rebuilt(flat: Sequence[Tensor], cutoffs: dict[str, float], *, mixed: bool) -> Structures:
    """Undo :func:`flat_tensors`; ``mixed``: of structures with a data set."""
    names = (*TENSORS, "data_set") if mixed else TENSORS
    own: dict[str, Any] = dict(zip(names, flat, strict=False))
    rest = flat[len(names) :]
    edges = {
        name: Edges(*rest[4 * k : 4 * k + 3], cutoff, rest[4 * k + 3])
        for k, (name, cutoff) in enumerate(cutoffs.items())
    }
    return Structures(**own, edges=edges)


def _without_detach(graph: GraphModule) -> GraphModule:
    """Take out the nodes that would cut a second derivative."""
    for node in list(graph.graph.nodes):
        if node.target is torch.ops.aten.detach.default:
            node.replace_all_uses_with(node.args[0])
            graph.graph.erase_node(node)
    graph.recompile()
    return graph


def _example(potential: Potential) -> Structures:
    """Three small crystals of the potential's elements, no two sizes alike."""
    random = np.random.default_rng(0)
    states = potential.conventions.get("charge_states") or [0.0]
    spins = potential.conventions.get("spins") or [1.0]
    made = []
    for count in (3, 5, 9):
        edge = 2.2 * count ** (1.0 / 3.0)
        corner = np.stack(np.meshgrid(*[np.arange(3)] * 3), axis=-1).reshape(-1, 3)[:count]
        crystal = Structure(
            numbers=random.choice(potential.elements, count),
            positions=(2.2 * corner + random.normal(scale=0.1, size=(count, 3))),
            cell=np.eye(3) * (3.0 * 2.2 + edge),
            pbc=np.ones(3, dtype=bool),
            total_charge=float(states[0]),
            spin=float(spins[0]),
        )
        made.append(with_pairs(crystal, potential.cutoffs))
    return collate(made).to(potential.device)
