"""A trained backbone that learns to read the total charge, or charge and spin."""

from __future__ import annotations

import torch

from qeqtrain.errors import UserMistake
from qeqtrain.models.potential import Potential, build_potential
from qeqtrain.nn.conditioning import ChargeSpinEmbedding, Conditions


def with_conditions(potential: Potential, conditions: Conditions) -> Potential:
    """Build the model with an embedding of total charge (and spin) in every atom.

    Its last layer begins as zero: before the first step every prediction is the trained
    model's, whatever the total charge.

    Args:
        potential: trained.
        conditions: what its backbone shall read, not ``none``.

    Returns:
        The model; the same one where it reads them already.

    Raises:
        UserMistake: the model reads others.
    """
    header = potential.header()
    node = header["spec"]["backbone"]
    before = node.get("conditioning") or "none"
    if before == conditions:
        return potential
    if before != "none":
        raise UserMistake(
            f"finetune.conditioning={conditions}: the model's backbone reads {before} already, "
            "and was trained so; say finetune.conditioning=keep"
        )
    made = build_potential(
        {**header["spec"], "backbone": {**node, "conditioning": conditions}},
        elements=potential.elements,
        references=potential.references,
        scale=potential.scale,
        average_neighbors=potential.average_neighbors,
        charge_range=potential.charge_range,
        charge_references=header["charge_references"],
        conventions=potential.conventions,
    )
    made.load_state_dict({**made.state_dict(), **potential.state_dict()})
    embedding = made.backbone.conditioning
    assert isinstance(embedding, ChargeSpinEmbedding)
    for weight in embedding.network.layers[-1].parameters():
        torch.nn.init.zeros_(weight)
    return made
