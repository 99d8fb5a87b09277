"""Radial networks read from tables: the same energy and forces, and only where that is safe."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from qeqtrain.nn import knots, tables
from qeqtrain.nn.mlp import MLP
from qeqtrain.nn.radial import BASES, Bessel, RadialNetwork
from tests.crosses import small_cross
from tests.systems import batch_of, rattled, triclinic, water

if TYPE_CHECKING:
    from collections.abc import Callable


CUTOFF = 5.0
NETWORKS: dict[str, Callable[[], tuple[tables.Basis, nn.Module]]] = {
    "qet": lambda: (
        BASES["smooth_bessel"](9, CUTOFF),
        MLP([9, 64, 128, 192], activate_last=True),
    ),
    "gaussian": lambda: (BASES["gaussian"](32, CUTOFF), MLP([32, 64, 192])),
    "nequip": lambda: (
        Bessel(8, CUTOFF, 6, trainable=True),
        RadialNetwork([8, 64, 64, 96], "moment"),
    ),
    "reaxnet": lambda: (
        Bessel(8, CUTOFF, "switch", trainable=True),
        RadialNetwork([8, 64, 64, 96], "steep"),
    ),
}


@pytest.fixture
def any_pairs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Use tables for few pairs as well, and write down how many are made."""
    made: list[int] = []
    plain = tables.coefficients
    monkeypatch.setattr(tables, "PAIRS", 1)
    monkeypatch.setattr(tables, "coefficients", lambda *given: made.append(1) or plain(*given))
    return made


def crystal() -> Atoms:
    """Rock salt of 64 atoms."""
    return rattled(bulk("NaCl", "rocksalt", a=5.6, cubic=True).repeat(2))


@pytest.mark.parametrize("name", NETWORKS)
def test_a_table_is_as_exact_as_the_network_in_single_precision(name: str) -> None:
    torch.manual_seed(0)
    basis, network = NETWORKS[name]()
    distance = torch.linspace(0.5, CUTOFF - 1e-6, 3001, dtype=torch.float64)
    if name == "reaxnet":  # its curvature jumps half an A before the cutoff
        distance = torch.cat([distance, CUTOFF - 0.5 + torch.linspace(-0.01, 0.01, 500)])
    exact, plain, read = (distance.clone().requires_grad_(True) for _ in range(3))
    table = tables.tabulated(basis, read, CUTOFF)
    coefficients = tables.coefficients(network, table.values, table.slopes)
    found = [
        tables.read(coefficients.float(), table.rows).double(),
        network(basis(plain.float()).float()).double(),
        network.double()(basis(exact).double()),
    ]
    weight = torch.randn(found[0].shape[1], dtype=torch.float64)
    slopes = [
        torch.autograd.grad(y @ weight, x, torch.ones_like(x))[0]
        for x, y in zip((read, plain, exact), found, strict=True)
    ]
    for values in (found, slopes):
        by_table, by_network, true = (v.detach() for v in values)
        own = float((by_network - true).abs().max())  # 0.4 to 2e-6 of the largest value
        assert float((by_table - true).abs().max()) < 1.5 * own


@pytest.mark.parametrize(
    "cross",
    [("tensornet", "diagonal", "feature"), ("nequip", "gaussian", "second")],
    ids="-".join,
)
@pytest.mark.parametrize("memory", ["plain", "medium", "small"])
def test_predictions_agree(
    cross: tuple[str, str, str], memory: str, any_pairs: list[int]
) -> None:
    potential = small_cross(*cross).float()
    batch = batch_of([crystal(), water(1.0), triclinic()], potential)
    potential.memory = memory
    found = potential(batch)
    assert any_pairs
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tables, "PAIRS", 10**9)
        expected = potential(batch)
    for name in ("energy", "forces", "charges"):
        a, b = getattr(found, name), getattr(expected, name)
        torch.testing.assert_close(a, b, rtol=2e-6, atol=2e-5)


def test_forces_are_derivatives_of_the_energy_that_is_read(
    monkeypatch: pytest.MonkeyPatch, any_pairs: list[int]
) -> None:
    monkeypatch.setattr(knots, "tabulates", lambda *_: tables._ALLOWED.get())
    potential = small_cross("tensornet", "diagonal", "feature")  # float64
    atoms = triclinic()
    atoms.info["charge"] = 0.0
    forces = potential(atoms).forces
    assert any_pairs
    for atom, axis in ((0, 0), (5, 2)):
        energies = []
        for step in (1e-4, -1e-4):
            moved = atoms.copy()
            moved.positions[atom, axis] += step
            energies.append(float(potential(moved).energy))
        slope = -(energies[0] - energies[1]) / 2e-4
        np.testing.assert_allclose(float(forces[atom, axis]), slope, atol=1e-7)


def test_a_table_follows_its_weights(any_pairs: list[int]) -> None:
    potential = small_cross("nequip", "none", "feature").float()
    batch = batch_of([crystal()], potential)
    first = potential(batch).energy
    made = len(any_pairs)
    assert made == 2  # one for every layer
    assert torch.equal(potential(batch).energy, first)
    assert len(any_pairs) == made
    for change in (
        lambda: potential.backbone.layers[0].weights.weights[0].data.mul_(1.1),
        lambda: potential.backbone.basis.roots.data.mul_(1.01),
    ):
        change()
        again = potential(batch).energy
        assert not torch.allclose(again, first)
        assert len(any_pairs) > made
        made, first = len(any_pairs), again
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tables, "PAIRS", 10**9)
        torch.testing.assert_close(potential(batch).energy, first, rtol=2e-6, atol=2e-5)


def test_operations_can_be_counted_while_a_table_is_made(any_pairs: list[int]) -> None:
    potential = small_cross("nequip", "none", "feature").float()
    batch = batch_of([crystal()], potential)
    with FlopCounterMode(display=False) as counter:
        potential(batch)
    assert any_pairs
    assert counter.get_total_flops() > 0


def test_weights_that_are_no_numbers_give_no_numbers(any_pairs: list[int]) -> None:
    potential = small_cross("nequip", "none", "feature").float()
    potential.backbone.layers[0].weights.weights[0].data[0, 0] = torch.nan
    assert potential(batch_of([crystal()], potential)).energy.isnan().all()
    assert any_pairs


def test_a_table_made_in_inference_mode_serves_gradients_later(any_pairs: list[int]) -> None:
    potential = small_cross("nequip", "none", "feature").float()
    batch = batch_of([crystal()], potential)
    with torch.inference_mode():
        energy = potential(batch, forces=False, stress=False).energy
    made = len(any_pairs)
    found = potential(batch)
    assert len(any_pairs) == made
    assert torch.equal(found.energy, energy)
    assert found.forces.isfinite().all()


def test_what_is_trained_or_exact_is_never_read_from_a_table(any_pairs: list[int]) -> None:
    exact = small_cross("tensornet", "diagonal", "feature")
    exact(batch_of([crystal()], exact))
    trained = small_cross("tensornet", "diagonal", "feature").float().train()
    batch = batch_of([crystal()], trained)
    trained(batch).forces.square().sum().backward()
    curved = trained.eval()
    batch.positions.requires_grad_(True)
    curved(batch)
    few = small_cross("tensornet", "diagonal", "feature").float()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tables, "PAIRS", 1000)
        few(water())
    on_knots = small_cross("tensornet", "diagonal", "feature", radial_knots=12).float()
    on_knots(batch_of([crystal()], on_knots))
    assert not any_pairs
