"""Polarizable charge equilibration: cores that share charge, and shells on springs."""

from qeqtrain.physics.polarization.elements import PUBLISHED, table_parameters, table_rows
from qeqtrain.physics.polarization.modes import Gradients, Mode, Polarization, polarize
from qeqtrain.physics.polarization.parameters import (
    Constants,
    Parameters,
    own_interaction,
    own_stiffness,
)

__all__ = [
    "PUBLISHED",
    "Constants",
    "Gradients",
    "Mode",
    "Parameters",
    "Polarization",
    "own_interaction",
    "own_stiffness",
    "polarize",
    "table_parameters",
    "table_rows",
]
