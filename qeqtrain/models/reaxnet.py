"""ReaxNet: NequIP beneath polarizable charges of fixed parameters (arXiv 2410.13820).

The energy is that of a network, which sees its cutoff, plus that of cores and shells whose
parameters are fixed for each element. Charges do not depend on the network; their energy is
taken off the labels before training and added again afterwards.

Published weights are a pickle of jax-md's NequIP and two YAML files. The pickle is read
without being run (:mod:`~qeqtrain.models.plain_pickle`). Established from the authors'
programme: the three files, the keys of the configuration, the names and shapes of parameters,
and that row 0 of everything by species belongs to no element. The published file itself could
not be had: what in it differs from that is refused, with a list.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from ase.data import chemical_symbols
from torch import nn

from qeqtrain.errors import UserMistake
from qeqtrain.models.jax_nequip import (
    JaxConfig,
    expected_parameters,
    parameter_problems,
    read_config,
    read_yaml,
    readout_weights,
    translate_jax,
)
from qeqtrain.models.plain_pickle import read_arrays
from qeqtrain.models.potential import Potential, build_potential
from qeqtrain.nn.nequip import NequIP

FILES = ("params.pickle", "model_config.yaml", "mapping.yaml")
"""What the authors publish."""

NO_CHARGES = {"_target_": "qeqtrain.nn.charges.NoCharges"}
"""The network alone."""

PUBLISHED_CHARGES = {"_target_": "qeqtrain.nn.charges.PQEqCharges", "mode": "labels"}
"""Charges and shells beneath the published network, as its training labels were made."""


def reaxnet_spec(
    charge: Mapping[str, Any],
    *,
    cutoff: float = 5.0,
    channels: Sequence[int] = (128, 64, 4),
    layers: int = 5,
    radial_functions: int = 8,
    radial_width: int = 64,
    radial_depth: int = 2,
    dtype: Literal["float32", "float64"] = "float64",
) -> dict[str, Any]:
    """Write the recipe nodes of ReaxNet as published, for ``build_potential``.

    Args:
        charge: node of the charge model whose energy is added; :data:`NO_CHARGES` for none.
        cutoff: of the network, A.
        channels: of degree 0, 1, ...
        layers: exchanges with the neighbours.
        radial_functions: Bessel functions.
        radial_width: of the radial networks' hidden layers.
        radial_depth: how many of those.
        dtype: precision of the network.
    """
    kind = "FeatureCoupling" if dict(charge) == NO_CHARGES else "AdditiveCoupling"
    return {
        "backbone": {
            "_target_": "qeqtrain.nn.nequip.NequIP",
            "variant": "reaxnet",
            "parity": "ignored",
            "cutoff_power": "switch",
            "cutoff": cutoff,
            "channels": list(channels),
            "l_max": len(channels) - 1,
            "layers": layers,
            "radial_functions": radial_functions,
            "radial_width": radial_width,
            "radial_depth": radial_depth,
        },
        "charge": dict(charge),
        "coupling": {
            "_target_": f"qeqtrain.nn.couplings.{kind}",
            "readout": "linear",
            "hidden": [channels[0] // 2],
        },
        "dtype": dtype,
    }


def read_reaxnet(
    folder: Path,
    charge: Mapping[str, Any],
    *,
    dtype: Literal["float32", "float64"] = "float64",
    conventions: Mapping[str, Any] | None = None,
) -> Potential:
    """Read a ReaxNet as its authors publish it.

    Args:
        folder: holds ``params.pickle``, ``model_config.yaml`` and ``mapping.yaml``.
        charge: node of the charge model beside the network.
        dtype: precision of the network.
        conventions: of its training data.

    Raises:
        UserMistake: a missing file, a pickle that holds more than numbers, a network that
            differs from jax-md's, or parameters that are missing or unknown.
    """
    for name in FILES:
        if not (folder / name).is_file():
            raise UserMistake(f"{folder / name}: no such file; ReaxNet has {', '.join(FILES)}")
    config = read_config(folder / "model_config.yaml")
    elements = _read_elements(folder / "mapping.yaml", config)
    arrays = read_arrays(folder / "params.pickle")
    arrays = {name.removeprefix("params/"): value for name, value in arrays.items()}
    problems = parameter_problems(arrays, expected_parameters(config))
    if problems:
        raise UserMistake(*(f"{folder / 'params.pickle'}: {text}" for text in problems))
    potential = build_potential(
        reaxnet_spec(
            charge,
            cutoff=config.r_max,
            channels=config.channels,
            layers=config.graph_net_steps,
            radial_functions=config.num_basis,
            radial_width=config.radial_net_n_hidden,
            radial_depth=config.radial_net_n_layers,
            dtype=dtype,
        ),
        elements=elements,
        references=dict.fromkeys(elements, config.shift),
        scale=config.scale,
        average_neighbors=config.n_neighbors,
        conventions=conventions,
    )
    assert isinstance(potential.backbone, NequIP)
    tensors = {name: torch.tensor(np.asarray(value)).double() for name, value in arrays.items()}
    network = translate_jax(tensors, potential.backbone)
    (energy,) = (m for m in potential.coupling.modules() if isinstance(m, nn.Sequential))
    with torch.no_grad():
        potential.backbone.load_state_dict(network)
        for layer, weight in zip(energy, readout_weights(tensors), strict=True):
            layer.weight.copy_(weight)
    return potential


def _read_elements(path: Path, config: JaxConfig) -> list[int]:
    """Atomic numbers by increasing species; species 0 is none of them."""
    content = read_yaml(path)
    numbers = sorted(z for z in content if isinstance(z, int))
    if len(numbers) != len(content) or not all(0 < z < len(chemical_symbols) for z in numbers):
        raise UserMistake(f"{path}: expected atomic numbers as keys, met {list(content)[:5]}")
    if any(content[z] != k for k, z in enumerate(numbers, start=1)):
        raise UserMistake(f"{path}: expected species 1, 2, ... by increasing atomic number")
    if len(numbers) + 1 != config.n_elements:
        raise UserMistake(
            f"{path}: has {len(numbers)} elements, but n_elements is {config.n_elements}; "
            "expected one more than elements"
        )
    return numbers
