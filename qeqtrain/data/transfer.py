"""Batches sent from one process to another as a single tensor.

Each tensor that a worker hands over costs a file descriptor and a call back to the worker,
more than reading a whole structure. A batch has some twenty; laid out in one buffer, it has
one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qeqtrain.structures import ChargeGroups, Edges, Structures

Layout = list[tuple[str, str, torch.dtype, tuple[int, ...], int]]
"""Of every tensor: which holder it belongs to, its name, type, shape and first byte."""

_ALIGNED = 64  # bytes
_ENDS = ("sender", "receiver", "shift")


def pack(
    structures: Structures, others: dict[str, dict[str, Tensor]]
) -> tuple[Tensor, Layout, dict[str, float]]:
    """Copy all tensors of a batch into one.

    Args:
        structures: of the batch.
        others: further tensors, by holder and name.

    Returns:
        The buffer, what lies where in it, and the cutoffs of the neighbour lists.
    """
    named = {"structures": _tensors(structures)}
    if structures.groups is not None:
        named["groups"] = _tensors(structures.groups)
    for consumer, edges in structures.edges.items():
        named[f"edges/{consumer}"] = {n: getattr(edges, n) for n in _ENDS}
    named |= others
    layout: Layout = []
    size = 0
    for holder, name, tensor in _each(named):
        layout.append((holder, name, tensor.dtype, tuple(tensor.shape), size))
        size += -(-tensor.nbytes // _ALIGNED) * _ALIGNED
    shared = _buffer(size)
    buffer = shared.numpy()
    for (_, _, tensor), (*_, start) in zip(_each(named), layout, strict=True):
        values = tensor.detach().contiguous().numpy()
        buffer[start : start + tensor.nbytes] = values.reshape(-1).view(np.uint8)
    cutoffs = {name: edges.cutoff for name, edges in structures.edges.items()}
    return shared, layout, cutoffs


def _buffer(size: int) -> Tensor:
    """Memory for a batch; shared from the start in a worker, as torch's collate has it."""
    if torch.utils.data.get_worker_info() is None or size == 0:
        return torch.empty(size, dtype=torch.uint8)
    storage = torch.UntypedStorage._new_shared(size)
    return torch.empty(0, dtype=torch.uint8).set_(storage, 0, (size,))


def unpack(
    buffer: Tensor, layout: Layout, cutoffs: dict[str, float]
) -> tuple[Structures, dict[str, dict[str, Tensor]]]:
    """Give the tensors back, as views of the buffer."""
    named: dict[str, dict[str, Tensor]] = {}
    for holder, name, dtype, shape, start in layout:
        size = int(np.prod(shape, dtype=int)) * dtype.itemsize
        here = buffer[start : start + size] if size else buffer.new_empty(0)
        named.setdefault(holder, {})[name] = here.view(dtype).reshape(shape)
    groups = named.pop("groups", None)
    edges = {
        c: Edges(**named.pop(f"edges/{c}"), cutoff=cutoff) for c, cutoff in cutoffs.items()
    }
    given: dict[str, Any] = dict(named.pop("structures"))
    if groups is not None:
        given["groups"] = ChargeGroups(**groups)
    return Structures(**given, edges=edges), named


def _tensors(holder: object) -> dict[str, Tensor]:
    values = {f.name: getattr(holder, f.name) for f in fields(holder)}  # type: ignore[arg-type]
    return {name: value for name, value in values.items() if isinstance(value, Tensor)}


def _each(named: dict[str, dict[str, Tensor]]) -> Iterable[tuple[str, str, Tensor]]:
    for holder, tensors in named.items():
        for name, tensor in tensors.items():
            yield holder, name, tensor
