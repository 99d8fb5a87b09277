"""What training minimises: a weighted sum of terms, each a mean over the labels of a batch.

A term's mean runs over the components that are present: a batch in which half of the frames
have charges trains charges on that half, undiluted. Differences are taken in float64, because
totals of a million eV have no meV left in float32.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, cast, get_args

import torch
from torch import Tensor, distributed

from qeqtrain.errors import UserMistake, nearest
from qeqtrain.training.quantities import QUANTITIES, Comparison, comparable, compare

if TYPE_CHECKING:
    from qeqtrain.data.batching import Batch
    from qeqtrain.structures import Prediction

Kind = Literal["mse", "mae", "huber", "rmse"]
Average = Literal["components", "structures"]


@dataclass(frozen=True)
class Term:
    """One term of the loss.

    Attributes:
        weight: factor in the sum; the term's unit is that of the quantity (eV per atom, eV/A,
            eV/A^3, e, e A), squared for ``mse`` and ``huber``.
        kind: mean square, mean absolute, Huber's mixture of the two, or the root of the mean
            square of the whole batch.
        huber_delta: where Huber's turns from square to linear, in the quantity's unit.
        average: whether the mean runs over all components alike, or over structures, each of
            which first averages its own atoms.
    """

    weight: float
    kind: Kind = "mse"
    huber_delta: float = 0.01
    average: Average = "components"

    def weighed(self, name: str, comparison: Comparison, batch: Batch) -> Comparison:
        """Give every row its share in the mean."""
        if self.average == "components" or not QUANTITIES[name].per_atom:
            return comparison
        structures = batch.structures
        share = structures.atom_counts().reciprocal().index_select(0, structures.batch)
        return replace(comparison, share=share)

    def total(self, comparison: Comparison) -> Tensor:
        """Add up the penalties of all components, shape ``()``."""
        difference = comparison.difference
        if self.kind in ("mse", "rmse"):
            penalty = difference.square()
        elif self.kind == "mae":
            penalty = difference.abs()
        else:
            zeros = torch.zeros_like(difference)
            penalty = torch.nn.functional.huber_loss(
                difference, zeros, reduction="none", delta=self.huber_delta
            )
        if comparison.share is None:
            return penalty.sum()
        return penalty.flatten(1).sum(dim=1) @ comparison.share


class Loss:
    """Weighted sum of errors: energy per atom, forces, stress, charges, dipole, Born charges.

    A weight is a number, or a mapping with ``weight``, ``kind``, ``huber_delta`` and
    ``average`` of its own.

    Args:
        energy: weight of the energy per atom, eV.
        forces: weight of the force components, eV/A.
        stress: weight of the nine stress components, eV/A^3.
        charges: weight of the atomic charges, e.
        dipole: weight of the dipole components, e A.
        born_charges: weight of the nine components of Born charges, e.
        kind: of every term that does not say otherwise.
        huber_delta: of every term that does not say otherwise, in the term's unit.
        average: of every term that does not say otherwise.

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
        born_charges: float | dict[str, float | str] = 0.0,
        kind: Kind = "mse",
        huber_delta: float = 0.01,
        average: Average = "components",
    ) -> None:
        given = {
            "energy": energy,
            "forces": forces,
            "stress": stress,
            "charges": charges,
            "dipole": dipole,
            "born_charges": born_charges,
        }
        problems: list[str] = []
        terms = {
            name: _term(name, value, Term(0.0, kind, huber_delta, average), problems)
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

    def refuse_impossible(self, *, has_charges: bool, fixed_charges: bool = False) -> None:
        """Check that the model predicts what the loss compares.

        Args:
            has_charges: whether the model has charges.
            fixed_charges: whether nothing of them is trained.

        Raises:
            UserMistake: charges, dipoles or Born charges asked of a model without charges or
                with fixed ones.
        """
        asked = [name for name in ("charges", "dipole", "born_charges") if self.needs(name)]
        if asked and fixed_charges:
            raise UserMistake(
                *(
                    f"loss.{name}={self.terms[name].weight:g}, but the charges come from a "
                    f"table and have nothing to learn; set loss.{name}=0 or choose another "
                    "charge model"
                    for name in asked
                )
            )
        if asked and not has_charges:
            raise UserMistake(
                *(
                    f"loss.{name}={self.terms[name].weight:g}, but the model has no charges; "
                    f"choose a charge model (charge=diagonal) or set loss.{name}=0"
                    for name in asked
                )
            )

    def refuse_untrained_dipoles(self, *, atomic_dipoles: bool) -> None:
        """Check that dipoles of atoms, if the model has them, are trained by some term.

        Raises:
            UserMistake: neither dipoles nor Born charges have a weight.
        """
        if atomic_dipoles and not (self.needs("dipole") or self.needs("born_charges")):
            raise UserMistake(
                "potential.atomic_dipoles is true, but neither loss.dipole nor "
                "loss.born_charges has a weight that would train them; give one, or say "
                "potential.atomic_dipoles=false"
            )

    def counts(self, batch: Batch, *, flowing: bool = True) -> Tensor:
        """Count what every term's mean runs over, on all ranks; 1 where nothing has the label.

        They follow from the labels alone, so that ranks agree on them before anything can go
        wrong, and a batch can be worked on in parts. What ranks then compute are shares of one
        loss: a sum over their own structures divided by a count over all.

        Args:
            batch: of this rank.
            flowing: whether charge flows, so that periodic structures have no Born charges.

        Returns:
            Float64, shape ``(len(self.terms),)``.
        """
        counts = [_components(batch, name, term, flowing) for name, term in self.terms.items()]
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
            counts: from :meth:`counts` of the whole batch; ``None``: this is the whole batch,
                of a model whose charge flows.
        """
        total = prediction.energy.new_zeros(())
        given = self.counts(batch) if counts is None else counts
        means = {}
        for (name, term), count in zip(self.terms.items(), given, strict=True):
            found = compare(prediction, batch, name)
            compared = None if found is None else term.weighed(name, found, batch)
            means[name] = total if compared is None else term.total(compared) / count
        for name, root in zip(self.roots, self._over_ranks(means), strict=True):
            # The root's share of this rank, and its derivative: that of a mean over all ranks.
            safe = torch.where(root > 0.0, root, 1.0)
            means[name] = 0.5 * (means[name] + means[name].detach()) / safe
        for name, mean in means.items():
            total = total + self.terms[name].weight * mean
        return total

    @property
    def roots(self) -> list[str]:
        """Terms that are the root of a mean, which only the whole batch knows."""
        return [name for name, term in self.terms.items() if term.kind == "rmse"]

    def _over_ranks(self, means: Mapping[str, Tensor]) -> Tensor:
        """Give the roots of those means that ask for it, over all ranks, without gradient."""
        if not self.roots:
            return torch.zeros(0)
        own = torch.stack([means[name].detach() for name in self.roots])
        if distributed.is_available() and distributed.is_initialized():
            distributed.all_reduce(own)
        return own.sqrt()

    def sit_out(self, like: Tensor) -> None:
        """Have no answer in this step: other ranks wait for this one's means.

        Args:
            like: gives dtype and device.
        """
        self._over_ranks(dict.fromkeys(self.terms, torch.nan * like.new_zeros(())))


def _components(batch: Batch, quantity: str, term: Term, flowing: bool) -> Tensor:
    """Count what a term's mean runs over, one for every structure or component, ``()``."""
    label = batch.labels.get(quantity)
    if label is None:
        return torch.zeros((), dtype=torch.float64)
    mask = comparable(batch, quantity)
    if quantity == "born_charges" and flowing:
        mask = mask & ~batch.structures.pbc.any(dim=-1)
    weights = mask.double()
    if QUANTITIES[quantity].per_atom and term.average == "components":
        weights = weights * batch.structures.atom_counts()
    return weights.sum() * label.shape[1:].numel()


def _term(name: str, value: object, default: Term, problems: list[str]) -> Term:
    """Read one weight of the recipe; what is wrong with it is added to ``problems``."""
    fields = dict(value) if isinstance(value, Mapping) else {"weight": value}
    known = ("weight", "kind", "huber_delta", "average")
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
    average = fields.get("average", default.average)
    averages = get_args(Average)
    if average not in averages:
        hint = nearest(str(average), averages)
        problems.append(
            f"loss.{name} has average {average!r}; expected {' | '.join(averages)}{hint}"
        )
    return Term(
        float(weight), cast("Kind", kind), cast("float", delta), cast("Average", average)
    )


TERMS = tuple(QUANTITIES)
"""Names of the loss terms, those of the labels they are compared with."""
