"""Linear maps of tensors: they mix channels, never components."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from qeqtrain.nn.irreps import Irrep


class IrrepLinear(nn.Module):
    """Mix channels, with a matrix for every irrep.

    Weights start normal; outputs are divided by the root of the number of inputs.

    Args:
        sizes: channels in and out of every irrep.
    """

    def __init__(self, sizes: dict[Irrep, tuple[int, int]]) -> None:
        super().__init__()
        self.weights = nn.ParameterDict(
            {str(irrep): torch.randn(a, b) for irrep, (a, b) in sizes.items()}
        )

    def forward(self, x: dict[Irrep, Tensor], scale: float = 1.0) -> dict[Irrep, Tensor]:
        """Map ``(N, 2l + 1, in)`` by irrep to ``(N, 2l + 1, out)``, times ``scale``."""
        found = {}
        for irrep, inputs in x.items():
            weight = self.weights[str(irrep)]
            found[irrep] = inputs @ (weight * (scale * weight.shape[0] ** -0.5))
        return found


class SelfConnection(nn.Module):
    """Mix an atom's channels by a matrix that depends on its attributes.

    Args:
        attributes: A, numbers per atom that the matrix is linear in.
        sizes: channels in and out of every irrep.
    """

    def __init__(self, attributes: int, sizes: dict[Irrep, tuple[int, int]]) -> None:
        super().__init__()
        self.weights = nn.ParameterDict(
            {str(i): torch.randn(attributes, a, b) for i, (a, b) in sizes.items()}
        )

    def forward(
        self, x: dict[Irrep, Tensor], table: Tensor | None, species: Tensor, own: Tensor | None
    ) -> dict[Irrep, Tensor]:
        """Map ``(N, 2l + 1, in)`` by irrep to ``(N, 2l + 1, out)``.

        Matrices of the species are made once for each species, not for each atom.

        Args:
            x: tensors of the atoms.
            table: first attributes of every species, shape ``(S, <= A)``; ``None``: one-hot.
            species: row of every atom, shape ``(N,)``.
            own: what every atom adds to its last attributes, shape ``(N, <= A)``, or ``None``.
        """
        found = {}
        for irrep in x:
            if str(irrep) not in self.weights:
                continue
            weight = self.weights[str(irrep)]
            matrix = (weight * (weight.shape[0] * weight.shape[1]) ** -0.5).flatten(1)
            of_species = matrix if table is None else table @ matrix[: table.shape[1]]
            mixing = of_species.index_select(0, species)
            if own is not None:
                mixing = mixing + own @ matrix[-own.shape[1] :]
            found[irrep] = torch.bmm(x[irrep], mixing.unflatten(1, weight.shape[1:]))
        return found
