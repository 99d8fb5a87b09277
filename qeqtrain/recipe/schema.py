"""Top level of a recipe: its keys, their types, and which classes may stand where.

Hydra could hold a recipe against these dataclasses itself, but would stop at the first mistake;
:mod:`qeqtrain.recipe.checking` reads them instead and reports every one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_type_hints

Node = Mapping[str, Any]

PREFIXES = (
    "qeqtrain.",
    "torch.optim.",
    "pytorch_lightning.callbacks.",
    "pytorch_lightning.loggers.",
)
"""Modules whose classes a recipe may name; the environment can add to them, a recipe cannot."""

ALLOW = "QEQTRAIN_ALLOW_TARGETS"
"""Environment variable with further prefixes (``mypackage.``), separated by spaces."""


@dataclass(frozen=True)
class Slot:
    """A place of the recipe where a part stands: a node with ``_target_``.

    Attributes:
        prefixes: modules whose classes fit here.
        filled: arguments that the program gives, not the recipe.
        many: the node holds parts by name instead of being one.
        optional: may be empty.
    """

    prefixes: tuple[str, ...]
    filled: tuple[str, ...] = ()
    many: bool = False
    optional: bool = False


@dataclass(frozen=True)
class PotentialSettings:
    """What turns the network's output into an energy (group ``potential``)."""

    elements: Literal["auto"] | list[str]
    references: Literal["least_squares", "none"] | dict[str, float]
    scale: Literal["force_rms", "force_rms_per_element"] | float
    charge_references: Literal["none", "per_charge", "per_composition", "learned"]
    unseen_charge_states: Literal["error", "allow"]
    atomic_dipoles: bool
    dtype: Literal["float32", "float64"]


@dataclass(frozen=True)
class RecipeSchema:
    """Every key that a recipe has; groups of parts carry a :class:`Slot`."""

    seed: int
    run_folder: str | None
    data: Annotated[Node, Slot(("qeqtrain.data.",))]
    backbone: Annotated[Node, Slot(("qeqtrain.nn.",))]
    charge: Annotated[Node, Slot(("qeqtrain.nn.",))]
    coupling: Annotated[Node, Slot(("qeqtrain.nn.",))]
    baselines: Annotated[Node, Slot(("qeqtrain.nn.",), many=True, optional=True)]
    potential: PotentialSettings
    loss: Annotated[Node, Slot(("qeqtrain.training.",))]
    optim: Annotated[Node, Slot(("qeqtrain.training.",))]
    trainer: Annotated[Node, Slot(("qeqtrain.training.",))]
    logger: Annotated[
        Node,
        Slot(
            ("qeqtrain.training.", "pytorch_lightning.loggers."),
            filled=("save_dir", "dir", "experiment"),
            optional=True,
        ),
    ]
    callbacks: Annotated[
        Node,
        Slot(("qeqtrain.training.", "pytorch_lightning.callbacks."), many=True, optional=True),
    ]
    finetune: Annotated[Node, Slot(("qeqtrain.training.finetuning.",), optional=True)]


def slots() -> dict[str, Slot]:
    """Groups of parts, and what may stand there."""
    hints = get_type_hints(RecipeSchema, include_extras=True)
    found = {name: getattr(hint, "__metadata__", ()) for name, hint in hints.items()}
    return {name: given[0] for name, given in found.items() if given}


NESTED: Mapping[str, Slot] = {
    "optim.optimizer": Slot(("torch.optim.",), filled=("params", "lr")),
    "coupling.backbone": Slot(("qeqtrain.nn.",)),
}
"""Parts within parts."""

POSITIVE = (
    "cutoff",
    "channels",
    "layers",
    "radial_functions",
    "radial_width",
    "cutoff_power",
    "projection",
    "average_neighbors",
)
"""Sizes of a model's parts, which a type alone does not keep finite and above zero."""

NOT_NEGATIVE = ("l_max", "radial_depth", "hardness_floor")
"""Those that may be zero."""

OTHER_NAMES: Mapping[str, str] = {
    # sizes of networks, as nequip, MACE, matgl, SchNetPack and FAIRChem call them
    "r_max": "cutoff",
    "rcut": "cutoff",
    "r_cut": "cutoff",
    "cutoff_radius": "cutoff",
    "cutoff_upper": "cutoff",
    "max_radius": "cutoff",
    "num_features": "channels",
    "n_features": "channels",
    "num_channels": "channels",
    "hidden_channels": "channels",
    "hidden_dim": "channels",
    "units": "channels",
    "lmax": "l_max",
    "max_l": "l_max",
    "max_ell": "l_max",
    "max_L": "l_max",
    "sh_lmax": "l_max",
    "hidden_irreps": "l_max",
    "feature_irreps_hidden": "l_max",
    "irreps_edge_sh": "l_max",
    "use_parity": "parity",
    "is_parity": "parity",
    "num_layers": "layers",
    "n_layers": "layers",
    "nblocks": "layers",
    "num_interactions": "layers",
    "n_interactions": "layers",
    "avg_num_neighbors": "average_neighbors",
    "num_bessels": "radial_functions",
    "num_radial_basis": "radial_functions",
    "num_rbf": "radial_functions",
    "n_rbf": "radial_functions",
    "max_n": "radial_functions",
    "rbf_type": "radial_basis",
    "num_basis": "radial_functions",
    "bessel_trainable": "train_bessel",
    "BesselBasis_trainable": "train_bessel",
    "num_cutoff_basis": "cutoff_power",
    "num_polynomial_cutoff": "cutoff_power",
    "polynomial_cutoff_p": "cutoff_power",
    "PolynomialCutoff_p": "cutoff_power",
    "invariant_layers": "radial_depth",
    "radial_mlp_depth": "radial_depth",
    "invariant_neurons": "radial_width",
    "radial_mlp_width": "radial_width",
    "charge_embedding": "conditioning",
    "use_charge_embedding": "conditioning",
    "train_sigma": "train_widths",
    # training
    "learning_rate": "lr",
    "ema_decay": "ema",
    "clip_grad": "gradient_clip",
    "gradient_clip_val": "gradient_clip",
    "max_num_epochs": "max_epochs",
    "epochs": "max_epochs",
    "num_epochs": "max_epochs",
    "batch_size": "batch_structures",
    "num_workers": "workers",
    "device": "accelerator",
    "energy_weight": "energy",
    "force_weight": "forces",
    "forces_weight": "forces",
    "force": "forces",
    "stress_weight": "stress",
    "charge_weight": "charges",
    "charges_weight": "charges",
    "dipole_weight": "dipole",
    # data
    "train_file": "train",
    "valid_file": "val",
    "val_file": "val",
    "validation": "val",
    "test_file": "test",
    "E0s": "references",
    "isolated_atomic_energies": "references",
    "default_dtype": "dtype",
    "model_dtype": "dtype",
    "chemical_symbols": "elements",
    "type_names": "elements",
    "atomic_numbers": "elements",
}
"""Names of other frameworks, answered with ours and not accepted."""

GENERATED: Mapping[str, str] = {
    "quickstart_clusters.h5": "alkali_halide_clusters {path} --count 600 --seed 1",
    "quickstart_cells.h5": "alkali_halides {path} --count 200 --seed 2",
    "gfn1_cells.h5": "alkali_halides {path} --count 240 --seed 3",
    "gfn2_cells.h5": "alkali_halides {path} --count 60 --seed 4 --method GFN2-xTB",
}
"""Files that the user makes with ``qeqtrain data generate``, and how."""
