"""QET against the programme it was published with, and against its successor.

``qet_dev.json``: matgl e9cde229 with DGL (legacy convention); ``qet_dev_neighbour.json``: matgl
4.1.2 (corrected convention), both with the published MatQ weights, in float64. The older
programme keeps float32-rounded constants, hence the wider tolerances of its file.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from ase import Atoms

from qeqtrain.errors import UserMistake
from qeqtrain.models.qet import read_matgl
from qeqtrain.neighbors import with_pairs
from qeqtrain.structures import Prediction, Structure, collate
from tests.systems import shared_file

HERE = Path(__file__).parent / "qet"
MAIN: dict[str, Any] = json.loads((HERE / "qet_dev.json").read_text())["structures"]
NEIGHBOUR: dict[str, Any] = json.loads((HERE / "qet_dev_neighbour.json").read_text())[
    "structures"
]

FLOAT32 = {"energy": 2e-6, "forces": 1e-4, "stress": 1e-6, "charges": 5e-6}
TOLERANCE = {
    ("legacy", "float64"): {"energy": 1e-8, "forces": 3e-8, "stress": 2e-9, "charges": 1e-10},
    ("corrected", "float64"): dict.fromkeys(FLOAT32, 1e-11),
    ("legacy", "float32"): FLOAT32,
    ("corrected", "float32"): FLOAT32,
}
LABELS = {"legacy": MAIN, "corrected": NEIGHBOUR}


@pytest.fixture(scope="module")
def potentials() -> dict[tuple[str, str], Any]:
    folder = shared_file("foundation", "qet-matq", "state.pt").parent
    return {key: read_matgl(folder, key[0], dtype=key[1]).eval() for key in TOLERANCE}  # type: ignore[arg-type]


def predict(potential: Any, case: dict[str, Any]) -> Prediction:
    atoms = Atoms(case["symbols"], case["positions"], cell=case["cell"], pbc=case["pbc"])
    applied = case["ext_pot"]
    structure = Structure.from_atoms(
        atoms,
        total_charge=case["total_charge"],
        external_potential=None if applied is None else np.array(applied),
    )
    return potential(collate([with_pairs(structure, potential.cutoffs)]))


@pytest.mark.parametrize("name", MAIN)
@pytest.mark.parametrize(("convention", "dtype"), TOLERANCE)
def test_published_weights_give_the_published_programs_numbers(
    potentials: dict[tuple[str, str], Any],
    name: str,
    convention: Literal["legacy", "corrected"],
    dtype: Literal["float32", "float64"],
) -> None:
    case, label = MAIN[name], LABELS[convention][name]
    found = predict(potentials[convention, dtype], case)
    allowed = TOLERANCE[convention, dtype]
    n = len(case["symbols"])
    assert abs(float(found.energy[0]) - label["energy"]) / n < allowed["energy"]
    np.testing.assert_allclose(found.forces, label["forces"], rtol=0, atol=allowed["forces"])
    np.testing.assert_allclose(found.charges, label["charges"], rtol=0, atol=allowed["charges"])
    if label.get("stress") is not None:
        np.testing.assert_allclose(
            found.stress[0], label["stress"], rtol=0, atol=allowed["stress"]
        )


@pytest.mark.parametrize("name", MAIN)
def test_what_the_charges_come_from_agrees_too(
    potentials: dict[tuple[str, str], Any], name: str
) -> None:
    case = MAIN[name]
    found = predict(potentials["legacy", "float64"], case)
    # These are intermediate numbers of a programme with float32-rounded constants.
    np.testing.assert_allclose(found.electronegativity, case["chi"], rtol=0, atol=2e-7)
    np.testing.assert_allclose(found.hardness, case["hardness"], rtol=0, atol=2e-7)
    np.testing.assert_allclose(
        found.electrostatic_potential, case["elec_pot"], rtol=0, atol=2e-6
    )


def test_matgl_files_without_a_stated_convention_are_refused() -> None:
    folder = shared_file("foundation", "qet-matq", "state.pt").parent
    with pytest.raises(UserMistake, match="message convention"):
        read_matgl(folder, None)
