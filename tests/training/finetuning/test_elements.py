"""New elements begin as their neighbours in the periodic table; known ones do not notice."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.data import atomic_numbers

from qeqtrain.training.finetuning.elements import nearest_known, place, with_elements
from tests.training.finetuning.conftest import source_model


@pytest.mark.parametrize(
    ("symbol", "expected"),
    [
        *(("H", (1, 1)), ("He", (1, 18)), ("Na", (3, 1)), ("Al", (3, 13)), ("Sr", (5, 2))),
        *(("Fe", (4, 8)), ("La", (6, 3)), ("Lu", (6, 3)), ("Hf", (6, 4)), ("Pb", (6, 14))),
        *(("U", (7, 3)), ("Og", (7, 18))),
    ],
)
def test_every_element_has_its_place(symbol: str, expected: tuple[int, int]) -> None:
    assert place(atomic_numbers[symbol]) == expected


@pytest.mark.parametrize(
    ("new", "known", "expected"),
    [
        ("Sr", ["Mg", "Ca", "Ba", "Rb", "Y"], ["Ca", "Ba"]),
        ("Sr", ["Mg", "Rb", "Y"], ["Mg"]),
        ("Sr", ["Rb", "Y", "O"], ["Rb", "Y"]),
        ("Sr", ["O", "H"], ["H", "O"]),
        ("Ce", ["La", "Nd", "Hf"], ["La"]),
    ],
)
def test_new_elements_take_after_their_group_then_their_period(
    new: str, known: list[str], expected: list[str]
) -> None:
    found = nearest_known(atomic_numbers[new], [atomic_numbers[s] for s in known])
    assert set(found) == {atomic_numbers[s] for s in expected}


SOURCES: list[tuple[str, str, str, dict[str, Any]]] = [
    ("tensornet", "diagonal", "feature", {}),
    ("tensornet", "gaussian", "second", {}),
    ("nequip", "gaussian", "second", {}),
    ("nequip", "gaussian", "full", {}),
    ("nequip", "local", "feature", {"variant": "lr"}),
    ("nequip", "pqeq", "full", {"variant": "reaxnet"}),
    ("nequip", "polarizable", "full", {}),
]


@pytest.mark.parametrize(("backbone", "charge", "coupling", "changes"), SOURCES)
def test_known_elements_do_not_notice(
    backbone: str, charge: str, coupling: str, changes: dict[str, Any]
) -> None:
    source = source_model(backbone, charge, coupling, **changes).eval()
    grown = with_elements(source, [19], source.elements).eval()
    positions = 2.5 * np.eye(3) + 0.1 * np.random.default_rng(0).normal(size=(3, 3))
    salt = Atoms("NaClNa", positions, info={"charge": 0})
    before, after = source(salt), grown(salt)
    assert torch.allclose(before.energy, after.energy, rtol=0.0, atol=1e-10)
    assert before.forces is not None
    assert after.forces is not None
    assert torch.allclose(before.forces, after.forces, rtol=0.0, atol=1e-10)
    assert grown.elements == (11, 17, 19)
    strange = grown(Atoms("KCl", positions[:2], info={"charge": 0}))
    assert torch.isfinite(strange.energy).all()


def test_a_twin_of_one_element_predicts_as_that_element() -> None:
    source = source_model(charge="none").eval()
    grown = with_elements(source, [19], source.elements).eval()
    sodium = Atoms("NaCl", [[0.0, 0.0, 0.0], [0.0, 0.0, 2.5]], info={"charge": 0})
    potassium = Atoms("KCl", sodium.positions, info={"charge": 0})
    assert torch.equal(grown(sodium).energy, grown(potassium).energy)
