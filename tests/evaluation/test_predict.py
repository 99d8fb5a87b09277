"""Predictions written to a file come back as they were."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch

from qeqtrain.data.frames import Frame, center_of_mass
from qeqtrain.data.sources import open_source
from qeqtrain.errors import UserMistake
from qeqtrain.evaluation.inference import predictions
from qeqtrain.evaluation.predict import predict
from qeqtrain.models.potential import Potential, build_potential
from qeqtrain.models.qet import qet_spec
from tests.crosses import small_cross

Make = Callable[..., list[Frame]]


@pytest.fixture
def bare(frames: Make) -> list[Frame]:
    """Frames which carry geometry and total charge only."""
    return [replace(f, labels={}) for f in frames(5)]


def test_ase_reads_the_predictions(
    potential: Potential, bare: list[Frame], tmp_path: Path
) -> None:
    predict(potential, bare, tmp_path / "out.extxyz")
    images = ase.io.read(tmp_path / "out.extxyz", ":")
    for atoms, said in zip(images, predictions(potential, bare), strict=True):
        frame = said.frame.structure
        assert atoms.info["charge"] == frame.total_charge
        assert atoms.get_potential_energy() == pytest.approx(float(said.values["energy"]))
        np.testing.assert_allclose(atoms.get_forces(), said.values["forces"], atol=1e-8)
        np.testing.assert_allclose(atoms.get_charges(), said.values["charges"], atol=1e-8)
        assert ("stress" in said.values) == bool(frame.pbc.all())
        if "stress" in said.values:
            stress = atoms.get_stress(voigt=False)
            np.testing.assert_allclose(stress, said.values["stress"], atol=1e-8)
        else:
            np.testing.assert_allclose(
                atoms.get_dipole_moment(), said.values["dipole"], atol=1e-8
            )


@pytest.mark.parametrize("name", ["out.extxyz", "out.h5"])
def test_our_readers_take_the_predictions_as_labels(
    potential: Potential, bare: list[Frame], tmp_path: Path, name: str
) -> None:
    predict(potential, bare, tmp_path / name)
    source = open_source(tmp_path / name)
    assert source.source_ids == [f.source_id for f in bare]
    for i, said in enumerate(predictions(potential, bare)):
        read = source[i]
        assert read.structure.total_charge == bare[i].structure.total_charge
        assert set(read.labels) == set(said.values)
        for label, value in said.values.items():
            np.testing.assert_allclose(read.labels[label], value, rtol=1e-7, atol=1e-8)


def test_a_name_of_another_kind_is_a_mistake(potential: Potential, tmp_path: Path) -> None:
    with pytest.raises(UserMistake, match=r"\.extxyz"):
        predict(potential, [], tmp_path / "out.json")


def test_numbers_that_are_not_finite_are_not_passed_over(
    potential: Potential, bare: list[Frame], tmp_path: Path
) -> None:
    with torch.no_grad():
        potential.coupling.norm.weight.fill_(float("nan"))
    with pytest.raises(UserMistake, match="not finite for frame-0"):
        predict(potential, bare, tmp_path / "out.extxyz")


def test_a_model_that_met_several_charges_has_to_be_told(
    potential: Potential, bare: list[Frame], tmp_path: Path
) -> None:
    silent = replace(bare[0], structure=replace(bare[0].structure, total_charge=None))
    with pytest.raises(UserMistake, match=r"frame-0 does not state its own; write charge="):
        predict(potential, [silent], tmp_path / "out.extxyz")


def test_charge_states_the_network_never_read_are_refused_unless_allowed(
    bare: list[Frame], tmp_path: Path, capsys
) -> None:
    spec = qet_spec(cutoff=4.0, channels=8, layers=1, dtype="float64")
    spec["backbone"]["conditioning"] = "charge"
    reads = build_potential(
        spec,
        elements=(11, 17),
        references={},
        scale=1.0,
        conventions={"charge_states": [0.0, 1.0]},
    )
    out = tmp_path / "out.extxyz"
    with pytest.raises(UserMistake, match=r"frame-0: total charge -1: .* on 0, \+1 only"):
        predict(reads, bare, out)
    assert not out.exists()
    reads.unseen_charge_states = "allow"
    predict(reads, bare, out)
    assert "do not trust: total charge -1" in capsys.readouterr().err


def test_what_a_charge_model_refuses_is_told_with_the_name_of_the_frame(
    frames: Make, tmp_path: Path
) -> None:
    potential = small_cross("tensornet", "gaussian", "feature")
    first, second = (replace(f, labels={}) for f in frames(2))
    wire = replace(second.structure, pbc=np.array([True, False, False]))
    strange = replace(first.structure, numbers=np.full(len(first), 19))
    for broken, met in ((wire, "one periodic direction"), (strange, "does not know K")):
        given = [first, replace(second, structure=broken)]
        with pytest.raises(UserMistake, match=f"{second.source_id}: .*{met}"):
            predict(potential, given, tmp_path / "out.extxyz")
        assert not (tmp_path / "out.extxyz").exists()


def test_a_field_acts_on_predictions_and_is_written_with_them(
    potential: Potential, bare: list[Frame], tmp_path: Path
) -> None:
    field = np.array([0.0, 0.0, 0.2])
    pulled = [
        replace(f, structure=replace(f.structure, electric_field=field))
        for f in bare
        if not f.structure.pbc.any()
    ]
    predict(potential, pulled, tmp_path / "out.extxyz")
    source = open_source(tmp_path / "out.extxyz")
    calm = [f for f in bare if not f.structure.pbc.any()]
    for i, said in enumerate(predictions(potential, calm)):
        np.testing.assert_array_equal(source[i].structure.electric_field, field)
        work = source[i].labels["energy"] - said.values["energy"]
        charge, labels = said.frame.structure.total_charge, source[i].labels
        centre = center_of_mass(said.frame.structure)
        mean = 0.5 * (labels["dipole"] + said.values["dipole"]) + charge * centre
        np.testing.assert_allclose(work, -mean @ field, atol=1e-9)


def test_a_frame_in_a_field_that_has_no_answer_is_named(
    potential: Potential, bare: list[Frame], tmp_path: Path
) -> None:
    (crystal,) = [f for f in bare if f.structure.pbc.all()][:1]
    pulled = replace(crystal.structure, electric_field=np.array([0.0, 0.0, 0.2]))
    with pytest.raises(UserMistake, match=rf"{crystal.source_id}: .* periodic direction c"):
        predict(potential, [replace(crystal, structure=pulled)], tmp_path / "out.extxyz")
