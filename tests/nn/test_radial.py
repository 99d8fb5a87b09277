"""Radial functions."""

from __future__ import annotations

import torch

from qeqtrain.nn.radial import Bessel, SmoothBessel, cosine_cutoff
from qeqtrain.physics.cutoff import switch
from tests.nn import oracle


def test_smooth_bessel_functions_follow_their_recurrence() -> None:
    r = torch.linspace(0.3, 5.0, 40, dtype=torch.float64)
    torch.testing.assert_close(SmoothBessel(9, 5.0)(r), oracle.basis(r, 9, 5.0))


def test_smooth_bessel_functions_are_orthonormal_in_the_sphere() -> None:
    r = torch.linspace(1e-4, 5.0, 200_001, dtype=torch.float64)
    b = SmoothBessel(6, 5.0)(r) * r[:, None]
    overlap = torch.trapezoid(b[:, :, None] * b[:, None], r, dim=0)
    torch.testing.assert_close(overlap, torch.eye(6).double(), rtol=0, atol=1e-6)


def test_smooth_bessel_functions_vanish_twice_at_the_cutoff() -> None:
    r = torch.tensor([5.0], dtype=torch.float64, requires_grad=True)
    for k in range(9):
        value = SmoothBessel(9, 5.0)(r)[0, k]
        (slope,) = torch.autograd.grad(value, r, create_graph=True)
        (curvature,) = torch.autograd.grad(slope.sum(), r)
        assert max(abs(value.item()), abs(slope.item()), abs(curvature.item())) < 1e-11


def test_cosine_cutoff_ends_at_zero_without_a_kink() -> None:
    r = torch.tensor([5.0 - 1e-7, 5.0, 6.0], dtype=torch.float64, requires_grad=True)
    value = cosine_cutoff(r, 5.0)
    (slope,) = torch.autograd.grad(value.sum(), r)
    assert value.abs().max() < 1e-12
    assert slope.abs().max() < 1e-6


def test_a_switch_leaves_and_ends_without_a_kink() -> None:
    r = torch.tensor([4.0, 4.5 + 1e-7, 5.0 - 1e-7, 5.0, 6.0]).double().requires_grad_()
    value = switch(r, 4.5, 5.0)
    (slope,) = torch.autograd.grad(value.sum(), r)
    expected = torch.tensor([1.0, 1.0, 0.0, 0.0, 0.0]).double()
    torch.testing.assert_close(value.detach(), expected, rtol=0, atol=1e-12)
    assert slope.abs().max() < 1e-5
    middle = switch(torch.linspace(4.5, 5.0, 50).double(), 4.5, 5.0)
    assert (middle.diff() < 0).all()


def test_a_switch_changes_bessel_functions_in_the_last_half_angstrom_alone() -> None:
    r = torch.tensor([1.0, 4.4, 4.8, 5.0]).double()
    found = Bessel(3, 5.0, "switch", trainable=False)(r)
    n = torch.arange(1, 4).double()
    bare = 0.4 * torch.sin(n * torch.pi * r[:, None] / 5.0) / r[:, None]
    torch.testing.assert_close(found[:2], bare[:2])
    assert (found[2].abs() < 0.9 * bare[2].abs()).all()
    assert found[3].abs().max() == 0
