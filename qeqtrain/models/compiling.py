r"""Energy and its derivatives as one compiled graph, for training and for inference.

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

A size of one is special to the compiler: batches with a single structure, atom or pair go the
ordinary way, and so do structures with fragments or in a field. Charge models that solve linear
systems of every size (``gaussian``, ``polarizable``) are not written down at all, nor is a
second network, which looks at the charges it meets.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.fx import GraphModule
from torch.fx.experimental import _config as symbolic_shapes
from torch.fx.experimental.proxy_tensor import make_fx

from qeqtrain.errors import UserMistake
from qeqtrain.models.potential import Potential
from qeqtrain.neighbors import with_pairs
from qeqtrain.physics.fields import in_field
from qeqtrain.physics.response import respond
from qeqtrain.physics.tracing import tracing
from qeqtrain.structures import Edges, Prediction, Structure, Structures, collate

TENSORS = (
    *("numbers", "positions", "batch", "cell", "pbc", "total_charge"),
    *("spin", "electric_field"),
)
"""Inputs of a graph, before the data set and the neighbour pairs of every consumer."""

CACHE = "TORCHINDUCTOR_CACHE_DIR"
"""Where torch keeps compiled code between runs; the user's cache unless it is set."""

SILU_SLOPE = torch.ops.aten.silu_backward.default

Key = tuple[bool, bool, torch.dtype, str]


class CompiledResponse:
    """A potential's energy, forces and stress, compiled at the first call for each question.

    It holds the architecture, not the weights: any potential of the same parts, such as a
    running average, may be asked through it.

    Args:
        potential: with a charge model in closed form, or none.

    Raises:
        UserMistake: a part cannot be compiled.
    """

    def __init__(self, potential: Potential) -> None:
        parts = [potential.charge, potential.coupling, *potential.baselines.values()]
        if potential.atomic_dipoles is not None:
            parts.append(potential.atomic_dipoles)
        names = [type(p).__name__ for p in parts if not getattr(p, "traceable", False)]
        if names:
            raise UserMistake(
                f"trainer.compile is true, but {', '.join(names)} cannot be compiled; say "
                "trainer.compile=false, or choose among charge=none, local and diagonal, "
                "coupling=feature, additive and variational, baselines=none and zbl"
            )
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        os.environ.setdefault(CACHE, str(cache / "qeqtrain" / "compiled"))
        self._graphs: dict[Key, _Graph] = {}

    def __call__(
        self,
        potential: Potential,
        structures: Structures,
        *,
        forces: bool = True,
        stress: bool | None = None,
        born_charges: bool | None = False,
    ) -> Prediction:
        """Predict, as the potential itself does; in training the result keeps its graph.

        Args:
            potential: whose weights count.
            structures: B of them.
            forces: wanted or not.
            stress: wanted or not; ``None`` means wherever all directions are periodic.
            born_charges: wanted or not; they are not compiled.
        """
        if stress is None:
            stress = bool(structures.pbc.all(dim=-1).any())
        plain = born_charges is not False or not (forces or stress)
        if plain or not _goes_compiled(structures):
            found: Prediction = potential(
                structures, forces=forces, stress=stress, born_charges=born_charges
            )
            return found
        if structures.numbers.device.type == "cpu":
            potential.refuse_unknown_elements(structures.numbers)
        mixture = potential.mixture
        owners = None if mixture is None else mixture.index_of(structures)
        structures = replace(structures, data_set=owners)
        key = (forces, stress, potential.dtype, str(potential.device))
        graph = self._graphs.get(key)
        if graph is None:
            graph = self._graphs[key] = _Graph(potential, forces=forces, stress=stress)
        return graph(potential, structures)


class _Evaluate(nn.Module):
    """A potential whose call is the energy without derivatives."""

    def __init__(self, potential: Potential) -> None:
        super().__init__()
        self.potential = potential

    def forward(self, structures: Structures) -> Prediction:
        return self.potential.evaluate(structures)


class _Graph:
    """One compiled question."""

    def __init__(self, potential: Potential, *, forces: bool, stress: bool) -> None:
        self.names: list[str] = []
        self.consumers = list(potential.cutoffs)
        example = _example(potential)
        self.mixed = potential.mixture is not None
        if potential.mixture is not None:
            example = replace(example, data_set=potential.mixture.index_of(example))
        cutoffs = {name: example.edges[name].cutoff for name in self.consumers}
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

        # Private to torch; without it two sizes that are equal by chance become one.
        symbolic_shapes.use_duck_shape = False
        weights, flat = _weights(potential), _flat(example, self.consumers)
        with tracing():
            ask(weights, flat)
            trace = make_fx(
                ask, {SILU_SLOPE: _silu_slope}, "symbolic", _allow_non_fake_inputs=True
            )
            traced = trace(weights, flat)
        self.plain = _without_detach(traced)
        self.compiled: Callable[..., list[Tensor]] = torch.compile(
            self.plain, dynamic=False, fullgraph=True
        )

    def __call__(self, potential: Potential, structures: Structures) -> Prediction:
        flat = _flat(structures, self.consumers)
        for tensor in flat:
            torch._dynamo.mark_dynamic(tensor, 0)  # weights have the sizes they have
        # Else the compiler asks for which sizes a float32 sum is long enough to be added up in
        # pieces, and compiles anew for the others: minutes, for a batch of another size.
        with symbolic_shapes.patch(backed_size_oblivious=True):
            found = self.compiled(_weights(potential), flat)
        prediction = Prediction(**dict(zip(self.names, found, strict=True)))
        keeps = torch.is_grad_enabled() and potential.training
        return prediction if keeps else prediction.detach()


def _silu_slope(gradient: Tensor, x: Tensor) -> Tensor:
    """Backward pass of silu, of differentiable operations."""
    share = torch.sigmoid(x)
    return gradient * share * (1.0 + x * (1.0 - share))


def _goes_compiled(structures: Structures) -> bool:
    """Tell whether every size of a batch is at least two, and nothing unusual is asked."""
    if structures.groups is not None or structures.external_potential is not None:
        return False
    if in_field(structures):
        return False
    pairs = [e.sender.shape[0] for e in structures.edges.values()]
    return min([len(structures), structures.n_atoms, *pairs]) > 1


def _weights(potential: Potential) -> list[Tensor]:
    """All tensors of a potential: those of its state first, then other buffers."""
    state = potential.state_dict(keep_vars=True)
    others = [b for n, b in potential.named_buffers() if n not in state]
    return [*state.values(), *others]


def _flat(structures: Structures, consumers: Sequence[str]) -> list[Tensor]:
    """Lay a batch out as tensors."""
    flat = [getattr(structures, name) for name in TENSORS]
    if structures.data_set is not None:
        flat.append(structures.data_set)
    for name in consumers:
        edges = structures.edges[name]
        flat += [edges.sender, edges.receiver, edges.shift]
    return flat


def _rebuilt(flat: Sequence[Tensor], cutoffs: dict[str, float], *, mixed: bool) -> Structures:
    """Undo :func:`_flat`; ``mixed``: of structures with a data set."""
    names = (*TENSORS, "data_set") if mixed else TENSORS
    own: dict[str, Any] = dict(zip(names, flat, strict=False))
    rest = flat[len(names) :]
    edges = {
        name: Edges(*rest[3 * k : 3 * k + 3], cutoff)
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
