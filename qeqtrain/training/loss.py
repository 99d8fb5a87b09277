"""What training minimises: a weighted sum of terms, each a mean over the labels of a batch.

A term's mean runs over the components that are present: a batch in which half of the frames
have charges trains charges on that half, undiluted. Differences are taken in float64, because
totals of a million eV have no meV left in float32.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast, get_args

import torch
from torch import Tensor, distributed

from qeqtrain.errors import UserMistake, nearest
from qeqtrain.training.quantities import QUANTITIES, comparable, compare

if TYPE_CHECKING:
    from qeqtrain.data.batching import Batch
    from qeqtrain.structures import Prediction

Kind = Literal["mse", "mae", "huber"]


@dataclass(frozen=True)
class Term:
    """One term of the loss.

    Attributes:
        weight: factor in the sum; the term's unit is that of the quantity (eV per atom, eV/A,
            eV/A^3, e, e A), squared for ``mse`` and ``huber``.
        kind: mean square, mean absolute, or Huber's mixture of the two.
        huber_delta: where Huber's turns from square to linear, in the quantity's unit.
    """

    weight: float
    kind: Kind = "mse"
    huber_delta: float = 0.01

    def total(self, difference: Tensor) -> Tensor:
        """Add up the penalties of all components, shape ``()``."""
        if self.kind == "mse":
            return difference.square().sum()
        if self.kind == "mae":
            return difference.abs().sum()
        zeros = torch.zeros_like(difference)
        return torch.nn.functional.huber_loss(
            difference, zeros, reduction="sum", delta=self.huber_delta
        )


class Loss:
    """Weighted sum of the errors in energy per atom, forces, stress, charges and dipole.

    A weight is a number, or a mapping with ``weight``, ``kind`` and ``huber_delta`` of its own.

    Args:
        energy: weight of the energy per atom, eV.
        forces: weight of the force components, eV/A.
        stress: weight of the nine stress components, eV/A^3.
        charges: weight of the atomic charges, e.
        dipole: weight of the dipole components, e A.
        kind: of every term that does not say otherwise.
        huber_delta: of every term that does not say otherwise, in the term's unit.

    Raises:
        UserMistake: a weight or kind that makes no sense.
    """

    def __init__(
        self,
        energy: float | dict[str, float | str] = 1.0,
        forces: float | dict[str, float | str] = 1.0,
        stress: float | dict[str, float | str] = 0.0,
        charges: float | dict[str, float | str] = 0.0,
        dipole: float | dict[str, float | str] = 0.0,
        kind: Kind = "mse",
        huber_delta: float = 0.01,
    ) -> None:
        given = {
            "energy": energy,
            "forces": forces,
            "stress": stress,
            "charges": charges,
            "dipole": dipole,
        }
        problems: list[str] = []
        terms = {
            name: _term(name, value, Term(0.0, kind, huber_delta), problems)
            for name, value in given.items()
        }
        self.terms = {name: term for name, term in terms.items() if term.weight > 0.0}
        if not self.terms and not problems:
            problems.append("loss: every weight is 0; give at least one term a weight above 0")
        if problems:
            raise UserMistake(*problems)

    def needs(self, quantity: str) -> bool:
        """Whether a quantity has a weight."""
        return quantity in self.terms

    def refuse_impossible(self, *, has_charges: bool) -> None:
        """Check that the model predicts what the loss compares.

        Raises:
            UserMistake: charges or dipoles asked of a model without charges.
        """
        asked = [name for name in ("charges", "dipole") if self.needs(name)]
        if asked and not has_charges:
            raise UserMistake(
                *(
                    f"loss.{name}={self.terms[name].weight:g}, but the model has no charges; "
                    f"choose a charge model (charge=diagonal) or set loss.{name}=0"
                    for name in asked
                )
            )

    def counts(self, batch: Batch) -> Tensor:
        """Count what every term's mean runs over, on all ranks; 1 where nothing has the label.

        They follow from the labels alone, so that ranks agree on them before anything can go
        wrong, and a batch can be worked on in parts. What ranks then compute are shares of one
        loss: a sum over their own structures divided by a count over all.

        Returns:
            Float64, shape ``(len(self.terms),)``.
        """
        counts = [_components(batch, name) for name in self.terms]
        total = torch.stack([c.to(batch.structures.total_charge) for c in counts])
        if distributed.is_available() and distributed.is_initialized():
            distributed.all_reduce(total)
        return torch.where(total > 0.0, total, 1.0)

    def __call__(
        self, prediction: Prediction, batch: Batch, counts: Tensor | None = None
    ) -> Tensor:
        """Add up the terms of a batch, float64, shape ``()``.

        Args:
            prediction: of the batch, or of a part of it.
            batch: the same structures.
            counts: from :meth:`counts` of the whole batch; ``None``: this is the whole batch.
        """
        total = prediction.energy.new_zeros(())
        given = self.counts(batch) if counts is None else counts
        for (name, term), count in zip(self.terms.items(), given, strict=True):
            comparison = compare(prediction, batch, name)
            if comparison is not None:
                total = total + term.weight * term.total(comparison.difference) / count
        return total


def _components(batch: Batch, quantity: str) -> Tensor:
    """Count the components of a batch that have a label to be compared with, shape ``()``."""
    label = batch.labels.get(quantity)
    if label is None:
        return torch.zeros((), dtype=torch.float64)
    rows = comparable(batch, quantity)
    weights = rows.double()
    if QUANTITIES[quantity].per_atom:
        weights = weights * batch.structures.atom_counts()
    return weights.sum() * label.shape[1:].numel()


def _term(name: str, value: object, default: Term, problems: list[str]) -> Term:
    """Read one weight of the recipe; what is wrong with it is added to ``problems``."""
    fields = dict(value) if isinstance(value, Mapping) else {"weight": value}
    known = ("weight", "kind", "huber_delta")
    problems += [
        f"loss.{name} has the key '{key}'; it takes {', '.join(known)}{nearest(key, known)}"
        for key in fields
        if key not in known
    ]
    weight = fields.get("weight", 1.0)
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not weight >= 0.0:
        problems.append(f"loss.{name} has weight {weight!r}; expected a number, 0 or more")
        weight = 0.0
    kind = fields.get("kind", default.kind)
    kinds = get_args(Kind)
    if kind not in kinds:
        hint = nearest(str(kind), kinds)
        problems.append(f"loss.{name} is of kind {kind!r}; expected {' | '.join(kinds)}{hint}")
    delta = fields.get("huber_delta", default.huber_delta)
    if not isinstance(delta, int | float) or not delta > 0.0:
        problems.append(f"loss.{name} has huber_delta {delta!r}; expected a number above 0")
    return Term(float(weight), cast("Kind", kind), cast("float", delta))


TERMS = tuple(QUANTITIES)
"""Names of the loss terms, those of the labels they are compared with."""
