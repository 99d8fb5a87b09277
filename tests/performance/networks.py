"""The four networks of the papers, small, and a step of training."""

from __future__ import annotations

from typing import Any

import torch

from qeqtrain.models.nequip_lr import nequip_lr_spec
from qeqtrain.models.potential import Potential, build_potential
from qeqtrain.models.qet import qet_spec
from qeqtrain.models.reaxnet import NO_CHARGES, PUBLISHED_CHARGES, reaxnet_spec
from qeqtrain.structures import Prediction, Structures
from tests.systems import ELEMENTS

NEQUIP: dict[str, Any] = {
    "backbone": {
        "_target_": "qeqtrain.nn.nequip.NequIP",
        "channels": 16,
        "l_max": 2,
        "layers": 2,
        "parity": False,
    },
    "charge": NO_CHARGES,
    "coupling": {"_target_": "qeqtrain.nn.couplings.FeatureCoupling", "readout": "linear"},
}


def specifications(dtype: str) -> dict[str, dict[str, Any]]:
    """Describe the networks; NequIP-LR with both solvers."""
    lr = nequip_lr_spec(channels=8, layers=2, second_layers=2, charge_range=(-2.0, 2.0))
    lr["charge"] |= {"hardness_floor": 1.0, "accuracy": 1e-8}
    iterative = {**lr, "charge": {**lr["charge"], "solver": "iterative", "accuracy": 1e-6}}
    found = {
        "qet": qet_spec(channels=32, layers=2),
        "nequip": NEQUIP,
        "nequip_lr": lr,
        "nequip_lr, iterative": iterative,
        "reaxnet": reaxnet_spec(PUBLISHED_CHARGES, channels=(16, 8, 4), layers=2),
    }
    return {name: {**spec, "dtype": dtype} for name, spec in found.items()}


def network(name: str, dtype: str = "float32") -> Potential:
    """Build one of them, untrained."""
    torch.manual_seed(0)
    return build_potential(
        specifications(dtype)[name],
        elements=ELEMENTS,
        references=dict.fromkeys(ELEMENTS, 0.0),
        scale=1.0,
        average_neighbors=15.0,
    )


def train_once(potential: Potential, batch: Structures) -> Prediction:
    """Predict, compare with zero, and differentiate in the weights."""
    potential.zero_grad(set_to_none=True)
    found = potential(batch, forces=True, stress=True)
    assert found.forces is not None
    loss = found.energy.square().mean() + found.forces.square().mean()
    loss.backward(inputs=[p for p in potential.parameters() if p.requires_grad])
    return found
