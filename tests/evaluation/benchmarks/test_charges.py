"""Probes of charges: laws that hold are seen to hold, laws that are broken are seen broken."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ase.build import molecule
from ase.io import write

from qeqtrain.errors import UserMistake
from qeqtrain.evaluation.benchmarks import charge_probes
from qeqtrain.evaluation.benchmarks.charge_labels import compare_with_labels
from qeqtrain.evaluation.benchmarks.charges import ChargeBenchmark, ChargeSettings
from qeqtrain.evaluation.benchmarks.prototypes import first_ionic, molecules, prototypes
from qeqtrain.evaluation.benchmarks.running import measure
from qeqtrain.evaluation.benchmarks.suite import Row, TaskFailed
from tests.systems import small_qet, triclinic, water


def neutral(name: str):
    return molecules(["H", "O", "Na", "Cl"])[name]


def test_charges_of_a_diagonal_model_cross_any_distance() -> None:
    content = {"fragments": [neutral("H2O"), neutral("Na4")], "distances_A": [15.0, 60.0]}
    found = charge_probes.far_transfer(small_qet(), content)
    charge = found["charge_of_first_e"]
    assert abs(charge[0]) > 1e-3
    assert charge[0] == pytest.approx(charge[1], abs=1e-12)  # no distance stops it


def test_fragments_that_know_nothing_of_each_other_pass() -> None:
    potential = small_qet()
    evaluate = potential.evaluate

    def lonely(structures):
        said = evaluate(structures)
        return replace(said, charges=torch.zeros_like(said.charges))

    potential.evaluate = lonely
    content = {"fragments": [neutral("H2O"), neutral("NaCl")], "distances_A": [20.0]}
    assert charge_probes.far_transfer(potential, content)["charge_of_first_e"] == [0.0]


def test_a_charge_that_is_lost_is_counted() -> None:
    potential = small_qet()
    content = {"atoms": neutral("H2O"), "total_charges": [-1.0, 0.0, 1.0]}
    found = charge_probes.conservation(potential, content)
    assert max(found["violation_e"].values()) < 1e-12
    evaluate = potential.evaluate
    potential.evaluate = lambda s: replace(evaluate(s), charges=evaluate(s).charges + 0.01)
    found = charge_probes.conservation(potential, content)
    assert found["violation_e"]["+0"] == pytest.approx(0.03)


def test_total_charges_a_model_refuses_are_listed() -> None:
    potential = small_qet(conditioning="charge")
    content = {"atoms": neutral("H2O"), "total_charges": [-1.0, 0.0, 1.0]}
    found = charge_probes.conservation(potential, content)
    assert found["refused"] == ["-1", "+1"]
    assert list(found["violation_e"]) == ["+0"]
    with pytest.raises(TaskFailed, match="refuses total charges"):
        charge_probes.conservation(potential, {**content, "total_charges": [1.0]})
    with pytest.raises(TaskFailed, match=r"met total charges .* --unseen-charge-states allow"):
        charge_probes.charge_response(potential, {**content, "total_charges": [0.0]})


def test_the_dipole_moves_and_turns_with_its_molecule() -> None:
    found = charge_probes.dipole_rules(small_qet(), {"atoms": water()})
    assert found["dipole_e_A"] > 1e-3
    assert found["translation_e"] < 1e-6
    assert found["rotation_e_A"] < 1e-6


def test_a_dipole_that_knows_the_axes_is_found_out() -> None:
    potential = small_qet()
    evaluate = potential.evaluate

    def skewed(structures):
        said = evaluate(structures)
        x = structures.positions[:, 0]
        extra = structures.sum_over_atoms(x * torch.arange(len(x)))
        return replace(said, dipole=said.dipole + extra[:, None] * torch.eye(3)[0])

    potential.evaluate = skewed
    found = charge_probes.dipole_rules(potential, {"atoms": water()})
    assert found["translation_e"] > 0.1
    assert found["rotation_e_A"] > 0.1


@pytest.mark.skipif(
    not charge_probes.answers_fields(small_qet()), reason="no electric fields in this version"
)
def test_a_field_pulls_as_born_charges_and_the_dipole_say() -> None:
    found = charge_probes.dipole_rules(small_qet(), {"atoms": water()})
    assert found["polarizability_e_A2_per_V"] > 0.0
    names = [name for name in found if "mismatch" in name or "asymmetry" in name]
    assert len(names) == 5
    assert max(found[name] for name in names) < 1e-6


def test_a_larger_cell_is_the_same_crystal() -> None:
    content = {"atoms": triclinic(), "repeats": [(2, 1, 1)]}
    found = charge_probes.extensivity(small_qet(), content)
    assert found["energy_eV_per_atom"][0] < 1e-10
    assert found["charges_e"][0] < 1e-10


def test_a_displacement_is_felt_nearby_first() -> None:
    crystal = first_ionic(["Na", "Cl"])
    assert crystal is not None
    content = {"atoms": crystal[1].repeat(2), "move_A": 0.2}
    found = charge_probes.locality(small_qet(), content)
    assert found["distance_A"][0] == 0.0
    change = np.array(found["charge_change_e"])
    assert change[:8].max() > 2 * change[-3:].max() > 0.0


def test_energy_over_total_charge_has_the_stated_slope_where_charges_are_the_energy() -> None:
    found = charge_probes.charge_response(
        small_qet(), {"atoms": neutral("NaCl"), "total_charges": [-0.1, 0.0, 0.1]}
    )
    assert found["energy_eV"][1] == 0.0
    assert found["smallest_share"] > 0.0
    assert found["largest_share"] < 1.0
    assert found["stated_potential_eV_per_e"] is not None


def labelled(path: Path, potential, noise: float) -> Path:
    frames = []
    for seed in range(3):
        atoms = water()
        atoms.positions += 0.05 * np.random.default_rng(seed).normal(size=(3, 3))
        said = potential(atoms).detach()
        atoms.info["charge"] = 0
        atoms.arrays["charges"] = said.charges.numpy() + noise * np.array([1.0, -1.0, 0.0])
        frames.append(atoms)
    write(path, frames, format="extxyz")
    return path


def test_labels_of_charges_are_compared_where_there_are_any(tmp_path: Path) -> None:
    potential = small_qet()
    file = labelled(tmp_path / "water.extxyz", potential, 0.03)
    found = compare_with_labels(potential, {"file": str(file), "said": {}})
    assert found["errors"]["charges"]["mae"] == pytest.approx(20.0, rel=1e-6)
    assert set(found["by_element"]) == {"H", "O"}
    write(tmp_path / "bare.extxyz", molecule("H2O"), format="extxyz")
    with pytest.raises(TaskFailed, match="label"):
        compare_with_labels(potential, {"file": str(tmp_path / "bare.extxyz"), "said": {}})


def test_the_suite_reports_its_failures_in_figures(tmp_path: Path) -> None:
    potential = small_qet()
    file = labelled(tmp_path / "water.extxyz", potential, 0.0)
    suite = ChargeBenchmark(ChargeSettings(pairs=("H2O-Na4",), data=str(file), repeat=2))
    plan = suite.plan(potential)
    rows = [measure(suite, potential, task) for task in plan.tasks]
    assert not [row.failed for row in rows if row.failed]
    found = suite.findings(rows)
    titles = [table.title for table in found.tables]
    assert any("far apart" in title for title in titles)
    assert any("labels" in title for title in titles)
    assert found.numbers["conservation_e"] < 1e-12
    failures = [note for note in found.notes if note.startswith("FAILURE")]
    expected = found.numbers["far_transfer_e"] > 0.01
    assert bool(failures) == expected
    assert set(found.plots) == {"transfer", "locality"}


def test_a_failure_across_vacuum_is_said_with_its_figure() -> None:
    values = {
        "distances_A": [8.0, 40.0],
        "charge_of_first_e": [0.2, 0.2],
        "energy_eV": [0.19, 0.19],
    }
    suite = ChargeBenchmark(ChargeSettings())
    said = suite.findings([Row("transfer:H2O-Na4", values)])
    assert any(
        "0.20 electrons cross 40 A of vacuum from H2O to Na4, at +0.19 eV" in note
        for note in said.notes
    )
    calm = suite.findings([Row("transfer:H2O-Na4", {**values, "charge_of_first_e": [0, 0]})])
    assert not any("FAILURE" in note for note in calm.notes)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pairs": ("H2O-Xe4",)}, r"pairs=H2O-Xe4: expected pairs of .*Na4"),
        ({"distances": ("near",)}, r"distances=near: expected lengths"),
    ],
)
def test_what_cannot_be_probed_is_said(settings, message: str) -> None:
    with pytest.raises(UserMistake, match=message):
        ChargeBenchmark(ChargeSettings(**settings)).plan(small_qet())


def test_a_model_without_charges_is_told_so() -> None:
    none = {"_target_": "qeqtrain.nn.charges.NoCharges"}
    with pytest.raises(UserMistake, match="predicts no charges"):
        ChargeBenchmark(ChargeSettings()).plan(small_qet(charge=none))


def test_prototypes_are_made_of_the_elements_that_are_known() -> None:
    assert set(prototypes(["Na", "Cl"])) == {"NaCl", "Na"}
    assert first_ionic(["Na", "Cl"])[0] == "NaCl"
    assert first_ionic(["Xe"]) is None
    assert set(molecules(["H", "O"])) == {"H2O"}
