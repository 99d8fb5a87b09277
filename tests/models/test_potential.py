"""What surrounds the parts of a potential: scale, references, ``ase.Atoms``, the file."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from qeqtrain.errors import UserMistake
from qeqtrain.models.archive import restore
from qeqtrain.models.potential import Potential, build_potential
from tests.crosses import small_cross
from tests.systems import ELEMENTS, batch_of, rattled, small_qet, triclinic, water


def rebuilt(potential: Potential, **changes: Any) -> Potential:
    """Build a potential with the weights of another, and other surroundings."""
    given: dict[str, Any] = {
        "elements": potential.elements,
        "references": potential.references,
        "scale": potential.scale,
        "conventions": potential.conventions,
    }
    other = build_potential(potential.spec, **{**given, **changes}).eval()
    other.load_state_dict(potential.state_dict(), strict=False)
    return other


def test_one_scale_for_every_element_is_the_scale_of_all() -> None:
    potential = small_qet()
    other = rebuilt(potential, scale=dict.fromkeys(ELEMENTS, potential.scale))
    batch = batch_of([triclinic(), water(1.0)], potential)
    assert torch.equal(other(batch).energy, potential(batch).energy)


def test_a_scale_by_element_scales_the_energy_of_its_atoms() -> None:
    potential = small_qet()
    scales = {z: potential.scale * z for z in ELEMENTS}
    batch = batch_of([triclinic(), water(1.0)], potential)
    expected = potential(batch).atomic_energies * batch.numbers
    found = rebuilt(potential, scale=scales)(batch).atomic_energies
    torch.testing.assert_close(found, expected, rtol=1e-14, atol=0)


def test_charge_references_add_to_the_energy_and_to_nothing_else() -> None:
    potential = small_qet()
    table = {"kind": "per_charge", "energies": [[-1.0, 2.0], [0.0, 1e6], [1.0, 5.0]]}
    other = rebuilt(potential, charge_references=table)
    batch = batch_of([water(-1.0), triclinic(), water(1.0)], potential)
    before, after = potential(batch), other(batch)
    expected = before.energy + torch.tensor([2.0, 1e6, 5.0])
    torch.testing.assert_close(after.energy, expected, rtol=0, atol=1e-9)
    assert torch.equal(after.forces, before.forces)
    assert torch.equal(after.charges, before.charges)


def test_constants_of_charge_references_keep_their_precision() -> None:
    table = {"kind": "per_charge", "energies": [[0.0, 1234567.890123]]}
    other = rebuilt(small_qet(), charge_references=table).float()
    assert other.charge_references.energies.tolist() == [1234567.890123]


def test_a_model_with_charge_references_refuses_charges_it_has_none_for() -> None:
    table = {"kind": "per_charge", "energies": [[0.0, 1.0]]}
    with pytest.raises(UserMistake, match=r"total charge \+1: .* trained on 0 only"):
        rebuilt(small_qet(), charge_references=table).structures_of(water(1.0))


def test_an_unseen_composition_is_refused_unless_allowed() -> None:
    table = {"kind": "per_composition", "energies": [[{"11": 4, "17": 4}, 0.0, 3.0]]}
    other = rebuilt(small_qet(), charge_references={**table, "fallback": [[0.0, 2.0]]})
    other.structures_of(triclinic())
    with pytest.raises(UserMistake, match="training met H2O not at all"):
        other.structures_of(water())
    other.unseen_charge_states = "allow"
    with pytest.warns(UserWarning, match="this is an extrapolation"):
        other.structures_of(water())


@pytest.mark.parametrize(
    "references",
    [
        {"kind": "per_charge", "energies": [[-1.0, 2.0], [0.0, 1.0]]},
        {"kind": "learned", "scale": 3.0, "spin": False, "width": 4},
    ],
)
def test_a_file_keeps_scales_charge_range_and_charge_references(references) -> None:
    potential = rebuilt(
        small_qet(),
        scale={z: 0.1 * z for z in ELEMENTS},
        charge_range=(-0.7, 0.9),
        charge_references=references,
    )
    for parameter in potential.charge_references.parameters():
        torch.nn.init.constant_(parameter, 0.3)
    again = restore(potential.header(), potential.state_dict()).eval()
    assert again.header() == potential.header()
    batch = batch_of([water(), water(1.0)], potential)
    assert torch.equal(again(batch).energy, potential(batch).energy)


@pytest.mark.parametrize("charge", ["diagonal", "gaussian"])
def test_a_file_keeps_the_charge_axis_of_a_second_network(charge) -> None:
    made = small_cross("tensornet", charge, "second")
    potential = rebuilt(made, charge_range=(-0.7, 0.9))
    again = restore(potential.header(), potential.state_dict()).eval()
    assert again.coupling.bins.highest == potential.coupling.bins.highest == pytest.approx(1.06)
    batch = batch_of([water(), water(1.0)], potential)
    assert torch.equal(again(batch).energy, potential(batch).energy)


def test_files_from_before_charge_references_are_read() -> None:
    potential = small_qet()
    header = potential.header()
    del header["charge_range"], header["charge_references"]
    again = restore(header, potential.state_dict()).eval()
    batch = batch_of([water()], potential)
    assert torch.equal(again(batch).energy, potential(batch).energy)


def test_fragments_of_atoms_become_groups() -> None:
    apart = water()
    apart.extend(rattled(water()))
    apart.positions[3:] += 6.0
    apart.set_array("fragment", np.array([1, 1, 1, 2, 2, 2]))
    apart.info = {"fragment_charges": [1, -1]}
    groups = small_qet().structures_of([water(), apart]).charge_groups()
    assert groups.member.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert groups.charge.tolist() == [0.0, 1.0, -1.0]


def test_a_total_charge_that_contradicts_the_fragments_is_refused() -> None:
    atoms = water(1.0)
    atoms.set_array("fragment", np.array([0, 1, 1]))
    atoms.info["fragment_charges"] = [1.0, -1.0]
    with pytest.raises(UserMistake, match="add up to"):
        small_qet().structures_of(atoms)
