"""Small tensors made on the host, placed where the work is done without waiting for it."""

from __future__ import annotations

import torch
from torch import Tensor


def place(values: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor of the host to a device; a GPU then goes on with what it is doing.

    Torch waits for a copy out of memory that is not page-locked.

    Args:
        values: on the CPU.
        device: where they are wanted.
    """
    if device.type == "cpu":
        return values
    if device.type == "cuda":
        values = values.pin_memory()
    return values.to(device, non_blocking=True)
