r"""Second derivative of the energy in charges and shells, factored.

With :math:`\nabla C, \nabla\nabla C` the derivatives of the kernel at each of a pair's four
distances, the pairs give (for q; s of both atoms)

.. math:: \partial_{q_i} \partial_{q_j} = C(d), \quad
          \partial_{s_i} \partial_{q_j} = -Z_i \nabla C(d + s_i), \quad
          \partial_{s_i} \partial_{s_j} = -Z_i Z_j \nabla\nabla C(d + s_i - s_j)

and so on; hardness and stiffness stand on the diagonal.
"""

from __future__ import annotations

import torch
from torch import Tensor

from qeqtrain.physics.buckets import Bucket
from qeqtrain.physics.polarization.dense import DenseMatrices
from qeqtrain.physics.polarization.functional import Functional
from qeqtrain.physics.polarization.interaction import pair_rate
from qeqtrain.physics.polarization.summation import Block
from qeqtrain.physics.solvers.dense import PreparedCholesky
from qeqtrain.physics.solvers.solution import Outcome
from qeqtrain.structures import ChargeGroups


class Curvature:
    """H at some charges and shells; solves equations with it. Nothing has a gradient.

    Args:
        functional: the energy.
        constant: of Coulomb, eV A/e^2.
        q: charges, e, shape ``(N,)``.
        s: shells, A, shape ``(N, 3)``.
        shift: added to the stiffness of all shells of a structure, eV/A^2, ``(B,)``, or none.
    """

    @torch.no_grad()
    def __init__(
        self,
        functional: Functional,
        constant: float,
        q: Tensor,
        s: Tensor,
        shift: Tensor | None,
    ) -> None:
        structures, sums = functional.structures, functional.sums
        groups = functional.groups
        self.n_atoms = structures.n_atoms
        dense = DenseMatrices(sums.buckets, structures, 4)
        for block in sums.blocks:
            self._fill(dense, block, functional, constant, q, s)
        matrices = dense.split()
        stiffness = functional.stiffness.detach()
        if shift is not None:
            stiffness = stiffness + shift.index_select(0, structures.batch)
        self.open_sums = torch.zeros_like(groups.potential)
        # H + w C^T C is as definite as H is on the plane C q = 0, for a large weight w.
        self.weight = 10.0 * functional.hardness.detach().mean()
        self.tied = torch.where(groups.held, 0.0, 1.0).index_select(0, groups.member)
        self.member = groups.member
        unknowns = []
        for bucket, matrix in zip(sums.buckets, matrices, strict=True):
            n = bucket.shape[1]
            diagonal = torch.diagonal(matrix, dim1=1, dim2=2)
            own = [bucket.gather(functional.hardness.detach())]
            own += [bucket.gather(stiffness)] * 3
            diagonal.add_(torch.cat(own, dim=1))
            member = self.member.index_select(0, bucket.atoms.flatten()).view(
                bucket.atoms.shape
            )
            tied = bucket.gather(self.tied)
            same = (member[:, :, None] == member[:, None, :]) * tied[:, :, None] * tied[:, None]
            matrix[:, :n, :n].add_(self.weight * same)
            unknowns.append(self._unknowns(bucket))
        # Shells are in no group: an index that no group has.
        none = groups.member.new_full((3 * self.n_atoms,), len(groups) + 1)
        extended = ChargeGroups(
            torch.cat([groups.member, none]), groups.charge, groups.potential, groups.structure
        )
        self._solver = PreparedCholesky(unknowns, matrices, extended, len(structures))
        self.stable = self._solver.outcome == Outcome.CONVERGED

    def solve(self, b_q: Tensor, b_s: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Solve H x + C^T m = b, C x = c.

        Args:
            b_q: shape ``(N,)``.
            b_s: shape ``(N, 3)``.
            c: shape ``(G,)``.

        Returns:
            x in charges, ``(N,)``, in shells, ``(N, 3)``, and m, ``(G,)``; of use where
            ``stable``.
        """
        n = self.n_atoms
        right = b_q + self.weight * self.tied * c.index_select(0, self.member)
        found = self._solver.solve(torch.cat([right, b_s.flatten()]), c)
        return found.x[:n], found.x[n:].view(n, 3), found.multiplier

    def _unknowns(self, bucket: Bucket) -> Bucket:
        """Where charges and components of shells of a bucket are among all unknowns."""
        shells = [self.n_atoms + 3 * bucket.atoms + axis for axis in range(3)]
        return Bucket(
            bucket.structures,
            torch.cat([bucket.atoms, *shells], dim=1),
            bucket.mask.repeat(1, 4),
            bucket.full,
        )

    @staticmethod
    def _fill(
        dense: DenseMatrices,
        block: Block,
        functional: Functional,
        constant: float,
        q: Tensor,
        s: Tensor,
    ) -> None:
        """Add what a block of pairs contributes."""
        sums = functional.sums
        here, shell = sums.here, functional.core.detach()
        i, j, owner = block.receiver, block.sender, block.structure
        rate = pair_rate(block, here.width)
        d = block.vectors(here.positions, here.cell)
        rows = s.unbind(-1)
        to_i = [a + b.index_select(0, i) for a, b in zip(d, rows, strict=True)]
        to_j = [a - b.index_select(0, j) for a, b in zip(d, rows, strict=True)]
        both = [a - b.index_select(0, j) for a, b in zip(to_i, rows, strict=True)]
        z_i, z_j = shell.index_select(0, i), shell.index_select(0, j)
        core_i, core_j = (q + shell).index_select(0, i), (q + shell).index_select(0, j)

        def add(
            rows: Tensor, row: int, columns: Tensor, column: int, values: Tensor, *, both: bool
        ) -> None:
            dense.add(rows, columns, owner, values, (row, column))
            if both:
                dense.add(columns, rows, owner, values, (column, row))

        add(i, 0, j, 0, constant * sums.functions.value(d, rate), both=True)
        kernels = [sums.functions.kernel(v, rate)[0] for v in (to_i, to_j, both)]
        first = [2.0 * constant * k.derivative(1) for k in kernels]
        second = [4.0 * constant * k.derivative(2) for k in kernels]
        for a in range(3):
            add(i, 1 + a, j, 0, -z_i * first[0] * to_i[a], both=True)
            add(j, 1 + a, i, 0, z_j * first[1] * to_j[a], both=True)
            for b in range(3):
                at_i, at_j, at_both = (
                    f * (a == b) + g * v[a] * v[b]
                    for f, g, v in zip(first, second, (to_i, to_j, both), strict=True)
                )
                pair = z_i * z_j * at_both
                add(i, 1 + a, i, 1 + b, pair - z_i * core_j * at_i, both=False)
                add(j, 1 + a, j, 1 + b, pair - core_i * z_j * at_j, both=False)
                add(i, 1 + a, j, 1 + b, -pair, both=True)
