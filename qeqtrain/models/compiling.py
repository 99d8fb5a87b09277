"""Energy, forces and stress through compiled code, for training and for inference.

A potential is written down as one graph (:mod:`~qeqtrain.models.graph`), which torch's compiler
turns into code at the first question: minutes, kept between runs in a folder. One compilation
serves batches of all sizes; a size of one, special to the compiler, never reaches it
(:mod:`~qeqtrain.models.padding`).

On a CPU the code is one function of C++ that lets go of Python, made for the number of threads
that torch has when it is asked. Operations of a compiled graph are too short for more than one
(a second took 8 % off NequIP's step): a batch's structures are shared out among threads that
run code for one each (:mod:`~qeqtrain.models.threads`).

Structures with fragments or in a field go the ordinary way. Charge models that solve linear
systems of every size (``gaussian``, ``polarizable``) stay one operation of the graph, which
runs as it always does (:mod:`~qeqtrain.physics.opaque`); the rest around it is compiled.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.experimental import _config as symbolic_shapes

from qeqtrain.errors import UserMistake
from qeqtrain.models.graph import ResponseGraph, is_usual, untraceable_parts, weights_of
from qeqtrain.models.padding import cut, needs_padding, padded
from qeqtrain.models.potential import Potential
from qeqtrain.structures import Prediction, Structures

CACHE = "TORCHINDUCTOR_CACHE_DIR"
"""Where torch keeps compiled code between runs; the user's cache unless it is set."""

Key = tuple[bool, bool, torch.dtype, str, int, tuple[int, ...]]
"""Of code: forces, stress, precision, device, threads, and which weights are trained."""

_MAKING = Lock()
"""Held while a graph is written down and compiled: that changes torch for the whole process."""


class CompiledResponse:
    """A potential's energy, forces and stress, compiled at the first call for each question.

    It holds the architecture, not the weights: any potential of the same parts, such as a
    running average, may be asked through it.

    Args:
        potential: whose parts can be compiled.
        asked: by what the user asked for compiled code.
        differentiable: whether weights are trained through it; code without is smaller, and
            made sooner.

    Raises:
        UserMistake: a part cannot be compiled, or there is no compiler.
    """

    threads = None

    def __init__(
        self,
        potential: Potential,
        asked: str = "trainer.compile",
        *,
        differentiable: bool = True,
    ) -> None:
        self._differentiable = differentiable
        refuse_uncompilable(potential, asked)
        keep_code()
        self._graphs: dict[Key, _Compiled] = {}
        self._trained = _trained(potential)

    def __deepcopy__(self, memo: object) -> CompiledResponse:
        """Serve copies of a potential as well: there are no weights in it."""
        return self

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
        if born_charges is False:
            if structures.numbers.device.type == "cpu":
                potential.refuse_unknown_elements(structures.numbers)
            answer = self.answer(potential, structures, forces=forces, stress=stress)
            if answer is not None:
                return answer
        found: Prediction = potential(
            structures, forces=forces, stress=stress, born_charges=born_charges
        )
        return found

    def answer(
        self, potential: Potential, structures: Structures, *, forces: bool, stress: bool
    ) -> Prediction | None:
        """Predict a batch of known elements, or give ``None`` where code for it is not made."""
        if not (forces or stress) or not is_usual(structures):
            return None
        mixture = potential.mixture
        owners = None if mixture is None else mixture.index_of(structures)
        structures = replace(structures, data_set=owners)
        key = self._key(potential, forces, stress, torch.get_num_threads())
        if key not in self._graphs:
            with _MAKING:
                if key not in self._graphs:
                    graph = _Compiled(potential, forces=forces, stress=stress, trained=key[-1])
                    asked_padded(graph.make, potential, structures)
                    self._graphs[key] = graph
        return asked_padded(self._graphs[key], potential, structures)

    def is_made(
        self, potential: Potential, *, forces: bool, stress: bool, threads: int
    ) -> bool:
        """Tell whether there is code for a question, and so many threads of torch."""
        return self._key(potential, forces, stress, threads) in self._graphs

    def _key(self, potential: Potential, forces: bool, stress: bool, threads: int) -> Key:
        """Tell questions apart that need code of their own.

        A running average, which nobody trains, is asked through the code of what is trained
        where there is some, and through code without derivatives in the weights, which is made
        sooner, where there is none.
        """
        if potential.training:
            self._trained = _trained(potential)
        device = str(potential.device)
        key = (forces, stress, potential.dtype, device, threads, self._trained)
        if self._differentiable and (potential.training or key in self._graphs):
            return key
        return (*key[:-1], ())


def asked_padded(
    ask: Callable[[Potential, Structures], Prediction],
    potential: Potential,
    structures: Structures,
) -> Prediction:
    """Ask with no size below two."""
    if not needs_padding(structures):
        return ask(potential, structures)
    return cut(ask(potential, padded(structures)), structures)


def keep_code() -> None:
    """Let torch keep compiled code in the user's cache, unless it was told where."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    os.environ.setdefault(CACHE, str(cache / "qeqtrain" / "compiled"))


def refuse_uncompilable(potential: Potential, asked: str, *, alone: bool = False) -> None:
    """Raise a :class:`UserMistake` where code cannot be made.

    Args:
        potential: to be compiled.
        asked: by what the user asked for it.
        alone: whether code has to run without Python.
    """
    if names := untraceable_parts(potential, alone=alone):
        charges = "charge=none, local and diagonal, " if alone else ""
        raise UserMistake(
            f"{asked} is asked for, but {', '.join(names)} cannot be compiled; leave it out, "
            f"or choose among {charges}baselines=none and zbl, potential.atomic_dipoles=false"
        )
    from torch._inductor import exc
    from torch._inductor.cpp_builder import get_cpp_compiler

    try:
        get_cpp_compiler()
    except exc.InvalidCxxCompiler as missing:
        raise UserMistake(
            f"{asked} is asked for, but there is no C++ compiler that runs; install g++, name "
            "one in the environment variable CXX, or leave it out"
        ) from missing


class _Compiled:
    """The code of one question.

    Args:
        potential: of the architecture.
        forces: wanted or not.
        stress: wanted or not.
        trained: places of the weights that code is differentiable in.
    """

    def __init__(
        self, potential: Potential, *, forces: bool, stress: bool, trained: tuple[int, ...]
    ) -> None:
        self.graph = ResponseGraph(potential, forces=forces, stress=stress)
        self.trained = frozenset(trained)
        options: dict[str, Any] = {}
        if potential.device.type == "cpu":
            options = {"cpp_wrapper": True, "cpp.threads": torch.get_num_threads()}
        self.code: Callable[..., list[Tensor]] = torch.compile(
            self.graph.plain, dynamic=False, fullgraph=True, options=options
        )

    def make(self, potential: Potential, structures: Structures) -> Prediction:
        """Predict, and differentiate if that may be asked for: then all code is there."""
        weights = self._weights(potential)
        found = self._ask(weights, structures)
        values = [value for value in found if value.requires_grad]
        if values:
            inputs = [w for w in weights if w.requires_grad]
            nothing = [torch.zeros_like(value) for value in values]
            torch.autograd.grad(values, inputs, nothing, allow_unused=True)
        return self.graph.prediction(found).detach()

    def __call__(self, potential: Potential, structures: Structures) -> Prediction:
        found = self._ask(self._weights(potential), structures)
        prediction = self.graph.prediction(found)
        keeps = torch.is_grad_enabled() and potential.training
        return prediction if keeps else prediction.detach()

    def _weights(self, potential: Potential) -> list[Tensor]:
        """Give all weights in the guise of those that are trained: the compiler looks at it."""
        return [
            w
            if w.requires_grad == (k in self.trained)
            else nn.Parameter(w.detach(), requires_grad=k in self.trained)
            for k, w in enumerate(weights_of(potential))
        ]

    def _ask(self, weights: list[Tensor], structures: Structures) -> list[Tensor]:
        flat = self.graph.flat(structures)
        for tensor in flat:
            torch._dynamo.mark_dynamic(tensor, 0)  # weights have the sizes they have
        # Else the compiler asks for which sizes a float32 sum is long enough to be added up in
        # pieces, and compiles anew for the others: minutes, for a batch of another size.
        with (
            symbolic_shapes.patch(backed_size_oblivious=True),
            torch.set_grad_enabled(bool(self.trained)),
        ):
            return self.code(weights, flat)


def _trained(potential: Potential) -> tuple[int, ...]:
    """Find the places of the weights that are trained."""
    return tuple(k for k, w in enumerate(weights_of(potential)) if w.requires_grad)
