"""The exported file: a model as data alone, with a checksum of all of it.

Its layout is that of safetensors (github.com/huggingface/safetensors, README): the length of a
header in eight bytes, little-endian; the header, JSON, which says type, shape and place of
every tensor; then their bytes. Chosen over ``torch.save`` because even ``weights_only=True``
runs a small unpickler, because it can be read without torch, by any language, and because
nothing else fits into it. What a checkpoint says of its potential stands as JSON in the
``__metadata__`` of the header, beside a sha256 of the whole file, in which the digest itself
counts as zeros: safetensors alone notices a file that was cut, not one that was changed.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qeqtrain.errors import UserMistake

KIND = "qeqtrain"
"""Key of the metadata under which the model is described."""

_TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""Names that safetensors has for the types of torch."""
_NAMES = {kind: name for name, kind in _TYPES.items()}
_LENGTH = struct.Struct("<Q")
_ZEROS = "0" * 64
_ZIP = b"PK"
"""First bytes of what ``torch.save`` writes."""


def is_exported(path: Path) -> bool:
    """Whether a file begins as an exported model does; it may be damaged further on."""
    with path.open("rb") as file:
        head = file.read(_LENGTH.size + 1)
    return head[8:] == b"{" and not head.startswith(_ZIP)


def write_exported(path: Path, entry: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
    """Write a model, in one go or not at all.

    The same model always gives the same bytes.

    Args:
        path: replaced if it exists.
        entry: plain values: ``format``, ``potential`` (its header) and what else is known.
        weights: by name.

    Raises:
        TypeError: ``entry`` holds more than JSON can.
    """
    said = json.dumps(entry, sort_keys=True)
    tensors: dict[str, Any] = {}
    pieces: list[bytes] = []
    offset = 0
    # Large types first, so that every tensor begins at a multiple of its size.
    for name in sorted(weights, key=lambda n: (-weights[n].element_size(), n)):
        value = weights[name].detach().cpu().contiguous()
        piece = value.reshape(-1).view(torch.uint8).numpy().tobytes()
        tensors[name] = {
            "dtype": _NAMES[value.dtype],
            "shape": list(value.shape),
            "data_offsets": [offset, offset + len(piece)],
        }
        offset += len(piece)
        pieces.append(piece)
    metadata = {"sha256": _ZEROS, KIND: said}
    header = json.dumps({"__metadata__": metadata, **tensors}, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # tensors begin at a multiple of eight
    front = _LENGTH.pack(len(header)) + header
    digest = hashlib.sha256(front + b"".join(pieces)).hexdigest()
    front = front.replace(_ZEROS.encode(), digest.encode(), 1)
    part = path.with_name(path.name + ".part")
    part.write_bytes(front + b"".join(pieces))
    part.replace(path)


def read_exported(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read an exported model.

    Returns:
        What was written: the entry, and the weights by name.

    Raises:
        UserMistake: the file was cut or changed, or is not of ours.
    """
    content = bytearray(path.read_bytes())
    try:
        (length,) = _LENGTH.unpack_from(content)
        begin = _LENGTH.size + length
        if begin > len(content):
            raise ValueError("it ends within its header")
        header = json.loads(content[_LENGTH.size : begin].decode())
        metadata = header.pop("__metadata__", {})
        if KIND not in metadata:
            raise UserMistake(f"{path}: holds no potential of qeqtrain")
        digest = str(metadata["sha256"])
        zeroed = content[:begin].replace(digest.encode(), _ZEROS.encode(), 1)
        if hashlib.sha256(zeroed + content[begin:]).hexdigest() != digest:
            raise ValueError("its checksum is not that of its content")
        weights = {name: _tensor(content, begin, said) for name, said in header.items()}
        return json.loads(metadata[KIND]), weights
    except (ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise UserMistake(
            f"{path}: damaged or changed since it was exported ({error}); export it again, or "
            "copy it again"
        ) from error


def _tensor(content: bytearray, begin: int, said: Mapping[str, Any]) -> Tensor:
    """Copy one tensor out of a file whose header ends at ``begin``."""
    kind, shape = _TYPES[said["dtype"]], said["shape"]
    count = math.prod(shape)
    if count == 0:
        return torch.empty(shape, dtype=kind)
    first = begin + int(said["data_offsets"][0])
    flat = torch.frombuffer(content, dtype=kind, count=count, offset=first)
    return flat.reshape(shape).clone()
