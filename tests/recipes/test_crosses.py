"""Backbone, charge model and coupling are independent lines of a recipe."""

from __future__ import annotations

from pathlib import Path

import pytest

from qeqtrain.cli import main
from qeqtrain.models.archive import load
from qeqtrain.testing import check_potential
from tests.crosses import BACKBONES, CHARGES, CROSSES

COUPLING = {
    "feature": ["coupling=feature"],
    "full": ["coupling=additive", "coupling.charge_energy=full"],
    "coulomb": ["coupling=additive", "coupling.charge_energy=coulomb"],
    "variational": ["coupling=variational"],
    "second": ["coupling=second_network", "coupling.bins=8", "coupling.layers=1"],
}


def words(backbone: str, charge: str, coupling: str) -> list[str]:
    """Write a cross as overrides."""
    found = [f"backbone={backbone}", f"charge={charge}", *COUPLING[coupling]]
    if backbone == "nequip":
        found += ["backbone.l_max=1", "backbone.radial_width=8"]
    return [*found, "loss.charges=0"] if charge in ("none", "pqeq") else found


@pytest.mark.parametrize("conditioning", ["none", "charge"])
@pytest.mark.parametrize("names", CROSSES, ids=" + ".join)
def test_every_cross_makes_a_step_and_keeps_the_laws(
    names: tuple[str, str, str],
    conditioning: str,
    water: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    code = main(
        [
            *("fit", "smoke/qet", "data=files", f"data.train={water}", "run_folder=run"),
            *("trainer.max_epochs=1", "trainer.max_steps=1", "data.split={val: 3}"),
            *(*words(*names), f"backbone.conditioning={conditioning}"),
        ]
    )
    assert code == 0
    check_potential(load(tmp_path / "run", dtype="float64"))


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("charge", CHARGES)
def test_every_backbone_and_charge_model_cross_in_one_line(
    backbone: str, charge: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["show", "quickstart", f"backbone={backbone}", f"charge={charge}"]) == 0
    shown = capsys.readouterr().out.lower()
    assert f"{backbone}." in shown
    assert charge in shown
