"""Which index of Born charges is the displacement: stated, and checked by turning molecules."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from ase.data import atomic_masses

from qeqtrain.data.born_charges import residuals, rotation_residual
from qeqtrain.data.frames import Frame
from qeqtrain.data.labels import Conventions
from qeqtrain.data.sets import DataSets
from qeqtrain.data.sources import open_source
from qeqtrain.data.writing import write_extxyz
from qeqtrain.errors import UserMistake
from qeqtrain.structures import Structure
from tests.systems import shared_file

SPICE = ("data", "spice_dipeptides_mbis", "val.extxyz")


@pytest.fixture(name="labelled")
def _labelled() -> Frame:
    """Three atoms whose charges depend on distances; total charge +1."""
    start = np.array([[0.0, 0.0, 0.0], [1.0, 0.2, 0.1], [-0.3, 1.1, 0.4]])
    masses = torch.tensor(atomic_masses[[8, 1, 1]])
    centre = masses @ torch.tensor(start) / masses.sum()

    def dipole(r: torch.Tensor) -> torch.Tensor:
        gap = torch.exp(-torch.cdist(r, r, compute_mode="donot_use_mm_for_euclid_dist"))
        give = torch.tensor([[0.0, -2.0, -3.0], [2.0, 0.0, 1.0], [3.0, -1.0, 0.0]]).double()
        crowd = gap.sum()  # of all three: charges between pairs alone would be symmetric
        charges = crowd**2 * (give * gap).sum(1) / 6.0 + 1.0 / 3.0
        return charges @ (r - centre)

    born = torch.autograd.functional.jacobian(dipole, torch.tensor(start))
    structure = Structure(
        np.array([8, 1, 1]), start, np.zeros((3, 3)), np.zeros(3, dtype=bool), 1.0
    )
    labels = {
        "energy": np.array(0.0),
        "dipole": dipole(torch.tensor(start)).numpy(),
        "born_charges": born.permute(1, 0, 2).numpy(),
    }
    return Frame(structure, labels, "made")


def _write(path, frame: Frame, key: str, *, transposed: bool) -> str:
    born = frame.labels["born_charges"]
    born = born.swapaxes(1, 2) if transposed else born
    write_extxyz(path, [replace(frame, labels={**frame.labels, "born_charges": born})])
    text = path.read_text().replace(" born_charges_order=dipole_displacement", "")
    path.write_text(text.replace("born_charges:R", f"{key}:R"))
    return str(path)


def test_a_rotation_turns_the_dipole_in_one_order_only(labelled: Frame) -> None:
    as_is, transposed = residuals([labelled])
    assert as_is < 1e-9
    assert transposed > 0.05


def test_the_residual_is_that_of_a_small_rotation(labelled: Frame) -> None:
    born, dipole = labelled.labels["born_charges"], labelled.labels["dipole"]
    positions = labelled.structure.positions
    assert rotation_residual(positions, dipole, 0.0 * born) == pytest.approx(
        np.sqrt(2.0 / 9.0) * np.linalg.norm(dipole)
    )


@pytest.mark.parametrize("transposed", [False, True])
def test_either_order_is_read_as_ours(tmp_path, labelled: Frame, transposed: bool) -> None:
    path = _write(tmp_path / "some.extxyz", labelled, "bec", transposed=transposed)
    order = "displacement_dipole" if transposed else "dipole_displacement"
    conventions = Conventions(aliases={"born_charges": "bec"}, born_charges_order=order)
    found = open_source(path, conventions)[0].labels["born_charges"]
    np.testing.assert_allclose(found, labelled.labels["born_charges"], atol=1e-12)


def test_our_own_files_say_their_order(tmp_path, labelled: Frame) -> None:
    path = tmp_path / "own.extxyz"
    write_extxyz(path, [labelled])
    for order in (None, "displacement_dipole"):
        found = open_source(path, Conventions(born_charges_order=order))[0]
        expected = labelled.labels["born_charges"]
        np.testing.assert_allclose(found.labels["born_charges"], expected, atol=1e-12)


def test_an_order_that_turning_contradicts_is_a_mistake(tmp_path, labelled: Frame) -> None:
    path = _write(tmp_path / "some.extxyz", labelled, "born_charges", transposed=True)
    with pytest.raises(UserMistake, match="born_charges look transposed"):
        open_source(path)


def test_a_key_without_an_order_is_a_mistake_that_tells_the_likely_one(
    tmp_path, labelled: Frame
) -> None:
    path = _write(tmp_path / "some.extxyz", labelled, "bec", transposed=True)
    with pytest.raises(UserMistake, match=r"speak for displacement_dipole"):
        DataSets(path, split={}, aliases={"born_charges": "bec"}).prepare({})
    other = _write(tmp_path / "other.extxyz", labelled, "REF_born_charges", transposed=True)
    source = open_source(other)
    assert "born_charges" not in source[0].labels
    assert any("which index is the displacement" in note for note in source.notes)


def test_an_order_that_does_not_exist_is_a_mistake() -> None:
    with pytest.raises(UserMistake, match="did you mean 'dipole_displacement'"):
        Conventions(born_charges_order="dipol_displacement")


def test_spice_has_the_displacement_first() -> None:
    path = shared_file(*SPICE)
    asked = {"aliases": {"born_charges": "bec"}, "dipole_origin": "coordinates"}
    right = Conventions(born_charges_order="displacement_dipole", **asked)
    source = open_source(path, right)
    every = [source[i] for i in range(len(source))]
    assert len(every) == 55
    for frame in every:
        as_is, transposed = residuals([frame])
        assert as_is < 0.06 < 0.2 < transposed
        total = frame.labels["born_charges"].sum(axis=0)
        np.testing.assert_allclose(total, np.zeros((3, 3)), atol=5e-3)
    wrong = Conventions(born_charges_order="dipole_displacement", **asked)
    with pytest.raises(UserMistake, match="look transposed"):
        open_source(path, wrong)
    with pytest.raises(UserMistake, match="speak for displacement_dipole"):
        open_source(path, Conventions(**asked))
