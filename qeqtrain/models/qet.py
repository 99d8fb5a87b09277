"""QET, the charge-equilibrated TensorNet (arXiv 2511.07249), and its published weights.

TensorNet reads the surroundings of every atom; electronegativity and hardness follow from its
features; a diagonal equilibration turns them into charges; an atom's energy is read from its
features, its charge and the potential of the charges around it.

The programme it was published with (matgl) changed its message convention afterwards, and file
names do not say which one a file belongs to: whoever imports one has to.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from ase.data import atomic_numbers
from torch import Tensor

from qeqtrain.errors import UserMistake
from qeqtrain.models.potential import Potential, build_potential

Convention = Literal["corrected", "legacy"]


def qet_spec(
    convention: Convention = "corrected",
    *,
    cutoff: float = 5.0,
    channels: int = 64,
    layers: int = 3,
    radial_functions: int = 9,
    hardness: Literal["environment", "species"] = "environment",
    dtype: Literal["float32", "float64"] = "float32",
) -> dict[str, Any]:
    """Write the recipe nodes of a QET, for ``build_potential``."""
    return {
        "backbone": {
            "_target_": "qeqtrain.nn.tensornet.TensorNet",
            "cutoff": cutoff,
            "channels": channels,
            "layers": layers,
            "radial_functions": radial_functions,
            "radial_basis": "smooth_bessel",
            "convention": convention,
        },
        "charge": {
            "_target_": "qeqtrain.nn.charges.DiagonalCharges",
            "hardness": hardness,
            "cutoff": cutoff,
            "convention": convention,
        },
        "coupling": {"_target_": "qeqtrain.nn.couplings.FeatureCoupling"},
        "dtype": dtype,
    }


def read_matgl(
    folder: Path,
    convention: Convention | None,
    *,
    dtype: Literal["float32", "float64"] = "float32",
    conventions: Mapping[str, Any] | None = None,
) -> Potential:
    """Read a QET saved by matgl: ``model.json`` and ``state.pt``.

    Args:
        folder: holds the two files.
        convention: which the weights were trained under; the files do not say.
        dtype: precision of the network.
        conventions: of its training data.

    Raises:
        UserMistake: no convention given, a missing file, or another model than QET.
    """
    if convention is None:
        raise UserMistake(
            f"{folder}: matgl files do not say which message convention their weights belong "
            "to; state 'legacy' (matgl up to 2.1.2) or 'corrected'"
        )
    for name in ("model.json", "state.pt"):
        if not (folder / name).is_file():
            raise UserMistake(f"{folder / name}: no such file; a matgl model has both")
    outer = json.loads((folder / "model.json").read_text())["kwargs"]["model"]
    if outer.get("@class") != "QET":
        raise UserMistake(f"{folder}: holds a matgl {outer.get('@class')}, expected a QET")
    args = outer["init_args"]
    if not args["use_smooth"] or args["rbf_type"] != "SphericalBessel":
        raise UserMistake(
            f"{folder}: radial basis {args['rbf_type']} (smooth: {args['use_smooth']}), "
            "expected the smooth spherical Bessel functions"
        )
    if not args["is_hardness_envs"]:
        raise UserMistake(
            f"{folder}: has one hardness per species; only hardness by environment is read"
        )
    state = torch.load(folder / "state.pt", map_location="cpu", weights_only=True)
    elements = [atomic_numbers[s] for s in args["element_types"]]
    offsets = state["element_refs.property_offset"].double().tolist()
    potential = build_potential(
        qet_spec(
            convention,
            cutoff=args["cutoff"],
            channels=args["units"],
            layers=args["nblocks"],
            radial_functions=args["max_n"],
            dtype=dtype,
        ),
        elements=elements,
        references=dict(zip(elements, offsets, strict=True)),
        scale=float(state["data_std"]),
        conventions=conventions,
    )
    potential.load_state_dict(translate_matgl(state, args["nblocks"]))
    return potential


def translate_matgl(state: Mapping[str, Tensor], layers: int) -> dict[str, Tensor]:
    """Rename matgl's tensors to ours and bring them into our layout.

    Its radial and gate networks write the three parts of one channel next to each other, ours
    the channels of one part; and it mixes the species of an edge by one matrix for both ends.
    """
    take = {k.removeprefix("model."): v for k, v in state.items()}
    ours: dict[str, Tensor] = {}

    def linear(theirs: str, name: str, *, partwise: bool = False) -> None:
        for kind in ("weight", "bias"):
            value = take[f"{theirs}.{kind}"]
            if partwise:  # rows (C, 3) -> (3, C)
                value = value.unflatten(0, (-1, 3)).transpose(0, 1).flatten(0, 1)
            ours[f"{name}.{kind}"] = value

    def mixing(theirs: str, first: int, name: str) -> None:
        ours[f"{name}.weight"] = torch.stack(
            [take[f"{theirs}.{first + k}.weight"] for k in range(3)]
        )

    here, there = "backbone.embedding", "tensor_embedding"
    ours[f"{here}.species.weight"] = take[f"{there}.emb.weight"]
    first, second = take[f"{there}.emb2.weight"].chunk(2, dim=1)
    ours[f"{here}.first.weight"], ours[f"{here}.second.weight"] = first, second
    ours[f"{here}.first.bias"] = take[f"{there}.emb2.bias"]
    for kind in ("weight", "bias"):
        filters = [take[f"{there}.distance_proj{k}.{kind}"] for k in (1, 2, 3)]
        ours[f"{here}.filters.{kind}"] = torch.cat(filters)
    linear(f"{there}.init_norm", f"{here}.norm")
    mixing(f"{there}.linears_tensor", 0, f"{here}.mixing")
    linear(f"{there}.linears_scalar.0", f"{here}.gates.layers.0")
    linear(f"{there}.linears_scalar.1", f"{here}.gates.layers.1", partwise=True)

    for i in range(layers):
        here, there = f"backbone.interactions.{i}", f"layers.{i}"
        for k in range(3):
            linear(f"{there}.linears_scalar.{k}", f"{here}.filters.layers.{k}", partwise=k == 2)
        mixing(f"{there}.linears_tensor", 0, f"{here}.before")
        mixing(f"{there}.linears_tensor", 3, f"{here}.after")

    linear("out_norm", "backbone.norm")
    linear("linear", "backbone.readout")
    for k in range(3):
        linear(f"chi_readout.layers.{2 * k}", f"charge.electronegativity.layers.{k}")
        linear(f"hardness_readout.layers.{2 * k}", f"charge.hardness.layers.{k}")
    ours["charge.width"] = take["sigma"]
    linear("norm", "coupling.norm")
    for k in range(4):
        linear(f"final_layer.gated.layers.{2 * k}", f"coupling.energy.value.layers.{k}")
        linear(f"final_layer.gated.gates.{2 * k}", f"coupling.energy.gate.layers.{k}")
    return ours
