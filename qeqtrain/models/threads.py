"""Energy, forces and their derivatives in the weights, by several threads of a CPU.

Torch's own threads share every operation and wait for each other at its end. A step of these
networks is thousands of operations on blocks that fit into a cache, and sums onto atoms, of
which a second thread takes little off. Structures do not know each other, so a batch is divided
instead: each thread works out energy, forces and the gradient of its own structures from the
beginning to the end. Gradients are added up in the order of the parts, so that they do not
depend on which thread was first; they are rounded differently than on one thread.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextvars import copy_context
from dataclasses import fields
from functools import cache, partial
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from qeqtrain.models.dividing import chosen, shares, work
from qeqtrain.models.padding import PER_STRUCTURE
from qeqtrain.models.potential import Potential
from qeqtrain.nn.blocks import beside_other_threads
from qeqtrain.physics.function import Function
from qeqtrain.structures import Prediction, Structures

if TYPE_CHECKING:
    from qeqtrain.models.compiling import CompiledResponse

AT_ONCE = 8
"""Most parts of a batch: Python itself works for one thread at a time."""

LEAST = 2000
"""Neighbour pairs, and atoms, of a part: 8 molecules of 17 atoms gained nothing in two. What is
too little for two parts is better off on one thread: a NequIP step of 8 salts of 8 atoms took
0.10 s there, 0.13 s with torch's own two."""

Value = TypeVar("Value")
Part = TypeVar("Part")


def respond_alone(potential: Potential, structures: Structures, **question: Any) -> Prediction:
    """Predict on this thread, which torch's own may help."""
    found: Prediction = potential(structures, **question)
    return found


def respond_by_threads(
    potential: Potential,
    structures: Structures,
    *,
    forces: bool = True,
    stress: bool | None = None,
    born_charges: bool | None = False,
    ask: CompiledResponse | None = None,
) -> Prediction:
    """Predict as the potential itself does, on as many threads as torch has.

    In training the result can be differentiated once, in the weights alone. Hooks on parts of
    the potential are called by all threads at once.

    Args:
        potential: asked by all threads at once.
        structures: B of them; a batch that is too small, not on a CPU, differentiated in its
            positions, or answered by machine code of a package, is not divided.
        forces: wanted or not.
        stress: wanted or not; ``None`` means wherever all directions are periodic.
        born_charges: wanted or not; ``None`` means wherever they are defined.
        ask: predicts parts in the potential's place. Compiled code runs on one thread; the
            first batch, for which it is made, has one part after the other.
    """
    if stress is None:
        stress = bool(structures.on_host("pbc").all(dim=-1).any())

    of: Callable[[Structures], Prediction] = partial(
        ask or respond_alone,
        potential,
        forces=forces,
        stress=stress,
        born_charges=born_charges,
    )
    threads = torch.get_num_threads()
    compiled = ask or potential.compiled
    fixed = compiled is not None and compiled.threads is not None
    where = structures.positions
    if threads == 1 or where.device.type != "cpu" or where.requires_grad or fixed:
        return of(structures)
    places = shares(structures, min(threads, AT_ONCE), LEAST)
    little = len(places) == 1 and int(work(structures).sum()) < 2 * LEAST
    each = 1 if compiled is not None or little else threads // len(places)
    if each == threads:
        return of(structures)
    potential.refuse_unknown_elements(structures.numbers)  # all of them, not a part's
    parts = [chosen(structures, mine) for mine in places]
    if compiled is None or compiled.is_made(
        potential, forces=forces, stress=stress, threads=each
    ):
        found = _each(of, parts, each)
    else:
        found = [_each(of, [part], each)[0] for part in parts]
    names = [f.name for f in fields(Prediction) if getattr(found[0], f.name) is not None]
    columns = [[getattr(p, name) for p in found] for name in names]
    owners = [torch.nonzero(torch.isin(structures.batch, mine)).squeeze(1) for mine in places]
    order = {True: torch.cat(places).argsort(), False: torch.cat(owners).argsort()}
    if torch.is_grad_enabled() and potential.training:
        weights = [w for w in potential.parameters() if w.requires_grad]
        joined = _Joined.apply(columns, each, *weights)
    else:
        joined = [torch.cat(column) for column in columns]
    return Prediction(
        **{
            name: whole.index_select(0, order[name in PER_STRUCTURE])
            for name, whole in zip(names, joined, strict=True)
        }
    )


class _Joined(Function):
    """What the parts gave, one behind the other; its gradient is the sum of theirs."""

    @staticmethod
    def forward(
        ctx: Any, columns: list[list[Tensor]], each: int, *weights: nn.Parameter
    ) -> tuple[Tensor, ...]:
        ctx.columns, ctx.each, ctx.weights = columns, each, weights
        ctx.set_materialize_grads(False)
        joined = [torch.cat(column) for column in columns]
        constant = [
            whole
            for whole, column in zip(joined, columns, strict=True)
            if not any(t.requires_grad for t in column)
        ]
        ctx.mark_non_differentiable(*constant)
        return tuple(joined)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        if ctx.columns is None:
            raise RuntimeError("what threads have shared can be differentiated once")
        weights = [w for w, n in zip(ctx.weights, ctx.needs_input_grad[2:], strict=True) if n]
        outputs: list[list[Tensor]] = [[] for _ in ctx.columns[0]]
        cotangents: list[list[Tensor]] = [[] for _ in ctx.columns[0]]
        for column, gradient in zip(ctx.columns, gradients, strict=True):
            if gradient is None:
                continue
            pieces = gradient.split([len(t) for t in column])
            for k, (t, piece) in enumerate(zip(column, pieces, strict=True)):
                if t.requires_grad:
                    outputs[k].append(t)
                    cotangents[k].append(piece)
        ctx.columns = None  # what led to them is spent

        def slopes(k: int) -> Sequence[Tensor | None]:
            if not outputs[k]:
                return [None] * len(weights)
            return torch.autograd.grad(outputs[k], weights, cotangents[k], allow_unused=True)

        found = _each(slopes, range(len(outputs)), ctx.each)
        totals = iter([_sum(column) for column in zip(*found, strict=True)])
        by_weights = (next(totals) if n else None for n in ctx.needs_input_grad[2:])
        return None, None, *by_weights


def _sum(values: Sequence[Tensor | None]) -> Tensor | None:
    """Add up in order; ``None`` where there is nothing."""
    total: Tensor | None = None
    for value in values:
        if value is not None:
            total = value if total is None else total + value
    return total


def _each(task: Callable[[Part], Value], parts: Sequence[Part], each: int) -> list[Value]:
    """Do a task on all parts at once, in this context; raises what the first of them did.

    Args:
        task: on a part.
        parts: one for every thread.
        each: threads of torch that a part has.
    """
    gradient = torch.is_grad_enabled()

    def run(part: Part) -> Value:
        torch.set_num_threads(each)  # of this thread alone
        with torch.set_grad_enabled(gradient), beside_other_threads(len(parts) > 1):
            return task(part)

    pool = _pool(os.getpid())
    futures: list[Future[Value]] = [
        pool.submit(copy_context().run, run, part) for part in parts
    ]
    wait(futures)  # all of them, lest some go on while an error is handled
    # Threads that begin from now on take the number that was said last, by whomever.
    torch.set_num_threads(torch.get_num_threads())
    try:
        return [futures.pop(0).result() for _ in parts]
    finally:
        futures.clear()  # an error holds on to this frame, and with it to what the others made


@cache
def _pool(process: int) -> ThreadPoolExecutor:
    """Keep the threads of a process; a forked one has none of its parent's."""
    return ThreadPoolExecutor(max_workers=AT_ONCE, thread_name_prefix="structures")
