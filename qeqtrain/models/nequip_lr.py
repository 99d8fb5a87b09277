"""NequIP-LR, global charge equilibration between two NequIP networks (arXiv 2503.17949).

A first network reads the electronegativity of every atom; Gaussian charges that all interact
come to rest under the total charge; a second network reads the binned charges and gives the
short-range energy, to which the energy of the equilibration is added. Charges are never
detached: forces run through the solve.

The authors' programme has no interaction between the atoms of a periodic cell, and a hardness
without a floor. Here crystals have Ewald's sum; the floor is an option (``hardness_floor``),
and off in this faithful form.
"""

from __future__ import annotations

from typing import Any, Literal


def nequip_lr_spec(
    *,
    l_max: int = 1,
    channels: int = 32,
    layers: int = 4,
    second_layers: int = 4,
    radial_depth: int = 2,
    cutoff: float = 5.0,
    charge_range: tuple[float, float] = (-0.5, 0.5),
    dtype: Literal["float32", "float64"] = "float64",
) -> dict[str, Any]:
    """Write the recipe nodes of NequIP-LR as published, for ``build_potential``.

    Args:
        l_max: highest order of the equivariant features.
        channels: features of every order and parity.
        layers: of the network that reads electronegativities.
        second_layers: of the network that reads charges.
        radial_depth: hidden layers, 64 wide, of the radial networks.
        cutoff: A.
        charge_range: ends of the charge bins, e.
        dtype: precision of the networks.
    """
    backbone = {
        "_target_": "qeqtrain.nn.nequip.NequIP",
        "variant": "lr",
        "cutoff": cutoff,
        "channels": channels,
        "l_max": l_max,
        "layers": layers,
        "radial_depth": radial_depth,
    }
    return {
        "backbone": backbone,
        "charge": {
            "_target_": "qeqtrain.nn.charges.GaussianCharges",
            "hardness": "species",
            "hardness_floor": 0.0,
            "head": "linear",
        },
        "coupling": {
            "_target_": "qeqtrain.nn.second_network.SecondNetwork",
            "backbone": backbone,
            "layers": second_layers,
            "bins": 50,
            "charge_range": list(charge_range),
            "tails": "none",
        },
        "dtype": dtype,
    }
