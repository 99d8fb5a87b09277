"""One graph of energy and derivatives, and its compiled form, against the ordinary way."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.io import read, write
from torch._inductor import config as inductor

from qeqtrain.calculator import QeqCalculator
from qeqtrain.cli import main
from qeqtrain.errors import UserMistake
from qeqtrain.models.compiling import CACHE, CompiledResponse, refuse_uncompilable
from qeqtrain.models.graph import ResponseGraph, weights_of
from qeqtrain.models.padding import cut, needs_padding, padded
from qeqtrain.models.threads import respond_by_threads
from tests.crosses import small_cross
from tests.models.test_archive import write_checkpoint
from tests.systems import batch_of, slab, triclinic, water

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from qeqtrain.models.potential import Potential
    from qeqtrain.structures import Prediction, Structures

CROSSES = [
    pytest.param("tensornet", "diagonal", "feature", id="tensornet-diagonal-feature"),
    pytest.param("nequip", "none", "feature", id="nequip-none"),
    pytest.param("nequip", "gaussian", "second", id="nequip-gaussian-second"),
    *(
        pytest.param(*cross, marks=pytest.mark.slow, id="-".join(cross))
        for cross in (
            ("tensornet", "local", "coulomb"),
            ("tensornet", "diagonal", "variational"),
            ("nequip", "diagonal", "full"),
            ("nequip", "diagonal", "second"),
            ("tensornet", "gaussian", "variational"),
            ("tensornet", "polarizable", "variational"),
            ("nequip", "pqeq", "full"),
        )
    ),
]
"""Tracing takes seconds: one of each backbone is always tried."""


def gradients(potential: Potential, found: Sequence[Tensor]) -> list[Tensor]:
    weights = [p for p in potential.parameters() if p.requires_grad]
    loss = sum(t.nan_to_num().square().mean() for t in found)
    assert isinstance(loss, torch.Tensor)
    given = torch.autograd.grad(loss, weights, allow_unused=True)
    return [
        torch.zeros_like(w) if g is None else g for w, g in zip(weights, given, strict=True)
    ]


def trained_on(prediction: Prediction) -> list[Tensor]:
    wanted = (prediction.energy, prediction.forces, prediction.stress, prediction.charges)
    return [t for t in wanted if t is not None]


@pytest.mark.parametrize(("backbone", "charge", "coupling"), CROSSES)
def test_the_graph_equals_the_ordinary_way_for_sizes_it_was_not_made_with(
    backbone: str, charge: str, coupling: str
) -> None:
    potential = small_cross(backbone, charge, coupling).train()
    graph = ResponseGraph(potential, forces=True, stress=True)
    for batch in (
        batch_of([triclinic(), water()], potential),
        batch_of([water(), triclinic(), slab()], potential),
    ):
        expected = potential(batch, forces=True, stress=True)
        flat = graph.plain(weights_of(potential), graph.flat(batch))
        found = dict(zip(graph.names, flat, strict=True))
        for name, value in found.items():
            torch.testing.assert_close(
                value, getattr(expected, name), rtol=1e-11, atol=1e-11, equal_nan=True
            )
        here = [found[k] for k in ("energy", "forces", "stress", "charges") if k in found]
        for a, b in zip(
            gradients(potential, here),
            gradients(potential, trained_on(expected)),
            strict=True,
        ):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_parts_that_cannot_be_compiled_are_refused_in_words() -> None:
    potential = small_cross("tensornet", "gaussian", "full", atomic_dipoles=True)
    with pytest.raises(UserMistake, match=r"trainer\.compile .*AtomicDipoles.*dipoles=false"):
        CompiledResponse(potential)


def test_machine_code_has_no_room_for_solves() -> None:
    potential = small_cross("tensornet", "gaussian", "full")
    refuse_uncompilable(potential, "trainer.compile")
    with pytest.raises(UserMistake, match=r"--compiled .*GaussianCharges.*charge=none, local"):
        refuse_uncompilable(potential, "--compiled", alone=True)


ALONE = [[water()], [triclinic()], [water()[:2]], [water()[:1]], [water(), water()[:1]]]
"""One structure, one pair, one atom, no pair at all."""


@pytest.mark.parametrize("backbone", ["tensornet", "nequip"])
@pytest.mark.parametrize("charge", ["none", "diagonal", "local", "gaussian", "polarizable"])
@pytest.mark.parametrize("atoms", ALONE, ids=lambda atoms: "+".join(map(str, atoms)))
def test_a_molecule_beside_a_batch_changes_neither_predictions_nor_gradients(
    backbone: str, charge: str, atoms: list[Atoms]
) -> None:
    potential = small_cross(backbone, charge, "feature").train()
    batch = batch_of(atoms, potential)
    more = padded(batch)
    assert not needs_padding(more)
    assert len(more) == len(batch) + 1
    expected = potential(batch, forces=True, stress=True)
    found = cut(potential(more, forces=True, stress=True), batch)
    for name in vars(expected):
        if getattr(expected, name) is not None:
            torch.testing.assert_close(
                getattr(found, name),
                getattr(expected, name),
                rtol=1e-12,
                atol=1e-12,
                equal_nan=True,
            )
    for a, b in zip(
        gradients(potential, trained_on(found)),
        gradients(potential, trained_on(expected)),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-13)


def test_structures_in_a_field_go_the_ordinary_way() -> None:
    potential = small_cross("nequip", "diagonal", "full")
    compiled = CompiledResponse(potential)
    batch = batch_of([water()], potential)
    batch = replace(batch, electric_field=batch.electric_field + 0.1)
    found = compiled(potential, batch, forces=True, stress=False)
    expected = potential(batch, forces=True, stress=False)
    torch.testing.assert_close(found.energy, expected.energy)
    assert not compiled._graphs


@pytest.mark.usefixtures("_written_only")
def test_born_charges_wherever_they_are_defined_are_not_lost_to_compiled_code() -> None:
    potential = small_cross("tensornet", "diagonal", "feature")
    batch = batch_of([water(), triclinic()], potential)
    expected = potential(batch, born_charges=None, polarizability=None)
    potential.compiled = CompiledResponse(potential)
    found = potential(batch, born_charges=None, polarizability=None)
    for name in ("born_charges", "polarizability"):
        given = getattr(found, name)
        torch.testing.assert_close(given, getattr(expected, name), equal_nan=True)
    assert not potential.compiled._graphs
    potential(batch)
    assert potential.compiled._graphs


@inductor.patch({"cpp.cxx": (None, "no-such-compiler")})
def test_a_machine_without_a_compiler_is_told_so() -> None:
    with pytest.raises(UserMistake, match=r"no C\+\+ compiler that runs; install g\+\+"):
        CompiledResponse(small_cross("tensornet", "none", "feature"))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's compiler about itself
@pytest.mark.parametrize(
    "cross",
    [
        ("tensornet", "diagonal", "feature"),
        ("nequip", "diagonal", "feature"),
        ("nequip", "gaussian", "second"),
        ("tensornet", "polarizable", "feature"),
    ],
    ids="-".join,
)
@torch._dynamo.config.patch(error_on_recompile=True)
def test_compiled_training_equals_eager_on_ten_shapes(cross: tuple[str, str, str]) -> None:
    potential = small_cross(*cross).float().train()
    compiled = CompiledResponse(potential)
    several = [[water()] * k + [triclinic()] * (k % 2 + 1) for k in (1, 2, 3, 7, 12, 40, 150)]
    for batch in [batch_of(atoms, potential) for atoms in several + ALONE]:
        expected = potential(batch, forces=True, stress=True)
        found = compiled(potential, batch, forces=True, stress=True)
        torch.testing.assert_close(found.energy, expected.energy, rtol=1e-6, atol=1e-5)
        torch.testing.assert_close(found.forces, expected.forces, rtol=1e-4, atol=1e-5)
        ours = gradients(potential, trained_on(found))
        theirs = gradients(potential, trained_on(expected))
        whole = torch.cat([g.flatten() for g in theirs]).norm()
        off = torch.cat([(a - b).flatten() for a, b in zip(ours, theirs, strict=True)])
        assert off.norm() < 1e-6 * whole


@pytest.fixture
def _written_only(monkeypatch) -> None:
    """Leave out the compiler: what was written down runs as it is."""
    monkeypatch.setattr(torch, "compile", lambda module, **_: module)


@pytest.mark.usefixtures("_written_only")
def test_no_size_is_too_small_for_training_through_the_graph() -> None:
    potential = small_cross("nequip", "diagonal", "feature").train()
    compiled = CompiledResponse(potential)
    for batch in [batch_of(atoms, potential) for atoms in ALONE]:
        expected = potential(batch, forces=True, stress=True)
        found = compiled(potential, batch, forces=True, stress=True)
        torch.testing.assert_close(found.forces, expected.forces, rtol=1e-11, atol=1e-12)
        for a, b in zip(
            gradients(potential, trained_on(found)),
            gradients(potential, trained_on(expected)),
            strict=True,
        ):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
    assert len(compiled._graphs) == 1


def _shared_equals_alone(
    batches: Sequence[Structures],
    potential: Potential,
    compiled: CompiledResponse | None = None,
) -> None:
    """Train through code that two threads of Python share, from the first call on."""
    compiled = compiled or CompiledResponse(potential)
    for batch in batches:
        expected = potential(batch, forces=True, stress=True)
        found = respond_by_threads(potential, batch, stress=True, ask=compiled)
        exact = 1e-9 if potential.dtype == torch.float64 else 1e-5
        torch.testing.assert_close(found.forces, expected.forces, rtol=exact, atol=exact)
        ours = gradients(potential, trained_on(found))
        theirs = gradients(potential, trained_on(expected))
        whole = torch.cat([g.flatten() for g in theirs]).norm()
        off = torch.cat([(a - b).flatten() for a, b in zip(ours, theirs, strict=True)])
        assert off.norm() < exact * whole
        average = copy.deepcopy(potential).requires_grad_(False).eval()
        said = respond_by_threads(average, batch, stress=True, ask=compiled)
        assert not said.energy.requires_grad
        torch.testing.assert_close(said.forces, found.forces.detach(), rtol=exact, atol=exact)
    assert {key[-2] for key in compiled._graphs} == {1}  # for one thread each
    assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("_written_only", "two_threads")
@pytest.mark.parametrize(
    "cross", [("nequip", "gaussian", "second"), ("tensornet", "none", "feature")]
)
def test_threads_share_what_is_made_for_one(cross: tuple[str, str, str]) -> None:
    potential = small_cross(*cross).train()
    several = [[water(), triclinic(), water()], [triclinic()], [water()] * 5]
    _shared_equals_alone([batch_of(atoms, potential) for atoms in several], potential)


@pytest.mark.usefixtures("_written_only", "two_threads")
def test_some_structures_of_a_batch_in_a_field() -> None:
    potential = small_cross("tensornet", "diagonal", "feature").train()
    batch = batch_of([water(), triclinic(), water()], potential)
    field = batch.electric_field.clone()
    field[0] = 0.1
    batch = replace(batch, electric_field=field)
    compiled = CompiledResponse(potential)
    for _ in range(2):  # the first time code is made for the part without
        found = respond_by_threads(potential, batch, stress=False, ask=compiled)
        torch.testing.assert_close(found.energy, potential(batch, stress=False).energy)


@pytest.mark.usefixtures("_written_only", "two_threads")
def test_code_for_training_serves_validation_and_not_the_reverse() -> None:
    potential = small_cross("nequip", "none", "feature").eval()
    compiled = CompiledResponse(potential)
    batch = batch_of([water(), triclinic(), water()], potential)
    with torch.no_grad():
        respond_by_threads(potential, batch, stress=True, ask=compiled)
    assert [key[-1] for key in compiled._graphs] == [()]
    _shared_equals_alone([batch], potential.train(), compiled)
    assert len(compiled._graphs) == 2
    potential.backbone.layers[0].requires_grad_(False)
    found = respond_by_threads(potential, batch, stress=True, ask=compiled)
    assert len(compiled._graphs) == 3  # less is trained
    found.forces.square().sum().backward()
    assert all(w.grad is None for w in potential.backbone.layers[0].parameters())
    assert any(w.grad is not None for w in potential.backbone.layers[1].parameters())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's compiler about itself
@pytest.mark.usefixtures("two_threads")
@torch._dynamo.config.patch(error_on_recompile=True)
def test_threads_share_compiled_code(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(CACHE, str(tmp_path))
    potential = small_cross("nequip", "none", "feature").float().train()
    several = [[water(), triclinic(), water()], [triclinic()], [water()] * 5, [water()[:1]] * 2]
    _shared_equals_alone([batch_of(atoms, potential) for atoms in several], potential)


@pytest.mark.usefixtures("_written_only")
def test_the_calculator_and_the_commands_answer_through_the_graph(tmp_path: Path) -> None:
    potential = small_cross("nequip", "diagonal", "feature")
    calculator = QeqCalculator(potential, total_charge=0.0, compiled=True)
    assert potential.compiled is None  # the caller's potential stays as it is
    for atoms in (water(), triclinic(), Atoms("Cu")):
        atoms.calc = QeqCalculator(potential, total_charge=0.0)
        expected = atoms.get_forces(), atoms.get_charges()
        atoms.calc = calculator
        np.testing.assert_allclose(atoms.get_forces(), expected[0], rtol=0, atol=1e-12)
        np.testing.assert_allclose(atoms.get_charges(), expected[1], rtol=0, atol=1e-12)
    code = calculator.potential.compiled
    assert isinstance(code, CompiledResponse)
    number = torch.get_num_threads()
    assert set(code._graphs) == {  # molecules and crystals are two questions
        (True, stress, torch.float64, "cpu", number, ()) for stress in (False, True)
    }
    assert copy.deepcopy(calculator.potential).compiled is code
    checkpoint = write_checkpoint(tmp_path / "a.ckpt", potential)
    write(tmp_path / "in.extxyz", [water(), triclinic()])
    for words in ([], ["--compiled"]):
        out = str(tmp_path / f"out{len(words)}.extxyz")
        given = [str(checkpoint), str(tmp_path / "in.extxyz"), out, "data.total_charge=zero"]
        assert main(["predict", *given, *words]) == 0
    for one, other in zip(
        *(read(tmp_path / f"out{n}.extxyz", ":") for n in (0, 1)), strict=True
    ):
        np.testing.assert_allclose(one.get_forces(), other.get_forces(), rtol=0, atol=1e-8)
