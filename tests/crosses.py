"""Every cross of backbone, charge model and coupling, small enough for finite differences."""

from __future__ import annotations

from typing import Any

import torch

from qeqtrain.models.potential import Potential, build_potential
from tests.systems import ELEMENTS

BACKBONES: dict[str, dict[str, Any]] = {
    "tensornet": {
        "_target_": "qeqtrain.nn.tensornet.TensorNet",
        "cutoff": 4.0,
        "channels": 8,
        "layers": 2,
    },
    "nequip": {
        "_target_": "qeqtrain.nn.nequip.NequIP",
        "cutoff": 4.0,
        "channels": 4,
        "l_max": 1,
        "layers": 2,
        "radial_width": 8,
    },
}

CHARGES: dict[str, dict[str, Any]] = {
    "none": {"_target_": "qeqtrain.nn.charges.NoCharges"},
    "diagonal": {"_target_": "qeqtrain.nn.charges.DiagonalCharges", "cutoff": 4.0},
    "gaussian": {"_target_": "qeqtrain.nn.charges.GaussianCharges", "accuracy": 1e-9},
    "polarizable": {
        "_target_": "qeqtrain.nn.charges.PolarizableCharges",
    },
    "pqeq": {"_target_": "qeqtrain.nn.charges.PQEqCharges"},
    "local": {"_target_": "qeqtrain.nn.charges.LocalCharges", "cutoff": 4.0},
}

COUPLINGS: dict[str, dict[str, Any]] = {
    "feature": {"_target_": "qeqtrain.nn.couplings.FeatureCoupling"},
    "full": {"_target_": "qeqtrain.nn.couplings.AdditiveCoupling", "charge_energy": "full"},
    "coulomb": {
        "_target_": "qeqtrain.nn.couplings.AdditiveCoupling",
        "charge_energy": "coulomb",
    },
    "variational": {"_target_": "qeqtrain.nn.couplings.VariationalCoupling"},
    "second": {
        "_target_": "qeqtrain.nn.second_network.SecondNetwork",
        "bins": 6,
        "projection": 3,
        "layers": 1,
    },
}

TAKES = {"none": ("feature",), "local": ("feature", "coulomb"), "pqeq": ("full",)}
"""Couplings of the charge models that do not take all of them."""

CROSSES = [
    (backbone, charge, coupling)
    for backbone in BACKBONES
    for charge in CHARGES
    for coupling in COUPLINGS
    if coupling in TAKES.get(charge, COUPLINGS)
]


def small_cross(
    backbone: str,
    charge: str,
    coupling: str,
    *,
    seed: int = 0,
    baselines: dict[str, Any] | None = None,
    charge_options: dict[str, Any] | None = None,
    **options: Any,
) -> Potential:
    """Build an untrained potential from the small parts above.

    Args:
        backbone: key of ``BACKBONES``.
        charge: key of ``CHARGES``.
        coupling: key of ``COUPLINGS``.
        seed: of the weights.
        baselines: nodes by name.
        charge_options: further arguments of the charge model.
        **options: further arguments of the backbone.
    """
    torch.manual_seed(seed)
    first = {**BACKBONES[backbone], **options}
    node = dict(COUPLINGS[coupling])
    if coupling == "second":
        node["backbone"] = first
    spec = {
        "backbone": first,
        "charge": {**CHARGES[charge], **(charge_options or {})},
        "coupling": node,
        "baselines": baselines,
        "dtype": "float64",
    }
    return build_potential(
        spec,
        elements=ELEMENTS,
        references={z: -0.5 * z for z in ELEMENTS},
        scale=1.7,
        average_neighbors=12.0,
        conventions={"charge_states": [0.0, 1.0], "spins": [1.0]},
    ).eval()
