"""Charge models: from an atom's features to its charge, with a potential and an energy."""

from qeqtrain.nn.charges.base import ChargeResponse, Charges, NoCharges
from qeqtrain.nn.charges.diagonal import DiagonalCharges
from qeqtrain.nn.charges.gaussian import GaussianCharges
from qeqtrain.nn.charges.local import LocalCharges
from qeqtrain.nn.charges.polarizable import PolarizableCharges, PQEqCharges

__all__ = [
    "ChargeResponse",
    "Charges",
    "DiagonalCharges",
    "GaussianCharges",
    "LocalCharges",
    "NoCharges",
    "PQEqCharges",
    "PolarizableCharges",
]
