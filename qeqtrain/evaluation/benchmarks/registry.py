"""Suites by name: nothing is imported to list them."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from qeqtrain.errors import UserMistake, nearest

if TYPE_CHECKING:
    from qeqtrain.evaluation.benchmarks.suite import Suite

SUITES = {
    "elasticity": "bulk and shear moduli of crystals by finite strains, against DFT",
    "phonon": "heat capacity of crystals at 300 K through phonopy, against DFT",
    "equilibrium": "relaxed cells and formation energies of crystals, against DFT",
    "diatomics": "curves of two atoms: smoothness, repulsion, and DFT where there is any",
    "eos": "energy over volume of crystals: bulk modulus, smoothness, pressure",
    "charges": "conservation, sum rules, transfer across vacuum, extensivity, locality, labels",
    "md": "energy drift; density, structure and diffusion of a molten salt",
    "speed": "atoms per second and memory by size",
}
"""Suite: one line about it. Each is the class ``BENCHMARK`` of the module of its name."""

NEEDS = {"phonon": ("phonopy", "phonon")}
"""Suite: the package it needs beyond those of every installation, and the extra with it."""


def unknown_suites(names: Iterable[str]) -> list[str]:
    """Say what is wrong with names of suites."""
    return [
        f"suite '{name}': expected {', '.join(SUITES)}{nearest(name, SUITES)}"
        for name in names
        if name not in SUITES
    ]


def missing_packages(names: Iterable[str]) -> list[str]:
    """Say which extra has to be installed for the suites."""
    return [
        f"suite '{name}' needs {NEEDS[name][0]}, which is not installed; "
        f"pip install 'qeqtrain[{NEEDS[name][1]}]'"
        for name in names
        if name in NEEDS and find_spec(NEEDS[name][0]) is None
    ]


def suite_class(name: str) -> type[Suite[Any]]:
    """Import one suite.

    Raises:
        UserMistake: there is none of that name.
    """
    if problems := unknown_suites([name]):
        raise UserMistake(*problems)
    found: type[Suite[Any]] = import_module(f"qeqtrain.evaluation.benchmarks.{name}").BENCHMARK
    return found
