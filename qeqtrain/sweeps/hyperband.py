"""Trials ended early: of those that have come as far, the best part goes on.

Successive halving as Hyperband has it (Li et al., J. Mach. Learn. Res. 18, 185, 2018), decided
for each trial when it arrives at a rung and not for all together (Li et al., arXiv 1810.05934).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qeqtrain.errors import nearest

_KEYS = ("type", "min_iter", "max_iter", "s", "eta", "strict")


@dataclass(frozen=True)
class Hyperband:
    """Rungs, and how many of the trials go on from each.

    Attributes:
        rungs: numbers of validations at which trials are compared, rising.
        eta: one in ``eta`` goes on.
    """

    rungs: tuple[int, ...]
    eta: float

    def ends(
        self, mine: Sequence[float], others: Sequence[Sequence[float]], *, maximize: bool
    ) -> bool:
        """Whether a trial has been left behind at the last rung it reached.

        Nothing is ended before ``eta`` trials have come there.

        Args:
            mine: metric of the trial, one value for every validation.
            others: of all other trials, ended ones too.
            maximize: whether more is better.
        """
        reached = [rung for rung in self.rungs if rung <= len(mine)]
        if not reached:
            return False
        sign = -1.0 if maximize else 1.0
        rung = reached[-1]

        def best(values: Sequence[float]) -> float:
            finite = [sign * v for v in values[:rung] if math.isfinite(v)]
            return min(finite, default=math.inf)

        come = [best(values) for values in (mine, *others) if len(values) >= rung]
        if len(come) < self.eta:
            return False
        goes_on = sorted(come)[max(1, int(len(come) / self.eta)) - 1]
        return best(mine) > goes_on


def read_hyperband(node: Any, problems: list[str]) -> Hyperband | None:
    """Read ``early_terminate`` of a sweep file; what is wrong goes to ``problems``."""
    if not isinstance(node, Mapping):
        problems.append(f"early_terminate: met {node!r}, expected type: hyperband and min_iter")
        return None
    before = len(problems)
    problems += [
        f"early_terminate: unknown key '{key}'{nearest(str(key), _KEYS)}"
        for key in node
        if key not in _KEYS
    ]
    if node.get("type") != "hyperband":
        problems.append(
            f"early_terminate.type: met {node.get('type')!r}, expected hyperband, the only one"
        )
    for key in ("min_iter", "max_iter", "s"):
        if key in node and (type(node[key]) is not int or node[key] < 1):
            problems.append(
                f"early_terminate.{key}: met {node[key]!r}, expected a whole number above 0 "
                "(of validations)"
            )
    eta = node.get("eta", 3)
    if isinstance(eta, bool) or not isinstance(eta, int | float) or not eta > 1:
        problems.append(f"early_terminate.eta: met {eta!r}, expected a number above 1")
    if ("min_iter" in node) == ("max_iter" in node):
        problems.append("early_terminate: expected min_iter, or max_iter and s")
    elif "max_iter" in node and "s" not in node:
        problems.append("early_terminate: max_iter needs s, the number of rungs below it")
    if len(problems) > before:
        return None
    if "min_iter" in node:
        rungs = [int(node["min_iter"] * eta**power) for power in range(40)]
        rungs = [rung for rung in rungs if rung < 10**9]
    else:
        rungs = [int(node["max_iter"] / eta**power) for power in range(1, node["s"] + 1)]
    return Hyperband(tuple(sorted({rung for rung in rungs if rung >= 1})), float(eta))
