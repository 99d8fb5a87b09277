"""What a GPU is waited for in a step: nothing, but for what is listed here with its reason."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch

from qeqtrain.data.batching import Batch
from qeqtrain.nn import messages
from qeqtrain.structures import Structures
from qeqtrain.training.loss import Loss
from qeqtrain.training.optim import RunningAverage
from qeqtrain.training.ranks import Assembly
from qeqtrain.training.share import Share
from qeqtrain.training.solves import WorstSolve
from tests.performance.elsewhere import DEVICE, Watch
from tests.performance.networks import network, train_once
from tests.systems import batch_of, one_atom_cell, slab, triclinic, water

LOOK = "physics/stationary.py Problem._in_doubt (number read)"
"""Once a step: charges that cannot be found are an error that names the structure."""

FORWARD: dict[str, dict[str, int]] = {
    "qet": {},
    "nequip": {},
    "nequip_lr": {LOOK: 1},
    "reaxnet": {
        LOOK: 1,
        # A matrix of charges that has a saddle is factored in another way.
        "physics/polarization/functional.py Functional.problem (number read)": 1,
        # A spring without stiffness is an error that names the structure.
        "physics/polarization/modes.py _refuse_lost (number read)": 1,
    },
}
"""Waits of energy, forces and stress; derivatives of any order wait for nothing more."""

ITERATIVE = {
    # Whether all have converged decides whether to go on; asked every eighth iteration.
    "physics/solvers/iterative.py PreparedConjugateGradient._descend (number read)",
    "physics/solvers/iterative.py PreparedConjugateGradient.solve (number read)",
    LOOK,
    # Once for each structure, mesh and pairs are laid out by numbers: seconds of work follow.
    "physics/mesh.py mesh_sum (copy back)",
    "physics/mesh.py mesh_sum (number read)",
    "physics/mesh.py mesh_sum (_linalg_check_errors)",
    "physics/structure_factors.py FormFactors.of (_unique2)",
    "physics/structure_factors.py FormFactors.of (copy back)",
    "physics/structure_factors.py FormFactors.of.<locals>.<listcomp> (nonzero)",
    "physics/matrix_free.py ProductSum.__init__.<locals>.<listcomp> (mask as index)",
    "physics/sparse.py symmetric_matrix (unique_consecutive)",
    "physics/sparse.py symmetric_matrix (bincount)",
    "physics/long_waves.py long_waves (copy back)",
    "physics/long_waves.py long_waves (_linalg_check_errors)",
}
"""Where conjugate gradients wait; they are for structures of more than 1,500 atoms."""


@pytest.fixture(autouse=True)
def nothing_kept():
    """Constants that are made once for each device are not kept for this one."""
    yield
    messages._part_of_component.cache_clear()


def systems(potential: Any) -> Structures:
    """A crystal, a molecule, a slab where the model takes it, and a cell of one atom."""
    return batch_of([triclinic(), water(), slab(), one_atom_cell()], potential)


@pytest.mark.parametrize("training", [True, False], ids=["training", "inference"])
@pytest.mark.parametrize("name", FORWARD)
def test_a_step_waits_for_no_more_than_is_listed(name: str, training: bool) -> None:
    here = network(name, "float64").train(training)
    batch = systems(here)
    with Watch() as watch:
        there, moved = deepcopy(here).to(DEVICE), batch.to(DEVICE)
        there(moved, forces=False)  # constants are made once
        watch.waits.clear()
        watch.operations = 0
        found = train_once(there, moved) if training else there(moved)
        assert watch.operations > 500
    assert dict(watch.waits) == FORWARD[name]

    # The device's own ways give the same numbers.
    expected = train_once(here, batch) if training else here(batch)
    for what in ("energy", "forces", "stress", "charges"):
        a, b = getattr(found, what), getattr(expected, what)
        if b is not None:
            assert torch.allclose(a.here, b, rtol=1e-8, atol=1e-8, equal_nan=True)
    if training:
        for own, other in zip(here.parameters(), there.parameters(), strict=True):
            if own.grad is not None:
                assert torch.allclose(own.grad, other.grad.here, rtol=1e-6, atol=1e-8)


def test_the_iterative_solver_waits_every_eighth_iteration() -> None:
    here = network("nequip_lr, iterative", "float64").train()
    batch = batch_of([triclinic(), water()], here)
    with Watch() as watch:
        there, moved = deepcopy(here).to(DEVICE), batch.to(DEVICE)
        watch.waits.clear()
        found = train_once(there, moved)
    assert set(watch.waits) <= ITERATIVE
    effort = there.charge.effort
    looks = watch.waits[
        "physics/solvers/iterative.py PreparedConjugateGradient._descend (number read)"
    ]
    # Four solutions: charges, and three adjoints; each may need one look more than its eighths.
    assert looks <= 4 * (int(effort.iterations.here.max()) // 8 + 3)
    expected = train_once(here, batch)
    assert torch.allclose(found.forces.here, expected.forces, atol=1e-6)


def test_loss_gradient_and_average_of_a_training_step_wait_once() -> None:
    potential = network("qet").train()
    structures = batch_of([water(), water()], potential)
    b, n = len(structures), structures.n_atoms
    labels = {
        name: torch.ones(shape, dtype=torch.float64)
        for name, shape in {
            "energy": (b,),
            "forces": (n, 3),
            "charges": (n,),
            "dipole": (b, 3),
        }.items()
    }
    present = {name: torch.ones(b, dtype=torch.bool) for name in labels}
    batch = Batch(structures, labels, present, ("one", "two"))
    with Watch() as watch:
        potential.to(DEVICE)
        moved = batch.to(DEVICE)
        share = Share(potential, Loss(**dict.fromkeys(labels, 1.0)), WorstSolve())
        averaged = RunningAverage(potential, 0.99)
        weights = [p for p in potential.parameters() if p.requires_grad]
        for _ in range(2):  # averages and constants are made in the first
            watch.waits.clear()
            share.differentiate(share.begin(moved), weights)
            norm = torch.nn.utils.clip_grad_norm_(weights, 10.0)
            told = torch.stack([share.loss, share.bad_charges, norm.to(share.loss)])
            Assembly().meet(told, first=True)
            potential.zero_grad(set_to_none=True)  # torch's fused Adam is one operation
            averaged.update_parameters(potential)
    # Whether loss and gradient are finite on all ranks decides whether the weights move.
    assert dict(watch.waits) == {"training/ranks.py Assembly.meet (copy back)": 1}


# What the watch itself sees.


def waits_of(work: Callable[[torch.Tensor], object]) -> list[str]:
    with Watch() as watch:
        x = torch.arange(3.0).to(DEVICE)
        watch.waits.clear()
        work(x)
    return [text.partition("(")[2].rstrip(")") for text in watch.waits.elements()]


@pytest.mark.parametrize(
    ("work", "expected"),
    [
        (lambda x: x * x + 1.0, []),
        (lambda x: x.sum().item(), ["number read"]),
        (lambda x: 1 if x.sum() > 0 else 0, ["number read"]),
        (lambda x: x.tolist(), ["copy back"]),
        (lambda x: x.cpu(), ["copy back"]),
        (lambda x: torch.nonzero(x), ["nonzero"]),
        (lambda x: x[x > 1.0], ["mask as index"]),
        (lambda x: x.index_select(0, torch.zeros(1, dtype=torch.int64).to(DEVICE)),
         ["copy to the device"]),
        (lambda x: torch.where(x > 1.0, x, 0.0), []),
        (lambda x: torch.tensor([1.0, 2.0], device=x.device), ["copy to the device"]),
        (lambda x: torch.zeros(3, device=x.device) + x, []),
        (lambda x: x.new_zeros(3).copy_(torch.ones(3)), ["copy to the device"]),
        (lambda x: x.new_zeros(3).copy_(torch.ones(3), non_blocking=True), []),
    ],
)  # fmt: skip
def test_the_watch_sees_what_waits(work: Callable, expected: list[str]) -> None:
    assert waits_of(work) == expected


def test_the_watch_refuses_what_mixes_devices() -> None:
    with pytest.raises(RuntimeError, match="one device"):
        waits_of(lambda x: x + torch.ones(3))
