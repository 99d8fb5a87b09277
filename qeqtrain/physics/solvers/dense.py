r"""Cholesky factorisation with a Schur complement for the constraints, bucket by bucket.

.. math:: \begin{pmatrix} H & C^T \\ C & 0 \end{pmatrix}
          \begin{pmatrix} x \\ \mu \end{pmatrix} = \begin{pmatrix} b \\ c \end{pmatrix},
          \qquad S = C H^{-1} C^T, \quad
          \mu = S^{-1} (C H^{-1} b - c), \quad x = H^{-1} b - H^{-1} C^T \mu

H is positive definite (Gaussian densities repel themselves), so no pivoting is needed: a
Cholesky factor costs half of an LU of the bordered matrix. One factor serves the equilibration
and every backward pass. Always float64: float32 charges err by up to 4e-5 e.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from qeqtrain.physics.buckets import Bucket
from qeqtrain.physics.solvers.solution import Outcome, Solution
from qeqtrain.structures import ChargeGroups


@dataclass(frozen=True)
class _Block:
    """One bucket, factored: L, the columns H^-1 C^T, L of S, and which group each row is."""

    bucket: Bucket
    factor: Tensor  # (b, n, n)
    members: Tensor  # (b, n, g), C^T
    response: Tensor  # (b, n, g), H^-1 C^T
    schur: Tensor  # (b, g, g)
    groups: Tensor  # (b, g), index in the batch; G where a structure has fewer than g


class PreparedCholesky:
    """Factors of H for every structure; solves for any number of right-hand sides.

    Args:
        buckets: structures of similar size.
        matrices: lower triangle of H for every bucket, shape ``(b, n, n)``; what is above
            the diagonal is not read, the padding is zero.
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
        self.n_groups = len(groups)
        device = groups.member.device
        self.outcome = torch.full((n_structures,), int(Outcome.CONVERGED), device=device)
        self.condition = torch.ones(n_structures, dtype=torch.float64, device=device)
        table = constraint_table(groups, n_structures)
        self.blocks = []
        for bucket, matrix in zip(buckets, matrices, strict=True):
            diagonal = torch.diagonal(matrix, dim1=1, dim2=2)
            padded = torch.where(bucket.mask > 0, diagonal, 1.0)
            torch.diagonal(matrix, dim1=1, dim2=2).copy_(padded)
            factor, info = torch.linalg.cholesky_ex(matrix)
            columns = table.index_select(0, bucket.structures)
            member = groups.member.index_select(0, bucket.atoms.flatten())
            same = member.view(bucket.atoms.shape)[..., None] == columns[:, None, :]
            members = same.double() * bucket.mask[..., None]
            response = torch.cholesky_solve(members, factor)
            complement = torch.bmm(members.mT, response)
            # Rows of no group: a unit diagonal gives them multiplier zero.
            missing = (columns == self.n_groups).double()
            schur, _ = torch.linalg.cholesky_ex(complement + torch.diag_embed(missing))
            self.blocks.append(_Block(bucket, factor, members, response, schur, columns))
            self._judge(bucket, factor, info)

    def solve(self, b: Tensor, c: Tensor) -> Solution:
        """Solve for one right-hand side; see :class:`Solution`.

        Args:
            b: shape ``(N,)``.
            c: shape ``(G,)``; not read for groups held at a potential.
        """
        x = torch.zeros_like(b)
        multiplier = b.new_zeros(self.n_groups + 1)
        residual = torch.zeros_like(self.condition)
        padded_c = torch.cat([c, c.new_zeros(1)])
        for block in self.blocks:
            right = block.bucket.gather(b)[..., None]
            free = torch.cholesky_solve(right, block.factor)  # (b, n, 1)
            target = padded_c[block.groups][..., None]
            excess = torch.bmm(block.members.mT, free) - target
            mu = torch.cholesky_solve(excess, block.schur)
            part = free - torch.bmm(block.response, mu)
            product = torch.bmm(block.factor, torch.bmm(block.factor.mT, part))
            error = right - torch.bmm(block.members, mu) - product
            scale = right.flatten(1).norm(dim=1).clamp(min=torch.finfo(b.dtype).tiny)
            residual[block.bucket.structures] = error.flatten(1).norm(dim=1) / scale
            x = block.bucket.scatter(part.squeeze(-1), x)
            multiplier[block.groups.flatten()] = mu.flatten()
        multiplier = multiplier[:-1]
        outcome = self.outcome
        for block in self.blocks:
            finite = block.bucket.gather(x).isfinite().all(dim=-1)
            state = outcome.index_select(0, block.bucket.structures)
            lost = torch.where(finite, state, int(Outcome.NOT_FINITE))
            kept = torch.where(state == Outcome.NOT_POSITIVE_DEFINITE, state, lost)
            outcome = outcome.index_copy(0, block.bucket.structures, kept)
        return Solution(
            x=x,
            multiplier=multiplier,
            outcome=outcome,
            residual=residual,
            iterations=torch.ones_like(self.outcome),
        )

    def _judge(self, bucket: Bucket, factor: Tensor, info: Tensor) -> None:
        diagonal = torch.diagonal(factor, dim1=1, dim2=2)
        whole = torch.diagonal(factor, dim1=1, dim2=2).isfinite().all(dim=-1)
        state = torch.where(info > 0, int(Outcome.NOT_POSITIVE_DEFINITE), 0)
        self.outcome[bucket.structures] = torch.where(whole, state, int(Outcome.NOT_FINITE))
        large = torch.where(bucket.mask > 0, diagonal, 0.0).amax(dim=-1)
        small = torch.where(bucket.mask > 0, diagonal, torch.inf).amin(dim=-1)
        self.condition[bucket.structures] = (large / small) ** 2


def constraint_table(groups: ChargeGroups, n_structures: int) -> Tensor:
    """Groups with a constraint, by structure, shape ``(B, g)``; G where there is no more."""
    if groups.whole:  # known without asking the device
        return torch.arange(n_structures, device=groups.member.device)[:, None]
    fixed = torch.nonzero(~groups.held).squeeze(-1)
    owner = groups.structure.index_select(0, fixed)
    order = torch.argsort(owner, stable=True)
    fixed, owner = fixed[order], owner[order]
    counts = torch.bincount(owner, minlength=n_structures)
    first = counts.cumsum(0) - counts
    rank = torch.arange(len(fixed), device=fixed.device) - first.index_select(0, owner)
    most = int(counts.max()) if n_structures else 0
    table = torch.full((n_structures, max(most, 1)), len(groups), device=fixed.device)
    table[owner, rank] = fixed
    return table
