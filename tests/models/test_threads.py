"""A batch that several threads share gives what one thread gives."""

from __future__ import annotations

import contextlib
import gc
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import torch

from qeqtrain.errors import EquilibrationFailed, UserMistake
from qeqtrain.models import threads
from qeqtrain.models.dividing import chosen, shares, work
from qeqtrain.models.threads import respond_by_threads
from qeqtrain.physics.stationary import efforts
from tests.crosses import small_cross
from tests.systems import batch_of, one_atom_cell, slab, triclinic, water

if TYPE_CHECKING:
    from qeqtrain.models.potential import Potential
    from qeqtrain.structures import Prediction, Structures

CROSSES = [
    ("tensornet", "diagonal", "feature"),
    ("nequip", "none", "feature"),
    ("nequip", "gaussian", "second"),
    ("tensornet", "polarizable", "variational"),
]


pytestmark = pytest.mark.usefixtures("two_threads")


def mixed(potential: Potential) -> Structures:
    """Five structures, of which neighbours in the batch end up in different parts."""
    return batch_of([water(), triclinic(), water(1.0), slab(), one_atom_cell()], potential)


def loss(found: Prediction) -> torch.Tensor:
    """Something that reads energies, forces, stress and charges, each structure its own way."""
    terms = [found.energy, found.forces, found.stress, found.charges]
    given = [t.nan_to_num() for t in terms if t is not None]
    return sum((t.sin() * torch.arange(1.0, t.numel() + 1).view_as(t)).sum() for t in given)


def slopes(found: Prediction, potential: Potential) -> list[torch.Tensor | None]:
    weights = [w for w in potential.parameters() if w.requires_grad]
    return list(torch.autograd.grad(loss(found), weights, allow_unused=True))


def _thread() -> str:
    """Name this thread, and the number of torch's if it is one of ours."""
    name = threading.current_thread().name
    return f"structures {torch.get_num_threads()}" if name.startswith("structures") else name


def counted(potential: Potential) -> tuple[list[str], Any]:
    """Write down the thread of every call of the backbone."""
    names: list[str] = []
    hook = potential.backbone.register_forward_pre_hook(lambda *_: names.append(_thread()))
    return names, hook


@pytest.mark.parametrize("cross", CROSSES, ids="-".join)
def test_two_threads_give_what_one_gives(cross: tuple[str, str, str]) -> None:
    potential = small_cross(*cross).train()
    batch = mixed(potential)
    expected = potential(batch)
    names, hook = counted(potential)
    found = respond_by_threads(potential, batch)
    hook.remove()
    assert len(names) == 2
    assert all(name.startswith("structures") for name in names)
    for f in fields(found):
        own, other = getattr(found, f.name), getattr(expected, f.name)
        assert (own is None) == (other is None), f.name
        if own is not None:
            torch.testing.assert_close(own, other, rtol=1e-9, atol=1e-9, equal_nan=True)
    for a, b in zip(slopes(found, potential), slopes(expected, potential), strict=True):
        assert (a is None) == (b is None)
        if a is not None and b is not None:
            torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-8)
    assert torch.get_num_threads() == 2


def test_the_same_numbers_every_time() -> None:
    potential = small_cross("tensornet", "gaussian", "feature").train()
    batch = mixed(potential)
    first, second = (slopes(respond_by_threads(potential, batch), potential) for _ in range(2))
    for a, b in zip(first, second, strict=True):
        assert (a is None and b is None) or torch.equal(a, b)


def test_gradients_are_taken_once_and_in_weights() -> None:
    potential = small_cross("tensornet", "diagonal", "feature").train()
    batch = mixed(potential)
    found = respond_by_threads(potential, batch)
    found.energy.sum().backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="differentiated once"):
        found.energy.sum().backward()
    batch.positions.requires_grad_(True)
    energy = respond_by_threads(potential, batch, forces=False).energy
    assert torch.autograd.grad(energy.sum(), batch.positions)[0].abs().max() > 0


def test_a_prediction_that_nobody_differentiates_has_no_graph() -> None:
    potential = small_cross("tensornet", "diagonal", "feature")
    found = respond_by_threads(potential, mixed(potential))
    assert not found.energy.requires_grad
    with torch.no_grad():
        potential.train()
        assert not respond_by_threads(potential, mixed(potential)).forces.requires_grad


def test_frozen_weights_and_unread_outputs_have_no_gradient() -> None:
    potential = small_cross("tensornet", "diagonal", "feature").train()
    potential.backbone.requires_grad_(False)
    batch = mixed(potential)
    found, expected = respond_by_threads(potential, batch), potential(batch)
    found.charges.square().sum().backward()
    assert all(w.grad is None for w in potential.backbone.parameters())
    weights = [w for w in potential.charge.parameters() if w.requires_grad]
    given = torch.autograd.grad(expected.charges.square().sum(), weights, allow_unused=True)
    for weight, gradient in zip(weights, given, strict=True):
        assert (weight.grad is None) == (gradient is None)
        if gradient is not None:
            torch.testing.assert_close(weight.grad, gradient)
    assert all(w.grad is None for w in potential.coupling.parameters())


def test_small_batches_and_one_thread_are_not_divided(monkeypatch: pytest.MonkeyPatch) -> None:
    potential = small_cross("tensornet", "diagonal", "feature")
    here = [threading.current_thread().name]
    batch = mixed(potential)
    for parts in ("one thread", "one structure", "little work"):
        with monkeypatch.context() as patch:
            if parts == "one thread":
                torch.set_num_threads(1)
            if parts == "little work":
                patch.setattr(threads, "LEAST", int(work(batch).sum()))
            one = chosen(batch, torch.tensor([1])) if parts == "one structure" else batch
            names, hook = counted(potential)
            respond_by_threads(potential, one)
            hook.remove()
            if parts == "little work":
                assert names == ["structures 1"]  # and for both of torch's threads too little
            else:
                assert names == here, parts
            torch.set_num_threads(2)


def test_solves_of_all_threads_are_heard() -> None:
    potential = small_cross("tensornet", "gaussian", "feature").train()
    with efforts() as heard:
        respond_by_threads(potential, mixed(potential))
    assert sorted(len(effort.residual) for effort in heard) == [1, 4]  # the crystal alone
    assert all(effort.residual.max() < 1e-9 for effort in heard)
    respond_by_threads(potential, mixed(potential))
    assert len(heard) == 2  # nobody listens any more


def test_a_failure_names_the_structure_by_its_place_in_the_whole_batch() -> None:
    potential = small_cross("tensornet", "gaussian", "feature").train()
    batch = mixed(potential)
    alone = batch.batch == 2  # the second water molecule
    batch.positions[alone] = torch.nan
    with pytest.raises(EquilibrationFailed, match=r"structure 2 of the batch \(H2O\)"):
        respond_by_threads(potential, batch)
    # The threads are free again.
    respond_by_threads(potential, mixed(potential))


def test_atoms_in_one_place_are_counted_within_their_structure() -> None:
    potential = small_cross("tensornet", "gaussian", "feature").train()
    bad = water()
    bad.positions[2] = bad.positions[0]
    batch = batch_of([triclinic(), water(), bad, triclinic()], potential)
    words = r"structure 2 of the batch \(H2O\): its atoms 0 and 2 are"
    for ask in (potential, partial(respond_by_threads, potential)):
        with pytest.raises(EquilibrationFailed, match=words):
            ask(batch)


def test_all_unknown_elements_are_named() -> None:
    potential = small_cross("tensornet", "none", "feature")
    batch = mixed(potential)
    batch.numbers[batch.batch == 0] = 6
    batch.numbers[batch.batch == 2] = 7
    with pytest.raises(UserMistake, match=r"C, N"):
        respond_by_threads(potential, batch)


def test_nothing_of_the_other_parts_outlives_a_failure() -> None:
    potential = small_cross("tensornet", "gaussian", "feature").train()
    batch = mixed(potential)
    batch.positions[batch.batch == 2] = torch.nan
    kept = []
    hook = potential.backbone.register_forward_hook(
        lambda _module, _given, features: kept.append(weakref.ref(features))
    )
    gc.disable()  # what nobody holds on to goes at once
    try:
        with contextlib.suppress(EquilibrationFailed):
            respond_by_threads(potential, batch)
        hook.remove()
        assert len(kept) == 2
        assert all(features() is None for features in kept)
    finally:
        gc.enable()


def test_threads_that_begin_later_have_the_number_of_the_caller() -> None:
    potential = small_cross("tensornet", "diagonal", "feature")
    respond_by_threads(potential, mixed(potential))
    with ThreadPoolExecutor(max_workers=1) as fresh:
        assert fresh.submit(torch.get_num_threads).result() == 2


def test_shares_are_even_and_whole() -> None:
    potential = small_cross("tensornet", "diagonal", "feature")
    batch = mixed(potential)
    each = work(batch)
    pairs = sum(len(e.sender) for e in batch.edges.values())
    assert int(each.sum()) == batch.n_atoms + pairs
    for parts in (1, 2, 3, 9):
        given = shares(batch, parts)
        assert len(given) == min(parts, 5)
        assert sorted(torch.cat(given).tolist()) == list(range(5))
        assert all(g.tolist() == sorted(g.tolist()) for g in given)
    sums = [int(each[g].sum()) for g in shares(batch, 2)]
    assert max(sums) - min(sums) <= int(each.max())
    assert len(shares(batch, 2, least=int(each.sum()))) == 1


def test_a_chosen_part_knows_where_it_comes_from() -> None:
    batch = mixed(small_cross("tensornet", "diagonal", "feature"))
    part = chosen(batch, torch.tensor([0, 2, 4]))
    again = chosen(part, torch.tensor([1, 2]))
    assert again.places == (2, 4)
    torch.testing.assert_close(again.total_charge, batch.total_charge[[2, 4]])
    for consumer, edges in batch.edges.items():
        inside = torch.isin(batch.batch[edges.sender], torch.tensor([2, 4]))
        torch.testing.assert_close(
            again.edge_vectors(consumer), batch.edge_vectors(consumer)[inside]
        )
