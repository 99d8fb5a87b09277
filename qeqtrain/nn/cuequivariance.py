"""The product of :mod:`~qeqtrain.nn.tensor_product` by NVIDIA's cuEquivariance.

One kernel per layer on a GPU, in place of a few large torch operations. It takes directed
edges, so the list is doubled here. The library is optional, imported only where asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from qeqtrain.errors import UserMistake
from qeqtrain.nn.irreps import Irrep, Path, in_memory

INSTALL = "pip install 'cuequivariance-torch>=0.13' cuequivariance-ops-torch-cu12"


def _library() -> tuple[Any, Any]:
    """Import the two halves of the library.

    Raises:
        UserMistake: they are not installed.
    """
    try:
        import cuequivariance
        import cuequivariance_torch
    except ImportError as error:
        raise UserMistake(
            f"backbone.tensor_product is cuequivariance, which cannot be imported ({error}); "
            f"expected it beside a GPU: {INSTALL}, or use backbone.tensor_product=dense"
        ) from error
    return cuequivariance, cuequivariance_torch


class CuEquivarianceProduct(nn.Module):
    """Same arguments and results as :class:`~qeqtrain.nn.tensor_product.DenseProduct`.

    Args:
        channels: of every irrep of the neighbours' tensors, C, the same for all.
        l_max: highest degree of the direction tensors.
        paths: the couplings, as :func:`~qeqtrain.nn.irreps.couplings` lists them; parity is
            kept track of.

    Raises:
        UserMistake: the library is not there.
    """

    def __init__(
        self, channels: Mapping[Irrep, int], l_max: int, paths: Sequence[Path]
    ) -> None:
        super().__init__()
        cue, torch_library = _library()
        from cuequivariance.group_theory.experimental.e3nn import O3_e3nn

        names = "+".join(f"{n}x{i}" for i, n in channels.items())
        harmonics = "+".join(f"1x{k}{'eo'[k % 2]}" for k in range(l_max + 1))
        outs = {O3_e3nn.from_string(str(p.out)): p.out for p in paths}
        self.product = torch_library.ChannelWiseTensorProduct(
            cue.Irreps(O3_e3nn, names),
            cue.Irreps(O3_e3nn, harmonics),
            list(outs),
            layout=cue.ir_mul,
            shared_weights=False,
            internal_weights=False,
        )
        self.outs = [(outs[irrep], mul) for mul, irrep in self.product.irreps_out]
        # The library keeps weights in the order of its outputs, and those to one irrep in the
        # order of the couplings (version 0.13).
        self.paths = tuple(in_memory(paths, channels))
        self.irreps = list(channels)
        waiting = {out: [p for p in paths if p.out == out] for out in outs.values()}
        order = torch.tensor([self.paths.index(waiting[out].pop(0)) for out, _ in self.outs])
        self.register_buffer("order", order, persistent=False)
        signs = [(-1.0) ** degree for degree in range(l_max + 1) for _ in range(2 * degree + 1)]
        parity = torch.tensor(signs, dtype=torch.float64)
        self.register_buffer("parity", parity, persistent=False)

    def forward(
        self,
        x: Mapping[Irrep, Tensor],
        weights: Tensor,
        directions: Tensor,
        sender: Tensor,
        receiver: Tensor,
    ) -> dict[Irrep, Tensor]:
        """Sum the messages at every atom; see the dense product."""
        start, end = torch.cat([sender, receiver]), torch.cat([receiver, sender])
        y = torch.cat([directions, directions * self.parity.to(directions.dtype)])
        by_path = weights.unflatten(1, (len(self.paths), -1))
        w = by_path.index_select(1, self.order).flatten(1).repeat(2, 1)
        joint = torch.cat([x[irrep] for irrep in self.irreps], dim=1)  # (N, D, C)
        out = self.product(joint.index_select(0, start).flatten(1), y, w)
        total = out.new_zeros((len(joint), out.shape[1])).index_add(0, end, out)
        parts: dict[Irrep, list[Tensor]] = {}
        sizes = [irrep.dim * mul for irrep, mul in self.outs]
        for (irrep, _), part in zip(self.outs, total.split(sizes, dim=1), strict=True):
            parts.setdefault(irrep, []).append(part.unflatten(1, (irrep.dim, -1)))
        return {irrep: torch.cat(p, dim=-1) for irrep, p in parts.items()}
