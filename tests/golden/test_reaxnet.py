"""Energies of jax-md's NequIP as ReaxNet has it, with random weights read from its files."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms

from qeqtrain.models.potential import Potential
from qeqtrain.models.reaxnet import NO_CHARGES, read_reaxnet
from tests.models.reaxnet_files import write_reaxnet
from tests.systems import shared_file

CASES = [
    "tiny/nacl8",
    "tiny/h2o",
    "tiny/tio2_tri",
    "tiny/chiral_probe",
    "small/nacl8",
    "small/tio2_tri",
]


@functools.cache
def golden() -> dict[str, Any]:
    path = shared_file("golden", "pqeq", "nequip_jax", "cases.json")
    return json.loads(path.read_text())


@pytest.fixture(scope="module", params=CASES)
def case(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Potential, Atoms, dict[str, Any]]:
    """The network of a case, its structure, and what jax-md gave."""
    values = golden()["cases"][request.param]
    weights = f"params_{request.param.split('/')[0]}.npz"
    path = shared_file("golden", "pqeq", "nequip_jax", weights)
    with np.load(path) as arrays:
        folder = write_reaxnet(
            tmp_path_factory.mktemp("reaxnet"),
            dict(arrays),
            values["config"],
            golden()["species_Z"],
        )
    atoms = Atoms(values["numbers"], values["positions"], cell=values["cell"], pbc=True)
    conventions = {"total_charge": "zero"}
    return read_reaxnet(Path(folder), NO_CHARGES, conventions=conventions), atoms, values


def test_energy_forces_and_stress_are_those_of_jax(case) -> None:
    potential, atoms, expected = case
    found = potential(atoms)
    assert found.energy.item() == pytest.approx(expected["energy"], rel=1e-8)
    for values, theirs in (
        (found.atomic_energies, expected["node_energies"]),
        (found.forces, expected["forces"]),
        (found.stress[0], expected["dE_dstrain_over_V"]),
    ):
        theirs = torch.tensor(theirs, dtype=torch.float64)
        scale = float(theirs.abs().max())
        torch.testing.assert_close(values.detach(), theirs, rtol=0, atol=1e-8 * scale)


def test_turned_and_mirrored_structures_have_the_energies_of_jax(case) -> None:
    potential, atoms, expected = case
    mirrored, turned = atoms.copy(), atoms.copy()
    mirrored.positions[:, 0] *= -1.0
    mirrored.cell[:, 0] *= -1.0
    turned.rotate(50.0, (1.0, 2.0, 3.0), rotate_cell=True)
    for other, name in ((mirrored, "energy_mirrored_x"), (turned, "energy_rotated")):
        energy = potential(other, forces=False).energy.item()
        assert energy == pytest.approx(expected[name], rel=1e-8)


def test_the_network_tells_mirror_images_apart_as_little_as_theirs(case) -> None:
    potential, atoms, expected = case
    atoms.positions[:, 0] *= -1.0
    atoms.cell[:, 0] *= -1.0
    change = potential(atoms, forces=False).energy.item()
    atoms.positions[:, 0] *= -1.0
    atoms.cell[:, 0] *= -1.0
    change -= potential(atoms, forces=False).energy.item()
    theirs = expected["energy_mirrored_x"] - expected["energy"]
    assert change == pytest.approx(theirs, rel=1e-4, abs=1e-15)
