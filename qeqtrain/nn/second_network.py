"""NequIP-LR's coupling: a second network that sees the charges the first one led to.

The charges enter as numbers of every atom beside its species: binned into Gaussians, so that a
network of linear maps and gates can follow them. ahmad-research-group/nequip-charge is the
authors' programme; arXiv 2503.17949 the paper.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from qeqtrain.errors import UserMistake
from qeqtrain.nn.charges import Charges
from qeqtrain.nn.couplings import ChargeEnergy, Coupling
from qeqtrain.nn.mlp import UnitLinear
from qeqtrain.physics.tracing import traced
from qeqtrain.structures import Structures

Tails = Literal["soft", "none"]

MARGIN = 0.1
"""Part of the training data's charge range that is added at both ends."""

NARROWEST = 1.0
"""Shortest axis, e, that is made from data: bins a few me wide make the energy so rugged a
function of the charges that these are caught in it (carbon chains: 52 instead of 18 me)."""

logger = logging.getLogger(__name__)


class ChargeBins(nn.Module):
    r"""Gaussians of a charge on a regular grid.

    .. math:: b_k = \exp\big(-(q - c_k)^2 / w^2\big), \qquad w = (q_{max} - q_{min}) / K

    As published (``tails="none"``) an atom whose charge leaves the range has all-zero bins and
    says nothing any more. With ``soft`` tails the charge is first bent smoothly to stay at the
    end of the range.

    Args:
        bins: K.
        lowest: q_min, e.
        highest: q_max, e.
        tails: see above.
    """

    def __init__(self, bins: int, lowest: float, highest: float, tails: Tails) -> None:
        super().__init__()
        self.lowest, self.highest, self.tails = lowest, highest, tails
        self.spacing = (highest - lowest) / bins
        centres = torch.linspace(lowest, highest, bins, dtype=torch.float64)
        self.register_buffer("centres", centres, persistent=False)
        self.warned = False

    def forward(self, charges: Tensor) -> Tensor:
        """Map charges ``(N,)``, e, to ``(N, K)``, float64."""
        q, w = charges, self.spacing
        self._remark(q)
        if self.tails == "soft":
            q = self.lowest + w * functional.softplus((q - self.lowest) / w)
            q = self.highest - w * functional.softplus((self.highest - q) / w)
        return torch.exp(-(((q[:, None] - self.centres) / w) ** 2))

    def _remark(self, charges: Tensor) -> None:
        """Say once that charges left the range; on a GPU this would cost a wait."""
        if self.warned or traced() or charges.device.type != "cpu" or charges.numel() == 0:
            return
        low, high = float(charges.detach().min()), float(charges.detach().max())
        if low < self.lowest or high > self.highest:
            self.warned = True
            logger.warning(
                "charges between %+.3f and %+.3f e leave the bins of the second network, %+.3f "
                "to %+.3f e; widen coupling.charge_range if this goes on",
                low,
                high,
                self.lowest,
                self.highest,
            )


class SecondNetwork(Coupling):
    """A second backbone reads binned charges and gives the short-range energy.

    Nothing else of the first network is passed on. The energy of the equilibration is added.

    Args:
        backbone: recipe node of the second network.
        layers: interaction layers of the second network; ``None``: as its node says.
        bins: Gaussians on the charge axis; 50 as published.
        charge_range: ends of the axis, e; ``auto``: from the charges of the training data, at
            least 1 e long, or -1 to 1 where they have none.
        tails: ``soft``, or ``none`` as published: a charge off the axis is then not seen.
        projection: numbers that the bins are reduced to by a linear map before they enter the
            network, whose weights grow with them; ``None``: no reduction, as published.
        charge_energy: energy of the equilibration that is added.
        elements: atomic numbers the model knows.
        charge_features: numbers per atom of the charge model.
        equilibrated: whether the charges minimise an energy.
        data_charge_range: smallest and largest charge of the training data, if there are any.
        build: makes a backbone from a node and the number of its further inputs.

    Raises:
        UserMistake: no charges to read, or no sense in the bins.
    """

    def __init__(
        self,
        backbone: Mapping[str, Any],
        layers: int | None = None,
        bins: int = 16,
        charge_range: Literal["auto"] | list[float] = "auto",
        tails: Tails = "soft",
        projection: int | None = None,
        charge_energy: ChargeEnergy = "full",
        *,
        elements: Sequence[int],
        charge_features: int,
        data_charge_range: Sequence[float] | None,
        build: Callable[[Mapping[str, Any], int], nn.Module],
        equilibrated: bool = True,
    ) -> None:
        if charge_features == 0:
            raise UserMistake(
                "coupling=second_network reads charges, but charge=none has none; choose "
                "charge=gaussian or diagonal, or coupling=feature"
            )
        if bins < 2:
            raise UserMistake(f"coupling.bins is {bins}; expected 2 or more")
        if projection is not None and projection < 1:
            raise UserMistake(
                f"coupling.projection is {projection}; expected 1 or more, or null for none"
            )
        super().__init__(charge_energy, charge_features, equilibrated=equilibrated)
        lowest, highest = _range_of(charge_range, data_charge_range)
        self.bins = ChargeBins(bins, lowest, highest, tails)
        self.projection = (
            None if projection is None else nn.Linear(bins, projection, bias=False)
        )
        node = dict(backbone) if layers is None else {**backbone, "layers": layers}
        self.backbone = build(node, bins if projection is None else projection)
        channels = self.backbone.out_channels
        self.energy = nn.Sequential(
            UnitLinear(channels, max(1, channels // 2)),
            UnitLinear(max(1, channels // 2), 1),
        )

    def forward(
        self,
        structures: Structures,
        species: Tensor,
        features: Tensor,
        charges: Charges | None,
    ) -> Tensor:
        """Read the energy of every atom, in units of the model's scale, shape ``(N,)``.

        Args:
            structures: with edges for ``backbone``.
            species: index of every atom's element, shape ``(N,)``.
            features: of the first network, shape ``(N, C)``; not used.
            charges: of the charge model.
        """
        assert charges is not None  # refused above
        binned = self.bins(charges.charges).to(next(self.energy.parameters()).dtype)  # (N, K)
        if self.projection is not None:
            binned = self.projection(binned)
        x = self.backbone(structures, species, binned)  # (N, C)
        return self.energy(x).squeeze(-1)


def _range_of(
    wanted: Literal["auto"] | Sequence[float], met: Sequence[float] | None
) -> tuple[float, float]:
    """Ends of the charge axis, e."""
    if wanted == "auto":
        low, high = met if met is not None else (-1.0, 1.0)
        middle, half = 0.5 * (low + high), (0.5 + MARGIN) * (high - low)
        half = max(half, 0.5 * NARROWEST)
        return middle - half, middle + half
    ends = [float(x) for x in wanted] if not isinstance(wanted, str) else []
    if len(ends) != 2 or not all(map(math.isfinite, ends)) or not ends[0] < ends[1]:
        raise UserMistake(
            f"coupling.charge_range is {wanted!r}; expected auto or two charges in e, lower "
            "first"
        )
    return ends[0], ends[1]
