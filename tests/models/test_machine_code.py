"""Machine code beside an exported model: equal to it, asked for, refused where it must be."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms

import qeqtrain
from qeqtrain.cli import main
from qeqtrain.errors import UserMistake
from qeqtrain.models import machine_code
from qeqtrain.models.archive import export
from qeqtrain.models.exported import read_exported, write_exported
from qeqtrain.models.graph import ResponseGraph, weights_of
from qeqtrain.models.potential import Potential
from tests.models.test_archive import write_checkpoint
from tests.systems import batch_of, small_qet, triclinic, water

SIZES = [[water()], [triclinic()], [water()[:1]], [water()[:2]], [triclinic(), water()]]
"""A molecule, a crystal, one atom, one pair, and two structures."""


@pytest.fixture
def described(tmp_path: Path) -> Path:
    """Give an exported model that says of a package what no compiler made."""
    checkpoint = write_checkpoint(tmp_path / "a.ckpt", small_qet())
    out = tmp_path / "a.safetensors"
    export(checkpoint, out)
    package = machine_code.package_beside(out)
    package.write_bytes(b"not code at all")
    describe(out, **machine_code._here())
    return out


def describe(out: Path, **changes: Any) -> None:
    """Write into an exported file what belongs to the package beside it."""
    entry, weights = read_exported(out)
    digest = machine_code.hashlib.sha256(machine_code.package_beside(out).read_bytes())
    entry["machine_code"] = {
        "sha256": digest.hexdigest(),
        "gives": ["energy", "forces", "stress"],
        "reads": ["backbone"],
        **entry.get("machine_code", {}),
        **changes,
    }
    write_exported(out, entry, weights)


def test_nothing_is_run_unless_it_is_asked_for(described: Path) -> None:
    potential = qeqtrain.load(described)  # its package could not be loaded
    assert potential.compiled is None
    assert torch.isfinite(potential(water()).energy).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layout": 1}, r"another version of qeqtrain, .*export again"),
        ({"layout": None}, r"another version of qeqtrain, .*export again"),
        ({"torch": "2.0.1"}, r"for torch 2\.0\.1, this is .*export again here"),
        ({"system": "Plan9 mips"}, r"for system Plan9 mips, this is"),
        ({"instructions": "AVX1024"}, r"a processor with AVX1024, this one has"),
        ({"sha256": "0" * 64}, r"is not the machine code that was exported with .*not run"),
    ],
)
def test_code_for_elsewhere_or_of_another_is_refused(
    described: Path, changes: dict[str, Any], message: str
) -> None:
    describe(described, **changes)
    with pytest.raises(UserMistake, match=message):
        qeqtrain.load(described, compiled=True)


def test_code_that_was_changed_is_not_run(described: Path) -> None:
    package = machine_code.package_beside(described)
    package.write_bytes(package.read_bytes() + b"!")
    with pytest.raises(UserMistake, match=r"damaged or changed since; it was not run"):
        qeqtrain.load(described, compiled=True)


def test_a_package_that_is_not_there_is_missed(described: Path) -> None:
    machine_code.package_beside(described).unlink()
    with pytest.raises(UserMistake, match=r"a\.pt2 is not there; copy it as well"):
        qeqtrain.QeqCalculator(described, compiled=True)


def test_the_package_itself_is_not_a_model(described: Path, capsys) -> None:
    package = machine_code.package_beside(described)
    assert main(["predict", str(package), str(described), "out.extxyz"]) == 2
    assert "machine code, not a model" in capsys.readouterr().err
    assert main(["export", str(described), str(package), "--compiled"]) == 2
    assert "choose " + str(described) in capsys.readouterr().err


def test_a_second_export_does_not_speak_of_code_it_has_not(described: Path) -> None:
    again = described.with_name("b.safetensors")
    export(described, again)
    assert "machine_code" not in read_exported(again)[0]


def test_older_processors_are_refused_and_newer_ones_are_not(monkeypatch) -> None:
    def refused(made: str, here: str) -> bool:
        monkeypatch.setattr(machine_code, "_instructions", lambda: here)
        said = {**machine_code._here(), "instructions": made}
        try:
            machine_code._refuse_elsewhere(Path("a.pt2"), said)
        except UserMistake:
            return True
        return False

    assert refused("AVX512", "AVX2")
    assert not refused("AVX2", "AVX512")
    assert not refused("AVX2", "AVX2")
    assert refused("NEON", "AVX2")


class _Written:
    """The graph itself, where its code would be."""

    def __init__(self, potential: Potential) -> None:
        self.graph = ResponseGraph(potential, forces=True, stress=True)
        self.weights = len(weights_of(potential))

    def boxed_run(self, tensors: list[torch.Tensor]) -> list[torch.Tensor]:
        return self.graph.plain(tensors[: self.weights], tensors[self.weights :])


def test_a_data_set_that_the_model_does_not_know_is_not_given_to_the_code(
    described: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    potential = small_qet(channels=4, layers=1)
    written = _Written(potential)
    describe(described, gives=written.graph.names, reads=written.graph.consumers)
    monkeypatch.setattr(torch._C._aoti, "AOTIModelPackageLoader", lambda *_: written)
    said = read_exported(described)[0]["machine_code"]
    batch = batch_of([triclinic(), triclinic()], potential)
    expected = potential(batch)
    potential.compiled = machine_code.MachineCode(described, said, potential)
    named = replace(batch, data_set=torch.zeros(2, dtype=torch.int64))
    torch.testing.assert_close(potential(named).forces, expected.forces)


def test_another_number_of_threads_is_told() -> None:
    said = machine_code._here()
    machine_code._refuse_elsewhere(Path("a.pt2"), said)
    with pytest.warns(UserWarning, match=r"for 99 threads, .*this process has \d+"):
        machine_code._refuse_elsewhere(Path("a.pt2"), {**said, "threads": 99})


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_package_says_what_the_model_says(tmp_path: Path, dtype: str, capsys) -> None:
    checkpoint = write_checkpoint(tmp_path / "a.ckpt", small_qet(channels=4, layers=1))
    out = tmp_path / "a.safetensors"
    assert main(["export", str(checkpoint), str(out), "--dtype", dtype, "--compiled"]) == 0
    assert "a.pt2" in capsys.readouterr().out
    plain, coded = qeqtrain.load(out), qeqtrain.load(out, compiled=True)
    exact = 1e-12 if dtype == "float64" else 1e-6
    for atoms in SIZES:
        batch = batch_of(atoms, plain)
        expected, found = plain(batch, stress=True), coded(batch, stress=True)
        for name, value in vars(expected).items():
            if value is not None:
                scale = float(value.nan_to_num().abs().max().clamp(min=1.0))
                torch.testing.assert_close(
                    getattr(found, name), value, rtol=0, atol=exact * scale, equal_nan=True
                )
    assert coded(water(), forces=True).stress is None
    kept = plain(batch_of([water()], plain), forces=False).energy
    torch.testing.assert_close(coded(water(), forces=False).energy, kept)
    in_calculator(out, exact)
    other = qeqtrain.load(out, compiled=True).to(torch.float16)
    with pytest.raises(UserMistake, match="machine code of this model is for"):
        other(water())


def in_calculator(out: Path, exact: float) -> None:
    """Compare through ASE, where two models of one architecture have code in common."""
    for atoms in (water(), triclinic(), Atoms("Cu")):
        found = []
        for compiled in (False, True):
            atoms.calc = qeqtrain.QeqCalculator(out, compiled=compiled, total_charge=0.0)
            found.append(np.append(atoms.get_forces(), atoms.get_charges()))
        np.testing.assert_allclose(found[1], found[0], rtol=0, atol=exact)
