"""Charge equilibration against an independent float64 program without automatic derivatives.

The files and the description of that program (README.md) are those of the project's reference
data, folder golden/qeq.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase.data import atomic_numbers
from torch import Tensor

from qeqtrain.neighbors import with_pairs
from qeqtrain.physics.ewald import CoulombReach
from qeqtrain.physics.qeq import equilibrate
from qeqtrain.physics.response import strained
from qeqtrain.structures import Structure, collate

CASES = sorted((Path(__file__).parent / "qeq").glob("*.json"))

MOLECULES, EWALD = 1e-10, 1e-8
"""Relative to the largest element of a quantity, at the default accuracy."""

SMALLEST = 1e-3
"""Below this, in a quantity's own unit, errors are absolute: symmetry makes some vanish."""


def test_every_case_is_here() -> None:
    assert len(CASES) == 20


def tensor(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def gradients(of: Tensor, at: list[Tensor]) -> tuple[Tensor, ...]:
    return torch.autograd.grad(of, at, create_graph=True, materialize_grads=True)


def evaluate(given: dict[str, Any]) -> dict[str, Tensor]:
    """Work out every quantity of a case under its name in the file."""
    numbers = np.array([atomic_numbers.get(s, 1) for s in given["symbols"]])
    periodic = given["cell"] is not None
    structure = Structure(
        numbers=numbers,
        positions=np.array(given["positions"], dtype=float),
        cell=np.array(given["cell"], dtype=float) if periodic else np.zeros((3, 3)),
        pbc=np.array([periodic] * 3),
        total_charge=given["total_charge"],
    )
    reach = CoulombReach({int(z): max(given["sigma"]) for z in numbers})
    batch = collate([with_pairs(structure, {"charge": reach})])
    chi, hardness, sigma = (
        tensor(given[name]).requires_grad_() for name in ("chi", "hardness", "sigma")
    )
    charge = batch.total_charge.requires_grad_()
    positions = batch.positions.requires_grad_()
    strain = torch.zeros_like(batch.cell, requires_grad=True)
    point = strained(replace(batch, positions=positions), strain)
    rest = equilibrate(chi, hardness, sigma, point)

    found = {
        "charges": rest.charges,
        "lagrange_multiplier": -rest.chemical_potential[0],
        "energy_qeq": rest.energy[0],
        "energy_coulomb": rest.coulomb_energy[0],
        "energy_chi": (chi * rest.charges).sum(),
        "energy_hardness": (0.5 * hardness * rest.charges**2).sum(),
    }
    volume = batch.cell[0].det().abs()
    for name, energy in (("qeq", rest.energy), ("coulomb", rest.coulomb_energy)):
        slope, in_strain = gradients(energy.sum(), [positions, strain])
        found[f"forces_{name}"] = -slope
        found["dEqeq_dstrain" if name == "qeq" else "dEcoul_dstrain"] = in_strain[0]
        if periodic:
            found[f"stress_{name}"] = in_strain[0] / volume
    inputs = {
        "chi": chi,
        "hardness": hardness,
        "sigma": sigma,
        "positions": positions,
        "strain": strain,
        "total_charge": charge,
    }
    product = (tensor(given["cotangent"]) * rest.charges).sum()
    for name, value in zip(inputs, gradients(product, list(inputs.values())), strict=True):
        found[f"vjp_{name}"] = value[0] if name in {"strain", "total_charge"} else value
    probe = (tensor(given["cotangent_forces"]) * found["forces_qeq"]).sum()
    found["force_probe"] = probe
    found["force_probe_grad_chi"], found["force_probe_grad_hardness"] = gradients(
        probe, [chi, hardness]
    )
    return found


@pytest.mark.parametrize("path", CASES, ids=lambda p: p.stem)
def test_every_quantity_of_a_case_is_reproduced(path: Path) -> None:
    case = json.loads(path.read_text(encoding="utf-8"))
    found = evaluate(case["input"])
    expected = dict(case["output"])
    assert expected.pop("matrix_min_eig_on_constraint") is None or len(found["charges"]) > 1
    assert set(found) == set(expected)
    tolerance = MOLECULES if case["input"]["cell"] is None else EWALD
    for name, value in expected.items():
        reference = tensor(value)
        scale = max(float(reference.abs().max()), SMALLEST)
        error = float((found[name].detach() - reference).abs().max())
        assert error < tolerance * scale, f"{name}: off by {error:.1e} of {scale:.1e}"
