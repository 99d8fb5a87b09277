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


def test_a_stream_gives_what_all_frames_give_together() -> None:
    random = np.random.default_rng(0)
    counts = random.integers(1, 5, size=(60, 3)).astype(float)
    energies = counts @ [1.0, -2.0, 50.0] + random.normal(size=60)
    blocks = [slice(k, k + 7) for k in range(0, 60, 7)]
    parts = [EnergySums.of((1, 6, 8), counts[b], energies[b]) for b in blocks]
    whole, *_ = np.linalg.lstsq(counts, energies, rcond=None)
    found = solve(reduce(EnergySums.merge, parts))
    assert list(found.energies.values()) == pytest.approx(whole.tolist(), abs=1e-10)
