"""Messages against e3nn, and their derivatives."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from e3nn import o3
from torch import Tensor

from qeqtrain.nn import tensor_messages
from qeqtrain.nn.cuequivariance import CuEquivarianceProduct
from qeqtrain.nn.irreps import (
    SCALAR,
    Irrep,
    SphericalHarmonics,
    all_irreps,
    couplings,
    slices,
)
from qeqtrain.nn.tensor_product import DenseProduct

N, P, C = 4, 7, 3
FEATURES = [
    pytest.param([SCALAR], 2, id="scalars"),
    pytest.param(all_irreps(1, parity=True), 1, id="l1-parity"),
    pytest.param(all_irreps(2, parity=False), 2, id="l2"),
    pytest.param(all_irreps(2, parity=True), 2, id="l2-parity"),
    pytest.param([SCALAR, Irrep(True, 1), Irrep(True, 2)], 2, id="holes"),
    pytest.param(all_irreps(3, parity=False), 3, id="l3"),
]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut seven pairs into several blocks, the last of them shorter."""
    monkeypatch.setattr(tensor_messages, "BLOCK", 3 * C)


@pytest.fixture
def double() -> Iterator[None]:
    """Let e3nn build its constants in float64."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def leaf(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def pairs() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randint(0, N, (2, P), generator=generator))


def by_irrep(x: Tensor, features: list[Irrep]) -> dict[Irrep, Tensor]:
    return {irrep: x[:, at] for irrep, at in slices(features)}


def form(
    features: list[Irrep], l_max: int
) -> tuple[Callable[..., Tensor], tuple[Tensor, Tensor, Tensor]]:
    """All messages as one function of tensors, weights and directions, and such arguments."""
    wanted = all_irreps(l_max, parity=True)
    channels = dict.fromkeys(features, C)
    product = DenseProduct(channels, l_max, couplings(features, l_max, wanted))
    s, r = pairs()

    def messages(x: Tensor, w: Tensor, y: Tensor) -> Tensor:
        found = product(by_irrep(x, features), w.flatten(1), y, s, r)
        return torch.cat([m.flatten() for m in found.values()])

    x = leaf(N, sum(i.dim for i in features), C)
    return messages, (x, leaf(P, len(product.paths), C), leaf(P, (l_max + 1) ** 2))


def e3nn_messages(
    features: list[Irrep], l_max: int, product: DenseProduct, x: Tensor, w: Tensor, y: Tensor
) -> dict[Irrep, Tensor]:
    """Messages of directed edges, path by path, through e3nn's product; x of the sender."""
    found: dict[Irrep, list[Tensor]] = {}
    at = dict(slices(features))
    for k, path in enumerate(product.paths):
        couple = o3.TensorProduct(
            f"{C}x{path.feature}",
            f"1x{path.edge}{'eo'[path.edge % 2]}",
            f"{C}x{path.out}",
            [(0, 0, 0, "uvu", True)],
            shared_weights=False,
            internal_weights=False,
        )
        theirs = x[:, at[path.feature]].transpose(1, 2).flatten(1)  # channel, component
        out = couple(theirs, y[:, path.edge**2 : (path.edge + 1) ** 2], w[:, k])
        found.setdefault(path.out, []).append(out.unflatten(1, (C, -1)).transpose(1, 2))
    return {irrep: torch.cat(parts, dim=-1) for irrep, parts in found.items()}


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize(("features", "l_max"), FEATURES)
def test_messages_are_those_of_e3nn(features, l_max) -> None:
    paths = couplings(features, l_max, all_irreps(l_max, parity=True))
    product = DenseProduct(dict.fromkeys(features, C), l_max, paths)
    s, r = pairs()
    x = leaf(N, sum(i.dim for i in features), C)
    w, vectors = leaf(P, len(paths), C), leaf(P, 3)
    unit = vectors / vectors.norm(dim=1, keepdim=True)
    harmonics = o3.Irreps.spherical_harmonics(l_max)
    # The full list: both directions, each with its own harmonics and the same weights.
    start, end = torch.cat([s, r]), torch.cat([r, s])
    y = o3.spherical_harmonics(harmonics, torch.cat([unit, -unit]), True, "component")
    expected = e3nn_messages(features, l_max, product, x[start], torch.cat([w, w]), y)

    harmonics = SphericalHarmonics(l_max)(unit)
    found = product(by_irrep(x, features), w.flatten(1), harmonics, s, r)
    assert list(found) != []
    assert set(found) == set(expected)
    for irrep, messages in expected.items():
        total = torch.zeros(N, *messages.shape[1:]).double().index_add(0, end, messages)
        torch.testing.assert_close(found[irrep], total, rtol=0, atol=1e-12)


@pytest.mark.parametrize("l_max", [0, 1, 2, 4])
def test_harmonics_are_those_of_e3nn(l_max: int) -> None:
    unit = torch.nn.functional.normalize(torch.randn(9, 3).double(), dim=1)
    irreps = o3.Irreps.spherical_harmonics(l_max)
    expected = o3.spherical_harmonics(irreps, unit, True, "component")
    torch.testing.assert_close(SphericalHarmonics(l_max)(unit), expected, rtol=0, atol=1e-12)


def test_paths_are_all_that_selection_rules_allow() -> None:
    features, wanted = all_irreps(2, parity=True), all_irreps(2, parity=True)
    counted = sum(
        o3.Irrep(str(out)) in o3.Irrep(str(feature)) * o3.Irrep(edge, (-1) ** edge)
        for feature in features
        for edge in range(3)
        for out in wanted
    )
    assert len(couplings(features, 2, wanted)) == counted == 30


@pytest.mark.parametrize(("features", "l_max"), FEATURES[:2] + FEATURES[4:5])
def test_messages_have_exact_derivatives_of_any_order(features, l_max) -> None:
    messages, arguments = form(features, l_max)
    assert torch.autograd.gradcheck(messages, arguments, fast_mode=True)
    assert torch.autograd.gradgradcheck(messages, arguments, fast_mode=True)
    first = torch.autograd.grad(messages(*arguments).pow(2).sum(), arguments, create_graph=True)
    assert all(g.requires_grad for g in first)

    def gradients(*inputs: Tensor) -> tuple[Tensor, ...]:
        out = messages(*inputs).pow(2).sum()
        return torch.autograd.grad(out, inputs, create_graph=True)

    assert torch.autograd.gradgradcheck(gradients, arguments, fast_mode=True)


@pytest.mark.parametrize("wanted", [(0,), (1,), (2,), (0, 1, 2)])
def test_one_pass_through_the_pairs_gives_the_same_second_derivatives(wanted) -> None:
    messages, arguments = form(all_irreps(2, parity=True), 2)
    out = messages(*arguments)
    first = torch.autograd.grad(out.pow(2).sum(), arguments, create_graph=True)
    total = sum(first[k].pow(2).sum() for k in wanted)
    slow = torch.autograd.grad(total, arguments, create_graph=True)
    fast = torch.autograd.grad(total, arguments)
    for a, b in zip(fast, slow, strict=True):
        torch.testing.assert_close(a, b.detach(), rtol=1e-11, atol=1e-11)


def test_no_pairs_give_zeros() -> None:
    features = all_irreps(1, parity=False)
    channels = dict.fromkeys(features, C)
    product = DenseProduct(channels, 1, couplings(features, 1, features))
    none = torch.zeros(0, dtype=torch.int64)
    x = by_irrep(leaf(N, 4, C), features)
    found = product(x, leaf(0, len(product.paths) * C), leaf(0, 4), none, none)
    assert all(m.shape[0] == N and m.abs().max() == 0 for m in found.values())


@pytest.mark.filterwarnings("ignore:cuequivariance_ops_torch")
@pytest.mark.parametrize(("features", "l_max"), FEATURES)
def test_kernels_of_cuequivariance_give_the_same(features, l_max) -> None:
    pytest.importorskip("cuequivariance_torch")
    paths = couplings(features, l_max, all_irreps(l_max, parity=True))
    channels = dict.fromkeys(features, C)
    dense = DenseProduct(channels, l_max, paths)
    other = CuEquivarianceProduct(channels, l_max, paths)
    s, r = pairs()
    x = {i: torch.randn(N, i.dim, C) for i in features}
    w, y = torch.randn(P, len(paths) * C), torch.randn(P, (l_max + 1) ** 2)
    expected, found = dense(x, w, y, s, r), other(x, w, y, s, r)
    for irrep, messages in expected.items():
        torch.testing.assert_close(found[irrep], messages, rtol=1e-5, atol=1e-5)
