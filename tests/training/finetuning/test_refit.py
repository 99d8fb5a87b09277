"""References of another functional are found exactly; what stays open is said."""

from __future__ import annotations

from functools import reduce
from pathlib import Path

import numpy as np
import pytest

from qeqtrain.data.sets import DataSets
from qeqtrain.data.sums import EnergySums
from qeqtrain.neighbors import with_pairs
from qeqtrain.structures import collate
from qeqtrain.training.finetuning.refit import refit, solve
from tests.training.finetuning.conftest import source_model, write_frames

CONSTANTS = {11: -31.4, 17: 271.8}


def relabelled(path: Path, *, mixed: bool) -> DataSets:
    """Data whose energies are those of the source plus a constant for every element."""
    write_frames(path, 24, mixed=mixed)
    model = source_model().eval()
    data = DataSets(str(path), split={"val": 2})
    data.prepare(model.cutoffs, {"energy": True})
    source, _ = data.source_of("train")
    energies = source.columns["labels/energy"]
    for i in range(len(source)):
        structure = source[i].structure
        said = model(collate([with_pairs(structure, model.cutoffs)]), forces=False)
        added = sum(CONSTANTS[int(z)] for z in structure.numbers)
        energies[i] = float(said.energy) + added
    return data


def test_constants_of_elements_are_found(tmp_path: Path) -> None:
    found = refit(source_model(), relabelled(tmp_path / "a.extxyz", mixed=True))
    assert found.energies == pytest.approx(CONSTANTS, abs=1e-8)
    assert not found.warning


def test_one_composition_leaves_elements_open(tmp_path: Path) -> None:
    found = refit(source_model(), relabelled(tmp_path / "a.extxyz", mixed=False))
    assert found.energies[11] + found.energies[17] == pytest.approx(sum(CONSTANTS.values()))
    assert found.energies[11] == pytest.approx(found.energies[17])
    assert found.open == (11, 17)
    assert "Na, Cl apart" in found.warning


def compositions(random: np.random.Generator, frames: int, elements: int) -> np.ndarray:
    """Fractions of four elements each, shape ``(frames, elements)``."""
    counts = np.zeros((frames, elements))
    for row in counts:
        row[random.choice(elements, size=4, replace=False)] = random.integers(1, 5, size=4)
    return counts / counts.sum(axis=1, keepdims=True)


def test_a_stream_gives_what_all_frames_give_together() -> None:
    random = np.random.default_rng(0)
    fractions = compositions(random, 60, 6)
    energies = fractions @ [1.0, -2.0, 50.0, 3.0, 8.0, -7.0] + 0.1 * random.normal(size=60)
    numbers = (1, 6, 8, 11, 14, 17)
    blocks = [slice(k, k + 7) for k in range(0, 60, 7)]
    parts = [EnergySums.of(numbers, fractions[b], energies[b]) for b in blocks]
    whole = solve(EnergySums.of(numbers, fractions, energies))
    found = solve(reduce(EnergySums.merge, parts))
    assert list(found.energies.values()) == pytest.approx(
        list(whole.energies.values()), abs=1e-10
    )
    assert found.energies[8] == pytest.approx(50.0, abs=0.3)


def test_few_frames_of_many_elements_are_not_met_by_constants() -> None:
    random = np.random.default_rng(1)
    numbers = tuple(range(1, 61))
    constants = -60.0 + 0.2 * random.normal(size=60)
    fractions, others = compositions(random, 50, 60), compositions(random, 200, 60)
    energies = fractions @ constants + 0.5 * random.normal(size=50)
    found = solve(EnergySums.of(numbers, fractions, energies))
    least, *_ = np.linalg.lstsq(fractions, energies, rcond=None)

    def error(shift: np.ndarray) -> float:
        return float(np.sqrt(np.mean((others @ (shift - constants)) ** 2)))

    assert error(np.array(list(found.energies.values()))) < 0.2
    assert error(least) > 0.5


@pytest.mark.parametrize("frames", [1, 2, 3])
def test_a_handful_of_frames_is_met(frames: int) -> None:
    counts = np.array([[2.0, 1.0, 0.0], [1.0, 1.0, 2.0], [0.0, 3.0, 1.0]])[:frames]
    fractions = counts / counts.sum(axis=1, keepdims=True)
    energies = fractions @ [-40.0, -60.0, -90.0]
    found = solve(EnergySums.of((1, 6, 8), fractions, energies))
    assert fractions @ list(found.energies.values()) == pytest.approx(energies, abs=1e-6)
