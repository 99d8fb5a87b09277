"""Objects of other libraries from recipe nodes: optimisers, callbacks, loggers."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping

from pytorch_lightning.utilities.exceptions import MisconfigurationException

from qeqtrain.errors import UserMistake

ALLOWED = ("torch.optim.", "pytorch_lightning.", "qeqtrain.")
"""Modules a recipe may name: a YAML from a stranger must not run code."""


def build(node: Mapping[str, object], where: str, *given: object, **more: object) -> object:
    """Call the ``_target_`` of a node with the rest of the node as keywords.

    Args:
        node: plain mapping with a ``_target_``.
        where: its place in the recipe, for messages.
        *given: arguments that do not come from the recipe.
        **more: keywords that do not come from the recipe.

    Raises:
        UserMistake: no such target, one outside :data:`ALLOWED` and the prefixes in the
            environment variable ``QEQTRAIN_ALLOW_TARGETS``, or arguments it does not take.
    """
    target = str(node.get("_target_", ""))
    allowed = (*ALLOWED, *os.environ.get("QEQTRAIN_ALLOW_TARGETS", "").split())
    if not target.startswith(allowed):
        raise UserMistake(
            f"{where} has _target_ {target!r}; expected one that begins with "
            f"{' | '.join(allowed)}"
        )
    module, _, name = target.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UserMistake(f"{where} has _target_ {target!r}, which does not exist") from error
    arguments = {k: v for k, v in node.items() if k != "_target_"}
    twice = set(arguments) & set(more)
    if twice:
        raise UserMistake(f"{where} sets {', '.join(sorted(twice))}, which is filled in for it")
    try:
        return found(*given, **arguments, **more)
    except (TypeError, ValueError, MisconfigurationException) as error:
        raise UserMistake(
            f"{where}: {target} does not take these arguments: {error}"
        ) from error
