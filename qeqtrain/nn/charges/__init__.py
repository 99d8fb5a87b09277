"""Charge models: from an atom's features to its charge, with a potential and an energy."""

from qeqtrain.nn.charges.base import Charges, NoCharges
from qeqtrain.nn.charges.diagonal import DiagonalCharges

__all__ = ["Charges", "DiagonalCharges", "NoCharges"]
