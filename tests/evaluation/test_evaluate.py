"""Errors of an evaluation against numpy by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from ase import Atoms

from qeqtrain.data.batching import collate_frames
from qeqtrain.data.frames import Frame
from qeqtrain.errors import UserMistake
from qeqtrain.evaluation.evaluate import NO_LABEL, NOT_PREDICTED, evaluate, formula
from qeqtrain.evaluation.inference import predictions
from qeqtrain.evaluation.plots import parity_plot
from qeqtrain.evaluation.tables import all_tables, facts
from qeqtrain.models.potential import Potential, build_potential
from qeqtrain.models.qet import qet_spec
from qeqtrain.neighbors import with_pairs
from qeqtrain.training.metrics import ErrorSums
from qeqtrain.units import EV_PER_A3_TO_GPA

Make = Callable[..., list[Frame]]


def differences(potential: Potential, frames: list[Frame], name: str) -> list[np.ndarray]:
    """Predict one by one, and subtract the labels."""
    found = []
    for frame in frames:
        (said,) = predictions(potential, [frame])
        if name in frame.labels and name in said.values:
            found.append(said.values[name] - frame.labels[name])
    return found


def test_errors_are_those_worked_out_by_hand(potential: Potential, frames: Make) -> None:
    given = frames(6)
    errors = evaluate(potential, {"all": given}).errors()
    sizes = np.array([len(f) for f in given])
    energy = 1e3 * np.array(differences(potential, given, "energy")) / sizes
    forces = 1e3 * np.concatenate(differences(potential, given, "forces")).ravel()
    stress = EV_PER_A3_TO_GPA * np.array(differences(potential, given, "stress")).ravel()
    charges = 1e3 * np.concatenate(differences(potential, given, "charges"))
    dipole = np.concatenate(differences(potential, given, "dipole"))
    for name, expected in (
        ("energy", energy),
        ("forces", forces),
        ("stress", stress),
        ("charges", charges),
        ("dipole", dipole),
    ):
        assert errors[name].mae == pytest.approx(np.abs(expected).mean())
        assert errors[name].rmse == pytest.approx(np.sqrt((expected**2).mean()))
        assert errors[name].bias == pytest.approx(expected.mean())
        assert errors[name].largest == pytest.approx(np.abs(expected).max())
        assert errors[name].count == expected.size


def test_validation_during_training_gives_the_same_numbers(
    potential: Potential, frames: Make
) -> None:
    given = frames(5)
    errors = evaluate(potential, {"all": given}).errors()
    ready = [replace(f, structure=with_pairs(f.structure, potential.cutoffs)) for f in given]
    batch = collate_frames(ready, list(errors))
    sums = ErrorSums()
    sums.add(potential(batch.structures), batch)
    for name, value in sums.summary().items():
        quantity, kind = name.rsplit("_", 1)
        assert getattr(errors[quantity], kind) == pytest.approx(value)


def test_elements_charges_and_sources_are_told_apart(
    potential: Potential, frames: Make
) -> None:
    one, two = frames(3, seed=1), frames(4, seed=2)
    found = evaluate(potential, {"one": one, "two": two})
    na = [
        d[f.structure.numbers == 11]
        for d, f in zip(differences(potential, one + two, "forces"), one + two, strict=True)
    ]
    sizes = np.abs(1e3 * np.concatenate(na))
    assert found.by_element()["forces"]["Na"].mae == pytest.approx(sizes.mean())
    alone = evaluate(potential, {"two": two}).errors()["energy"]
    assert found.by_part()["two"]["energy"].rmse == pytest.approx(alone.rmse)
    assert set(found.by_total_charge()) == {"-1", "0", "+1"}


def test_the_worst_structure_comes_first(potential: Potential, frames: Make) -> None:
    given = frames(6, noise=0.001)
    given[4].labels["forces"][2, 1] += 3.0
    worst = evaluate(potential, {"all": given}).worst("forces", count=2)
    assert worst[0]["source_id"] == "frame-4"
    assert worst[0]["n_atoms"] == len(given[4])
    assert len(worst) == 2


def test_what_could_not_be_compared_is_named(potential: Potential, frames: Make) -> None:
    given = [
        replace(f, labels={k: v for k, v in f.labels.items() if k != "stress"})
        for f in frames(3)
    ]
    spec = qet_spec(cutoff=4.0, channels=8, layers=1)
    spec["charge"] = {"_target_": "qeqtrain.nn.charges.NoCharges"}
    neutral = build_potential(spec, elements=(11, 17), references={}, scale=1.0)
    found = evaluate(neutral, {"all": given})
    assert found.missing == {
        "stress": NO_LABEL,
        "charges": NOT_PREDICTED,
        "dipole": NOT_PREDICTED,
        "born_charges": NO_LABEL,
    }
    assert found.charge_residual is None


def test_charges_add_up_to_the_total_charge(potential: Potential, frames: Make) -> None:
    residual = evaluate(potential, {"all": frames(6)}).charge_residual
    assert residual is not None
    assert residual < 1e-9


def test_batches_do_not_change_the_numbers(potential: Potential, frames: Make) -> None:
    given = frames(6)
    alone = list(predictions(potential, given, max_atoms=1))
    together = list(predictions(potential, given))
    for a, b in zip(alone, together, strict=True):
        assert a.values.keys() == b.values.keys()
        for name, value in a.values.items():
            np.testing.assert_allclose(value, b.values[name], rtol=0, atol=1e-10)


def test_nothing_to_evaluate_is_a_mistake(potential: Potential, frames: Make) -> None:
    with pytest.raises(UserMistake, match="no frame to evaluate"):
        evaluate(potential, {"none": []})
    bare: list[Any] = [replace(f, labels={}) for f in frames(2)]
    with pytest.raises(UserMistake, match="qeqtrain predict"):
        evaluate(potential, {"bare": bare})


def test_a_total_charge_that_matters_must_be_stated(potential: Potential, frames: Make) -> None:
    (frame,) = frames(1)
    open_ = replace(frame, structure=replace(frame.structure, total_charge=None))
    with pytest.raises(UserMistake, match=r"frame-0 does not state.*data\.total_charge=zero"):
        evaluate(potential, {"all": [open_]})


def test_an_unknown_element_is_a_mistake(potential: Potential, frames: Make) -> None:
    (frame,) = frames(1)
    numbers = np.full(len(frame), 19)
    potassium = replace(frame, structure=replace(frame.structure, numbers=numbers))
    with pytest.raises(UserMistake, match="does not know K"):
        evaluate(potential, {"all": [potassium]})


def test_formulas_are_in_alphabetic_order() -> None:
    assert formula(np.array([11, 17, 17, 6])) == "CCl2Na"


def test_elements_without_training_data_are_named_once(
    potential: Potential, frames: Make
) -> None:
    given = frames(2)
    potential.conventions["untrained_elements"] = [17, 19]
    assert "without training data, do not trust: Cl" in facts(
        evaluate(potential, {"all": given})
    )


def test_charge_states_that_were_allowed_are_told(potential: Potential, frames: Make) -> None:
    given = frames(3)
    table = {"kind": "per_charge", "energies": [[0.0, 1.0], [1.0, 2.0]]}
    other = build_potential(
        potential.spec,
        elements=potential.elements,
        references=potential.references,
        scale=1.0,
        charge_references=table,
        conventions={"charge_states": [0.0, 1.0], "unseen_charge_states": "allow"},
    )
    found = evaluate(other, {"all": given})
    (text,) = found.model["unseen_charge_states_met"]
    assert text.startswith("total charge -1")
    assert any(f"do not trust: {text}" in line for line in facts(found))
    other.unseen_charge_states = "error"
    with pytest.raises(UserMistake, match="frame-0: total charge -1"):
        evaluate(other, {"all": given})


def test_a_rule_for_a_cutoff_is_told_as_one(
    potential: Potential, frames: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Rule:
        def __call__(self, _: object) -> float:
            return 4.0

        def __str__(self) -> str:
            return "as far as needed"

    given = frames(2)
    monkeypatch.setattr(
        type(potential), "cutoffs", property(lambda _: {"backbone": 4.0, "charge": Rule()})
    )
    found = evaluate(potential, {"all": given}).model["cutoffs"]
    assert found == {"backbone": 4.0, "charge": "by structure"}


def test_born_charges_are_compared_where_they_are_labels_and_defined(
    potential: Potential, frames: Make
) -> None:
    given = frames(4)
    rng = np.random.default_rng(0)
    expected = []
    for frame in given:
        if not frame.structure.pbc.any():
            atoms = Atoms(frame.structure.numbers, frame.structure.positions)
            atoms.info["charge"] = frame.structure.total_charge
            born = potential(atoms, born_charges=True).born_charges.numpy()
            off = 0.1 * rng.normal(size=born.shape)
            expected.append(off.ravel())
            frame.labels["born_charges"] = born - off
        else:
            frame.labels["born_charges"] = np.zeros((len(frame), 3, 3))
    found = evaluate(potential, {"all": given})
    errors = found.errors()["born_charges"]
    assert errors.mae == pytest.approx(1e3 * np.abs(np.concatenate(expected)).mean())
    assert errors.count == np.concatenate(expected).size
    assert set(found.by_element()["born_charges"]) == {"Na", "Cl"}
    assert any(t.title == "Born charges by element (me)" for t in all_tables(found))
    assert "Born" in parity_plot(found, "born_charges").axes[0].get_title()
