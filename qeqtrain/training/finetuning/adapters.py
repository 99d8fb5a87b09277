r"""Low-rank adapters of linear maps, :math:`W + U D` with few rows in between (LoRA).

Hu et al., arXiv 2106.09685. The adapters are parametrizations of torch, so that no layer knows
of them. In a checkpoint they are merged: whoever reads it finds an ordinary model. What a
resumed run needs of them stands beside the weights.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from qeqtrain.errors import UserMistake
from qeqtrain.nn.irrep_linear import IrrepLinear
from qeqtrain.nn.mlp import UnitLinear
from qeqtrain.nn.radial import RadialNetwork
from qeqtrain.nn.tensornet import PartwiseLinear

ENTRY = "adapters"
"""Entry of a checkpoint with the weights that adapters stand on, and the adapters."""

_ADAPTED = re.compile(r"^(.*)parametrizations\.(\w+)\.(original|0\.up|0\.down)$")


class LowRank(nn.Module):
    """A matrix, or several, plus a product of low rank that begins as zero.

    Args:
        weight: shape ``(..., a, b)``.
        rank: of the product.
    """

    def __init__(self, weight: Tensor, rank: int) -> None:
        super().__init__()
        *front, a, b = weight.shape
        # A step of U then moves the entries of W about as far as a step of W itself would.
        down = torch.randn(*front, rank, b, dtype=weight.dtype) * rank**-0.5
        self.down = nn.Parameter(down.to(weight.device))
        self.up = nn.Parameter(weight.new_zeros(*front, a, rank))

    def forward(self, weight: Tensor) -> Tensor:
        """Give the sum, of the shape of ``weight``."""
        return weight + self.up @ self.down


def matrices(model: nn.Module) -> Iterator[tuple[nn.Module, str]]:
    """Go through the matrices of all linear maps: the module that holds one, and its name."""
    for module in list(model.modules()):
        if isinstance(module, nn.Linear | UnitLinear | PartwiseLinear):
            yield module, "weight"
        elif isinstance(module, IrrepLinear | RadialNetwork):
            held = module.weights
            for name, _ in list(held.named_parameters(recurse=False)):
                yield held, name


def adapt(model: nn.Module, rank: int) -> int:
    """Let the matrices that train move by products of low rank, where that is fewer numbers.

    Args:
        model: what does not require a gradient is left alone.
        rank: of every product.

    Returns:
        How many matrices were adapted.

    Raises:
        UserMistake: no matrix is left for the adapters.
    """
    count = 0
    for holder, name in matrices(model):
        weight = getattr(holder, name)
        a, b = weight.shape[-2:]
        if not weight.requires_grad or rank * (a + b) >= a * b:
            continue
        parametrize.register_parametrization(holder, name, LowRank(weight.detach(), rank))
        count += 1
    if not count:
        raise UserMistake(
            f"finetune.rank={rank}: no matrix that trains has more numbers than a product of "
            "this rank; choose a smaller one, or finetune.rank=null"
        )
    return count


def plain_name(name: str) -> str:
    """Name that a weight has in a checkpoint: of an adapted matrix, the matrix itself."""
    found = _ADAPTED.match(name)
    return found[1] + found[2] if found else name


def is_original(name: str) -> bool:
    """Whether it names the matrix beneath an adapter, which never moves."""
    return name.endswith(".original") and plain_name(name) != name


def fold(checkpoint: dict[str, Any]) -> None:
    """Merge adapters into the matrices of a checkpoint, and keep them beside."""
    state: dict[str, Tensor] = checkpoint["state_dict"]
    kept = {key: value for key, value in state.items() if _ADAPTED.match(key)}
    if not kept:
        return
    plain = {key: value for key, value in state.items() if key not in kept}
    for key, value in kept.items():
        if key.endswith(".original"):
            front = key.removesuffix("original")
            plain[plain_name(key)] = value + kept[f"{front}0.up"] @ kept[f"{front}0.down"]
    checkpoint["state_dict"], checkpoint[ENTRY] = plain, kept


def unfold(checkpoint: dict[str, Any]) -> None:
    """Undo :func:`fold`, for a model whose matrices have adapters."""
    kept = checkpoint.get(ENTRY)
    if not kept:
        return
    merged = {plain_name(key) for key in kept}
    state = {k: v for k, v in checkpoint["state_dict"].items() if k not in merged}
    checkpoint["state_dict"] = {**state, **kept}
