"""The potential of a recipe from its data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from qeqtrain.data.frames import Frame
from qeqtrain.data.sets import DataSets
from qeqtrain.data.writing import write_extxyz
from qeqtrain.errors import EquilibrationFailed, UserMistake
from qeqtrain.models.potential import Potential, build_potential
from qeqtrain.models.qet import qet_spec
from qeqtrain.neighbors import with_pairs
from qeqtrain.nn.charges import Charges
from qeqtrain.physics.repulsion import zbl_energy
from qeqtrain.structures import Structure, collate
from qeqtrain.training import given
from qeqtrain.training.assembly import potential_for, unseen_state_notes

OFFSETS = {-1.0: -2.0, 0.0: 0.0, 1.0: 6.0}
NODES: dict[str, Any] = qet_spec(cutoff=4.0, channels=4, layers=1)
CONDITIONED = {**NODES, "backbone": {**NODES["backbone"], "conditioning": "charge"}}


def frame(seed: int, charge: float, spin: float = 1.0) -> Frame:
    """Sodium chloride whose energy is that of elements and charge, exactly."""
    rng = np.random.default_rng(seed)
    n = 4 + seed % 4
    numbers = np.where(np.arange(n) % 3, 17, 11)
    structure = Structure(
        numbers=numbers,
        positions=np.arange(n)[:, None] * 2.0 + rng.normal(size=(n, 3)) * 0.1,
        cell=np.zeros((3, 3)),
        pbc=np.zeros(3, dtype=bool),
        total_charge=charge,
        spin=spin,
    )
    energy = float(np.where(numbers == 11, -4.0, -7.0).sum()) + OFFSETS.get(charge, 0.0)
    forces = rng.normal(size=(n, 3)) * np.where(numbers == 11, 0.5, 2.0)[:, None]
    labels = {"energy": np.float64(energy), "forces": forces}
    return Frame(structure, {**labels, "charges": np.full(n, charge / n)}, f"frame-{seed}")


@pytest.fixture
def prepared(tmp_path: Path) -> Callable[..., DataSets]:
    """Write frames of three total charges, and others for validation; read them as a run."""

    def make(*val: Frame, train: list[Frame] | None = None) -> DataSets:
        train = train or [frame(i, float(i % 3 - 1)) for i in range(24)]
        write_extxyz(tmp_path / "train.extxyz", train)
        write_extxyz(tmp_path / "val.extxyz", val or [frame(30, 0.0)])
        data = DataSets(str(tmp_path / "train.extxyz"), val=str(tmp_path / "val.extxyz"))
        data.prepare({"backbone": 4.0, "charge": 4.0}, {"energy": True})
        return data

    return make


def test_charges_have_their_energies_beside_the_elements(prepared) -> None:
    data = prepared()
    potential = potential_for({**NODES, "charge_references": "per_charge"}, data)
    found = dict(potential.charge_references.plain()["energies"])
    assert found[1.0] - found[0.0] == pytest.approx(6.0)
    assert found[-1.0] - found[0.0] == pytest.approx(-2.0)


@pytest.mark.parametrize(
    ("kind", "references"),
    [
        ("per_charge", "least_squares"),
        ("per_charge", {"Na": -4.0, "Cl": -7.0}),
        ("per_composition", "least_squares"),
        ("per_composition", {"Na": -4.0, "Cl": -7.0}),
        ("per_composition", "none"),
    ],
)
def test_references_leave_nothing_of_energies_made_of_them(prepared, kind, references) -> None:
    data = prepared()
    nodes = {**NODES, "charge_references": kind, "references": references}
    potential = potential_for(nodes, data)
    for batch in data.train_loader():
        structures = batch.structures
        species = potential.species_index[structures.numbers]
        atoms = structures.sum_over_atoms(potential.reference_energies[species])
        left = atoms + potential.charge_references(structures) - batch.labels["energy"]
        assert float(left.abs().max()) < 1e-9


def test_a_learned_reference_is_in_units_of_what_it_has_to_learn(prepared) -> None:
    potential = potential_for({**NODES, "charge_references": "learned"}, prepared())
    assert potential.charge_references.scale == pytest.approx(np.std([-2.0, 0.0, 6.0]))
    assert potential.references == pytest.approx(potential_for(NODES, prepared()).references)


def test_an_unknown_kind_is_answered_with_the_nearest(prepared) -> None:
    with pytest.raises(UserMistake, match="did you mean 'per_charge'"):
        potential_for({**NODES, "charge_references": "percharge"}, prepared())


def test_every_element_may_have_the_scale_of_its_forces(prepared) -> None:
    data = prepared()
    potential = potential_for({**NODES, "scale": "force_rms_per_element"}, data)
    assert potential.scale == pytest.approx(data.statistics.force_rms_by_element)
    assert 0.3 < potential.scale[11] < 0.7
    assert 1.5 < potential.scale[17] < 2.5


def test_an_element_without_forces_has_the_scale_of_all(prepared) -> None:
    data = prepared()
    nodes = {**NODES, "scale": "force_rms_per_element", "elements": ["Na", "Cl", "K"]}
    assert potential_for(nodes, data).scale[19] == data.statistics.force_rms


def test_the_model_remembers_charges_spins_and_their_range(prepared) -> None:
    potential = potential_for(NODES, prepared())
    assert potential.conventions["charge_states"] == [-1.0, 0.0, 1.0]
    assert potential.conventions["spins"] == [1.0]
    assert potential.conventions["unseen_charge_states"] == "error"
    assert potential.charge_range == pytest.approx([-0.25, 0.25])


def test_a_total_charge_that_only_validation_has_is_refused_where_it_is_read(prepared) -> None:
    data = prepared(frame(30, 2.0), frame(31, 2.0), frame(32, 0.0))
    assert unseen_state_notes(potential_for(NODES, data), data) == []
    with pytest.raises(UserMistake) as caught:
        unseen_state_notes(potential_for(CONDITIONED, data), data)
    (problem,) = caught.value.problems
    assert problem.startswith("val: total charge +2")
    assert "trained on -1, 0, +1 only (2 frames)" in problem
    assert "potential.unseen_charge_states=allow" in problem


def test_where_it_is_allowed_it_is_a_note(prepared) -> None:
    data = prepared(frame(30, 2.0))
    nodes = {**CONDITIONED, "unseen_charge_states": "allow"}
    (note,) = unseen_state_notes(potential_for(nodes, data), data)
    assert note.startswith("val: total charge +2")
    assert note.endswith("(1 frame)")


def test_a_multiplicity_that_only_validation_has_is_refused_where_it_is_read(prepared) -> None:
    data = prepared(frame(30, 0.0, spin=3.0))
    assert unseen_state_notes(potential_for(CONDITIONED, data), data) == []
    backbone = {**NODES["backbone"], "conditioning": "charge_and_spin"}
    with pytest.raises(UserMistake, match=r"val: multiplicity 3: .* trained on 1 only"):
        unseen_state_notes(potential_for({**NODES, "backbone": backbone}, data), data)


def test_a_composition_that_only_validation_has_is_refused_where_it_counts(prepared) -> None:
    lone = frame(30, 0.0)
    one = {k: v[:1] if k != "energy" else v for k, v in lone.labels.items()}
    s = replace(lone.structure, numbers=np.array([11]), positions=np.zeros((1, 3)))
    data = prepared(replace(lone, structure=s, labels=one))
    potential = potential_for({**NODES, "charge_references": "per_composition"}, data)
    with pytest.raises(UserMistake, match=r"val: Na with total charge 0.*not at all \(1 fra"):
        unseen_state_notes(potential, data)


# What lies beneath the network


REPELLED = {**NODES, "baselines": {"zbl": {"_target_": "qeqtrain.nn.baselines.ScreenedNuclei"}}}


def close(seed: int, *, labelled: bool = True) -> Frame:
    """Sodium chloride whose labels are elements and the repulsion of its nuclei, exactly."""
    bare = frame(seed, 0.0)
    structure = replace(bare.structure, positions=bare.structure.positions * 0.6)
    s = collate([with_pairs(structure, {"backbone": 4.0})])
    r = s.positions.requires_grad_()
    energy = zbl_energy(s, "backbone").sum()
    (slope,) = torch.autograd.grad(energy, r)
    own = np.where(structure.numbers == 11, 0.5, 2.0)[:, None]
    forces = -slope.numpy() + own * np.sign(bare.labels["forces"])
    labels = {"energy": bare.labels["energy"] + energy.item(), "forces": forces}
    return Frame(
        structure, labels if labelled else {"energy": labels["energy"]}, bare.source_id
    )


def test_references_and_scale_are_those_of_labels_without_the_baseline(prepared) -> None:
    data = prepared(close(30), train=[close(i) for i in range(12)])
    found = potential_for({**REPELLED, "scale": "force_rms_per_element"}, data)
    assert found.references == pytest.approx({11: -4.0, 17: -7.0}, abs=1e-6)
    assert found.scale == pytest.approx({11: 0.5, 17: 2.0}, rel=1e-6)
    naive = potential_for({**NODES, "scale": "force_rms_per_element"}, data)
    assert abs(naive.references[11] + 4.0) > 1.0
    assert naive.scale[17] > 2.5


def test_frames_without_forces_leave_the_scale_to_the_others(prepared) -> None:
    frames = [close(i, labelled=i % 2 == 0) for i in range(12)]
    found = potential_for(REPELLED, prepared(close(30), train=frames))
    share = [float(np.mean(f.structure.numbers == 11)) for f in frames[::2]]
    weights = [len(f) for f in frames[::2]]
    sodium = float(np.average(share, weights=weights))
    expected = (sodium * 0.5**2 + (1.0 - sodium) * 2.0**2) ** 0.5
    assert found.scale == pytest.approx(expected, rel=1e-6)


def test_energies_of_charges_are_those_without_the_baseline(prepared) -> None:
    def charged(i: int) -> Frame:
        one, charge = close(i), float(i % 3 - 1)
        labels = {**one.labels, "energy": one.labels["energy"] + OFFSETS[charge]}
        return Frame(replace(one.structure, total_charge=charge), labels, one.source_id)

    data = prepared(charged(31), train=[charged(i) for i in range(18)])
    nodes = {**REPELLED, "charge_references": "per_charge"}
    found = dict(potential_for(nodes, data).charge_references.plain()["energies"])
    assert found[1.0] - found[0.0] == pytest.approx(6.0, abs=1e-6)


def test_of_many_frames_a_sample_is_looked_at_that_has_every_element(
    prepared, monkeypatch
) -> None:
    monkeypatch.setattr(given, "SAMPLE", 6)
    frames = [close(i) for i in range(20)]
    rare = replace(frames[7].structure, numbers=np.where(np.arange(7) == 0, 19, 17))
    frames[7] = Frame(rare, frames[7].labels, "rare")
    data = prepared(close(30), train=frames)
    potential = potential_for(REPELLED, data)
    found = given.given_labels(potential, data)
    assert len(found.frames) == 6
    numbers = np.concatenate(
        [data.source_of("train")[0][int(i)].structure.numbers for i in found.frames]
    )
    assert 19 in numbers
    whole = given.given_labels(potential, data, every=True)
    assert len(whole.frames) == 20
    assert np.array_equal(whole.energies[np.isin(whole.frames, found.frames)], found.energies)


def test_a_baseline_does_not_change_the_first_weights(prepared) -> None:
    data = prepared()
    weights = []
    for nodes in (NODES, REPELLED):
        torch.manual_seed(5)
        weights.append(potential_for(nodes, data).state_dict())
    assert all(torch.equal(a, b) for a, b in zip(*(w.values() for w in weights), strict=True))


class Tabled(torch.nn.Module):
    """Charges of a table: an atom's energy is known, and no feature is read."""

    features, equilibrated, fixed = 2, True, True
    cutoffs: ClassVar = {"charge": 3.0}

    def forward(self, structures, features, species, response=None) -> Charges:
        assert set(structures.edges) == {"charge"}
        each = torch.where(structures.numbers == 11, 0.25, -3.0).double()
        each = each + 0.0 * structures.positions.sum(dim=1)
        by_structure = structures.sum_over_atoms(each)
        return Charges(each, each, by_structure, by_structure, 0.0 * by_structure, each, each)


@pytest.mark.parametrize(
    ("coupling", "taken"),
    [("AdditiveCoupling", 1), ("FeatureCoupling", 0), ("VariationalCoupling", 0)],
)
def test_energies_of_fixed_charges_are_taken_off_where_they_are_added(
    prepared, monkeypatch, coupling: str, taken: int
) -> None:
    monkeypatch.setattr("qeqtrain.nn.charges.Tabled", Tabled, raising=False)
    nodes = {
        **NODES,
        "charge": {"_target_": "qeqtrain.nn.charges.Tabled"},
        "coupling": {"_target_": f"qeqtrain.nn.couplings.{coupling}"},
    }
    data = prepared(train=[frame(i, 0.0) for i in range(12)])
    found = potential_for(nodes, data).references
    expected = {11: -4.0 - taken * 0.25, 17: -7.0 + taken * 3.0}
    assert found == pytest.approx(expected, abs=1e-6)


def test_frames_whose_charges_have_no_answer_do_not_count(prepared, monkeypatch) -> None:
    class Failing(Tabled):
        def forward(self, structures, *rest) -> Charges:
            if len(structures.numbers) != 5:
                raise EquilibrationFailed("no answer")
            return super().forward(structures, *rest)

    monkeypatch.setattr("qeqtrain.nn.charges.Tabled", Failing, raising=False)
    nodes = {
        **NODES,
        "charge": {"_target_": "qeqtrain.nn.charges.Tabled"},
        "coupling": {"_target_": "qeqtrain.nn.couplings.AdditiveCoupling"},
    }
    data = prepared(train=[frame(i, 0.0) for i in range(12)])
    potential = potential_for(nodes, data)
    assert len(given.given_labels(potential, data).frames) == 3
    with pytest.raises(EquilibrationFailed, match="no answer"):
        potential_for(nodes, prepared(train=[frame(4, 0.0)]))


SALT = {"_target_": "qeqtrain.nn.charges.PQEqCharges"}
ADDED = {
    "a table of charges": {
        "charge": SALT,
        "coupling": {"_target_": "qeqtrain.nn.couplings.AdditiveCoupling"},
    },
    "a baseline": {
        "baselines": {"zbl": {"_target_": "qeqtrain.nn.baselines.ScreenedNuclei"}},
    },
}


@pytest.mark.parametrize("parts", ADDED.values(), ids=ADDED)
@pytest.mark.parametrize("charge_references", ["none", "per_charge"])
def test_what_is_added_anyway_is_taken_off_before_references_are_fitted(
    prepared, parts, charge_references
) -> None:
    nodes = {**NODES, **parts, "charge_references": charge_references}
    plain = [
        frame(i, float(i % 3 - 1) if charge_references != "none" else 0.0) for i in range(24)
    ]
    wanted = potential_for(
        {**NODES, "charge_references": charge_references}, prepared(train=plain)
    )
    sketch = sketch_potential_of(nodes)
    train = []
    for one in plain:
        batch = collate([with_pairs(one.structure, sketch.cutoffs)])
        positions = batch.positions.requires_grad_()
        energy = sketch.fixed_energy(batch)
        (slope,) = torch.autograd.grad(energy.sum(), positions)
        labels = dict(one.labels)
        labels["energy"] = labels["energy"] + float(energy.detach()[0])
        labels["forces"] = labels["forces"] - slope.numpy()
        train.append(replace(one, labels=labels))
    found = potential_for(nodes, prepared(train=train))
    assert found.references == pytest.approx(wanted.references, abs=1e-6)
    assert found.scale == pytest.approx(wanted.scale, abs=1e-6)
    if charge_references != "none":
        energies = [dict(p.charge_references.plain()["energies"]) for p in (found, wanted)]
        assert energies[0] == pytest.approx(energies[1], abs=1e-6)


def sketch_potential_of(nodes: dict[str, Any]) -> Potential:
    return build_potential(nodes, elements=(11, 17), references={}, scale=1.0)
