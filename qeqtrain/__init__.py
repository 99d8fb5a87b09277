"""Machine-learning interatomic potentials that know where the charge is.

    potential = qeqtrain.load("runs/quickstart/latest")
    prediction = potential(atoms)                       # energy, forces, stress, charges, ...
    atoms.calc = qeqtrain.QeqCalculator("qet-matq")     # the same in ASE

Everything is imported on first use, so that ``import qeqtrain`` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qeqtrain.calculator import QeqCalculator
    from qeqtrain.models.archive import load
    from qeqtrain.models.potential import Potential
    from qeqtrain.structures import Prediction, Structures

__version__ = "0.1.0"

__all__ = ["Potential", "Prediction", "QeqCalculator", "Structures", "load"]

_HOMES = {
    "QeqCalculator": "qeqtrain.calculator",
    "load": "qeqtrain.models.archive",
    "Potential": "qeqtrain.models.potential",
    "Prediction": "qeqtrain.structures",
    "Structures": "qeqtrain.structures",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use (PEP 562)."""
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'qeqtrain' has no attribute {name!r}")
