r"""Products of the Coulomb interaction with charges, for structures too large for a matrix.

:class:`MatrixFreeCoulomb` is the same interaction as :class:`GaussianCoulomb`, with the same
bilinear form and derivatives; only its wave part is summed by :class:`ProductSum`, which keeps
no table of all atoms and waves. Instead of a matrix it has :meth:`MatrixFreeCoulomb.product`,
all that an iterative solver asks for. The pairs of that product are a sparse matrix.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from qeqtrain.physics.buckets import Bucket
from qeqtrain.physics.ewald import SLAB, Splitting
from qeqtrain.physics.interaction import GaussianCoulomb
from qeqtrain.physics.long_waves import long_waves
from qeqtrain.physics.mesh import mesh_sum
from qeqtrain.physics.reciprocal import Lattice
from qeqtrain.physics.sparse import symmetric_matrix
from qeqtrain.physics.structure_factors import structure_factor_sum
from qeqtrain.structures import Structures
from qeqtrain.units import COULOMB_CONSTANT


class ProductSum:
    """Wave part of the interaction for the structures of one bucket, one after the other.

    Args:
        bucket: b structures of up to n atoms.
        positions: A, float64, shape ``(N, 3)``.
        lattice: of the b structures, three vectors each.
        width: of every density in this sum, A, shape ``(N,)``.
        narrowest: least of these in each structure, A, b values.
        equal: whether within each structure all widths are the narrowest, and constants.
        accuracy: relative error of the sum; see :func:`structure_factor_sum`, :func:`mesh_sum`.
        mesh: whether a mesh is used, rather than structure factors.
    """

    def __init__(
        self,
        bucket: Bucket,
        positions: Tensor,
        lattice: Lattice,
        width: Tensor,
        narrowest: list[float],
        accuracy: float,
        *,
        equal: bool,
        mesh: bool,
    ) -> None:
        self.bucket = bucket
        self._positions, self._lattice = positions.detach(), lattice
        self._narrowest = narrowest
        self._equal = equal
        self._accuracy = accuracy
        self._prepare = mesh_sum if mesh else structure_factor_sum
        self._atoms = [
            atoms[mask > 0] for atoms, mask in zip(bucket.atoms, bucket.mask, strict=True)
        ]
        with torch.no_grad():
            self._potentials = self._at(positions, lattice, width)

    def energy(
        self, u: Tensor, v: Tensor, positions: Tensor, lattice: Lattice, width: Tensor
    ) -> Tensor:
        """Bilinear form of every structure of the bucket, e^2/A, shape ``(b,)``.

        Args:
            u: charges, e, shape ``(N,)``.
            v: other charges.
            positions: with the values this sum was made for, ``(N, 3)``; differentiable.
            lattice: the same, of the b structures.
            width: the same, ``(N,)``.
        """
        potentials = self._at(positions, lattice, width)
        return torch.stack(
            [
                u.index_select(0, atoms) @ potential(v.index_select(0, atoms))
                for atoms, potential in zip(self._atoms, potentials, strict=True)
            ]
        )

    def potential(self, charges: Tensor) -> Tensor:
        """Potential at the atoms of the bucket, e/A, ``(N,)``, zero elsewhere; no gradient."""
        total = torch.zeros_like(charges)
        for atoms, potential in zip(self._atoms, self._potentials, strict=True):
            total[atoms] = potential(charges.index_select(0, atoms))
        return total

    def long_waves(self, softness: Tensor) -> list[tuple[Tensor, Callable[[Tensor], Tensor]]]:
        """Prepare the long waves of every structure: its atoms and their smooth potential."""
        return [
            (
                atoms,
                long_waves(
                    self._positions.index_select(0, atoms),
                    box,
                    math.sqrt(2.0) * least,
                    softness.index_select(0, atoms),
                ),
            )
            for atoms, box, least in zip(
                self._atoms, self._lattice.cell, self._narrowest, strict=True
            )
        ]

    def _at(
        self, positions: Tensor, lattice: Lattice, width: Tensor
    ) -> list[Callable[[Tensor], Tensor]]:
        made = []
        for atoms, box, least in zip(self._atoms, lattice.cell, self._narrowest, strict=True):
            own = width.index_select(0, atoms)
            made.append(
                self._prepare(
                    positions.index_select(0, atoms),
                    box,
                    math.sqrt(2.0) * least,
                    self._accuracy,
                    None if self._equal else own * own - least * least,
                )
            )
        return made


class MatrixFreeCoulomb(GaussianCoulomb):
    """The interaction of a batch as bilinear form and as products; there is no matrix.

    Args:
        structures: with edges for ``charge`` as :class:`CoulombReach` asks for.
        width: standard deviation of every atom's Gaussian density, A, shape ``(N,)``.
        accuracy: relative error of Ewald's sums.
        mesh: whether waves are summed on a mesh rather than by structure factors: faster
            from about 1000 atoms on, or from 500 at an accuracy of 1e-5.
    """

    def __init__(
        self, structures: Structures, width: Tensor, accuracy: float, *, mesh: bool
    ) -> None:
        self._accuracy, self._mesh = accuracy, mesh
        self._products: list[ProductSum] = []
        super().__init__(structures, width, accuracy)
        with torch.no_grad():
            self._pair_matrix = symmetric_matrix(self.pairs.pairs, self.pairs.values)
            self._own = self.own_density(self.here.width)
            self._widening = self._change(self.here.width)
            self._volume = self._lattice.volume
            self._slabs = any(s.kind == SLAB for s in self.splittings)
            self._height = (
                self._heights(structures.positions, structures.cell)
                if self._slabs
                else self._own
            )

    def _sum_waves(  # type: ignore[override]  # the same in all that GaussianCoulomb needs
        self, bucket: Bucket, lattice: Lattice, chosen: list[Splitting]
    ) -> ProductSum:
        part = ProductSum(
            bucket,
            self.structures.positions,
            lattice,
            self.widened(self.here.width),
            [s.width for s in chosen],
            self._accuracy,
            equal=not self.here.width.requires_grad and all(s.equal for s in chosen),
            mesh=self._mesh,
        )
        self._products.append(part)
        return part

    def self_energy(self) -> Tensor:
        r"""Interaction of every density with itself, :math:`k/(\sqrt\pi \sigma)`, eV/e^2, (N,).

        With the hardness it is nearly the diagonal of H, which is what preconditions it.
        """
        return COULOMB_CONSTANT / (math.sqrt(math.pi) * self.here.width.detach())

    @torch.no_grad()
    def long_waves(self, softness: Tensor) -> Callable[[Tensor], Tensor] | None:
        """Prepare what the long waves of every large periodic structure add, V, ``(N,)``.

        Args:
            softness: inverse of the diagonal of H, e^2/eV, shape ``(N,)``.

        Returns:
            See :func:`~qeqtrain.physics.long_waves.long_waves`; ``None`` where there are none.
        """
        parts = [part for waves in self._products for part in waves.long_waves(softness)]
        if not parts:
            return None

        def potential(charges: Tensor) -> Tensor:
            total = torch.zeros_like(charges)
            for atoms, smooth in parts:
                total[atoms] = smooth(charges.index_select(0, atoms))
            return total

        return potential

    @torch.no_grad()
    def product(self, charges: Tensor) -> Tensor:
        """Potential A q at every atom, V, shape ``(N,)``; no gradient."""
        s = self.structures
        total = self._pair_matrix @ charges + self._own * charges
        for waves in self._products:
            total = total + waves.potential(charges)
        if self.periodic:
            total = total + self._background_potential(charges)
        if self._slabs:
            moment = s.sum_over_atoms(charges * self._height) / self._volume
            planar = moment.index_select(0, s.batch) * self._height
            total = total + 4.0 * math.pi * planar
        return COULOMB_CONSTANT * total

    def _background_potential(self, charges: Tensor) -> Tensor:
        """Derivative in u of the background's u.v, e/A, shape ``(N,)``."""
        s, change = self.structures, self._widening
        per_volume = -2.0 * math.pi / self._volume
        net = per_volume * s.sum_over_atoms(charges)
        level = per_volume * s.sum_over_atoms(charges * change)
        return level.index_select(0, s.batch) + net.index_select(0, s.batch) * change
