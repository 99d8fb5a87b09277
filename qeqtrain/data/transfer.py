"""Batches sent from worker processes in shared memory that is used again and again.

A tensor that a worker hands over costs a file descriptor, a handshake with the worker and fresh
pages on both sides, more than reading the structures in it. A batch has some twenty tensors. So
a worker lays them out in one piece of shared memory, a slot, which the reader keeps and whose
first byte says whether its batch is still in use: as long as any tensor of it is. Then the
worker writes another batch there, and only a number travels.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from dataclasses import fields
from typing import Any
from uuid import uuid4

import numpy as np
import torch
from torch import Tensor

from qeqtrain.structures import ChargeGroups, Edges, Structures

Layout = list[tuple[str, str, str, tuple[int, ...], int]]
"""Of every tensor: which holder it belongs to, its name, numpy type, shape and first byte."""

_ALIGNED = 64  # bytes; those before the first tensor of a slot hold the mark
_SPARE = 1.25  # share of a batch that a new slot offers, so that the next ones fit as well
_ENDS = ("sender", "receiver", "shift")

_SLOTS: dict[str, dict[tuple[int, int], np.ndarray]] = {}
"""What this process received: by loader, then by worker and slot."""


class Sender:
    """The worker's end: writes batches into slots that the reader is done with.

    Args:
        reader: name of the loader that reads them (:func:`new_reader`).
    """

    def __init__(self, reader: str) -> None:
        """Begin without any slot."""
        self._reader = reader
        self._slots: list[np.ndarray] = []

    def send(
        self, structures: Structures, others: dict[str, dict[str, Tensor]]
    ) -> tuple[Any, ...]:
        """Copy all tensors of a batch into a slot.

        Args:
            structures: of the batch.
            others: further tensors, by holder and name.

        Returns:
            What :func:`receive` takes in the other process.
        """
        named = {"structures": _tensors(structures)}
        if structures.groups is not None:
            named["groups"] = _tensors(structures.groups)
        for consumer, edges in structures.edges.items():
            named[f"edges/{consumer}"] = {n: getattr(edges, n) for n in _ENDS}
        layout: Layout = []
        arrays = []
        size = _ALIGNED
        for holder, name, tensor in _each(named | others):
            values = tensor.detach().numpy()
            arrays.append(values)
            layout.append((holder, name, values.dtype.str, values.shape, size))
            size += -(-values.nbytes // _ALIGNED) * _ALIGNED
        number, fresh = self._slot(size)
        slot = self._slots[number]
        slot[0] = 1
        for values, (*_, dtype, shape, start) in zip(arrays, layout, strict=True):
            np.ndarray(shape, dtype, slot, start)[...] = values
        cutoffs = {name: edges.cutoff for name, edges in structures.edges.items()}
        info = torch.utils.data.get_worker_info()
        worker = 0 if info is None else info.id
        return self._reader, worker, number, fresh, layout, cutoffs

    def _slot(self, size: int) -> tuple[int, Tensor | None]:
        """Find a slot that is free and large enough, or make one, which has to be sent."""
        free = [k for k, slot in enumerate(self._slots) if slot[0] == 0]
        for k in free:
            if len(self._slots[k]) >= size:
                return k, None
        storage = torch.UntypedStorage._new_shared(int(size * _SPARE))
        made = torch.empty(0, dtype=torch.uint8).set_(storage, 0, (storage.nbytes(),))
        if free:
            self._slots[free[0]] = made.numpy()
            return free[0], made
        self._slots.append(made.numpy())
        return len(self._slots) - 1, made


class _Lease:
    """A slot in use: an array made of it keeps it so, and so do all views of that array."""

    def __init__(self, slot: np.ndarray) -> None:
        self._slot = slot
        self.__array_interface__ = slot.__array_interface__

    def __del__(self) -> None:
        self._slot[0] = 0


def new_reader(owner: object) -> str:
    """Name a reader of batches, whose slots are let go of together with its owner."""
    name = uuid4().hex
    weakref.finalize(owner, _SLOTS.pop, name, None)
    return name


def receive(
    reader: str,
    worker: int,
    number: int,
    fresh: Tensor | None,
    layout: Layout,
    cutoffs: dict[str, float],
) -> tuple[Structures, dict[str, dict[str, Tensor]]]:
    """Give the tensors of a batch back, as views of its slot."""
    slots = _SLOTS.setdefault(reader, {})
    if fresh is not None:
        slots[worker, number] = fresh.numpy()
    memory = np.asarray(_Lease(slots[worker, number]))
    named: dict[str, dict[str, Tensor]] = {}
    for holder, name, dtype, shape, start in layout:
        tensor = torch.from_numpy(np.ndarray(shape, dtype, memory, start))
        named.setdefault(holder, {})[name] = tensor
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
