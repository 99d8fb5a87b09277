"""One potential for several data sets: scales of energy, kinds of charge."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from qeqtrain.calculator import QeqCalculator
from qeqtrain.errors import UserMistake
from qeqtrain.models.archive import restore
from qeqtrain.models.graph import ResponseGraph, weights_of
from qeqtrain.models.mixture import Mixture, as_one_set, choose_set
from qeqtrain.models.potential import Potential, build_potential
from qeqtrain.structures import Structures
from tests.crosses import BACKBONES, CHARGES, CROSSES, small_cross
from tests.systems import ELEMENTS, batch_of, triclinic, water

Z = ELEMENTS
PLAIN = {
    "main": "mp",
    "sets": {
        "mp": {"charge_type": "bader", "energies": {}},
        "matpes": {"charge_type": "ddec6", "energies": {str(z): 0.1 * z for z in Z}},
        "again": {"charge_type": "bader", "energies": {str(z): -2.0 for z in Z}},
    },
}


def mixed(backbone: str = "tensornet", charge: str = "diagonal", coupling: str = "feature"):
    """A small potential of three sets, whose second kind of charge is distorted."""
    header = small_cross(backbone, charge, coupling).header()
    header["conventions"] = {
        **header["conventions"],
        "total_charge": "error",
        "sets": {
            n: {"total_charge": "zero" if n == "matpes" else "error"} for n in PLAIN["sets"]
        },
    }
    potential = build_potential(
        header["spec"],
        elements=header["elements"],
        references={int(z): e for z, e in header["references"].items()},
        scale=header["scale"],
        average_neighbors=header["average_neighbors"],
        conventions=header["conventions"],
        mixture=PLAIN,
    ).eval()
    distort(potential.mixture)
    return potential


def distort(mixture: Mixture) -> None:
    """Draw slopes and offsets at random."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for table in (mixture.slope, mixture.offset):
            table.copy_(
                0.3 * torch.randn(table.shape, generator=generator, dtype=torch.float64)
            )


def as_set(batch: Structures, *indices: int) -> Structures:
    """Say which data set each structure belongs to."""
    return replace(batch, data_set=torch.tensor(indices))


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("charge", [c for c in CHARGES if c != "none"])
def test_charges_of_every_kind_add_up_to_the_total_charge(backbone: str, charge: str) -> None:
    coupling = next(c for b, k, c in CROSSES if (b, k) == (backbone, charge))
    potential = mixed(backbone, charge, coupling)
    batch = batch_of([water(), triclinic(), water()], potential)
    for data_set in range(3):
        said = potential(as_set(batch, *[data_set] * 3))
        total = batch.sum_over_atoms(said.charges)
        assert torch.allclose(total, batch.total_charge, rtol=0, atol=1e-10)


def test_a_kind_begins_as_the_main_one() -> None:
    potential = mixed()
    torch.nn.init.zeros_(potential.mixture.slope)
    torch.nn.init.zeros_(potential.mixture.offset)
    batch = batch_of([water(), triclinic()], potential)
    one, other = (potential(as_set(batch, k, k)).charges for k in (0, 1))
    assert torch.equal(one, other)


def test_sets_differ_in_energy_by_their_elements_and_in_nothing_else_but_charges() -> None:
    potential = mixed()
    batch = batch_of([water(), triclinic()], potential)
    first, second, third = (potential(as_set(batch, k, k)) for k in range(3))
    for said, energies in ((second, lambda z: 0.1 * z), (third, lambda z: -2.0 + 0 * z)):
        apart = batch.sum_over_atoms(energies(batch.numbers.double()))
        assert torch.allclose(said.energy - first.energy, apart, rtol=0, atol=1e-9)
        for name in ("forces", "stress", "dipole"):
            a, b = (getattr(p, name).nan_to_num() for p in (said, first))
            assert torch.allclose(a, b, rtol=0, atol=1e-12), name
    assert (second.charges - first.charges).abs().max() > 1e-3
    assert torch.equal(third.charges, first.charges)


def test_structures_of_several_sets_make_one_batch() -> None:
    potential = mixed()
    batch = batch_of([water(), triclinic(), water()], potential)
    together = potential(as_set(batch, 1, 0, -1))
    alone = [potential(as_set(batch, *[k] * 3)) for k in (1, 0, 0)]
    for i, said in enumerate(alone):
        mine = batch.batch == i
        assert torch.allclose(together.charges[mine], said.charges[mine], atol=1e-12)
        assert torch.allclose(together.energy[i], said.energy[i], rtol=0, atol=1e-9)


def test_the_map_is_the_affine_one_brought_back_to_the_total_charge() -> None:
    potential = mixed()
    batch = batch_of([water()], potential)
    q = potential(as_set(batch, 0)).charges
    slope, offset = (t[0].detach() for t in (potential.mixture.slope, potential.mixture.offset))
    species = potential.species_index[batch.numbers]
    change = slope[species] * q + offset[species]
    expected = q + change - change.mean()
    assert torch.allclose(potential(as_set(batch, 1)).charges, expected, atol=1e-12)


def test_every_fragment_keeps_its_charge() -> None:
    potential = mixed()
    two, far = water(), water()
    far.translate(6.0)
    two.extend(far)
    two.arrays["fragment"] = np.repeat([0, 1], len(two) // 2)
    two.info |= {"fragment_charges": [1.0, -1.0], "charge": 0.0}
    batch = as_set(potential.structures_of(two), 1)
    charges = potential(batch).charges
    for fragment, total in ((0, 1.0), (1, -1.0)):
        mine = torch.from_numpy(two.arrays["fragment"] == fragment)
        assert float(charges[mine].sum()) == pytest.approx(total, abs=1e-10)


def test_the_map_is_differentiable_twice() -> None:
    potential = mixed()
    batch = as_set(batch_of([water(), water()], potential), 1, 0)
    species = potential.species_index[batch.numbers]
    mixture = potential.mixture
    charges = potential(batch).charges.detach().requires_grad_()

    def said(q: torch.Tensor, slope: torch.Tensor, offset: torch.Tensor) -> torch.Tensor:
        state = {"slope": slope, "offset": offset}
        return torch.func.functional_call(Reader(mixture), prefixed(state), (batch, species, q))

    inputs = (
        charges,
        *(t.detach().clone().requires_grad_() for t in (mixture.slope, mixture.offset)),
    )
    assert torch.autograd.gradcheck(said, inputs)
    assert torch.autograd.gradgradcheck(said, inputs)


class Reader(torch.nn.Module):
    """A mixture whose call is its map of charges."""

    def __init__(self, mixture: Mixture) -> None:
        super().__init__()
        self.mixture = mixture

    def forward(
        self, batch: Structures, species: torch.Tensor, q: torch.Tensor
    ) -> torch.Tensor:
        return self.mixture.charges_of(batch, species, q)


def prefixed(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {f"mixture.{name}": value for name, value in state.items()}


def test_a_known_distortion_is_learnt_from_charges_alone() -> None:
    truth = mixed()
    learner = mixed()
    learner.load_state_dict(truth.state_dict())
    torch.nn.init.zeros_(learner.mixture.slope)
    torch.nn.init.zeros_(learner.mixture.offset)
    batch = as_set(batch_of([water(), triclinic(), water()], truth), 1, 1, 1)
    species = truth.species_index[batch.numbers]
    q = torch.randn(
        batch.n_atoms, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )
    label = truth.mixture.charges_of(batch, species, q).detach()
    weights = [learner.mixture.slope, learner.mixture.offset]
    optimiser = torch.optim.LBFGS(weights, max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        off = (learner.mixture.charges_of(batch, species, q) - label).square().sum()
        off.backward()
        return off.detach()

    before = loss().item()
    optimiser.step(loss)
    assert loss().item() < 1e-9 * before


def test_a_model_speaks_for_the_main_set_unless_it_is_told_otherwise() -> None:
    potential = mixed()
    batch = batch_of([water()], potential)
    main, second = (potential(as_set(batch, k)) for k in (0, 1))
    assert torch.equal(potential(batch).energy, main.energy)
    choose_set(potential, "matpes")
    assert torch.equal(potential(batch).energy, second.energy)
    assert torch.equal(potential(batch).charges, second.charges)
    assert potential.conventions["total_charge"] == "zero"


def test_an_unknown_set_is_answered_with_the_nearest() -> None:
    with pytest.raises(UserMistake, match="mp, matpes, again; did you mean 'matpes'"):
        choose_set(mixed(), "matpse")
    with pytest.raises(UserMistake, match="one data set, which has no name"):
        choose_set(small_cross("tensornet", "none", "feature"), "mp")


def test_a_file_keeps_names_energies_and_kinds(tmp_path: Path) -> None:
    potential = mixed()
    choose_set(potential, "matpes")
    torch.save(
        {"header": potential.header(), "state": potential.state_dict()}, tmp_path / "m.pt"
    )
    kept = torch.load(tmp_path / "m.pt", weights_only=True)
    again = restore(kept["header"], kept["state"]).eval()
    assert again.mixture.names == ("mp", "matpes", "again")
    assert again.mixture.charge_types == {"mp": "bader", "matpes": "ddec6", "again": "bader"}
    assert again.mixture.chosen == "matpes"
    batch = batch_of([water()], potential)
    for one, other in ((potential(batch), again(batch)),):
        assert torch.equal(one.energy, other.energy)
        assert torch.equal(one.charges, other.charges)


def test_a_potential_of_one_set_has_no_trace_of_others() -> None:
    plain = small_cross("tensornet", "diagonal", "feature")
    assert "mixture" not in plain.header()
    assert not any("mixture" in name for name in plain.state_dict())


def test_what_is_left_of_a_mixture_speaks_for_the_chosen_set() -> None:
    potential = mixed()
    batch = batch_of([water()], potential)
    choose_set(potential, "again")
    expected = potential(batch)
    as_one_set(potential)
    assert potential.mixture is None
    assert torch.allclose(potential(batch).energy, expected.energy, rtol=0, atol=1e-10)
    assert torch.equal(potential(batch).charges, expected.charges)


def test_the_calculator_takes_a_set_by_its_name() -> None:
    potential = mixed()
    atoms = water()
    atoms.calc = QeqCalculator(potential, total_charge=0.0, data_set="matpes")
    batch = as_set(batch_of([water()], potential), 1)
    assert atoms.get_potential_energy() == pytest.approx(float(potential(batch).energy[0]))
    assert potential.mixture.chosen == "mp"  # the calculator has a copy


def test_main_charges_without_a_kind_take_the_first_that_is_named() -> None:
    sets = {"mp": {"charge_type": None}, "a": {"charge_type": "cm5"}, "b": {"charge_type": "x"}}
    mixture = Mixture(sets, "mp", [1, 8])
    assert mixture.charge_types == {"mp": "cm5", "a": "cm5", "b": "x"}
    assert mixture.mapped == ("x",)
    assert mixture.slope.shape == (1, 2)


def test_one_kind_of_charge_has_nothing_to_learn() -> None:
    sets = {"mp": {"charge_type": "cm5"}, "a": {"charge_type": None}}
    assert list(Mixture(sets, "mp", [1, 8]).parameters()) == []


def test_the_graph_that_is_compiled_knows_the_sets() -> None:
    potential: Potential = mixed().train()
    graph = ResponseGraph(potential, forces=True, stress=False)
    for batch in (
        as_set(batch_of([water(), triclinic()], potential), 0, 1),
        as_set(batch_of([triclinic(), water(), water()], potential), 1, 0, 2),
    ):
        expected = potential(batch, forces=True, stress=False)
        flat = graph.plain(weights_of(potential), graph.flat(batch))
        for name, value in zip(graph.names, flat, strict=True):
            wanted = getattr(expected, name)
            torch.testing.assert_close(value, wanted, rtol=1e-11, atol=1e-11, equal_nan=True)
