r"""Interaction of cores and shells of a batch, molecules and cells, in real space.

A core of charge :math:`q_i + Z_i` is at :math:`r_i`, a shell of charge :math:`-Z_i` at
:math:`r_i + s_i`. For every pair of atoms (or of an atom and its image) whose cores are within
the cutoff, with :math:`d = r_i - r_j`,

.. math:: U = (q_i + Z_i)(q_j + Z_j)\, C(d) - Z_i (q_j + Z_j)\, C(d + s_i)
          - (q_i + Z_i) Z_j\, C(d - s_j) + Z_i Z_j\, C(d + s_i - s_j)

and :math:`C(d) = k\, g(|d|^2)` (:mod:`kernel`). Core and shell of one atom share their spring
alone. Sums run over all images within the cutoff, whatever the cell; there is no Ewald sum. All
is given per unit of the Coulomb constant k.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from qeqtrain.physics.buckets import Bucket, buckets_by_size
from qeqtrain.physics.interaction import Geometry, unseen
from qeqtrain.physics.pairs import PairList
from qeqtrain.physics.polarization.dense import DenseMatrices
from qeqtrain.physics.polarization.kernel import TaperedKernel
from qeqtrain.physics.polarization.parameters import Constants
from qeqtrain.physics.polarization.summation import (
    Block,
    blocks_of,
    slopes_over_blocks,
    sum_over_blocks,
)
from qeqtrain.structures import Structures


@dataclass(frozen=True)
class PairFunctions:
    """What pairs contribute, block by block.

    Attributes:
        cutoff: of the list and the taper, A.
        masked: whether the taper is zero beyond it.
    """

    cutoff: float
    masked: bool

    def kernel(self, vectors: list[Tensor], rate: Tensor) -> tuple[TaperedKernel, Tensor]:
        """Prepare g for some vectors; its squared distances with their history."""
        x, y, z = vectors
        squares = torch.addcmul(torch.addcmul(x * x, y, y), z, z)
        return TaperedKernel(squares, rate, self.cutoff, masked=self.masked), squares

    def value(self, vectors: list[Tensor], rate: Tensor) -> Tensor:
        """Give g at some vectors, 1/A, shape ``(P,)``."""
        kernel, squares = self.kernel(vectors, rate)
        return kernel.of(squares, rate)

    def charges(
        self, block: Block, u: Tensor, v: Tensor, positions: Tensor, cell: Tensor, width: Tensor
    ) -> tuple[Tensor]:
        """Bilinear form u.g.v of charges, shells at rest, ``(B,)``."""
        value = self.value(block.vectors(positions, cell), pair_rate(block, width))
        product = block.at_sender(u) * block.at_receiver(v)
        if u is not v:
            product = product + block.at_receiver(u) * block.at_sender(v)
        else:
            product = 2.0 * product
        return (block.onto_structures(product * value, cell.shape[0]),)

    def rest_slope(
        self, block: Block, charges: Tensor, positions: Tensor, cell: Tensor, width: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        r"""Slope at every atom of the potential of charges, :math:`\sum_j q_j \nabla g`.

        Three components of shape ``(N,)``: what shells at rest feel, per Z.
        """
        vectors, rate = block.vectors(positions, cell), pair_rate(block, width)
        kernel, squares = self.kernel(vectors, rate)
        twice = 2.0 * kernel.of(squares, rate, 1)  # the gradient is twice g' times the vector
        at_receiver = twice * block.at_sender(charges)
        at_sender = -twice * block.at_receiver(charges)
        x, y, z = (
            block.onto_atoms(at_sender * row, at_receiver * row, len(charges))
            for row in vectors
        )
        return x, y, z

    def core_shell(
        self,
        block: Block,
        core: Tensor,
        shell: Tensor,
        displacement: Tensor,
        positions: Tensor,
        cell: Tensor,
        width: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Sum of U, ``(B,)``, and the potential at every core, ``(N,)``, per k.

        Args:
            block: the pairs.
            core: q + Z of every atom, e, shape ``(N,)``.
            shell: Z, e, shape ``(N,)``.
            displacement: s, A, shape ``(N, 3)``.
            positions: A, shape ``(N, 3)``.
            cell: A, shape ``(B, 3, 3)``.
            width: A, shape ``(N,)``.
        """
        rate = pair_rate(block, width)
        d = block.vectors(positions, cell)
        rows = displacement.unbind(-1)
        here = [block.at_receiver(row) for row in rows]
        there = [block.at_sender(row) for row in rows]
        from_shell = [a + b for a, b in zip(d, here, strict=True)]
        cores = self.value(d, rate)
        own_shell = self.value(from_shell, rate)
        their_shell = self.value([a - b for a, b in zip(d, there, strict=True)], rate)
        both = [a - b for a, b in zip(from_shell, there, strict=True)]
        shells = self.value(both, rate)
        core_i, core_j = block.at_receiver(core), block.at_sender(core)
        shell_i, shell_j = block.at_receiver(shell), block.at_sender(shell)
        at_i = core_j * cores - shell_j * their_shell
        at_j = core_i * cores - shell_i * own_shell
        energy = core_i * at_i - shell_i * (core_j * own_shell - shell_j * shells)
        return (
            block.onto_structures(energy, cell.shape[0]),
            block.onto_atoms(at_j, at_i, len(core)),
        )

    def penetration(
        self, block: Block, positions: Tensor, cell: Tensor, width: Tensor
    ) -> tuple[Tensor]:
        r"""Curvature of a shell's energy in the densities around it, per k Z, ``(N,)``.

        .. math:: \sum_j -\tfrac13 \nabla^2 \frac{\mathrm{erf}(\sqrt a\, r)}{r}
                  = \sum_j \frac{4 a^{3/2}}{3 \sqrt\pi}\, e^{-a r^2}

        times the taper.
        """
        vectors, rate = block.vectors(positions, cell), pair_rate(block, width)
        x, y, z = vectors
        squares = x * x + y * y + z * z
        t = squares.sqrt() / self.cutoff
        taper = 1.0 + t**4 * (-35.0 + t * (84.0 + t * (-70.0 + 20.0 * t)))
        taper = torch.where(t < 1.0, taper, 0.0)
        each = rate**1.5 * (4.0 / (3.0 * math.sqrt(math.pi))) * torch.exp(-rate * squares)
        each = each * taper
        return (block.onto_atoms(each, each, len(width)),)


def pair_rate(block: Block, width: Tensor) -> Tensor:
    """Exponent a of the interaction of two densities, 1/A^2, shape ``(P,)``."""
    squares = width * width
    return 0.5 / (block.at_sender(squares) + block.at_receiver(squares))


class CoreShellSum:
    """All pairs of a batch within the cutoff: energies, slopes, and the matrix of charges.

    Args:
        structures: with edges for ``charge``; their cutoff is that of the taper.
        width: standard deviation of every atom's densities, A, float64, shape ``(N,)``.
        constants: the Coulomb constant of the solve is that of the matrix and its form.
        masked: whether the taper is zero beyond the cutoff.

    Raises:
        UserMistake: no neighbour list.
        EquilibrationFailed: two atoms in one place.
    """

    def __init__(
        self, structures: Structures, width: Tensor, constants: Constants, *, masked: bool
    ) -> None:
        self.structures = structures
        self.here = Geometry(structures.positions, structures.cell, width)
        self.constants = constants
        images: list[bool] = structures.on_host("pbc").any(-1).tolist()
        listed = PairList.of(structures, images)
        self.unseen = unseen(structures, listed)
        self.pairs = listed.keep(None, images)
        self.blocks = blocks_of(self.pairs)
        self.functions = PairFunctions(structures.edges["charge"].cutoff, masked)
        batch = structures.on_host("batch")
        counts = torch.bincount(batch, minlength=len(structures)).tolist()
        kinds = [0] * len(structures)
        device = structures.positions.device
        self.buckets: list[Bucket] = [b for _, b in buckets_by_size(counts, kinds, device)]

    def energy(self, u: Tensor, v: Tensor, at: Geometry | None = None) -> Tensor:
        """Bilinear form u.A.v of every structure with shells at rest, eV, shape ``(B,)``.

        Args:
            u: charges, e, float64, shape ``(N,)``.
            v: other charges, or the same.
            at: the geometry this was made for, with another autograd history.
        """
        at = at or self.here
        if not self.blocks:
            return self.structures.sum_over_atoms(0.0 * u * v)
        geometry = (at.positions, at.cell, at.width)
        (found,) = sum_over_blocks(self.functions.charges, self.blocks, u, v, *geometry)
        return self.constants.solve * found

    def rest_slope(self, charges: Tensor) -> Tensor:
        """Slope of the charges' potential at the atoms, per k, e/A^2, shape ``(N, 3)``."""
        at = self.here
        if not self.blocks:
            return torch.zeros_like(at.positions)
        geometry = (at.positions, at.cell, at.width)
        return torch.stack(
            sum_over_blocks(self.functions.rest_slope, self.blocks, charges, *geometry), dim=-1
        )

    def core_shell(
        self, charges: Tensor, shell: Tensor, displacement: Tensor, at: Geometry | None = None
    ) -> tuple[Tensor, Tensor]:
        """Energy of all pairs, per k, ``(B,)``, and the potential at every core, ``(N,)``."""
        at = at or self.here
        if not self.blocks:
            return self.structures.sum_over_atoms(0.0 * charges), 0.0 * charges
        energy, potential = sum_over_blocks(
            self.functions.core_shell,
            self.blocks,
            charges + shell,
            shell,
            displacement,
            at.positions,
            at.cell,
            at.width,
        )
        return energy, potential

    def shell_slope(self, charges: Tensor, shell: Tensor, displacement: Tensor) -> Tensor:
        """Derivative of the pairs' energy in the displacements, per k, shape ``(N, 3)``."""
        if not self.blocks:
            return torch.zeros_like(displacement)
        at = self.here
        return slopes_over_blocks(
            self.functions.core_shell,
            self.blocks,
            2,
            torch.ones_like(self.structures.total_charge),
            charges + shell,
            shell,
            displacement,
            at.positions,
            at.cell,
            at.width,
        )

    def penetration(self) -> Tensor:
        """How deep every atom sits in the densities of others, per k, 1/A^3, ``(N,)``."""
        at = self.here
        if not self.blocks:
            return torch.zeros_like(at.width)
        (found,) = sum_over_blocks(
            self.functions.penetration, self.blocks, at.positions, at.cell, at.width
        )
        return found

    @torch.no_grad()
    def pair_values(self) -> Tensor:
        """Interaction of every pair of unit charges, eV/e^2, shape ``(P,)``."""
        values = [
            self.functions.value(
                block.vectors(self.here.positions, self.here.cell),
                pair_rate(block, self.here.width),
            )
            for block in self.blocks
        ]
        joint = torch.cat(values) if values else self.here.width.new_zeros(0)
        return joint.mul_(self.constants.solve)

    @torch.no_grad()
    def matrices(self) -> list[Tensor]:
        """Symmetric A of every bucket, eV/e^2, ``(b, n, n)``; zero in the padding."""
        dense = DenseMatrices(self.buckets, self.structures)
        for block in self.blocks:
            rate = pair_rate(block, self.here.width)
            vectors = block.vectors(self.here.positions, self.here.cell)
            value = self.functions.value(vectors, rate).mul_(self.constants.solve)
            # Both triangles: an atom and its image is seen from either side.
            dense.add(block.sender, block.receiver, block.structure, value)
            dense.add(block.receiver, block.sender, block.structure, value)
        return dense.split()
