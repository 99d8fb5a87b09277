from __future__ import annotations

import ase.io
import numpy as np
import pytest

from qeqtrain.data.extxyz import parse_comment, read_extxyz
from qeqtrain.data.labels import Conventions
from qeqtrain.data.sources import open_source
from qeqtrain.data.writing import write_extxyz
from qeqtrain.errors import UserMistake

WATER = """3
Properties=species:S:1:pos:R:3:{columns} {comment}
O 0.0 0.0 0.0 {o}
H 0.96 0.0 0.0 {h}
H -0.24 0.93 0.0 {h}
"""


def water(
    tmp_path, comment, columns="charge:R:1", o="-0.8", h="0.4", name="water.xyz", copies=1
):
    path = tmp_path / name
    path.write_text(WATER.format(comment=comment, columns=columns, o=o, h=h) * copies)
    return path


def test_values_of_a_comment_line_keep_their_kinds():
    info = parse_comment(
        'a=1 b=-2.5e-3 c=T d=word e="1 2 3" f="_JSON [[1.0, 2.0]]" g="two words" '
        "h={4 5} i=mp-1/x:2"
    )
    assert (info["a"], info["b"], info["c"], info["d"]) == (1, -2.5e-3, True, "word")
    assert np.array_equal(info["e"], [1, 2, 3])
    assert np.array_equal(info["f"], [[1, 2]])
    assert info["g"] == "two words"
    assert np.array_equal(info["h"], [4, 5])
    assert info["i"] == "mp-1/x:2"


def test_total_charge_and_a_column_called_charge_are_two_things(tmp_path):
    frame = open_source(water(tmp_path, "charge=1 energy=-76.0", o="-0.2", h="0.6"))[0]
    assert frame.structure.total_charge == 1.0
    assert np.allclose(frame.labels["charges"], [-0.2, 0.6, 0.6])


def test_our_reader_reads_what_ase_reads(tmp_path, frames):
    path = tmp_path / "frames.extxyz"
    write_extxyz(path, frames)
    for raw, atoms in zip(read_extxyz(path), ase.io.read(path, ":"), strict=True):
        assert np.array_equal(raw.numbers, atoms.numbers)
        assert np.array_equal(raw.positions, atoms.positions)
        assert np.array_equal(raw.cell, atoms.cell.array)
        assert np.array_equal(raw.pbc, atoms.pbc)
        assert raw.info["energy"] == atoms.get_potential_energy()
        assert np.array_equal(raw.arrays["forces"], atoms.get_forces())


def test_multiplicity_is_one_more_than_the_unpaired_electrons(tmp_path):
    frame = open_source(water(tmp_path, "charge=0 uhf=2"))[0]
    assert frame.structure.spin == 3.0


def test_a_contradiction_between_two_total_charges_is_named(tmp_path):
    with pytest.raises(UserMistake, match="charge=0 and total_charge=1 disagree"):
        open_source(water(tmp_path, "charge=0 total_charge=1"))


def test_stress_is_read_from_nine_numbers_and_from_six(tmp_path):
    lattice = 'Lattice="9 0 0 0 9 0 0 0 9" pbc="T T T" charge=0'
    nine = open_source(
        water(tmp_path, f'{lattice} stress="1 6 5 6 2 4 5 4 3"', name="nine.xyz")
    )
    six = open_source(water(tmp_path, f'{lattice} stress="1 2 3 4 5 6"', name="six.xyz"))
    assert np.array_equal(nine[0].labels["stress"], six[0].labels["stress"])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.replace("H 0.96", "Hx 0.96"), "Hx: no such element"),
        (lambda t: t.replace("0.0 0.4\n", "0.0\n", 1), "4 columns, Properties says 5"),
        (lambda t: t[: len(t) // 2], "cut short"),
        (lambda t: "garbage\n" + t, "begins with its number of atoms"),
    ],
    ids=["element", "columns", "end", "head"],
)
def test_a_broken_file_is_refused_with_the_frame_named(tmp_path, change, words):
    path = water(tmp_path, "charge=0")
    path.write_text(change(path.read_text()))
    with pytest.raises(UserMistake, match=words) as caught:
        open_source(path)
    assert "frame 0" in str(caught.value)


def test_two_charge_schemes_are_never_chosen_between_silently(tmp_path):
    path = water(
        tmp_path, "charge=0", "mbis_charges:R:1:hirshfeld_charges:R:1", "-0.8 -0.3", "0.4 0.15"
    )
    with pytest.raises(UserMistake, match=r"data\.aliases\.charges=mbis_charges") as caught:
        open_source(path)
    assert "hirshfeld_charges" in str(caught.value)
    chosen = open_source(path, Conventions(aliases={"charges": "hirshfeld_charges"}))
    assert np.allclose(chosen[0].labels["charges"], [-0.3, 0.15, 0.15])


def test_equal_columns_under_two_names_need_no_choice(tmp_path):
    path = water(tmp_path, "charge=0 energy=-1 REF_energy=-1", "charge:R:1:charges:R:1",
                 "-0.8 -0.8", "0.4 0.4")  # fmt: skip
    assert set(open_source(path).present) == {"energy", "charges"}


def test_a_label_can_be_left_out_by_its_alias(tmp_path):
    source = open_source(water(tmp_path, "charge=0"), Conventions(aliases={"charges": None}))
    assert "charges" not in source.present


def test_an_alias_that_the_file_lacks_offers_the_nearest_key(tmp_path):
    path = water(tmp_path, "charge=0", "hirsh_charges:R:1")
    with pytest.raises(UserMistake, match="did you mean 'hirsh_charges'"):
        open_source(path, Conventions(aliases={"charges": "hirsch_charges"}))


def test_bader_counts_are_not_taken_for_charges_unasked(tmp_path):
    source = open_source(water(tmp_path, "charge=0", "bader:R:1", "7.1", "0.45"))
    assert "charges" not in source.present
    assert any("'bader'" in note and "data.aliases.charges" in note for note in source.notes)


def test_initial_charges_that_are_all_zero_are_no_label(tmp_path):
    zero = open_source(water(tmp_path, "charge=0", "initial_charges:R:1", "0", "0", "a.xyz"))
    real = open_source(water(tmp_path, "charge=0", "initial_charges:R:1", name="b.xyz"))
    assert "charges" not in zero.present
    assert real.present["charges"].all()


def test_a_nan_label_is_a_bad_frame_unless_it_may_be_missing(tmp_path):
    path = water(tmp_path, "charge=0 energy=nan")
    with pytest.raises(UserMistake, match=r"data\.nan=missing"):
        open_source(path)
    source = open_source(path, Conventions(nan="missing"))
    assert "energy" not in source.present
    assert source.present["charges"].all()


def test_many_bad_frames_are_counted_not_listed(tmp_path):
    with pytest.raises(UserMistake) as caught:
        open_source(water(tmp_path, "charge=0 energy=nan", copies=30))
    assert len(caught.value.problems) == 6
    assert "25 more" in caught.value.problems[-1]


def test_every_digit_survives_writing(tmp_path, frames):
    path = tmp_path / "frames.extxyz"
    write_extxyz(path, frames)
    read = open_source(path)
    for i, frame in enumerate(frames):
        assert read[i].source_id == frame.source_id
        assert read[i].structure.total_charge == frame.structure.total_charge
        assert np.array_equal(read[i].structure.positions, frame.structure.positions)
        assert set(read[i].labels) == set(frame.labels)
        for name, value in frame.labels.items():
            assert np.array_equal(read[i].labels[name], value), name
