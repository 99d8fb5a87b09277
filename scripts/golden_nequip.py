"""Write tests/golden/nequip/current.json: features of nequip's own model, and its weights.

Run in an environment with nequip 0.19.1:

    OMP_NUM_THREADS=1 python scripts/golden_nequip.py
"""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from ase.build import bulk
from nequip.data import AtomicDataDict, compute_neighborlist_, from_ase
from nequip.data.transforms import ChemicalSpeciesToAtomTypeMapper
from nequip.model import NequIPGNNModel
from nequip.utils.global_state import set_global_state

OUT = Path(__file__).resolve().parents[1] / "tests/golden/nequip/current.json"
SHAPE = {"l_max": 2, "num_layers": 3, "num_features": 4, "parity": True}


def main() -> None:
    """Evaluate a rattled crystal and write everything down."""
    set_global_state()
    atoms = bulk("NaCl", "rocksalt", a=5.4, cubic=True)
    atoms.positions += 0.1 * np.random.default_rng(0).normal(size=(8, 3))
    names = ["Cl", "Na"]
    model = NequIPGNNModel(
        seed=0,
        model_dtype="float64",
        compile_mode="eager",
        type_names=names,
        r_max=4.0,
        radial_mlp_depth=2,
        radial_mlp_width=8,
        avg_num_neighbors=10.0,
        **SHAPE,
    )
    mapper = ChemicalSpeciesToAtomTypeMapper(model_type_names=names)
    frame = mapper(compute_neighborlist_(from_ase(atoms), r_max=4.0))
    features = []
    paths = {}
    for name, module in model.named_modules():
        if name.endswith("layer2_convnet"):
            module.register_forward_hook(lambda _m, _i, o: features.append(o["node_features"]))
        if name.endswith("tp_scatter"):
            mid, inputs = module.irreps_mid, module.feature_irreps_in
            paths[name.split(".")[-3]] = [
                [str(inputs[i.i_in1].ir), i.i_in2, str(mid[i.i_out].ir)]
                for i in module.tp.instructions
            ]
    model(AtomicDataDict.batched_from_list([frame]))
    kept = {
        name.removeprefix("model.func."): value.tolist()
        for name, value in model.state_dict().items()
        if name.endswith("weight") and "readout" not in name
    }
    golden = {
        "made_by": f"nequip {version('nequip')}, torch {torch.__version__}",
        "numbers": atoms.numbers.tolist(),
        "positions": atoms.positions.tolist(),
        "cell": atoms.cell.array.tolist(),
        "elements": [17, 11],
        "paths": paths,
        "weights": kept,
        "features": features[0].tolist(),
    }
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(golden))


if __name__ == "__main__":
    main()
