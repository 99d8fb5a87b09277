from __future__ import annotations

import ase.data
import numpy as np
import pytest

from qeqtrain.data.checks import geometry_mistakes
from qeqtrain.data.frames import RawFrame, convert_frames
from qeqtrain.data.labels import Conventions
from qeqtrain.data.requirements import charge_problems, require
from qeqtrain.data.sources import open_source, source_from_frames
from qeqtrain.errors import UserMistake
from qeqtrain.structures import Structure


def ion(**info):
    positions = np.array([[1.0, 0.0, 0.0], [2.0, 0.0, 0.0]])
    charges = np.array([0.7, 0.31])
    open_ = (np.zeros((3, 3)), np.zeros(3, dtype=bool))
    return RawFrame(np.array([8, 1]), positions, *open_, dict(info), {"charges": charges})


def only(raw, **conventions):
    (frame,), notes = convert_frames([raw], Conventions(**conventions), "made")
    return frame, notes


def test_a_misspelt_convention_is_answered_with_the_nearest():
    with pytest.raises(UserMistake) as caught:
        Conventions(total_charge="zerro", nan="mising", aliases={"charge": "q"})
    ends = ["did you mean 'zero'?", "did you mean 'missing'?", "did you mean 'charges'?"]
    for problem, end in zip(caught.value.problems, ends, strict=True):
        assert end in problem


def test_conventions_survive_as_plain_values():
    conventions = Conventions("zero", "missing", {"charges": "ddec6"}, "coordinates")
    values = conventions.as_dict()
    assert Conventions.from_dict({**values, "something_else": 1}) == conventions


def test_an_absent_total_charge_is_what_the_policy_says():
    assert only(ion())[0].structure.total_charge is None
    assert only(ion(), total_charge="zero")[0].structure.total_charge == 0.0
    assert only(ion(), total_charge="sum_of_charges")[0].structure.total_charge == 1.0
    assert only(ion(charge=-1), total_charge="zero")[0].structure.total_charge == -1.0


def test_a_sum_of_charges_far_from_an_integer_is_no_total_charge():
    raw = ion()
    raw.arrays["charges"] = np.array([0.3, 0.2])
    with pytest.raises(UserMistake, match=r"0\.500 e, too far from an integer"):
        only(raw, total_charge="sum_of_charges")


def test_negative_zero_is_zero():
    assert np.copysign(1.0, only(ion(charge=-0.0))[0].structure.total_charge) == 1.0


def test_a_dipole_about_the_coordinates_moves_to_the_centre_of_mass():
    mass_o, mass_h = ase.data.atomic_masses[[8, 1]]
    center = (mass_o * 1.0 + mass_h * 2.0) / (mass_o + mass_h)
    frame, _ = only(
        ion(charge=1, dipole=np.array([3.0, 1.0, 0.0])), dipole_origin="coordinates"
    )
    assert np.allclose(frame.labels["dipole"], [3.0 - center, 1.0, 0.0], atol=1e-14)


def test_the_dipole_of_a_neutral_frame_has_no_origin():
    dipole = np.array([3.0, 1.0, 0.0])
    assert np.array_equal(only(ion(charge=0, dipole=dipole))[0].labels["dipole"], dipole)


def test_the_dipole_of_a_charged_frame_without_an_origin_is_absent_and_said_to_be():
    frame, notes = only(ion(charge=1, dipole=np.ones(3)))
    assert "dipole" not in frame.labels
    assert any("data.dipole_origin=" in note for note in notes)


def test_a_frame_may_state_its_dipole_origin_itself():
    frame, _ = only(ion(charge=1, dipole=np.ones(3), dipole_origin="center_of_mass"))
    assert np.array_equal(frame.labels["dipole"], np.ones(3))


def structure(**changes):
    values = {
        "numbers": np.array([11, 17]),
        "positions": np.array([[0.0, 0, 0], [2.4, 0, 0]]),
        "cell": np.zeros((3, 3)),
        "pbc": np.zeros(3, dtype=bool),
    }
    return Structure(**{**values, **changes})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"pbc": np.ones(3, dtype=bool)}, "do not span"),
        ({"positions": np.array([[0.0, 0, 0], [np.nan, 0, 0]])}, "not numbers"),
        ({"positions": np.array([[0.0, 0, 0], [0.01, 0, 0]])}, "0.01 A apart"),
        ({"numbers": np.array([0, 17])}, "no elements"),
        ({"numbers": np.zeros(0, int), "positions": np.zeros((0, 3))}, "no atoms"),
    ],
)
def test_an_unsound_geometry_is_described(changes, words):
    assert words in " ".join(geometry_mistakes(structure(**changes)))


def test_a_sound_geometry_has_no_mistakes():
    assert geometry_mistakes(structure()) == []


def test_atoms_that_meet_through_a_cell_boundary_are_found(make_crystal):
    frame = make_crystal()
    frame.structure.positions[0] = frame.structure.positions[1] + frame.structure.cell[2] + 1e-3
    with pytest.raises(UserMistake, match="through a cell boundary"):
        source_from_frames([frame]).pairs(0, 3.0)


def test_electron_counts_are_not_taken_for_net_charges(make_molecule):
    frame = make_molecule()
    frame.labels["charges"] = np.array([7.1, 0.4, 10.1, 17.9])
    assert "electron counts" in charge_problems(source_from_frames([frame]))[0]


def test_what_a_source_lacks_is_said_at_once(make_molecule):
    source = source_from_frames([make_molecule(charge=None)], "made")
    with pytest.raises(UserMistake) as caught:
        require(source, ["energy", "stress"])
    assert len(caught.value.problems) == 2
    assert "set loss.stress=0" in caught.value.problems[0]
    assert "data.total_charge=zero" in caught.value.problems[1]


def test_a_missing_file_is_answered_with_the_nearest_name(tmp_path):
    (tmp_path / "training.extxyz").write_text("")
    with pytest.raises(UserMistake, match=r"did you mean '.*training\.extxyz'"):
        open_source(tmp_path / "trainin.extxyz")


@pytest.mark.parametrize("name", ["noise.extxyz", "noise.h5", "noise.dat", "noise.xyz"])
def test_noise_is_refused_with_what_is_read(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(np.random.default_rng(0).bytes(5000))
    with pytest.raises(UserMistake):
        open_source(path)


def test_the_mistakes_of_all_files_come_together(tmp_path):
    for name in ("a.extxyz", "b.h5"):
        (tmp_path / name).write_text("nothing of use\n")
    with pytest.raises(UserMistake) as caught:
        open_source([tmp_path / "a.extxyz", tmp_path / "b.h5", tmp_path / "c.xyz"])
    assert len(caught.value.problems) == 3
