"""A potential that gives chosen numbers, and frames whose errors are known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from qeqtrain.data.frames import Frame
from qeqtrain.models.potential import Potential, build_potential
from qeqtrain.models.qet import qet_spec
from qeqtrain.structures import Structure


def structure(rng: np.random.Generator, n: int, charge: float, *, periodic: bool) -> Structure:
    """Na and Cl in a box, far enough apart."""
    corners = np.stack(np.unravel_index(np.arange(27), (3, 3, 3)), axis=1)
    positions = 2.7 * corners[:n] + rng.normal(size=(n, 3)) * 0.15
    return Structure(
        numbers=np.where(np.arange(n) % 3, 17, 11),
        positions=positions,
        cell=8.1 * np.eye(3) if periodic else np.zeros((3, 3)),
        pbc=np.full(3, periodic),
        total_charge=charge,
    )


@pytest.fixture
def potential() -> Potential:
    """A small untrained QET for Na and Cl."""
    torch.manual_seed(0)
    return build_potential(
        qet_spec(cutoff=4.0, channels=8, layers=1, dtype="float64"),
        elements=(11, 17),
        references={11: -4.0, 17: -7.0},
        scale=0.5,
        conventions={"charge_states": [-1.0, 0.0, 1.0]},
    ).eval()


@pytest.fixture
def frames(potential: Potential) -> Callable[..., list[Frame]]:
    """Make frames whose labels are the potential's predictions plus noise of a known size."""

    def make(count: int = 6, seed: int = 0, noise: float = 0.1) -> list[Frame]:
        from qeqtrain.evaluation.inference import predictions

        rng = np.random.default_rng(seed)
        bare = [
            Frame(
                structure(rng, 5 + i % 4, float(i % 3 - 1), periodic=i % 2 == 1),
                {},
                f"frame-{i}",
            )
            for i in range(count)
        ]
        labelled = []
        for said in predictions(potential, bare):
            labels: dict[str, Any] = {
                name: value + noise * rng.normal(size=value.shape)
                for name, value in said.values.items()
            }
            labelled.append(Frame(said.frame.structure, labels, said.frame.source_id))
        return labelled

    return make
