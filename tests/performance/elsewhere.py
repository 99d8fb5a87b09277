"""A device that is not there: what would a program on a GPU wait for?

Tensors moved to it keep their numbers on the CPU, but say that they are elsewhere, and every
operation is watched. So a step runs with real values where there is no GPU; an operation that
mixes the two devices fails as it would on one; and whatever makes the host wait is written down
with the line that asked for it:

* a number read (``item``, ``float``, ``if``), a tensor brought back (``tolist``, ``cpu``);
* a result whose shape depends on values (``nonzero``, a mask as index, ``unique``, ...), and
  linear algebra that looks at its own success;
* a copy from memory that is not page-locked, for which torch waits.

Operations may wait inside themselves without saying so; that takes a GPU to see.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map

DEVICE = torch.device("meta")
"""What such tensors say of themselves; torch lets no CUDA device be named where none is."""

PACKAGE = Path(__file__).resolve().parents[2] / "qeqtrain"

ATEN = torch.ops.aten

SHAPED_BY_VALUES = {
    "nonzero",
    "masked_select",
    "bincount",
    "_unique",
    "_unique2",
    "unique_dim",
    "unique_consecutive",
    "unique_dim_consecutive",
    "repeat_interleave",
    "_linalg_check_errors",
    "_validate_sparse_csr_tensor_args",
    "_validate_compressed_sparse_indices",
}


class Elsewhere(Tensor):
    """A tensor that says it is on :data:`DEVICE`; its numbers are in ``here``."""

    here: Tensor

    @staticmethod
    def __new__(cls, here: Tensor) -> Elsewhere:
        made = Tensor._make_wrapper_subclass(
            cls,
            here.shape,
            strides=here.stride(),
            storage_offset=here.storage_offset(),
            dtype=here.dtype,
            device=DEVICE,
        )
        made.here = here
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    def tolist(self) -> Any:
        """Read all numbers; torch does this without an operation that could be watched."""
        return self.cpu().tolist()

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise RuntimeError(f"{func} outside of `with Watch()`")


def _made(numbers: Any, *, device: Any = None, **how: Any) -> Tensor:
    """Make a tensor of numbers on the CPU and copy it, in plain sight."""
    made = _tensor(numbers, **how)
    return made if device is None else made.to(device)


_tensor = torch.tensor


class Watch(TorchDispatchMode):
    """Runs what happens on the device that is not there, and counts what waits for it.

    Attributes:
        waits: how often each line of the package waited: ``file function (operation)``.
        operations: how many operations ran there.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[str] = Counter()
        self.operations = 0

    def __enter__(self) -> Watch:
        torch.tensor = _made  # torch makes one on this device without any number
        super().__enter__()
        return self

    def __exit__(self, *what: Any) -> None:
        super().__exit__(*what)
        torch.tensor = _tensor

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        tensors = [t for t in tree_flatten((args, kwargs))[0] if isinstance(t, Tensor)]
        there = [t for t in tensors if isinstance(t, Elsewhere)]
        asked = kwargs.get("device")
        target = torch.device(asked) if asked is not None else None
        if not there and (target is None or target.type != DEVICE.type):
            return func(*args, **kwargs)
        self.operations += 1
        name = func.overloadpacket.__name__
        if name == "_to_copy" and target is not None:
            arriving = target.type == DEVICE.type
            if arriving != bool(there):  # it changes device
                self._copied(args[0], arriving=arriving, waits=not kwargs.get("non_blocking"))
            out = func(_here(args[0]), **{**kwargs, "device": "cpu"})
            return Elsewhere(out) if arriving else out
        self._look(name, args, tensors, there)
        if target is not None:
            kwargs["device"] = torch.device("cpu")
        out = func(*tree_map(_here, args), **tree_map(_here, kwargs))
        if name in ("_local_scalar_dense", "equal", "is_same_size"):
            return out
        if isinstance(out, Tensor) and out.layout != torch.strided:
            return out  # a wrapper has no place for what sparse tensors consist of
        wrapped = tree_map(lambda t: Elsewhere(t) if isinstance(t, Tensor) else t, out)
        return return_and_correct_aliasing(func, args, kwargs, wrapped)

    def _copied(self, source: Tensor, *, arriving: bool, waits: bool) -> None:
        if arriving and source.is_pinned():
            return
        if waits or not arriving:
            self._wait("copy to the device" if arriving else "copy back")

    def _look(self, name: str, args: Any, tensors: list[Tensor], there: list[Tensor]) -> None:
        """Write down a wait, or say which tensor is on the wrong device."""
        if name == "_local_scalar_dense":
            self._wait("number read")
        elif name in SHAPED_BY_VALUES or name in ("equal",):
            self._wait(name)
        elif name in ("index", "index_put", "index_put_", "_unsafe_index"):
            masks = [
                i for i in args[1] if i is not None and i.dtype in (torch.bool, torch.uint8)
            ]
            filled = name != "index" and args[2].numel() == 1  # torch makes it masked_fill
            if masks and not filled:
                self._wait("mask as index")
        elif name == "copy_":
            if isinstance(args[0], Elsewhere) != isinstance(args[1], Elsewhere):
                arriving = isinstance(args[0], Elsewhere)
                waits = not (len(args) > 2 and args[2])
                self._copied(args[1], arriving=arriving, waits=waits)
            return
        sparse = [t for t in tensors if t.layout != torch.strided]
        there = [*there, *sparse]
        if wrong := [t for t in tensors if t.dim() and not any(t is u for u in there)]:
            raise RuntimeError(
                f"{name}: expected all tensors on one device, met {tuple(wrong[0].shape)} on "
                "the CPU"
            )

    def _wait(self, what: str) -> None:
        self.waits[f"{_place()} ({what})"] += 1


def _here(value: Any) -> Any:
    return value.here if isinstance(value, Elsewhere) else value


def _frames() -> Iterator[Any]:
    frame = sys._getframe()
    while frame is not None:
        yield frame
        frame = frame.f_back


def _place() -> str:
    """Name the line of the package that is at work."""
    for frame in _frames():
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(PACKAGE):
            return f"{path.relative_to(PACKAGE)} {frame.f_code.co_qualname}"
    return "outside of the package"
