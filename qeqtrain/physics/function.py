"""``torch.autograd.Function`` with a typed ``apply``, and what a backward pass asks of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch


class Function(torch.autograd.Function):
    """Base of the operations here whose derivatives are written by hand."""

    if TYPE_CHECKING:

        @classmethod
        def apply(cls, *inputs: Any) -> Any:
            """Run the operation and record it."""


def wanted(ctx: Any) -> list[bool]:
    """Tell of every tensor given to an operation whether this backward pass asks for it.

    ``needs_input_grad`` says what could be asked for. Forces ask for nothing but positions, and
    ``loss.backward(inputs=parameters)`` for no second derivative in positions: torch's own
    operations leave out what leads nowhere, and so do those here. This is half of the time of
    a training step's solve.

    Args:
        ctx: of an operation whose tensors come first among its inputs, in ``backward``.
    """
    needed = [bool(n) for n in ctx.needs_input_grad[: len(ctx.next_functions)]]
    # Private to torch, who uses it for hooks on several tensors; without it nothing is spared.
    executed = getattr(torch._C, "_will_engine_execute_node", None)
    if executed is None:
        return needed
    edges = zip(needed, ctx.next_functions, strict=True)
    return [n and _leads_on(executed, node) for n, (node, _) in edges]


def _leads_on(executed: Any, node: Any) -> bool:
    try:
        return bool(executed(node))
    except RuntimeError:  # what is asked for is this leaf itself
        return True
