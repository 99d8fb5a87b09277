"""Features of nequip 0.19's own model (scripts/golden_nequip.py), with its weights in ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from ase import Atoms
from torch import Tensor

from qeqtrain.neighbors import with_pairs
from qeqtrain.nn.irreps import SCALAR
from qeqtrain.nn.nequip import Layer, NequIP
from qeqtrain.structures import Structure, collate

C = 4


def fill(layer: Layer, theirs: dict[str, Tensor], paths: list[list[Any]]) -> None:
    """Copy the weights of a layer; e3nn keeps those of all irreps in one flat tensor."""
    for k in range(2):
        layer.weights.weights[k].copy_(theirs[f"edge_mlp.mlp.{2 * k}.weight"])
    order = [paths.index([str(p.feature), p.edge, str(p.out)]) for p in layer.product.paths]
    last = theirs["edge_mlp.mlp.4.weight"].unflatten(1, (-1, C))
    layer.weights.weights[2].copy_(last[:, order].flatten(1))

    fed = [n for n in ("0e", "0o", "1e", "1o", "2e", "2o") if n in layer.before.weights]
    for name, w in zip(fed, theirs["linear_1.weight"].reshape(-1, C, C), strict=True):
        layer.before.weights[name].copy_(w)

    # Gates of nequip follow its hidden irreps, 1e 1o 2e 2o; ours true before pseudo.
    hidden = [n for n in ("1e", "1o", "2e", "2o") if n in {str(i) for i in layer.gate.gated}]
    gates = [torch.arange(C)]
    gates += [C * (1 + hidden.index(str(i))) + torch.arange(C) for i in layer.gate.gated]
    columns = torch.cat(gates)

    def unpack(flat: Tensor, names: list[str], weights: torch.nn.ParameterDict) -> None:
        start = 0
        for name in (n for n in names if n in weights):
            target = weights[name]
            piece = flat[start : start + target.numel()]
            start += target.numel()
            if target.dim() == 3:  # e3nn: channel, attribute, out
                piece = piece.reshape(C, -1, target.shape[2]).transpose(0, 1)
            piece = piece.reshape(target.shape)
            target.copy_(piece[..., columns] if name == str(SCALAR) else piece)
        assert start == len(flat)

    # Messages lie in the order of e3nn's sorting.
    unpack(theirs["linear_2.weight"], ["0o", "0e", "1o", "1e", "2o", "2e"], layer.after.weights)
    if layer.self_connection is not None:
        unpack(theirs["sc.weight"], fed, layer.self_connection.weights)


def test_features_are_those_of_nequip() -> None:
    golden = json.loads((Path(__file__).parent / "nequip/current.json").read_text())
    net = NequIP(
        cutoff=4.0,
        channels=C,
        l_max=2,
        layers=3,
        radial_width=8,
        train_bessel=False,
        elements=golden["elements"],
        average_neighbors=10.0,
    ).double()
    weights = {k: torch.tensor(v, dtype=torch.float64) for k, v in golden["weights"].items()}
    with torch.no_grad():
        net.embedding.copy_(weights["type_embed.embed_module.weight"])
        for k, layer in enumerate(net.layers):
            start = f"layer{k}_convnet.conv."
            own = {n.removeprefix(start): w for n, w in weights.items() if n.startswith(start)}
            fill(layer, own, golden["paths"][f"layer{k}_convnet"])
    atoms = Atoms(golden["numbers"], golden["positions"], cell=golden["cell"], pbc=True)
    s = collate([with_pairs(Structure.from_atoms(atoms, total_charge=0.0), net.cutoffs)])
    species = torch.tensor([golden["elements"].index(int(z)) for z in s.numbers])
    expected = torch.tensor(golden["features"], dtype=torch.float64)
    torch.testing.assert_close(net(s, species), expected, rtol=0, atol=1e-13)
