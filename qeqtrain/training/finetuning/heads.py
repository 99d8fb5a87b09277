"""A new charge head on a trained backbone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from qeqtrain.models.potential import Potential, build_potential


def with_new_charges(
    potential: Potential, nodes: Mapping[str, Any], charge_range: tuple[float, float] | None
) -> tuple[Potential, list[str]]:
    """Build the model with a charge head, and a coupling that reads it, of its own.

    Weights of the charge head are new. Everything else is taken over where it fits; a linear
    map of the coupling that has become wider keeps its old part, and its new inputs count for
    nothing at first, so that energies begin near those of the trained model.

    Args:
        potential: trained.
        nodes: ``charge`` and ``coupling`` of the new model.
        charge_range: smallest and largest charge of the training data, e.

    Returns:
        The model, and names of its weights that begin anew.
    """
    header = potential.header()
    spec = {**header["spec"], "charge": nodes["charge"], "coupling": nodes["coupling"]}
    made = build_potential(
        spec,
        elements=potential.elements,
        references=potential.references,
        scale=potential.scale,
        average_neighbors=potential.average_neighbors,
        charge_range=charge_range,
        charge_references=header["charge_references"],
        conventions=potential.conventions,
    )
    before, state = potential.state_dict(), made.state_dict()
    maps = {
        f"{prefix}.{name}"
        for prefix, module in made.named_modules()
        if isinstance(module, nn.Linear | nn.LayerNorm)
        for name, _ in module.named_parameters(recurse=False)
    }
    new = []
    for name, fresh in state.items():
        old = None if name.startswith("charge.") else before.get(name)
        if old is not None and old.shape == fresh.shape:
            state[name] = old
        elif old is not None and name in maps and _fits(old, fresh):
            state[name] = _widened(old, fresh)
        else:
            new.append(name)
    made.load_state_dict(state)
    return made, new


def _fits(old: Tensor, fresh: Tensor) -> bool:
    pairs = zip(old.shape, fresh.shape, strict=False)
    return old.dim() == fresh.dim() and all(a <= b for a, b in pairs)


def _widened(old: Tensor, fresh: Tensor) -> Tensor:
    """Put the old part into a wider one; what reads the new inputs is zero there."""
    found = fresh.clone()
    if old.dim() == 1:
        found[: len(old)] = old
        return found
    rows, columns = old.shape
    found[:rows, columns:] = torch.zeros_like(found[:rows, columns:])
    found[:rows, :columns] = old
    return found
