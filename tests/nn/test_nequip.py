"""NequIP against a slow, obvious layer, its symmetries, limits and size."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from ase import Atoms
from e3nn import o3
from e3nn.math import normalize2mom
from torch import Tensor

from qeqtrain.errors import UserMistake
from qeqtrain.neighbors import with_pairs
from qeqtrain.nn.gate import JAX_SILU_GAIN, SILU_GAIN, TANH_GAIN, Gate, silu
from qeqtrain.nn.irreps import SCALAR, Irrep
from qeqtrain.nn.knots import Radial
from qeqtrain.nn.nequip import Layer, NequIP
from qeqtrain.structures import Structure, Structures, collate
from tests.systems import ELEMENTS, slab, triclinic, water

CUTOFF = 4.0
HEADS = 32 * 32 + 32 + 32 * 16 + 16
"""Readouts of NequIP-LR's two networks, without the hardness of every species."""


@pytest.fixture
def double() -> Iterator[None]:
    """Build networks, and e3nn's constants, in float64."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def small(**options) -> NequIP:
    torch.manual_seed(0)
    settings = {
        "cutoff": CUTOFF,
        "channels": 4,
        "l_max": 2,
        "layers": 3,
        "radial_width": 8,
        "elements": ELEMENTS,
        "average_neighbors": 12.0,
    }
    return NequIP(**{**settings, **options}).double()


def batch(*atoms: Atoms) -> Structures:
    ready = [
        Structure.from_atoms(a, total_charge=a.info.get("charge", 0.0), spin=1.0) for a in atoms
    ]
    return collate([with_pairs(s, {"backbone": CUTOFF}) for s in ready])


def species(s: Structures) -> Tensor:
    return torch.tensor([ELEMENTS.index(int(z)) for z in s.numbers])


def features(net: NequIP, *atoms: Atoms) -> Tensor:
    s = batch(*atoms)
    return net(s, species(s))


# One layer, by e3nn


def e3nn_layer(
    layer: Layer,
    x: dict[Irrep, Tensor],
    radial: Tensor,
    vectors: Tensor,
    s: Structures,
    attributes: Tensor,
) -> dict[Irrep, Tensor]:
    """Work out a layer on the full edge list by e3nn's operations, with the layer's weights."""
    channels = {irrep: tensor.shape[-1] for irrep, tensor in x.items()}
    parts = {str(irrep): tensor for irrep, tensor in x.items()}
    edges = s.edges["backbone"].both_directions()
    unit = vectors / vectors.norm(dim=1, keepdim=True)
    l_max = max(path.edge for path in layer.product.paths)

    def linear(inputs: dict[str, Tensor], weights: torch.nn.ParameterDict) -> dict[str, Tensor]:
        found = {}
        for name, value in inputs.items():
            out = weights[name].shape[1]
            module = o3.Linear(f"{value.shape[-1]}x{name}", f"{out}x{name}")
            flat = module(value.transpose(1, 2).flatten(1), weights[name].flatten())
            found[name] = flat.unflatten(1, (out, -1)).transpose(1, 2)
        return found

    mixed = linear(parts, layer.before.weights)

    h = torch.cat([radial, radial])
    for k, (weight, gain) in enumerate(
        zip(layer.weights.weights, layer.weights.gains, strict=True)
    ):
        if k:
            h = torch.nn.functional.silu(h)
        h = gain * h @ weight / weight.shape[0] ** 0.5
    of_path = h.split([channels[path.feature] for path in layer.product.paths], dim=1)

    messages: dict[str, list[Tensor]] = {}
    for path, w in zip(layer.product.paths, of_path, strict=True):
        direction = o3.Irrep(path.edge, (-1) ** path.edge)
        y = o3.spherical_harmonics(path.edge, unit, True, "component")
        product = o3.TensorProduct(
            f"{w.shape[1]}x{path.feature}",
            f"1x{direction}",
            f"{w.shape[1]}x{path.out}",
            [(0, 0, 0, "uvu", True)],
            shared_weights=False,
            internal_weights=False,
        )
        sent = mixed[str(path.feature)][edges.sender].transpose(1, 2).flatten(1)
        out = product(sent, y, w).unflatten(1, (w.shape[1], -1)).transpose(1, 2)
        total = torch.zeros(s.n_atoms, *out.shape[1:]).index_add(0, edges.receiver, out)
        messages.setdefault(str(path.out), []).append(total * layer.scale)
    assert l_max == 2
    y = linear({k: torch.cat(v, dim=-1) for k, v in messages.items()}, layer.after.weights)

    for name, weight in layer.self_connection.weights.items():
        out = weight.shape[2]
        module = o3.FullyConnectedTensorProduct(
            f"{weight.shape[1]}x{name}",
            f"{len(weight)}x0e",
            f"{out}x{name}",
            internal_weights=False,
            shared_weights=True,
        )
        flat = parts[name].transpose(1, 2).flatten(1)
        own = module(flat, attributes, weight.transpose(0, 1).flatten())
        y[name] = y[name] + own.unflatten(1, (out, -1)).transpose(1, 2)

    activated = layer.gate.gain * torch.nn.functional.silu(y["0e"])
    widths = [layer.gate.channels[irrep] for irrep in [SCALAR, *layer.gate.gated]]
    value, *gates = activated.split(widths, dim=-1)
    found = {}
    for irrep in layer.irreps_out:
        if irrep == SCALAR:
            found[irrep] = value
        elif irrep.degree == 0:
            found[irrep] = TANH_GAIN * torch.tanh(y[str(irrep)])
        else:
            found[irrep] = y[str(irrep)] * gates.pop(0)
    return found


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("variant", ["current", "lr", "reaxnet"])
@pytest.mark.parametrize("parity", [False, True])
@pytest.mark.parametrize(
    ("system", "channels"), [(triclinic, 4), (water, 4), (triclinic, [4, 3, 2])]
)
def test_a_layer_is_that_of_e3nn_on_the_full_list(
    system, channels: int | list[int], variant: str, parity: bool
) -> None:
    net = small(channels=channels, variant=variant, parity=parity, attributes=2)
    s = batch(system())
    layer = net.layers[1]
    vectors = s.edge_vectors("backbone")
    sizes = net.layers[0].gate.channels
    x = {i: torch.randn(s.n_atoms, i.dim, sizes.get(i, 4)) for i in layer.irreps_in}
    radial = net.basis(vectors.norm(dim=1))
    given = torch.randn(s.n_atoms, 2)
    first, inputs = net._embed(s, species(s), given)
    if variant == "current":
        attributes = first[:, 0]
    else:
        one_hot = torch.eye(len(ELEMENTS))[species(s)]
        attributes = torch.cat([one_hot, given], dim=1)
    both = torch.cat([vectors, -vectors])
    expected = e3nn_layer(layer, x, radial, both, s, attributes)
    directions = net.harmonics(vectors / vectors.norm(dim=1, keepdim=True))
    found = layer(x, Radial(radial), directions, s.edges["backbone"], inputs)
    assert found.keys() == expected.keys()
    for irrep, tensor in expected.items():
        torch.testing.assert_close(found[irrep], tensor, rtol=0, atol=1e-12)


# Symmetry


def rotation(*, improper: bool) -> Tensor:
    q = torch.linalg.qr(torch.randn(3, 3).double()).Q
    q = q * torch.linalg.det(q)
    return -q if improper else q


def turned(atoms: Atoms, by: Tensor) -> Atoms:
    atoms = atoms.copy()
    atoms.set_cell(atoms.cell.array @ by.numpy().T)
    atoms.positions = atoms.positions @ by.numpy().T
    return atoms


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("improper", [False, True])
@pytest.mark.parametrize("variant", ["current", "lr", "reaxnet"])
def test_tensors_of_every_layer_turn_with_the_structure(variant: str, improper: bool) -> None:
    torch.manual_seed(3)
    net, by = small(variant=variant), rotation(improper=improper)
    seen: list[dict[Irrep, Tensor]] = []
    for layer in net.layers:
        layer.register_forward_hook(lambda _module, _inputs, out: seen.append(out))
    features(net, triclinic())
    features(net, turned(triclinic(), by))
    half = len(net.layers)
    for layer, before, after in zip(net.layers, seen[:half], seen[half:], strict=True):
        for irrep in layer.irreps_out:
            d = o3.Irrep(str(irrep)).D_from_matrix(by)
            expected = torch.einsum("kl,nlc->nkc", d, before[irrep])
            torch.testing.assert_close(after[irrep], expected, rtol=0, atol=1e-11)


def test_a_network_that_ignores_parity_respects_rotations_and_sees_reflections() -> None:
    torch.manual_seed(3)
    options = {"parity": "ignored", "variant": "reaxnet", "cutoff_power": "switch"}
    net = small(channels=[4, 3, 2], average_neighbors=1.0, **options)
    here = features(net, triclinic())
    rotated = features(net, turned(triclinic(), rotation(improper=False)))
    torch.testing.assert_close(rotated, here, rtol=0, atol=1e-11)
    mirrored = features(net, turned(triclinic(), rotation(improper=True)))
    assert (mirrored - here).abs().max() > 1e-6
    assert {str(i) for i in net.layers[-1].irreps_out} == {"0e", "1o", "2e"}


def test_channels_of_every_degree_are_asked_for() -> None:
    net = small(channels=[6, 3, 1])
    assert features(net, triclinic()).shape[1] == net.out_channels == 6
    with pytest.raises(UserMistake, match="one for every degree from 0 to l_max"):
        small(channels=[6, 3])
    with pytest.raises(UserMistake, match=r"channels=.* needs backbone.tensor_product=dense"):
        small(channels=[6, 3, 1], tensor_product="cuequivariance")
    with pytest.raises(UserMistake, match=r"ignored needs backbone.tensor_product=dense"):
        small(parity="ignored", tensor_product="cuequivariance")
    with pytest.raises(UserMistake, match=r"a cutoff above 0.5 A, met 0.4"):
        small(cutoff=0.4, cutoff_power="switch")


def test_both_parities_are_reached_where_asked_for() -> None:
    kinds = [
        {str(i) for i in small(parity=parity, variant="lr").layers[-1].irreps_out}
        for parity in (False, True)
    ]
    assert kinds == [{"0e", "1o", "2e"}, {"0e", "0o", "1e", "1o", "2e", "2o"}]


def test_degree_one_grows_as_in_the_release() -> None:
    net = small(l_max=1, layers=4, variant="lr")
    grown = [sorted(str(i) for i in layer.irreps_out) for layer in net.layers]
    whole = ["0e", "0o", "1e", "1o"]
    assert grown == [["0e", "1o"], ["0e", "1e", "1o"], whole, whole]


# Limits


def test_an_isolated_atom_has_no_features_in_the_current_variant() -> None:
    alone = Atoms("Cu", positions=[[0.0, 0.0, 0.0]])
    assert features(small(), alone).abs().max() == 0
    assert features(small(variant="lr"), alone).abs().max() > 0


def test_features_change_smoothly_as_a_neighbour_leaves() -> None:
    net = small()

    def at(distance: float) -> Tensor:
        third = [0.0, 1.1, 0.0]
        return features(net, Atoms("OCuO", [[0, 0, 0], [distance, 0, 0], third]))[0]

    inside, outside = at(CUTOFF - 1e-4), at(CUTOFF + 1e-4)
    torch.testing.assert_close(inside, outside, rtol=0, atol=1e-9)


@pytest.mark.parametrize("variant", ["current", "lr", "reaxnet"])
def test_a_structure_does_not_feel_its_batch(variant: str) -> None:
    net = small(variant=variant)
    alone = torch.cat([features(net, a) for a in (triclinic(), water(), slab())])
    together = features(net, triclinic(), water(), slab())
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-12)


@pytest.mark.parametrize("variant", ["current", "lr", "reaxnet"])
def test_forces_are_the_slope_of_the_energy(variant: str) -> None:
    net, s = small(variant=variant, layers=2, parity=True), batch(water())
    kind = species(s)

    def energy(r: Tensor) -> Tensor:
        return net(replace(s, positions=r), kind).pow(2).sum()

    r = s.positions.clone().requires_grad_()
    assert torch.autograd.gradcheck(energy, r)
    assert torch.autograd.gradgradcheck(energy, r, fast_mode=True)


# Inputs beside the geometry


@pytest.mark.parametrize("variant", ["current", "lr", "reaxnet"])
def test_attributes_act_in_every_self_connection(variant: str) -> None:
    net, s = small(variant=variant, attributes=2), batch(water())
    given = torch.zeros(3, 2).double()
    given[0, 1] = 1.0
    before, after = net(s, species(s), torch.zeros_like(given)), net(s, species(s), given)
    assert (before - after).abs().amin(dim=1).max() > 1e-6
    with pytest.raises(ValueError, match="0 attributes per atom given, 2 expected"):
        net(s, species(s))


@pytest.mark.parametrize("variant", ["current", "lr", "reaxnet"])
def test_total_charge_conditions_the_features(variant: str) -> None:
    net = small(variant=variant, conditioning="charge")
    assert (features(net, water(0.0)) - features(net, water(1.0))).abs().max() > 1e-6


def test_a_missing_kernel_is_named_with_its_remedy() -> None:
    with pytest.raises(UserMistake, match="pip install"):
        small(tensor_product="cuequivariance")


# Size

PUBLISHED = [
    # name, species, degree, radial layers, parameters: printed by the authors' code.
    pytest.param(1, 2, 2, 2_153_665, id="Ag3"),
    pytest.param(4, 2, 2, 2_332_036, id="Au2-MgO"),
    pytest.param(2, 1, 2, 1_180_930, id="C10H2"),
    pytest.param(4, 1, 3, 1_283_460, id="Cu-BTA"),
]


@pytest.mark.parametrize(("kinds", "l_max", "depth", "published"), PUBLISHED)
def test_two_networks_have_the_published_number_of_parameters(
    kinds: int, l_max: int, depth: int, published: int
) -> None:
    counts = [
        sum(
            p.numel()
            for p in NequIP(
                l_max=l_max,
                layers=4,
                radial_depth=depth,
                variant="lr",
                elements=range(1, kinds + 1),
                average_neighbors=10.0,
                attributes=attributes,
            ).parameters()
        )
        for attributes in (0, 50)
    ]
    assert sum(counts) + HEADS + kinds == published


# Activations


def test_silu_and_two_derivatives_stay_finite_in_float32() -> None:
    x = torch.tensor([-3e38, -1e4, -90.0, 0.0, 90.0, 1e4, 3e38], requires_grad=True)
    y = silu(x)
    (slope,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), x)
    assert all(v.isfinite().all() for v in (y, slope, curvature))
    torch.testing.assert_close(slope, torch.tensor([0.0, 0, 0, 0.5, 1, 1, 1]))


def test_silu_has_exact_derivatives_of_any_order() -> None:
    x = torch.linspace(-5, 5, 9, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(silu, x)
    assert torch.autograd.gradgradcheck(silu, x)
    (slow,) = torch.autograd.grad(torch.nn.functional.silu(x).sum(), x, create_graph=True)
    (fast,) = torch.autograd.grad(silu(x).sum(), x, create_graph=True)
    third = [torch.autograd.grad(d.pow(2).sum(), x)[0] for d in (slow, fast)]
    torch.testing.assert_close(*third)


@pytest.mark.usefixtures("double")
def test_gains_are_those_of_e3nn() -> None:
    for gain, f in ((SILU_GAIN, torch.nn.functional.silu), (TANH_GAIN, torch.tanh)):
        assert gain == pytest.approx(normalize2mom(f).cst, abs=1e-6)


def test_gains_give_activations_unit_variance() -> None:
    z = np.linspace(-12, 12, 200_001)
    density = np.exp(-z * z / 2) / np.sqrt(2 * np.pi)
    silu = z / (1 + np.exp(-z))
    for gain, f in ((SILU_GAIN, silu), (JAX_SILU_GAIN, silu), (TANH_GAIN, np.tanh(z))):
        assert np.trapezoid((gain * f) ** 2 * density, z) == pytest.approx(1.0, abs=5e-3)


def test_a_gate_lets_odd_scalars_change_their_sign() -> None:
    odd = Irrep(pseudo=True, degree=0)
    gate, x = Gate({SCALAR: 3, odd: 3}), torch.randn(2, 1, 3)
    out = [gate({SCALAR: x, odd: sign * x})[odd] for sign in (1, -1)]
    torch.testing.assert_close(out[0], -out[1])
