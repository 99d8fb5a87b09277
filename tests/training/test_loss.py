"""The loss against numpy by hand, and what masks keep out of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import distributed

from qeqtrain.errors import UserMistake
from qeqtrain.structures import Prediction
from qeqtrain.training.loss import Loss
from qeqtrain.training.quantities import compare


def predict(batch: Any, seed: int = 1) -> Prediction:
    """Draw a prediction that is off by random amounts."""
    generator = torch.Generator().manual_seed(seed)

    def off(name: str) -> torch.Tensor:
        label = batch.labels[name]
        noise = torch.randn(label.shape, generator=generator, dtype=torch.float64)
        return (label + noise).requires_grad_(True)

    return Prediction(
        energy=off("energy"), forces=off("forces"), charges=off("charges"), dipole=off("dipole")
    )


def test_the_loss_is_the_weighted_sum_of_mean_squares(toy_batch: Callable[..., Any]) -> None:
    batch = toy_batch(3)
    said = predict(batch)
    loss = Loss(energy=2.0, forces=3.0, charges=5.0, dipole=7.0)(said, batch)
    sizes = np.bincount(batch.structures.batch.numpy())

    def mean_square(name: str, divide: Any = 1.0) -> float:
        difference = getattr(said, name).detach().numpy() - batch.labels[name].numpy()
        return float(np.mean((difference / divide) ** 2))

    expected = (
        2.0 * mean_square("energy", sizes)
        + 3.0 * mean_square("forces")
        + 5.0 * mean_square("charges")
        + 7.0 * mean_square("dipole")
    )
    assert loss.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("kind", ["mae", "huber"])
def test_terms_may_be_of_another_kind(toy_batch: Callable[..., Any], kind: str) -> None:
    batch = toy_batch(2)
    said = predict(batch)
    weight = {"weight": 1.0, "kind": kind, "huber_delta": 0.5}
    loss = Loss(energy=0.0, forces=weight)(said, batch)
    d = np.abs(said.forces.detach().numpy() - batch.labels["forces"].numpy())
    huber = np.where(d < 0.5, 0.5 * d**2, 0.5 * (d - 0.25))
    assert loss.item() == pytest.approx(float(np.mean(d if kind == "mae" else huber)))


def test_absent_labels_do_not_dilute_the_mean(toy_batch: Callable[..., Any]) -> None:
    batch = toy_batch(2)
    said = predict(batch)
    batch.present["charges"][1] = False
    loss = Loss(energy=0.0, forces=0.0, charges=1.0)(said, batch)
    first = (batch.structures.batch == 0).numpy()
    difference = (said.charges.detach() - batch.labels["charges"]).numpy()[first]
    assert loss.item() == pytest.approx(float(np.mean(difference**2)))


def test_what_is_masked_may_be_nan_without_harm(toy_batch: Callable[..., Any]) -> None:
    batch = toy_batch(2)
    said = predict(batch)
    batch.present["dipole"][0] = False
    batch.labels["dipole"][0] = torch.nan
    said = replace(said, dipole=said.dipole * torch.tensor([[torch.nan], [1.0]]))
    loss = Loss(dipole=1.0)(said, batch)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(said.energy.grad).all()


def test_a_batch_without_any_label_costs_nothing(toy_batch: Callable[..., Any]) -> None:
    batch = toy_batch(2)
    for mask in batch.present.values():
        mask[:] = False
    assert Loss(charges=1.0)(predict(batch), batch).item() == 0.0


def test_stress_of_molecules_is_left_out(toy_batch: Callable[..., Any]) -> None:
    batch = toy_batch(2)
    batch.labels["stress"] = torch.ones(2, 3, 3, dtype=torch.float64)
    batch.present["stress"] = torch.ones(2, dtype=torch.bool)
    batch.structures.pbc[1] = True
    stress = torch.full((2, 3, 3), torch.nan, dtype=torch.float64)
    stress[1] = 3.0
    loss = Loss(energy=0.0, forces=0.0, stress=1.0)(
        replace(predict(batch), stress=stress), batch
    )
    assert loss.item() == pytest.approx(4.0)


def test_born_charges_of_charge_that_flows_through_a_crystal_are_left_out(
    toy_batch: Callable[..., Any],
) -> None:
    batch = toy_batch(2)
    batch.structures.pbc[1] = True
    batch.labels["born_charges"] = torch.ones(len(batch.structures.batch), 3, 3).double()
    batch.present["born_charges"] = torch.ones(2, dtype=torch.bool)
    born = torch.full_like(batch.labels["born_charges"], 3.0)
    born[batch.structures.batch == 1] = torch.nan
    loss = Loss(energy=0.0, forces=0.0, born_charges=1.0)
    assert loss(replace(predict(batch), born_charges=born), batch).item() == pytest.approx(4.0)
    born[0] = torch.nan  # of a molecule: this is no convention
    assert not torch.isfinite(loss(replace(predict(batch), born_charges=born), batch))


def test_energies_of_a_million_ev_keep_their_mev(toy_batch: Callable[..., Any]) -> None:
    batch = toy_batch(1)
    batch.labels["energy"][:] = -1.5e6
    said = Prediction(energy=torch.tensor([-1.5e6 + 4e-3], dtype=torch.float64))
    loss = Loss(energy={"weight": 1.0, "kind": "mae"}, forces=0.0)(said, batch)
    assert loss.item() == pytest.approx(1e-3, rel=1e-6)  # four atoms


def test_charges_asked_of_a_model_without_any_are_a_mistake() -> None:
    with pytest.raises(UserMistake, match=r"charge=diagonal.*loss\.charges=0"):
        Loss(charges=1.0).refuse_impossible(has_charges=False)
    Loss(charges=0.0).refuse_impossible(has_charges=False)


def test_charges_of_a_table_cannot_be_trained() -> None:
    with pytest.raises(UserMistake, match=r"loss\.dipole=2.*nothing to learn.*loss\.dipole=0"):
        Loss(dipole=2.0).refuse_impossible(has_charges=True, fixed_charges=True)
    Loss().refuse_impossible(has_charges=True, fixed_charges=True)


def test_dipoles_of_atoms_that_nothing_trains_are_a_mistake() -> None:
    with pytest.raises(UserMistake, match=r"neither loss\.dipole nor loss\.born_charges"):
        Loss(charges=1.0).refuse_untrained_dipoles(atomic_dipoles=True)
    Loss(charges=1.0).refuse_untrained_dipoles(atomic_dipoles=False)
    Loss(dipole=1.0).refuse_untrained_dipoles(atomic_dipoles=True)


def test_all_mistakes_in_weights_come_together() -> None:
    with pytest.raises(UserMistake) as caught:
        Loss(energy=-1.0, forces={"wieght": 2.0}, charges={"kind": "msse"})
    text = str(caught.value)
    assert "loss.energy" in text
    assert "did you mean 'weight'?" in text
    assert "did you mean 'mse'?" in text


def test_a_loss_without_weights_is_a_mistake() -> None:
    with pytest.raises(UserMistake, match="every weight is 0"):
        Loss(energy=0.0, forces=0.0)


def test_shares_of_two_ranks_add_up_to_the_loss_of_one(
    toy_batch: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    loss = Loss(energy=2.0, forces=3.0, charges=5.0)
    one, two = toy_batch(3), toy_batch(1)
    two.present["charges"][:] = False  # a rank whose batch lacks a label counts as zero there
    said = predict(one), predict(two)
    # 4 energies; 4 + 5 + 6 and 4 atoms with three forces each, of which 15 have charges
    whole = torch.tensor([4.0, 57.0, 15.0], dtype=torch.float64)
    expected = sum(
        term.weight * compared.difference.square().sum() / n
        for (name, term), n in zip(loss.terms.items(), whole, strict=True)
        for p, b in zip(said, (one, two), strict=True)
        if (compared := compare(p, b, name)) is not None
    )
    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    counted: list[torch.Tensor] = []

    def all_reduce(counts: torch.Tensor) -> None:
        counted.append(counts.clone())
        counts.copy_(whole)

    monkeypatch.setattr(distributed, "all_reduce", all_reduce)
    shares = [loss(p, b) for p, b in zip(said, (one, two), strict=True)]
    torch.testing.assert_close(sum(counted), whole)
    torch.testing.assert_close(torch.stack(shares).sum(), expected)


def test_a_root_is_that_of_the_mean_over_the_batch(toy_batch: Callable[..., Any]) -> None:
    batch = toy_batch(3)
    said = predict(batch)
    loss = Loss(energy=2.0, forces=3.0, kind="rmse")(said, batch)
    sizes = torch.from_numpy(np.bincount(batch.structures.batch.numpy()))
    energy = ((said.energy - batch.labels["energy"]) / sizes).square().mean().sqrt()
    forces = (said.forces - batch.labels["forces"]).square().mean().sqrt()
    torch.testing.assert_close(loss, 2.0 * energy + 3.0 * forces)
    found = torch.autograd.grad(loss, (said.energy, said.forces))
    expected = torch.autograd.grad(2.0 * energy + 3.0 * forces, (said.energy, said.forces))
    torch.testing.assert_close(found, expected)


def test_a_root_of_nothing_is_nothing_and_has_a_slope(toy_batch: Callable[..., Any]) -> None:
    batch = toy_batch(2)
    labels = {
        name: batch.labels[name].clone().requires_grad_() for name in ("energy", "forces")
    }
    loss = Loss(kind="rmse")(Prediction(**labels), batch)
    slopes = torch.autograd.grad(loss, list(labels.values()))
    assert loss.item() == 0.0
    assert all(torch.equal(g, torch.zeros_like(g)) for g in slopes)


@pytest.mark.parametrize("kind", ["mse", "mae", "rmse"])
def test_structures_may_average_their_atoms_first(
    toy_batch: Callable[..., Any], kind: str
) -> None:
    batch = toy_batch(3)
    batch.present["forces"][1] = False
    said = predict(batch)
    weight = {"weight": 1.0, "kind": kind, "average": "structures"}
    loss = Loss(energy=0.0, forces=weight)(said, batch)
    d = (said.forces - batch.labels["forces"]).detach().abs()
    penalty = d if kind == "mae" else d.square()
    own = [penalty[batch.structures.batch == k].mean() for k in (0, 2)]
    mean = float(sum(own)) / 2
    assert loss.item() == pytest.approx(mean**0.5 if kind == "rmse" else mean)


def test_roots_of_two_ranks_are_those_of_one(
    toy_batch: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    loss = Loss(energy=0.0, forces=3.0, kind="rmse")
    batches = toy_batch(3), toy_batch(1)
    said = [predict(b) for b in batches]
    differences = torch.cat(
        [p.forces - b.labels["forces"] for p, b in zip(said, batches, strict=True)]
    )
    whole = 3.0 * differences.square().mean().sqrt()
    expected = torch.autograd.grad(whole, [p.forces for p in said])
    count, mean = differences.numel(), differences.detach().square().mean()

    def all_reduce(values: torch.Tensor) -> None:
        # First the counts are added up, then the shares in the mean.
        values.fill_(float(count) if values.max() > 10.0 else float(mean))

    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed, "all_reduce", all_reduce)
    shares = torch.stack([loss(p, b) for p, b in zip(said, batches, strict=True)])
    torch.testing.assert_close(shares.sum(), whole)
    found = torch.autograd.grad(shares.sum(), [p.forces for p in said])
    torch.testing.assert_close(found, expected)
