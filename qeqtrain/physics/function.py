"""``torch.autograd.Function`` with a type for ``apply``, which torch leaves untyped."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch


class Function(torch.autograd.Function):
    """Base of the operations here whose derivatives are written by hand."""

    if TYPE_CHECKING:

        @classmethod
        def apply(cls, *inputs: Any) -> Any:
            """Run the operation and record it."""
