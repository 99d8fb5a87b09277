r"""LU factorisation of the bordered equations, for a symmetric H that is not positive definite.

.. math:: \begin{pmatrix} H & C^T \\ C & 0 \end{pmatrix}
          \begin{pmatrix} x \\ \mu \end{pmatrix} = \begin{pmatrix} b \\ c \end{pmatrix}

What is found is a stationary point, and a saddle rather than a minimum. A tapered interaction
has such matrices for a few crystals in a hundred, and published labels were made there too.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from qeqtrain.physics.buckets import Bucket
from qeqtrain.physics.solvers.dense import constraint_table
from qeqtrain.physics.solvers.solution import Outcome, Solution
from qeqtrain.structures import ChargeGroups


class PreparedLU:
    """Factors of the bordered matrix of every structure.

    Args:
        buckets: structures of similar size.
        matrices: symmetric H of every bucket, both triangles, shape ``(b, n, n)``; the padding
            is zero beside the diagonal.
        groups: which atoms share a constraint; charges and potentials are not read.
        n_structures: B.
    """

    def __init__(
        self,
        buckets: Sequence[Bucket],
        matrices: Sequence[Tensor],
        groups: ChargeGroups,
        n_structures: int,
    ) -> None:
        self.n_groups, self.n_structures = len(groups), n_structures
        table = constraint_table(groups, n_structures)
        self.blocks = []
        for bucket, matrix in zip(buckets, matrices, strict=True):
            columns = table.index_select(0, bucket.structures)  # (b, g)
            member = groups.member.index_select(0, bucket.atoms.flatten())
            same = member.view(bucket.atoms.shape)[..., None] == columns[:, None, :]
            members = same.double() * bucket.mask[..., None]  # (b, n, g)
            missing = torch.diag_embed((columns == self.n_groups).double())
            padding = torch.diag_embed(1.0 - bucket.mask)
            inner = torch.where(padding > 0, 1.0, matrix)
            bordered = torch.cat(
                [
                    torch.cat([inner, members], dim=2),
                    torch.cat([members.mT, missing], dim=2),
                ],
                dim=1,
            )
            factor, pivots, _ = torch.linalg.lu_factor_ex(bordered)
            self.blocks.append((bucket, columns, bordered, factor, pivots))

    def solve(self, b: Tensor, c: Tensor) -> Solution:
        """Solve for one right-hand side; see :class:`Solution`.

        Args:
            b: shape ``(N,)``.
            c: shape ``(G,)``; not read for groups held at a potential.
        """
        x = torch.zeros_like(b)
        multiplier = b.new_zeros(self.n_groups + 1)
        residual = b.new_zeros(self.n_structures)
        outcome = torch.zeros(self.n_structures, dtype=torch.int64, device=b.device)
        padded = torch.cat([c, c.new_zeros(1)])
        for bucket, columns, bordered, factor, pivots in self.blocks:
            n = bucket.shape[1]
            right = torch.cat([bucket.gather(b), padded[columns]], dim=1)[..., None]
            found = torch.linalg.lu_solve(factor, pivots, right)
            x = bucket.scatter(found[:, :n, 0], x)
            multiplier[columns.flatten()] = found[:, n:, 0].flatten()
            error = (right - torch.bmm(bordered, found)).flatten(1).norm(dim=1)
            scale = right.flatten(1).norm(dim=1).clamp(min=torch.finfo(b.dtype).tiny)
            residual[bucket.structures] = error / scale
            lost = ~found.isfinite().flatten(1).all(dim=1)
            outcome[bucket.structures] = torch.where(lost, int(Outcome.NOT_FINITE), 0)
        return Solution(
            x=x,
            multiplier=multiplier[:-1],
            outcome=outcome,
            residual=residual,
            iterations=torch.ones_like(outcome),
        )
