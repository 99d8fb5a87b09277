"""NequIP-LR has the shape of the published programme."""

from __future__ import annotations

import pytest

from qeqtrain.models.nequip_lr import nequip_lr_spec
from qeqtrain.models.potential import build_potential
from tests.systems import batch_of, water


@pytest.mark.parametrize(
    ("elements", "options", "parameters"),
    [
        ((47,), {"l_max": 2}, 2_153_665),
        ((8, 12, 13, 79), {"l_max": 2, "cutoff": 5.5}, 2_332_036),
        ((1, 6), {"l_max": 1}, 1_180_930),
        ((1, 6, 7, 29), {"l_max": 1, "radial_depth": 3}, 1_283_460),
    ],
    ids=["Ag3", "Au2-MgO", "C10H2", "Cu-BTA"],
)
def test_it_has_as_many_parameters_as_the_release(elements, options, parameters) -> None:
    potential = build_potential(
        nequip_lr_spec(**options),
        elements=elements,
        references={},
        scale=1.0,
        average_neighbors=10.0,
    )
    assert sum(p.numel() for p in potential.parameters() if p.requires_grad) == parameters


def test_the_second_network_sees_the_charges() -> None:
    spec = nequip_lr_spec(channels=4, layers=1, second_layers=1)
    potential = build_potential(spec, elements=(1, 8), references={}, scale=1.0).eval()
    batch = batch_of([water()], potential)
    species = potential.species_index[batch.numbers]
    charges = potential.charge(batch, potential.backbone(batch, species), species)
    before = potential.coupling(batch, species, None, charges)
    charges.charges.data += 0.02
    assert (potential.coupling(batch, species, None, charges) - before).abs().max() > 1e-6
