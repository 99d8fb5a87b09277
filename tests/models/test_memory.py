"""Evaluations in little memory: the same numbers, from intermediates made twice."""

from __future__ import annotations

from dataclasses import fields
from types import SimpleNamespace

import pytest
import torch
from ase import Atoms
from ase.build import bulk

from qeqtrain.errors import UserMistake
from qeqtrain.models import memory
from qeqtrain.models.graph import ResponseGraph, weights_of
from qeqtrain.models.potential import Potential
from qeqtrain.nn import streamed
from qeqtrain.physics import recomputing
from qeqtrain.structures import Prediction, Structures
from tests.crosses import BACKBONES, small_cross
from tests.systems import batch_of, rattled, small_qet, triclinic, water

MODELS = {
    "qet": lambda: small_qet(),
    "qet legacy": lambda: small_qet(convention="legacy"),
    "qet conditioned": lambda: small_qet(conditioning="charge"),
    "qet on knots": lambda: small_cross("tensornet", "diagonal", "feature", radial_knots=12),
    "qet legacy on knots": lambda: small_cross(
        "tensornet", "diagonal", "feature", convention="legacy", radial_knots=12
    ),
    "nequip on knots": lambda: small_cross("nequip", "gaussian", "full", radial_knots=12),
    "nequip": lambda: small_cross("nequip", "diagonal", "variational"),
    "nequip l=2, no parity": lambda: small_cross(
        "nequip", "none", "feature", l_max=2, parity=False, channels=[5, 3, 2]
    ),
    "nequip-lr": lambda: small_cross("nequip", "gaussian", "second", variant="lr"),
    "nequip conditioned": lambda: small_cross(
        "nequip", "local", "feature", conditioning="charge"
    ),
    "tensornet, second network": lambda: small_cross("tensornet", "gaussian", "second"),
    "reaxnet": lambda: small_cross("nequip", "pqeq", "full", variant="reaxnet"),
}


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut a few atoms and pairs into several pieces, the last of them shorter."""
    monkeypatch.setattr(streamed, "PAIRS", 17)
    monkeypatch.setattr(recomputing, "ROWS", 3)


@pytest.mark.parametrize("name", MODELS)
def test_everything_is_the_same_in_little_memory(name: str) -> None:
    potential = MODELS[name]()
    batch = batch_of([triclinic(), water(1.0)], potential)
    found = {}
    for potential.memory in memory.LEVELS:
        found[potential.memory] = potential(batch, born_charges=None, polarizability=None)
    for field in fields(found["plain"]):
        plain, *others = (getattr(found[m], field.name) for m in memory.LEVELS)
        for other in others:
            assert (plain is None) == (other is None), field.name
            if plain is not None:
                torch.testing.assert_close(other, plain, rtol=1e-12, atol=1e-12, equal_nan=True)
    assert float(found["plain"].forces.abs().max()) > 1e-3


def test_a_structure_without_pairs_is_evaluated_in_little_memory() -> None:
    atom = Atoms("Na", info={"charge": 0.0})
    for backbone in BACKBONES:
        potential = small_cross(backbone, "diagonal", "feature")
        for potential.memory in ("small", "medium"):
            assert float(potential(atom).forces.abs().max()) == 0.0


def test_intermediates_of_large_structures_are_not_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    potential = small_qet()
    asked = []
    monkeypatch.setattr(
        potential, "evaluate", lambda s: asked.append(recomputing._ASKED.get()) or _energy(s)
    )
    crystal = rattled(bulk("NaCl", "rocksalt", a=5.6, cubic=True).repeat(2))
    potential(crystal)
    monkeypatch.setattr(memory, "KEPT_UP_TO", 63)
    potential(crystal)
    monkeypatch.setattr(memory, "MEDIUM_UP_TO", 63)
    potential(crystal)
    for potential.memory in memory.LEVELS:
        potential(crystal)
    assert asked == ["nothing", "pairs", "all", "nothing", "pairs", "all"]
    assert not recomputing.recomputed()


def _energy(structures: Structures) -> Prediction:
    squares = (structures.positions**2).sum(-1)
    return Prediction(energy=structures.sum_over_atoms(squares))


@pytest.mark.parametrize("backbone", BACKBONES)
def test_training_keeps_its_intermediates_and_gets_its_gradients(backbone: str) -> None:
    potential = small_cross(backbone, "none", "feature")
    potential.memory = "small"
    batch = batch_of([triclinic()], potential)
    potential.train()(batch).forces.square().sum().backward()
    gradients = [p.grad for p in potential.backbone.parameters()]
    assert any(g is not None and float(g.abs().max()) > 0.0 for g in gradients)


def test_peak_of_memory_is_that_of_pieces_and_not_of_all_pairs() -> None:
    potential = small_qet(channels=32)
    batch = batch_of(
        [rattled(bulk("NaCl", "rocksalt", a=5.6, cubic=True).repeat(3))], potential
    )
    kept = {}
    for potential.memory in memory.LEVELS:
        kept[potential.memory] = _bytes_kept(potential, batch)
    assert kept["small"] < 0.6 * kept["medium"] < 0.3 * kept["plain"]


def _bytes_kept(potential: Potential, batch: Structures) -> int:
    """Add up what the forward pass saves for the backward pass."""
    seen: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        potential(batch, forces=True, stress=False)
    return sum(seen.values())


@pytest.mark.parametrize(("free", "cache", "expected"), [(1, 9, "nothing"), (1, 0, "all")])
def test_what_torch_holds_back_of_a_device_counts_as_free(
    free: int, cache: int, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gigabyte = 1 << 30
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (free * gigabyte, 0))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: (3 + cache) * gigabyte)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 3 * gigabyte)
    positions = SimpleNamespace(is_cuda=True, device="cuda")
    batch = SimpleNamespace(positions=positions, n_atoms=8000)
    assert memory.worked_out_again("auto", batch) == expected


def test_an_unknown_choice_is_a_mistake() -> None:
    potential = small_qet()
    potential.memory = "smal"  # type: ignore[assignment]
    with pytest.raises(UserMistake, match="did you mean 'small'"):
        potential(water())


def test_what_is_traced_for_a_compiler_serves_any_number_of_structures() -> None:
    potential = small_qet()
    graph = ResponseGraph(potential, forces=True, stress=True)
    batch = batch_of([triclinic(), water(1.0)], potential)  # traced with three
    answers = graph.plain(weights_of(potential), graph.flat(batch))
    found = dict(zip(graph.names, answers, strict=True))
    expected = potential(batch)
    torch.testing.assert_close(found["energy"], expected.energy)
    torch.testing.assert_close(found["forces"], expected.forces)
