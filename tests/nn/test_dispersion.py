"""D3 dispersion: torch-dftd's numbers over our neighbour lists."""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from ase.io import read
from torch import Tensor

from qeqtrain.errors import UserMistake
from qeqtrain.neighbors import with_pairs
from qeqtrain.nn.dispersion import Dispersion
from qeqtrain.structures import Structure, Structures, collate
from tests.crosses import small_cross
from tests.systems import ELEMENTS, batch_of, shared_file, triclinic, water

D3 = {"d3": {"_target_": "qeqtrain.nn.dispersion.Dispersion"}}
CASES = [
    "benzene",
    "h2o_molecule",
    "hydroxide_minus1",
    "lif_far_dimer_8A",
    "mpftp_Ba2Hg6_007",
    "mpftp_Ca2O8W2_015",
    "mpftp_Cl8Mn2Na4_019",
    "mpftp_N2TeU2_016",
    "mpftp_O8V4Zn4_000",
    "mpftp_OSr_033",
    "na3cl2_plus1",
    "nacl_dimer",
]


@pytest.fixture
def library():
    return pytest.importorskip("torch_dftd.nn.dftd3_module", reason="torch-dftd is optional")


def batch(*atoms, cutoff: float = 12.5) -> Structures:
    ready = [Structure.from_atoms(a, total_charge=0.0) for a in atoms]
    return collate([with_pairs(s, {"dispersion": cutoff}) for s in ready])


def test_a_missing_library_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in sys.modules if n.split(".")[0] == "torch_dftd"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch_dftd", None)
    with pytest.raises(UserMistake, match=r"pip install 'qeqtrain\[dispersion\]'"):
        small_cross("tensornet", "none", "feature", baselines=D3)


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("name", CASES)
def test_energy_and_forces_are_the_reference_values(name: str) -> None:
    atoms = read(shared_file("golden", "pqeq", f"{name}.extxyz"))
    expected = json.loads(shared_file("golden", "pqeq", f"{name}.json").read_text())
    expected = expected["d3_pbe_zero_12.5A"]
    d3 = Dispersion(smooth=False, elements=sorted(set(atoms.numbers)))
    s = batch(atoms)
    r = s.positions.requires_grad_()
    energy = d3(s).sum()
    (slope,) = torch.autograd.grad(energy, r)
    assert energy.item() == pytest.approx(expected["energy_eV"], rel=1e-10)
    theirs = torch.from_numpy(
        np.load(shared_file("golden", "pqeq", f"{name}.npz"))["d3__forces"]
    )
    torch.testing.assert_close(-slope, theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("damping", ["zero", "bj", "zerom", "bjm"])
@pytest.mark.parametrize("smooth", [False, True])
def test_a_batch_has_the_energies_of_torch_dftd(library, damping: str, smooth: bool) -> None:
    atoms = [water(), triclinic()]
    found = Dispersion(damping=damping, smooth=smooth, elements=ELEMENTS)(batch(*atoms))
    module = library.DFTD3Module(
        Dispersion(damping=damping, elements=ELEMENTS).parameters_of,
        cutoff=12.5,
        cnthr=12.5,
        dtype=torch.float64,
        cutoff_smoothing="poly" if smooth else "none",
    )
    for one, energy in zip(atoms, found, strict=True):
        s = batch(one)
        edges = s.edges["dispersion"]
        images = torch.einsum("pa,ab->pb", edges.shift, s.cell[0])
        theirs = module.calc_energy_batch(
            s.numbers,
            s.positions,
            torch.stack([edges.sender, edges.receiver]),
            cell=s.cell[0],
            shift_pos=images,
            damping=damping,
        )
        # Its own cutoff has another bohr than its distances (1e-7).
        torch.testing.assert_close(
            energy, theirs[0], rtol=1e-6 if smooth else 1e-12, atol=1e-14
        )


@pytest.mark.usefixtures("library")
def test_forces_and_stress_are_exact_with_a_baseline() -> None:
    potential = small_cross("tensornet", "none", "feature", baselines=D3)
    without = small_cross("tensornet", "none", "feature")
    s = batch_of([triclinic()], potential)
    found, bare = potential(s), without(s)
    more = potential.baselines["d3"](s)
    torch.testing.assert_close(found.energy, bare.energy + more)

    def energy(r: Tensor) -> Tensor:
        return potential.baselines["d3"](replace(s, positions=r))

    r = s.positions.clone().requires_grad_()
    assert torch.autograd.gradcheck(energy, r, fast_mode=True)
    (slope,) = torch.autograd.grad(energy(r).sum(), r)
    torch.testing.assert_close(found.forces, bare.forces - slope, rtol=0, atol=1e-12)
    step = 1e-5
    pressed = []
    for sign in (1, -1):
        scaled = triclinic()
        scaled.set_cell(scaled.cell * (1 + sign * step), scale_atoms=True)
        pressed.append(float(potential.baselines["d3"](batch_of([scaled], potential))))
    slope = (pressed[0] - pressed[1]) / (2 * step) / triclinic().get_volume()
    trace = (found.stress - bare.stress)[0].trace()
    assert float(trace) == pytest.approx(slope, rel=1e-6)


@pytest.mark.usefixtures("library")
def test_a_smooth_end_lets_nothing_jump() -> None:
    jump = {}
    for smooth in (True, False):
        d3 = Dispersion(smooth=smooth, cutoff=6.0, elements=ELEMENTS)
        energies = []
        for distance in (6.0 - 1e-6, 6.0 + 1e-6):
            pair = water()[:2]
            pair.positions = [[0, 0, 0], [distance, 0, 0]]
            energies.append(float(d3(batch(pair, cutoff=6.0))))
        jump[smooth] = abs(energies[0] - energies[1])
    assert jump[True] < 1e-12 < 1e-5 < jump[False]


@pytest.mark.usefixtures("library")
def test_no_structures_have_no_energy() -> None:
    potential = small_cross("tensornet", "none", "feature", baselines=D3)
    nothing = collate([])
    edges = batch(water()).edges["dispersion"]
    none = replace(
        edges, sender=edges.sender[:0], receiver=edges.receiver[:0], shift=edges.shift[:0]
    )
    found = potential.fixed_energy(replace(nothing, edges={"dispersion": none}))
    assert found.shape == (0,)


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"functional": "pbee"}, "no parameters for functional 'pbee' with damping 'zero'"),
        ({"cutoff": 0.5}, "cutoff is 0.5 A; expected more than 1"),
        ({"elements": (1, 95)}, "no coefficients for Am; they end at Pu"),
    ],
)
def test_what_d3_does_not_have_is_refused(options, message: str) -> None:
    with pytest.raises(UserMistake, match=message):
        Dispersion(**{"elements": ELEMENTS, **options})
