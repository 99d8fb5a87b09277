"""Multilayer perceptrons, as all networks of the package use them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional


class MLP(nn.Module):
    """Linear layers with one activation between them and, if asked, after the last.

    Args:
        sizes: width of the input, of every hidden layer and of the output.
        activation: applied between layers.
        activate_last: apply it to the output as well.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        activation: Callable[[Tensor], Tensor] = functional.silu,
        *,
        activate_last: bool = False,
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(sizes))
        self.activation = activation
        self.activate_last = activate_last

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(..., sizes[0])`` to ``(..., sizes[-1])``."""
        last = len(self.layers) - 1
        for i, layer in enumerate(self.layers):
            x = layer(x)
            if i < last or self.activate_last:
                x = self.activation(x)
        return x


class UnitLinear(nn.Module):
    """A linear map without bias, as NequIP has them: x W / sqrt(inputs), W of unit variance.

    Under Adam all weights then move at one pace, however wide the layer.

    Args:
        inputs: width of the input.
        outputs: width of the output.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(inputs, outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(..., inputs)`` to ``(..., outputs)``."""
        return x @ (self.weight * self.weight.shape[0] ** -0.5)


class GatedMLP(nn.Module):
    """One perceptron multiplied by the sigmoid of another of the same shape.

    Args:
        sizes: width of the input, of every hidden layer and of the output.
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        super().__init__()
        self.value = MLP(sizes)
        self.gate = MLP(sizes)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(..., sizes[0])`` to ``(..., sizes[-1])``."""
        return self.value(x) * torch.sigmoid(self.gate(x))
