"""Pairs as a sparse matrix: products with it are what iterative solvers ask for."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from qeqtrain.physics.pairs import PairList


def symmetric_matrix(pairs: PairList, values: Tensor) -> Tensor:
    """Write values of pairs as a matrix in compressed rows, both triangles; no gradient.

    Sorted once, a product costs a sixth of what gathering and adding pair by pair does.

    Args:
        pairs: P of them among N atoms.
        values: shape ``(P,)``; several images of a pair add up.

    Returns:
        Sparse, shape ``(N, N)``.
    """
    n = pairs.n_atoms
    row = torch.cat([pairs.sender, pairs.receiver])
    column = torch.cat([pairs.receiver, pairs.sender])
    key, order = torch.sort(row.mul_(n).add_(column))
    del row, column
    # An atom pairs with several images of another: one element of the matrix.
    element, which = torch.unique_consecutive(key, return_inverse=True)
    values = torch.cat([values, values])[order]
    values = values.new_zeros(len(element)).index_add(0, which, values)
    ends = torch.bincount(element // n, minlength=n).cumsum(0)
    with warnings.catch_warnings():
        # Compressed rows are "in beta state" to torch; what is used here is one product.
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support")
        return torch.sparse_csr_tensor(
            torch.cat([ends.new_zeros(1), ends]),
            element % n,
            values,
            (n, n),
            check_invariants=True,
        )
