"""A small molecule beside a batch, so that none of its sizes is one.

Compilers take a size of one for a constant. A single structure, the case of molecular
dynamics, a single atom or a single pair would each need a program of their own; with three
more atoms in a structure of their own they need none. What is predicted of these is cut off,
and with it their gradients.
"""

from __future__ import annotations

from dataclasses import fields, replace

import torch
from torch import Tensor

from qeqtrain.structures import Edges, Prediction, Structures

PER_STRUCTURE = ("energy", "stress", "dipole", "chemical_potential", "polarizability")
"""What is predicted for every structure; all else is for every atom."""

_ENDS = ((0, 0, 1), (1, 2, 2))
"""Senders and receivers of the pairs in the molecule."""


def needs_padding(structures: Structures) -> bool:
    """Tell whether a size of a batch is below two."""
    pairs = [e.sender.shape[0] for e in structures.edges.values()]
    return min([len(structures), structures.n_atoms, *pairs]) < 2


def padded(structures: Structures) -> Structures:
    """Add a molecule of three atoms of the first atom's element, in its charge state.

    Args:
        structures: B of them with N atoms, neither of which is zero, none with fragments or an
            external potential.

    Returns:
        B + 1 structures with N + 3 atoms, and three more pairs for every consumer.
    """
    s = structures
    side = 0.5 * min((e.cutoff for e in s.edges.values()), default=2.0)
    corners = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.3, 0.9, 0.0]])
    corners = side * corners.to(s.positions)
    none = torch.zeros_like

    def joined(tensor: Tensor, more: Tensor) -> Tensor:
        return torch.cat([tensor, more])

    ends = torch.tensor(_ENDS, device=s.batch.device) + s.n_atoms
    edges = {
        name: Edges(
            joined(e.sender, ends[0]),
            joined(e.receiver, ends[1]),
            joined(e.shift, e.shift.new_zeros((3, 3))),
            e.cutoff,
            # All its pairs are listed, whatever the others' lists reach.
            joined(e.reaches(len(s)), torch.full_like(s.total_charge[:1], torch.inf)),
        )
        for name, e in s.edges.items()
    }
    return replace(
        s,
        numbers=joined(s.numbers, s.numbers[:1].expand(3)),
        positions=joined(s.positions, corners),
        batch=joined(s.batch, torch.full_like(s.batch[:1], len(s)).expand(3)),
        cell=joined(s.cell, none(s.cell[:1])),
        pbc=joined(s.pbc, none(s.pbc[:1])),
        total_charge=joined(s.total_charge, s.total_charge[:1]),
        spin=joined(s.spin, s.spin[:1]),
        electric_field=joined(s.electric_field, none(s.electric_field[:1])),
        data_set=None if s.data_set is None else joined(s.data_set, s.data_set[:1]),
        edges=edges,
    )


def cut(prediction: Prediction, structures: Structures) -> Prediction:
    """Take off what was predicted beyond these structures."""
    sizes = {name: len(structures) for name in PER_STRUCTURE}
    kept = {}
    for field in fields(prediction):
        value = getattr(prediction, field.name)
        if value is not None:
            value = value[: sizes.get(field.name, structures.n_atoms)]
        kept[field.name] = value
    return Prediction(**kept)
