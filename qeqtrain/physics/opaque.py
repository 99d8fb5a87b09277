"""Functions that a graph for a compiler keeps whole: run as they are, and differentiable twice.

What solves a linear system for every structure, in sizes and iterations of its own, cannot be
written down operation by operation. In a graph it stays one operation, whose derivative is a
second one and whose second derivative, all that training on forces asks for, a third. Each runs
the ordinary code with torch's own differentiation inside, so that nothing is derived here; a
step of training then runs the function three times instead of once.

A graph outlives the process that made it, in torch's cache of compiled code. Operations
therefore name the function and spell out its options, and hold no object.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from qeqtrain.structures import Edges, Structures

Tensors = list[Tensor]
Body = Callable[..., Sequence[Tensor]]

_KNOWN: dict[str, Opaque] = {}


class Opaque:
    """A function of tensors that tracers do not look into.

    Args:
        name: unique in the package, and for all time: it is part of compiled code.
        body: from variables, constants and, by keyword, options to its results.
        results: from the same lists to empty results, of which only shape and precision count.
    """

    def __init__(self, name: str, body: Body, results: Callable[..., Tensors]) -> None:
        self.body, self.results = body, results
        self.name = name
        _KNOWN[name] = self

    def __call__(self, variables: Tensors, constants: Tensors, **options: Any) -> Tensors:
        """Apply it.

        Args:
            variables: floating-point tensors in which it can be differentiated, twice.
            constants: other tensors.
            **options: plain values.
        """
        # In hexadecimal: torch writes words into C++ as they are, quotation marks and all.
        words = json.dumps(options, sort_keys=True).encode().hex()
        found: Tensors = _value(variables, constants, self.name, words)
        return found


def flattened(structures: Structures, consumer: str) -> tuple[Tensors, Tensors]:
    """Write structures without groups, and one consumer's pairs, as tensors.

    Returns:
        Positions and cells, which vary, and what is constant.
    """
    s, edges = structures, structures.edges[consumer]
    constants = [s.numbers, s.batch, s.pbc, s.total_charge]
    constants += [edges.sender, edges.receiver, edges.shift, edges.reaches(s.cell.shape[0])]
    return [s.positions, s.cell], constants


def rebuilt(variables: Tensors, constants: Tensors, consumer: str) -> Structures:
    """Undo :func:`flattened`; spins are not known, and there is no field."""
    positions, cell = variables
    numbers, batch, pbc, total_charge, sender, receiver, shift, reach = constants
    edges = Edges(sender, receiver, shift, float(reach.min()), reach)
    return Structures(
        numbers,
        positions,
        batch,
        cell,
        pbc,
        total_charge,
        spin=torch.full_like(total_charge, torch.nan),
        electric_field=torch.zeros_like(cell[:, 0]),
        edges={consumer: edges},
    )


def _run(name: str, words: str, variables: Sequence[Tensor], constants: Tensors) -> Tensors:
    options = json.loads(bytes.fromhex(words))
    return list(_KNOWN[name].body(list(variables), list(constants), **options))


def _fresh(tensors: Sequence[Tensor]) -> Tensors:
    """Copy into memory of their own, laid out as is announced below."""
    return [t.detach().clone(memory_format=torch.contiguous_format) for t in tensors]


def _alike(tensors: Sequence[Tensor]) -> Tensors:
    """Announce tensors of these shapes."""
    return [torch.empty_like(t, memory_format=torch.contiguous_format) for t in tensors]


@contextmanager
def _recording() -> Iterator[None]:
    """Let autograd work within an operation, beneath which torch switches it off.

    Private to torch, which has no public word for it.
    """
    dispatch = torch._C
    off = dispatch._dispatch_tls_local_exclude_set()
    for key in (
        dispatch.DispatchKey.AutogradFunctionality,
        dispatch.DispatchKey.ADInplaceOrView,
    ):
        off = off.remove(key)
    on = dispatch._dispatch_tls_local_include_set()
    with dispatch._ForceDispatchKeyGuard(on, off), torch.enable_grad():
        yield


def _moving(tensors: Sequence[Tensor]) -> Tensors:
    return [t.detach().requires_grad_(True) for t in tensors]


def _slopes(
    values: Sequence[Tensor], at: Sequence[Tensor], along: Sequence[Tensor], again: bool
) -> Tensors:
    """Differentiate what can be; zero elsewhere."""
    pairs = [(v, a) for v, a in zip(values, along, strict=True) if v.requires_grad]
    if not pairs:
        return [torch.zeros_like(t) for t in at]
    found = torch.autograd.grad(
        [v for v, _ in pairs],
        list(at),
        [a for _, a in pairs],
        create_graph=again,
        materialize_grads=True,
    )
    return list(found)


@torch.library.custom_op("qeqtrain::opaque_value", mutates_args=())
def _value(variables: Tensors, constants: Tensors, name: str, words: str) -> Tensors:
    with torch.no_grad():
        return _fresh(_run(name, words, variables, constants))


@torch.library.custom_op("qeqtrain::opaque_slope", mutates_args=())
def _slope(
    variables: Tensors, constants: Tensors, cotangents: Tensors, name: str, words: str
) -> Tensors:
    with _recording():
        here = _moving(variables)
        found = _slopes(_run(name, words, here, constants), here, cotangents, again=False)
    return _fresh(found)


@torch.library.custom_op("qeqtrain::opaque_curve", mutates_args=())
def _curve(
    variables: Tensors,
    constants: Tensors,
    cotangents: Tensors,
    directions: Tensors,
    name: str,
    words: str,
) -> Tensors:
    with _recording():
        here, along = _moving(variables), _moving(cotangents)
        slopes = _slopes(_run(name, words, here, constants), here, along, again=True)
        found = _slopes(slopes, [*here, *along], directions, again=False)
    return _fresh(found)


@_value.register_fake
def _(variables: Tensors, constants: Tensors, name: str, words: str) -> Tensors:
    return _alike(_KNOWN[name].results(variables, constants))


@_slope.register_fake
def _(variables: Tensors, *_: Any) -> Tensors:
    return _alike(variables)


@_curve.register_fake
def _(variables: Tensors, constants: Tensors, cotangents: Tensors, *_: Any) -> Tensors:
    return _alike([*variables, *cotangents])


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensors) -> None:
    *lists, ctx.name, ctx.words = inputs
    ctx.sizes = [len(tensors) for tensors in lists]
    ctx.save_for_backward(*(t for tensors in lists for t in tensors))


def _kept(ctx: Any) -> list[Tensors]:
    left = iter(ctx.saved_tensors)
    return [[next(left) for _ in range(size)] for size in ctx.sizes]


def _filled(given: Sequence[Tensor | None], like: Sequence[Tensor]) -> Tensors:
    pairs = zip(given, like, strict=True)
    return [torch.zeros_like(t) if g is None else g for g, t in pairs]


def _value_backward(ctx: Any, given: Sequence[Tensor | None]) -> tuple[Any, ...]:
    variables, constants = _kept(ctx)
    results = _KNOWN[ctx.name].results(variables, constants)
    slopes = _slope(variables, constants, _filled(given, results), ctx.name, ctx.words)
    return slopes, [None] * len(constants), None, None


def _slope_backward(ctx: Any, given: Sequence[Tensor | None]) -> tuple[Any, ...]:
    variables, constants, cotangents = _kept(ctx)
    directions = _filled(given, variables)
    found = _curve(variables, constants, cotangents, directions, ctx.name, ctx.words)
    count = len(variables)
    return found[:count], [None] * len(constants), found[count:], None, None


_value.register_autograd(_value_backward, setup_context=_keep)
_slope.register_autograd(_slope_backward, setup_context=_keep)
