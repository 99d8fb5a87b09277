"""Long waves taken out of an iterative solution: fewer products, the same charges."""

from __future__ import annotations

import pytest
import torch
from ase import Atoms
from ase.build import bulk
from torch import Tensor

from qeqtrain.neighbors import with_pairs
from qeqtrain.physics.ewald import CoulombReach
from qeqtrain.physics.long_waves import long_waves
from qeqtrain.physics.matrix_free import MatrixFreeCoulomb
from qeqtrain.physics.qeq import equilibrate
from qeqtrain.physics.solvers.iterative import ConjugateGradient
from qeqtrain.physics.solvers.solution import Outcome
from qeqtrain.structures import Structure, Structures, collate
from tests.systems import rattled

WIDTHS = {11: 1.66, 17: 1.02}
ACCURACY = 1e-6


def crystal(length: int) -> Atoms:
    """A long bar of rock salt."""
    return rattled(bulk("NaCl", "rocksalt", a=5.6, cubic=True).repeat((1, 1, length)))


def with_gap(length: int) -> Atoms:
    """The same with as much vacuum."""
    atoms = crystal(length)
    atoms.set_cell(atoms.cell.array * [[1.0], [1.0], [2.0]])
    return atoms


def batch(*systems: Atoms) -> Structures:
    reach = {"charge": CoulombReach(WIDTHS, ACCURACY)}
    return collate(
        [with_pairs(Structure.from_atoms(a, total_charge=0.0), reach) for a in systems]
    )


def widths(structures: Structures) -> Tensor:
    return torch.tensor([WIDTHS[z] for z in structures.numbers.tolist()]).double()


def solved(structures: Structures) -> tuple[Tensor, Tensor]:
    n = structures.n_atoms
    chi = torch.sin(torch.arange(float(n)).double())
    hardness = torch.full((n,), 2.0).double()
    rest = equilibrate(
        chi, hardness, widths(structures), structures, solver="iterative", accuracy=ACCURACY
    )
    assert rest.effort is not None
    return rest.charges, rest.effort.iterations


def test_charges_are_the_same_with_fewer_products(monkeypatch: pytest.MonkeyPatch) -> None:
    structures = batch(crystal(48), with_gap(24))
    charges, few = solved(structures)
    monkeypatch.setattr(MatrixFreeCoulomb, "long_waves", lambda *_: None)
    expected, many = solved(structures)
    torch.testing.assert_close(charges, expected, rtol=0, atol=1e-7)
    assert (2.0 * few < many).all()


@pytest.mark.parametrize("atoms", [crystal(4), with_gap(4)])
def test_what_is_left_is_symmetric_and_positive(atoms: Atoms) -> None:
    positions, cell = torch.from_numpy(atoms.positions), torch.from_numpy(atoms.cell.array)
    softness = 1.0 / (6.0 + torch.cos(torch.arange(float(len(atoms))).double()))
    smooth = long_waves(positions, cell, 2.3, softness)
    S = torch.stack([smooth(row) for row in torch.eye(len(atoms)).double()])
    torch.testing.assert_close(S, S.T, rtol=0, atol=1e-12)
    inverse = torch.diag(softness) - softness[:, None] * S * softness
    assert torch.linalg.eigvalsh(inverse)[0] > 0.0
    assert torch.linalg.eigvalsh(S)[-1] > 1.0  # and not for want of anything taken out


def test_a_preconditioner_that_is_not_positive_does_not_stop_the_solution() -> None:
    structures = batch(crystal(2))
    coulomb = MatrixFreeCoulomb(structures, widths(structures), ACCURACY, mesh=True)
    n, groups = structures.n_atoms, structures.charge_groups()
    diagonal = 2.0 + coulomb.self_energy()
    b = torch.sin(torch.arange(float(n)).double())

    def product(x: Tensor) -> Tensor:
        return 2.0 * x + coulomb.product(x)

    def solution(smooth):
        settings = ConjugateGradient(1e-9, max_iterations=2000)
        return settings.prepare(product, diagonal, groups, 1, smooth).solve(b, b.new_zeros(1))

    wrong = torch.diag(40.0 * torch.cos(torch.arange(float(n)).double()))
    found, expected = solution(lambda x: wrong @ x), solution(None)
    assert found.outcome.tolist() == [Outcome.CONVERGED]
    torch.testing.assert_close(found.x, expected.x, rtol=0, atol=1e-7)
