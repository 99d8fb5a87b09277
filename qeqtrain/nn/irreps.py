r"""Irreducible representations of rotations and inversion, and how two of them make a third.

A feature of degree l has 2l + 1 components and one parity. Sorted by parity alone the
couplings to an edge's direction are a thicket; sorted by whether the parity is that of the
direction itself, :math:`(-1)^l`, they fall into two equal halves: *true* tensors (0e, 1o, 2e)
and *pseudo* tensors (0o, 1e, 2o) meet direction tensors, which are all true, in the same way.
Lists of irreps are therefore ordered true first, then pseudo, each by degree.

Couplings and bases are e3nn's (``wigner_3j``; harmonics in the order it gives them), so that
its operations serve as the oracle in tests.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Irrep(NamedTuple):
    """One irreducible representation.

    Attributes:
        pseudo: whether inversion gives the opposite of the sign :math:`(-1)^l` of a direction
            tensor; first, so that sorting puts true tensors before pseudo tensors.
        degree: l.
    """

    pseudo: bool
    degree: int

    @property
    def dim(self) -> int:
        """Count the components, 2l + 1."""
        return 2 * self.degree + 1

    @property
    def parity(self) -> int:
        """Sign under inversion."""
        return -1 if self.pseudo ^ bool(self.degree % 2) else 1

    def __str__(self) -> str:
        """Write the usual name, as in ``1o``."""
        return f"{self.degree}{'e' if self.parity == 1 else 'o'}"


SCALAR = Irrep(pseudo=False, degree=0)
"""0e: what energies are made of."""


class Path(NamedTuple):
    """One way to couple a feature with a direction tensor of degree ``edge``."""

    feature: Irrep
    edge: int
    out: Irrep


def all_irreps(l_max: int, *, parity: bool) -> list[Irrep]:
    """List the irreps up to a degree, with pseudo tensors where ``parity`` is kept track of."""
    kinds = (False, True) if parity else (False,)
    return [Irrep(pseudo, degree) for pseudo in kinds for degree in range(l_max + 1)]


def couplings(
    features: Iterable[Irrep], l_max: int, wanted: Iterable[Irrep], *, blind: bool = False
) -> list[Path]:
    """List every way from features through direction tensors up to ``l_max`` to ``wanted``.

    Coupling degrees l1 and l2 gives every degree from their difference to their sum; it is a
    true tensor of a true one where l1 + l2 + l3 is even.

    Args:
        features: irreps that come in.
        l_max: highest degree of the direction tensors.
        wanted: irreps that may come out.
        blind: parity is not kept track of: whatever comes out is called a true tensor. Such
            couplings respect rotations alone, and tell mirror images apart.
    """
    wanted = set(wanted)
    return [
        Path(feature, edge, out)
        for feature in features
        for edge in range(l_max + 1)
        for degree in range(abs(feature.degree - edge), feature.degree + edge + 1)
        if (out := _product(feature, edge, degree, blind=blind)) in wanted
    ]


def _product(feature: Irrep, edge: int, degree: int, *, blind: bool) -> Irrep:
    odd = bool((feature.degree + edge + degree) % 2) and not blind
    return Irrep(feature.pseudo ^ odd, degree)


def families(channels: Mapping[Irrep, int]) -> list[list[Irrep]]:
    """Split irreps into neighbours that share one coupling matrix: parity and channels agree.

    Args:
        channels: of every irrep, in the order of the features.
    """
    groups = itertools.groupby(channels, key=lambda irrep: (irrep.pseudo, channels[irrep]))
    return [list(same) for _, same in groups]


def in_memory(paths: Iterable[Path], channels: Mapping[Irrep, int]) -> list[Path]:
    """Put paths into the order in which products keep their weights and outputs.

    Families of features come one after the other; within one, paths that lead to the same
    irrep lie side by side.
    """
    family = {i: k for k, same in enumerate(families(channels)) for i in same}
    return sorted(paths, key=lambda path: (family[path.feature], path.out))


def reachable(
    features: Sequence[Irrep], l_max: int, wanted: Iterable[Irrep], *, blind: bool = False
) -> list[Irrep]:
    """List those of ``wanted`` that some path leads to, in order; see :func:`couplings`."""
    return sorted({path.out for path in couplings(features, l_max, wanted, blind=blind)})


def slices(irreps: Sequence[Irrep]) -> Iterator[tuple[Irrep, slice]]:
    """Find the components of each irrep in a tensor that lists them one after the other."""
    start = 0
    for irrep in irreps:
        yield irrep, slice(start, start + irrep.dim)
        start += irrep.dim


def clebsch_gordan(l1: int, l2: int, l3: int) -> Tensor:
    r"""Give the coupling whose output has components of unit variance.

    Returns:
        :math:`\sqrt{2 l_3 + 1}\, w_{3j}`, float64, shape ``(2 l1 + 1, 2 l2 + 1, 2 l3 + 1)``.
    """
    from e3nn.o3 import wigner_3j

    return (2 * l3 + 1) ** 0.5 * wigner_3j(l1, l2, l3, dtype=torch.float64)


class SphericalHarmonics(torch.nn.Module):
    r"""Real spherical harmonics of directions, squares of every degree adding up to 2l + 1.

    Each degree follows from the one below: :math:`Y_l \propto (Y_{l-1} \otimes Y_1)_l`.

    Args:
        l_max: highest degree.
    """

    def __init__(self, l_max: int) -> None:
        super().__init__()
        self.l_max = l_max
        pole = torch.tensor([0.0, 3.0**0.5, 0.0], dtype=torch.float64)
        y = [torch.ones(1, dtype=torch.float64), pole]
        for degree in range(2, l_max + 1):
            raw = clebsch_gordan(degree - 1, 1, degree)
            value = torch.einsum("i,j,ijk->k", y[-1], y[1], raw)
            raw = raw * ((2 * degree + 1) ** 0.5 / value[degree])
            y.append(torch.einsum("i,j,ijk->k", y[-1], y[1], raw))
            self.register_buffer(f"step_{degree}", raw.flatten(0, 1), persistent=False)

    def forward(self, unit: Tensor) -> Tensor:
        """Evaluate at directions ``(P, 3)``: all degrees, shape ``(P, (l_max + 1)^2)``."""
        degrees = [torch.ones_like(unit[:, :1]), 3.0**0.5 * unit][: self.l_max + 1]
        for degree in range(2, self.l_max + 1):
            step = getattr(self, f"step_{degree}").to(unit.dtype)
            outer = degrees[-1][:, :, None] * degrees[1][:, None]
            degrees.append(outer.flatten(1) @ step)
        return torch.cat(degrees, dim=-1)
