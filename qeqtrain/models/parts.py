"""Parts of a potential from their recipe nodes."""

from __future__ import annotations

import importlib
import inspect
import os
from collections.abc import Mapping
from typing import Any

from torch import nn

from qeqtrain.errors import UserMistake


def build_part(node: Mapping[str, Any], known: Mapping[str, Any]) -> nn.Module:
    """Build one part; what its keyword-only arguments ask for is filled in from ``known``.

    A file from a stranger must not run code: only modules defined in ``qeqtrain.nn``, or under
    the prefixes in the environment variable ``QEQTRAIN_ALLOW_TARGETS``, are built.
    """
    target = str(node["_target_"])
    module_name, _, name = target.rpartition(".")
    allowed = ["qeqtrain.nn.", *os.environ.get("QEQTRAIN_ALLOW_TARGETS", "").split()]
    if not any(target.startswith(prefix) for prefix in allowed):
        raise UserMistake(
            f"_target_ {target!r} is no part that may be built; allowed: {', '.join(allowed)}"
        )
    try:
        cls = getattr(importlib.import_module(module_name), name, None)
    except ModuleNotFoundError as error:
        raise UserMistake(f"_target_ {target!r}: {error}") from error
    if not (inspect.isclass(cls) and issubclass(cls, nn.Module)):
        raise UserMistake(f"_target_ {target!r} is not a torch module")
    given = {k: v for k, v in node.items() if k != "_target_"}
    wanted = inspect.signature(cls).parameters
    filled = {
        k: v
        for k, v in known.items()
        if k in wanted and wanted[k].kind is inspect.Parameter.KEYWORD_ONLY
    }
    return cls(**given, **filled)
