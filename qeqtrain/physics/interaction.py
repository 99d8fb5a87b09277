r"""Coulomb interaction of all Gaussian charges of a batch: molecules, slabs and crystals.

.. math:: A_{ij}/k = \sum_L{}' \frac{\mathrm{erf}(r/\sqrt2\gamma_{ij})
              - \mathrm{erf}(r/\sqrt2\gamma'_{ij})}{r}
          + \frac{4\pi}{V} \sum_{k \ne 0} \frac{e^{-\gamma_{ij}'^2 k^2/2}}{k^2}
              \cos k \cdot r_{ij}
          + \frac{\delta_{ij}}{\sqrt\pi} \Big[\frac1{\sigma_i} - \frac1{w_i}\Big]
          - \frac{2\pi}{V} (\gamma_{ij}'^2 - \gamma_{ij}^2)
          + \frac{4\pi}{V} z_i z_j

with :math:`\gamma_{ij}^2 = \sigma_i^2 + \sigma_j^2` and :math:`\gamma_{ij}'^2 = w_i^2 + w_j^2`
of densities widened where they are narrow: pairs (:mod:`gaussian`), waves
(:mod:`reciprocal`), own density, uniform background, and for slabs the planar dipole
(:mod:`slab`). In a molecule :math:`1/w = 1/V = 0`. The background makes the cell average of
the interaction vanish: a charged cell is neutralised uniformly, and the result does not depend
on the widening.

The matrix is only ever made without gradient, for a factorisation. What is differentiated is
the bilinear form u.A.v: its derivatives cost O(N K), those of a matrix O(N^2 K).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from qeqtrain.errors import EquilibrationFailed
from qeqtrain.physics.buckets import Bucket, buckets_by_size
from qeqtrain.physics.ewald import (
    CRYSTAL,
    MOLECULE,
    SLAB,
    Splitting,
    decay,
)
from qeqtrain.physics.gaussian import PairSum
from qeqtrain.physics.naming import name_of
from qeqtrain.physics.pairs import PairList
from qeqtrain.physics.placing import place
from qeqtrain.physics.reciprocal import Lattice, WaveSum
from qeqtrain.physics.slab import padded, slab_normal
from qeqtrain.physics.splittings import choose_splittings
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
        device = structures.positions.device
        fixed = self.here.width.detach()
        kinds: list[int] = structures.on_host("pbc").sum(-1).tolist()
        images = [kind != MOLECULE for kind in kinds]
        listed = PairList.of(structures, images)
        self.unseen = unseen(structures, listed)
        self.splittings = choose_splittings(structures, self.here.width, accuracy)
        self.periodic = any(images)
        self.slabs = SLAB in kinds
        batch = structures.on_host("batch")
        counts = torch.bincount(batch, minlength=len(structures)).tolist()
        buckets = buckets_by_size(counts, kinds, device)
        self.buckets: list[Bucket] = [bucket for _, bucket in buckets]
        splitting = self._numbers([s.width for s in self.splittings])
        self._splitting = splitting.index_select(0, structures.batch)  # (N,)
        self._images = (self._splitting > 0.0).double()  # (N,)
        widened = self.widened(fixed)
        within = self._within_reach(listed, fixed, widened, accuracy) if self.periodic else None
        self.pairs = PairSum(
            listed.keep(within, images), fixed, widened, self._images if self.periodic else None
        )
        self.waves: dict[int, WaveSum] = {}
        with torch.no_grad():
            self._lattice = Lattice.of(self._full_cells(structures.cell))
            self._box = self._lattice
            if self.periodic and device.type != "cpu":
                self._box = Lattice.of(self._full_cells(structures.on_host("cell")))
            for index, (kind, bucket) in enumerate(buckets):
                if kind != MOLECULE:
                    chosen = [self.splittings[i] for i in bucket.members]
                    lattice = self._lattice.take(bucket.structures)
                    self.waves[index] = self._sum_waves(bucket, lattice, chosen)

    def _sum_waves(self, bucket: Bucket, lattice: Lattice, chosen: list[Splitting]) -> WaveSum:
        """Make the sum over waves of one bucket; no gradient is recorded."""
        return WaveSum(
            bucket,
            self.structures.positions,
            lattice,
            self.widened(self.here.width),
            self._numbers([s.width for s in chosen]),
            torch.tensor([s.longest for s in chosen], dtype=torch.float64),
            self._box.take(torch.tensor(bucket.members)),
            equal=not self.here.width.requires_grad and all(s.equal for s in chosen),
        )

    def widened(self, width: Tensor) -> Tensor:
        """Widths w of the densities in the sum over waves, A, ``(N,)``; same in molecules."""
        return torch.where(width < self._splitting, self._splitting, width)

    def _within_reach(
        self, listed: PairList, width: Tensor, widened: Tensor, accuracy: float
    ) -> Tensor:
        """Which pairs interact at short range: all of molecules; shape ``(P,)``."""
        s, r = listed.sender, listed.receiver
        changed = width < self._splitting
        square = widened * widened
        reach = square.index_select(0, s) + square.index_select(0, r)
        near = listed.squares <= 2.0 * decay(accuracy) ** 2 * reach
        either = changed.index_select(0, s) | changed.index_select(0, r)
        return (near & either) | (self._images == 0.0).index_select(0, s)

    def _numbers(self, values: list[float]) -> Tensor:
        """Put numbers where the positions are, float64."""
        made = torch.tensor(values, dtype=torch.float64)
        return place(made, self.structures.positions.device)

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
        widened = self.widened(at.width)
        total = s.sum_over_atoms(u * v * self.own_density(at.width))
        if len(self.pairs.pairs) or not self.waves:
            total = total + self.pairs.energy(u, v, at.positions, at.cell, at.width, widened)
        if self.periodic:
            lattice = Lattice.of(self._full_cells(at.cell))
            for index, waves in self.waves.items():
                of = self.buckets[index].structures
                part = waves.energy(u, v, at.positions, lattice.take(of), widened)
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
        chosen = place(torch.tensor(is_slab), charges.device)
        return COULOMB_CONSTANT * torch.where(chosen, level, 0.0)

    def own_density(self, width: Tensor) -> Tensor:
        r"""Diagonal :math:`(1/\sigma_i - 1/w_i)/\sqrt\pi`, 1/A, shape ``(N,)``."""
        lost = self._images / self.widened(width)
        return (1.0 / width - lost) / math.sqrt(math.pi)

    @torch.no_grad()
    def matrices(self) -> list[Tensor]:
        """Lower triangles of A for every bucket, eV/e^2, ``(b, n, n)``; zero in the padding."""
        sizes = [b * n * n for b, n in (bucket.shape for bucket in self.buckets)]
        flat = self.structures.positions.new_zeros(sum(sizes))
        self._fill_pairs(flat, sizes)
        own, change = self.own_density(self.here.width), self._change(self.here.width)
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
                # -(2 pi/V) (d_i + d_j), with masks for ones: zero in the padding.
                one, half = bucket.mask, bucket.gather(change)
                scale = (-2.0 * math.pi / volume)[:, None]
                left = torch.stack([scale * half, scale * one], dim=-1)
                right = torch.stack([one, half], dim=1)
                matrix.baddbmm_(left, right)
                if self.splittings[bucket.members[0]].kind == SLAB:
                    height = self._heights(self.structures.positions, self.structures.cell)
                    arm = bucket.gather(height) * (4.0 * math.pi / volume).sqrt()[:, None]
                    matrix.baddbmm_(arm[:, :, None], arm[:, None, :])
            found.append(matrix.mul_(COULOMB_CONSTANT))
        return found

    def _fill_pairs(self, flat: Tensor, sizes: list[int]) -> None:
        """Add the pairs to the lower triangles of all buckets' matrices, laid end to end."""
        s, pairs = self.structures, self.pairs.pairs
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
        flat.index_add_(0, where, self.pairs.values * twice)

    def _change(self, width: Tensor) -> Tensor:
        r"""Widening :math:`d_i = w_i^2 - \sigma_i^2`, A^2, shape ``(N,)``."""
        widened = self.widened(width)
        return widened * widened - width * width

    def _background(self, u: Tensor, v: Tensor, volume: Tensor, width: Tensor) -> Tensor:
        r"""Uniform background :math:`-(2\pi/V)(\gamma_{ij}'^2 - \gamma_{ij}^2)`, e^2/A."""
        s, change = self.structures, self._change(width)
        spread = s.sum_over_atoms(u) * s.sum_over_atoms(v * change)
        spread = spread + s.sum_over_atoms(v) * s.sum_over_atoms(u * change)
        return -2.0 * math.pi * spread / volume

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


def unseen(structures: Structures, pairs: PairList) -> PairList | None:
    """Refuse two atoms in one place, or say that the device has not been asked yet.

    Args:
        structures: the batch.
        pairs: its pairs.

    Returns:
        On a CPU nothing. Else the pairs: whoever first waits for the device anyway looks at
        them (:class:`~qeqtrain.physics.stationary.Problem`).

    Raises:
        EquilibrationFailed: naming the structure.
    """
    if pairs.squares.device.type != "cpu":
        return pairs
    refuse_coincident(structures, pairs)
    return None


def coincident(pairs: PairList) -> Tensor:
    """Mark the pairs of atoms in one place, bool, shape ``(P,)``."""
    return pairs.squares < COINCIDENT**2


def refuse_coincident(structures: Structures, pairs: PairList) -> None:
    """Raise for two atoms in one place.

    Args:
        structures: the batch.
        pairs: its pairs.

    Raises:
        EquilibrationFailed: naming the structure.
    """
    close = coincident(pairs)
    if bool(close.any()):
        pair = int(torch.nonzero(close)[0])
        owner = int(pairs.structure[pair])
        name = name_of(structures, owner)
        first = int(torch.nonzero(structures.batch == owner)[0])
        s, r = int(pairs.sender[pair]) - first, int(pairs.receiver[pair]) - first
        distance = float(pairs.squares[pair]) ** 0.5
        raise EquilibrationFailed(
            f"{name}: its atoms {s} and {r} are {distance:.1e} A apart; "
            f"expected at least {COINCIDENT} A"
        )
