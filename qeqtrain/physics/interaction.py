r"""Coulomb interaction of all Gaussian charges of a batch: molecules, slabs and crystals.

.. math:: A_{ij}/k = \sum_L{}' \frac{\mathrm{erf}(r/\sqrt2\gamma_{ij})
              - \mathrm{erf}(r/\sqrt2\eta)}{r}
          + \frac{4\pi}{V} \sum_{k \ne 0} \frac{e^{-\eta^2 k^2/2}}{k^2} \cos k \cdot r_{ij}
          + \delta_{ij} \Big[\frac{1}{\sqrt\pi \sigma_i} - \sqrt{\frac2\pi} \frac1\eta\Big]
          - \frac{2\pi}{V} (\eta^2 - \gamma_{ij}^2)
          + \frac{4\pi}{V} z_i z_j

pairs (:mod:`gaussian`), waves (:mod:`reciprocal`), own density, uniform background, and for
slabs the planar dipole (:mod:`slab`). In a molecule :math:`1/\eta = 1/V = 0`. The background
makes the cell average of the interaction vanish: a charged cell is neutralised uniformly, and
the result does not depend on :math:`\eta`.

The matrix is only ever made without gradient, for a factorisation. What is differentiated is
the bilinear form u.A.v: its derivatives cost O(N K), those of a matrix O(N^2 K).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from qeqtrain.errors import EquilibrationFailed, UserMistake
from qeqtrain.physics.buckets import Bucket, buckets_by_size
from qeqtrain.physics.ewald import (
    CRYSTAL,
    MOLECULE,
    NEUTRAL,
    SLAB,
    Splitting,
    charged_slab,
    split,
)
from qeqtrain.physics.gaussian import PairSum
from qeqtrain.physics.naming import name_of
from qeqtrain.physics.reciprocal import Lattice, WaveSum
from qeqtrain.physics.slab import padded, slab_normal
from qeqtrain.structures import Structures
from qeqtrain.units import COULOMB_CONSTANT

COINCIDENT = 1e-3
"""Distance, A, below which two atoms count as one place: the derivatives lose their digits."""


@dataclass(frozen=True)
class Geometry:
    """What an interaction depends on: its value is fixed, its gradient may be wanted.

    Attributes:
        positions: A, shape ``(N, 3)``.
        cell: A, shape ``(B, 3, 3)``.
        width: standard deviation of every atom's density, A, shape ``(N,)``.
    """

    positions: Tensor
    cell: Tensor
    width: Tensor


class GaussianCoulomb:
    """The interaction A of a batch, as a bilinear form, as potentials, as matrices.

    Args:
        structures: with edges for ``charge`` as :class:`CoulombReach` asks for.
        width: standard deviation of every atom's Gaussian density, A, shape ``(N,)``.
        accuracy: relative error of Ewald's sums.

    Raises:
        UserMistake: no neighbour list or one too short, one periodic direction, a slab whose
            charge is not zero.
        EquilibrationFailed: two atoms in one place.
    """

    def __init__(self, structures: Structures, width: Tensor, accuracy: float = 1e-9) -> None:
        self.structures = structures
        self.here = Geometry(structures.positions, structures.cell, width.double())
        self.splittings = _splittings(structures, self.here.width.detach(), accuracy)
        device = structures.positions.device
        kinds = [s.kind for s in self.splittings]
        counts = torch.bincount(structures.batch, minlength=len(structures)).tolist()
        buckets = buckets_by_size(counts, kinds, device)
        self.buckets: list[Bucket] = [bucket for _, bucket in buckets]
        self.inverse_splitting = torch.tensor(
            [1.0 / s.width for s in self.splittings], dtype=torch.float64, device=device
        )  # (B,) 1/eta
        self.pairs = PairSum(
            structures,
            self.here.width,
            0.5 * self.inverse_splitting**2,
            [k != MOLECULE for k in kinds],
        )
        self._refuse_coincident()
        self.periodic = any(k != MOLECULE for k in kinds)
        self.slabs = any(k == SLAB for k in kinds)
        self.waves: dict[int, WaveSum] = {}
        with torch.no_grad():
            self._lattice = Lattice.of(self._full_cells(structures.cell))
            for index, (kind, bucket) in enumerate(buckets):
                if kind != MOLECULE:
                    chosen = [self.splittings[i] for i in bucket.structures.tolist()]
                    lattice = self._lattice.take(bucket.structures)
                    self.waves[index] = self._sum_waves(bucket, lattice, chosen)

    def _sum_waves(self, bucket: Bucket, lattice: Lattice, chosen: list[Splitting]) -> WaveSum:
        """Make the sum over waves of one bucket; no gradient is recorded."""
        return WaveSum(
            bucket,
            self.structures.positions,
            lattice,
            self._numbers([s.width for s in chosen]),
            self._numbers([s.longest for s in chosen]),
        )

    def _numbers(self, values: list[float]) -> Tensor:
        """Put numbers where the positions are, float64."""
        return torch.tensor(
            values, dtype=torch.float64, device=self.structures.positions.device
        )

    def energy(self, u: Tensor, v: Tensor, at: Geometry | None = None) -> Tensor:
        """Bilinear form u.A.v of every structure, eV, shape ``(B,)``.

        Args:
            u: charges, e, float64, shape ``(N,)``.
            v: other charges, or the same.
            at: the geometry this was made for, with another autograd history.

        Returns:
            Differentiable to any order in u, v, positions, cell and width.
        """
        at = at or self.here
        s = self.structures
        total = self.pairs.energy(u, v, at.positions, at.cell, at.width)
        total = total + s.sum_over_atoms(u * v * self.own_density(at.width))
        if self.periodic:
            lattice = Lattice.of(self._full_cells(at.cell))
            for index, waves in self.waves.items():
                of = self.buckets[index].structures
                part = waves.energy(u, v, at.positions, lattice.take(of))
                total = total.index_add(0, of, part)
            total = total + self._background(u, v, lattice.volume, at.width)
            if self.slabs:
                height = self._heights(at.positions, at.cell)
                planar = s.sum_over_atoms(u * height) * s.sum_over_atoms(v * height)
                total = total + 4.0 * math.pi * planar / lattice.volume
        return COULOMB_CONSTANT * total

    def potential(self, charges: Tensor) -> Tensor:
        """Potential A q at every atom, V, shape ``(N,)``; differentiable to any order."""
        at = self.here
        recorded = torch.is_grad_enabled() and any(
            t.requires_grad for t in (charges, at.positions, at.cell, at.width)
        )
        with torch.enable_grad():
            probe = torch.zeros_like(charges).requires_grad_(True)
            (potential,) = torch.autograd.grad(
                self.energy(probe, charges).sum(), probe, create_graph=recorded
            )
        return potential

    def vacuum_level(self, charges: Tensor) -> Tensor:
        r"""What to add to the potentials of a slab so that the vacuum is their zero, V, (B,).

        Ewald's sum has potentials that vanish on average over the cell, vacuum and all. With
        the vacuum as zero (the mean of its two sides, if the slab has a dipole) that average is

        .. math:: -\frac{2\pi}{V} \sum_i q_i (z_i^2 + \sigma_i^2) .

        It is left out of A: for neutral slabs it changes no energy and no charge, but A would
        no longer be positive definite. Zero for structures other than slabs.

        Args:
            charges: neutral on every slab, e, shape ``(N,)``.
        """
        s, at = self.structures, self.here
        if not self.slabs:
            return torch.zeros_like(s.total_charge)
        height = self._heights(at.positions, at.cell)
        spread = s.sum_over_atoms(charges * (height * height + at.width * at.width))
        level = -2.0 * math.pi * spread / Lattice.of(self._full_cells(at.cell)).volume
        is_slab = [k.kind == SLAB for k in self.splittings]
        chosen = torch.tensor(is_slab, device=charges.device)
        return COULOMB_CONSTANT * torch.where(chosen, level, 0.0)

    def own_density(self, width: Tensor) -> Tensor:
        r"""Diagonal :math:`1/(\sqrt\pi\sigma_i) - \sqrt{2/\pi}/\eta`, 1/A, shape ``(N,)``."""
        far = math.sqrt(2.0 / math.pi) * self.inverse_splitting
        return 1.0 / (math.sqrt(math.pi) * width) - far.index_select(0, self.structures.batch)

    @torch.no_grad()
    def matrices(self) -> list[Tensor]:
        """Lower triangles of A for every bucket, eV/e^2, ``(b, n, n)``; zero in the padding."""
        sizes = [b * n * n for b, n in (bucket.shape for bucket in self.buckets)]
        flat = self.structures.positions.new_zeros(sum(sizes))
        self._fill_pairs(flat, sizes)
        width = self.here.width
        own, square = self.own_density(width), width * width
        found = []
        for index, (bucket, part) in enumerate(
            zip(self.buckets, torch.split(flat, sizes), strict=True)
        ):
            b, n = bucket.shape
            matrix = part.view(b, n, n)
            torch.diagonal(matrix, dim1=1, dim2=2).add_(bucket.gather(own))
            if index in self.waves:
                self.waves[index].fill(matrix)
                volume = self._lattice.volume.index_select(0, bucket.structures)
                inverse = self.inverse_splitting.index_select(0, bucket.structures)
                # -(2 pi/V) (eta^2 - s_i - s_j), with masks for ones: zero in the padding.
                one, spread = bucket.mask, bucket.gather(square)
                half = (0.5 / inverse**2)[:, None] * one - spread
                scale = (-2.0 * math.pi / volume)[:, None]
                left = torch.stack([scale * half, scale * one], dim=-1)
                right = torch.stack([one, half], dim=1)
                matrix.baddbmm_(left, right)
                if self.splittings[int(bucket.structures[0])].kind == SLAB:
                    height = self._heights(self.structures.positions, self.structures.cell)
                    arm = bucket.gather(height) * (4.0 * math.pi / volume).sqrt()[:, None]
                    matrix.baddbmm_(arm[:, :, None], arm[:, None, :])
            found.append(matrix.mul_(COULOMB_CONSTANT))
        return found

    def _fill_pairs(self, flat: Tensor, sizes: list[int]) -> None:
        """Add the pairs to the lower triangles of all buckets' matrices, laid end to end."""
        s, pairs = self.structures, self.pairs
        # Row r, column c of a structure's matrix lies at base + r stride + c.
        base, stride, first = (torch.zeros_like(s.batch[:0].new_zeros(len(s))) for _ in "abc")
        offset = 0
        for bucket, size in zip(self.buckets, sizes, strict=True):
            b, n = bucket.shape
            start = offset + torch.arange(b, device=base.device) * n * n
            base[bucket.structures] = start
            stride[bucket.structures] = n
            first[bucket.structures] = bucket.atoms[:, 0]
            offset += size
        begin = first.index_select(0, pairs.structure)
        row = torch.maximum(pairs.sender, pairs.receiver) - begin
        column = torch.minimum(pairs.sender, pairs.receiver) - begin
        row.mul_(stride.index_select(0, pairs.structure)).add_(column)
        where = row.add_(base.index_select(0, pairs.structure))
        # An atom and its image are listed once, and seen from both sides.
        twice = torch.where(pairs.sender == pairs.receiver, 2.0, 1.0)
        flat.index_add_(0, where, pairs.values * twice)

    def _background(self, u: Tensor, v: Tensor, volume: Tensor, width: Tensor) -> Tensor:
        r"""Uniform background :math:`-(2\pi/V)(\eta^2 - \gamma_{ij}^2)`, e^2/A, ``(B,)``."""
        s = self.structures
        square = width * width
        total_u, total_v = s.sum_over_atoms(u), s.sum_over_atoms(v)
        spread = total_u * s.sum_over_atoms(v * square)
        spread = spread + total_v * s.sum_over_atoms(u * square)
        molecule = self.inverse_splitting == 0.0
        eta = 1.0 / torch.where(molecule, 1.0, self.inverse_splitting)
        value = -2.0 * math.pi * (eta * eta * total_u * total_v - spread)
        return torch.where(molecule, 0.0, value / volume)

    def _full_cells(self, cell: Tensor) -> Tensor:
        """Three vectors for every structure: slabs get vacuum, molecules a unit cube."""
        kinds = [s.kind for s in self.splittings]
        if all(k == CRYSTAL for k in kinds):
            return cell
        cube = torch.eye(3, dtype=cell.dtype, device=cell.device)
        rows = []
        for i, s in enumerate(self.splittings):
            if s.kind == SLAB:
                rows.append(padded(cell[i], s.open_direction, s.length))
            else:
                rows.append(cell[i] if s.kind == CRYSTAL else cube)
        return torch.stack(rows) if rows else cell

    def _heights(self, positions: Tensor, cell: Tensor) -> Tensor:
        """Distance of every atom from the middle of its slab, A, ``(N,)``; zero elsewhere."""
        s = self.structures
        zero = torch.zeros_like(cell[0, 0])
        normals = []
        for i, split_ in enumerate(self.splittings):
            rows = [cell[i, d] for d in range(3) if d != split_.open_direction]
            normals.append(slab_normal(torch.stack(rows)) if split_.kind == SLAB else zero)
        along = torch.stack(normals).index_select(0, s.batch)
        height = (positions * along).sum(-1)
        middle = s.sum_over_atoms(height) / s.atom_counts().clamp(min=1.0)
        return height - middle.index_select(0, s.batch)

    def _refuse_coincident(self) -> None:
        close = self.pairs.squared_distances < COINCIDENT**2
        if bool(close.any()):
            pair = int(torch.nonzero(close)[0])
            name = name_of(self.structures, int(self.pairs.structure[pair]))
            s, r = int(self.pairs.sender[pair]), int(self.pairs.receiver[pair])
            distance = float(self.pairs.squared_distances[pair]) ** 0.5
            raise EquilibrationFailed(
                f"{name}: atoms {s} and {r} of the batch are {distance:.1e} A apart; "
                f"expected at least {COINCIDENT} A"
            )


def _splittings(structures: Structures, width: Tensor, accuracy: float) -> list[Splitting]:
    """Choose the splitting of every structure, and see that the pairs suffice for it."""
    if "charge" not in structures.edges:
        raise UserMistake(
            f"neighbour lists {sorted(structures.edges)} without 'charge'; make them with "
            "with_pairs(structure, potential.cutoffs)"
        )
    widest = width.new_zeros(len(structures)).scatter_reduce(0, structures.batch, width, "amax")
    bounds = torch.searchsorted(
        structures.batch, torch.arange(len(structures) + 1, device=width.device)
    ).tolist()
    positions = structures.positions.detach().cpu()
    cell = structures.cell.detach().cpu()
    found = []
    rows = zip(structures.pbc.tolist(), widest.tolist(), strict=True)
    for i, (pbc, largest) in enumerate(rows):
        try:
            part = positions[bounds[i] : bounds[i + 1]]
            found.append(split(part, cell[i], pbc, largest, accuracy))
        except UserMistake as mistake:
            raise UserMistake(f"{name_of(structures, i)}: {mistake}") from None
    charged = [
        i
        for i, (s, q) in enumerate(zip(found, _net_charges(structures), strict=True))
        if s.kind == SLAB and not abs(q) <= NEUTRAL
    ]
    if charged:
        charge = _net_charges(structures)[charged[0]]
        raise UserMistake(f"{name_of(structures, charged[0])}: {charged_slab(charge)}")
    needed = min((s.cutoff for s in found), default=0.0)
    listed = structures.edges["charge"].cutoff
    if listed < needed * (1.0 - 1e-6):
        raise UserMistake(
            f"the neighbour list of the charges ends at {listed:.2f} A where {needed:.2f} A "
            f"are needed for an accuracy of {accuracy:g}; make it with physics.ewald."
            "CoulombReach for at least the widths and the accuracy in use"
        )
    return found


def _net_charges(structures: Structures) -> list[float]:
    """Total charge of every structure; NaN where a potential is held and charge is free."""
    groups = structures.charge_groups()
    total = torch.zeros_like(structures.total_charge)
    charges: list[float] = total.index_add(0, groups.structure, groups.charge).tolist()
    return charges
