"""What a potential is built from where several data sets are mixed: one scale for each.

The main set has the potential's energies of elements; of every other set the model keeps the
difference. What lies beneath the network (baselines, charges of a fixed table) is the same for
all sets; it is taken off the labels of each before its energies are fitted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from qeqtrain.data.mixed_references import Energies, fitted_energies, given_energies
from qeqtrain.data.statistics import compositions
from qeqtrain.data.sums import EnergySums
from qeqtrain.training.given import Given, among, without_given

if TYPE_CHECKING:
    from qeqtrain.data.mixed import MixedSets
    from qeqtrain.data.statistics import Statistics


class Mixing:
    """Statistics and energies of elements of mixed sets.

    Args:
        data: prepared.
        given: energies and forces beneath the network, of training frames, or ``None``.

    Attributes:
        statistics: of all sets by their weights, without what is given; reference energies are
            those of the main set.
        energies: of elements, by set, eV, without what is given.
    """

    def __init__(self, data: MixedSets, given: Given | None) -> None:
        self._data = data
        self._source, _ = data.source_of("train")
        choices = {name: one.references for name, one in data.sets.items()}
        sums = {name: found.energies for name, found in data.sums_by_set.items()}
        self.energies = fitted_energies(sums, choices, data.main)
        by_set: Mapping[str, Statistics] = data.statistics_by_set
        if given is not None:
            shares = self._shares(given)
            beneath = {name: self._energy_sums(part) for name, part in shares.items()}
            taken = fitted_energies(beneath, choices, data.main)
            self.energies = {
                name: {z: e - taken[name].get(z, 0.0) for z, e in energies.items()}
                for name, energies in self.energies.items()
            }
            by_set = {
                name: without_given(found, shares[name], self._source)
                if len(shares[name].frames)
                else found
                for name, found in by_set.items()
            }
        self._stated = {
            name: given_energies(name, choice, by_set[name].elements)
            for name, choice in choices.items()
        }
        main = {**self.energies[data.main], **self._stated[data.main]}
        self.statistics = replace(data.mixed(by_set), references=main)
        self._differences: dict[str, Energies] = {}

    def _shares(self, given: Given) -> dict[str, Given]:
        """What is given, of the frames of every set."""
        owners = self._source.owners
        assert owners is not None
        return {
            name: among(given, self._source, owners[given.frames] == k)
            for k, name in enumerate(self._data.sets)
        }

    def _energy_sums(self, given: Given) -> EnergySums:
        """Given energies against compositions."""
        return EnergySums.of(*compositions(self._source, given.frames), given.energies)

    def compare_with(self, references: Energies, *, fitted: bool) -> None:
        """Find what every set has beside the energies of the potential.

        Args:
            references: of the potential, eV.
            fitted: whether those of other sets count, or only those that the recipe gives.
        """
        main = self.energies[self._data.main]
        for name, own in self.energies.items():
            stated = self._stated[name]
            if name != self._data.main and stated:
                found = {z: e - references.get(z, 0.0) for z, e in stated.items()}
            elif fitted:
                found = {z: e - main[z] for z, e in own.items()}
            else:
                found = {}
            self._differences[name] = {z: e for z, e in found.items() if e != 0.0}

    def strangers(
        self, elements: Sequence[int], conventions: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Conventions that know which elements of the model each set has no frame of.

        Args:
            elements: of the model.
            conventions: of every set.
        """
        trained = {n: set(s.elements) for n, s in self._data.statistics_by_set.items()}
        unknown = {n: [z for z in elements if z not in known] for n, known in trained.items()}
        return {
            "untrained_elements": unknown[self._data.main],
            "sets": {
                name: {**own, "untrained_elements": unknown[name]}
                for name, own in conventions.items()
            },
        }

    def differences(self, frames: np.ndarray) -> np.ndarray:
        """Energies of some frames beside those of the main set, eV, shape ``(F,)``.

        Args:
            frames: indices in the source of the training split.
        """
        owners = self._source.owners
        assert owners is not None
        elements, counts = compositions(self._source, frames)
        table = np.array(
            [[own.get(z, 0.0) for z in elements] for own in self._differences.values()]
        )
        found: np.ndarray = (counts * table[owners[frames]]).sum(axis=1)
        return found

    def plain(self) -> dict[str, Any]:
        """Plain values of a :class:`~qeqtrain.models.mixture.Mixture`."""
        kinds = self._data.charge_types
        return {
            "main": self._data.main,
            "sets": {
                name: {
                    "charge_type": kinds[name],
                    "energies": {str(z): e for z, e in own.items()},
                }
                for name, own in self._differences.items()
            },
        }
