from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from qeqtrain.data.sanity import sanity_warnings, stress_slope
from qeqtrain.data.sources import source_from_frames

BULK = 0.15  # eV/A^3, about 24 GPa: rock salt


def strained(make_crystal, sign=1.0, factor=1.0, count=30):
    """One crystal at several volumes, with the stress of its bulk modulus."""
    frames = []
    random = np.random.default_rng(5)
    for i in range(count):
        frame = make_crystal(0)
        stretch = random.uniform(0.97, 1.03)
        s = replace(
            frame.structure,
            cell=frame.structure.cell * stretch,
            positions=frame.structure.positions * stretch,
        )
        pull = sign * factor * BULK * 3 * np.log(stretch)
        labels = {
            "energy": np.float64(-27.0 + random.normal() * 0.01),
            "forces": random.normal(size=(8, 3)),
            "stress": pull * np.eye(3),
        }
        frames.append(replace(frame, structure=s, labels=labels, source_id=f"s/{i}"))
    return frames


def said(frames):
    source = source_from_frames(frames)
    return sanity_warnings(source, source.sum_up())


def test_sound_labels_give_no_warning(make_crystal):
    frames = strained(make_crystal)
    slope, count = stress_slope(source_from_frames(frames))
    assert slope == pytest.approx(BULK, rel=1e-6)
    assert count == 30
    assert said(frames) == []


def test_a_stress_of_the_other_sign_is_noticed(make_crystal):
    (warning,) = said(strained(make_crystal, sign=-1.0))
    assert "sign looks like VASP's" in warning


def test_a_stress_in_kbar_is_noticed(make_crystal):
    (warning,) = said(strained(make_crystal, factor=1602.0))
    assert "is it in eV/A^3?" in warning


def test_an_energy_that_strays_is_named(make_crystal):
    frames = strained(make_crystal)
    frames[7].labels["energy"] = np.float64(-20.0)
    (warning,) = said(frames)
    assert "1 energy far from" in warning
    assert "s/7 0.87" in warning


def test_forces_in_other_units_are_noticed(make_crystal):
    frames = strained(make_crystal)
    for frame in frames:
        frame.labels["forces"] *= 51.4
    (warning,) = said(frames)
    assert "check their unit" in warning


def test_energies_per_atom_are_noticed(make_molecule):
    frames = [make_molecule(i, n=2 + i % 12) for i in range(40)]
    for frame in frames:
        frame.labels["energy"] = np.float64(-5.0)
    assert any("are they per atom" in warning for warning in said(frames))
    for frame in frames:
        frame.labels["energy"] = np.float64(-5.0 * len(frame))
    assert said(frames) == []


def test_frames_of_elements_that_no_sum_knows_are_not_judged(make_crystal):
    frames = strained(make_crystal)
    odd = replace(frames[0].structure, numbers=np.where(np.arange(8) % 2, 19, 17))
    source = source_from_frames([*frames, replace(frames[0], structure=odd, source_id="odd")])
    training = np.arange(len(frames))
    assert sanity_warnings(source, source.sum_up(training)) == []
