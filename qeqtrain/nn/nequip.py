r"""NequIP: a backbone of equivariant tensors that meet the directions to their neighbours.

Batzner et al., Nat. Commun. 13, 2453 (2022). A layer mixes channels, sums the neighbours'
tensors coupled with the harmonics of the edge (:mod:`~qeqtrain.nn.tensor_product`), mixes
again, adds a self-connection that knows the species, and passes a gate. Channels lie last,
tensors are (atom, component, channel); a pair's radial network runs once for both directions.

Three variants of the same idea are one switch here:

* ``current``, as in nequip 0.19: no self-connection in the first layer, so that an isolated
  atom has no features at all; the last layer makes scalars only; self-connections read the
  embedded species; the radial network is plain silu between weights scaled for it.
* ``lr``, as in release 0.6.1, which NequIP-LR (arXiv 2503.17949) was built on: a
  self-connection in every layer, reading the one-hot species; a last layer like the others,
  whose tensors nobody reads; silu normalised to unit variance in the radial network. Numbers
  of parameters are those of the authors' code.
* ``reaxnet``, as in jax-md's NequIP, which ReaxNet (arXiv 2410.13820) was built on: layers as
  those of ``lr``; messages divided by the number of neighbours, not its root; e3nn-jax's gain
  of silu in gates, none in the radial network; directions from receiver to sender. The release
  also ignores parity (``parity: ignored``, its 0e + 1e + 2e): its energies respect rotations,
  not reflections. That is for reading its weights; a network to be trained keeps parity.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from qeqtrain.errors import UserMistake
from qeqtrain.nn.conditioning import ChargeSpinEmbedding, Conditions
from qeqtrain.nn.gate import JAX_SILU_GAIN, SILU_GAIN, Gate
from qeqtrain.nn.irrep_linear import IrrepLinear, SelfConnection
from qeqtrain.nn.irreps import (
    SCALAR,
    Irrep,
    Path,
    SphericalHarmonics,
    all_irreps,
    couplings,
    reachable,
)
from qeqtrain.nn.knots import Radial, radial_reader
from qeqtrain.nn.radial import SWITCHED, Bessel, CutoffPower, RadialNetwork, Scaling
from qeqtrain.nn.tables import Table
from qeqtrain.nn.tensor_product import DenseProduct
from qeqtrain.physics.recomputing import by_rows, recomputed
from qeqtrain.structures import Edges, Structures

Variant = Literal["current", "lr", "reaxnet"]
Kernel = Literal["dense", "cuequivariance"]
Parity = bool | Literal["ignored"]

RADIAL_SCALING: Mapping[Variant, Scaling] = {
    "current": "root_two",
    "lr": "moment",
    "reaxnet": "steep",
}


def _product(
    kernel: Kernel, channels: Mapping[Irrep, int], l_max: int, paths: Sequence[Path]
) -> nn.Module:
    """Build the product that ``tensor_product`` names."""
    if kernel == "cuequivariance":
        from qeqtrain.nn.cuequivariance import CuEquivarianceProduct

        return CuEquivarianceProduct(channels, l_max, paths)
    return DenseProduct(channels, l_max, paths)


class Atoms(NamedTuple):
    """What a layer reads of the atoms beside their tensors; see :class:`SelfConnection`."""

    species: Tensor
    table: Tensor | None
    own: Tensor | None


class Layer(nn.Module):
    """One exchange between an atom and its neighbours.

    Args:
        irreps: of the tensors that come in.
        wanted: of those that should come out; what no path reaches is left out.
        channels: C of the tensors of every degree.
        radial: widths of the radial network's input and hidden layers.
        attributes: numbers per atom that the self-connection reads; 0 for none.
        average_neighbors: messages are divided by it, or by its root.
        blind: whether parity is ignored.
        variant: see the module.
        tensor_product: see :class:`NequIP`.
    """

    def __init__(
        self,
        irreps: Sequence[Irrep],
        wanted: Sequence[Irrep],
        channels: Sequence[int],
        radial: Sequence[int],
        attributes: int,
        average_neighbors: float,
        blind: bool,
        variant: Variant,
        tensor_product: Kernel,
    ) -> None:
        super().__init__()
        l_max = len(channels) - 1
        self.irreps_in = list(irreps)
        self.irreps_out = reachable(irreps, l_max, wanted, blind=blind)
        jax = variant == "reaxnet"
        self.scale = average_neighbors ** (-1.0 if jax else -0.5)
        self.gate = Gate(
            {i: channels[i.degree] for i in self.irreps_out},
            JAX_SILU_GAIN if jax else SILU_GAIN,
        )
        sizes = {i: channels[i.degree] for i in irreps}
        paths = couplings(irreps, l_max, self.irreps_out, blind=blind)
        found: Counter[Irrep] = Counter()
        for path in paths:
            found[path.out] += sizes[path.feature]
        self.before = IrrepLinear({i: (n, n) for i, n in sizes.items()})
        self.product = _product(tensor_product, sizes, l_max, paths)
        self.weights = RadialNetwork(
            [*radial, sum(sizes[path.feature] for path in paths)], RADIAL_SCALING[variant]
        )
        self.after = IrrepLinear({i: (found[i], self.gate.inputs(i)) for i in self.irreps_out})
        kept = {i: (sizes[i], self.gate.inputs(i)) for i in self.irreps_out if i in sizes}
        self.self_connection = SelfConnection(attributes, kept) if attributes else None

    def forward(
        self,
        x: dict[Irrep, Tensor],
        radial: Radial | Table,
        directions: Tensor,
        edges: Edges,
        atoms: Atoms,
    ) -> dict[Irrep, Tensor]:
        """Update the tensors.

        Args:
            x: by irrep, shape ``(N, 2l + 1, C)``.
            radial: basis of K functions, at every pair or at knots.
            directions: harmonics of every pair, shape ``(P, Y)``.
            edges: the pairs.
            atoms: what the self-connection reads.

        Returns:
            By irrep, shape ``(N, 2l + 1, C)``.
        """
        sent = _by_rows(self.before, x)
        ends = edges.sender, edges.receiver
        if recomputed() and isinstance(self.product, DenseProduct):
            received = self.product.streamed(
                sent, radial.reader(self.weights), radial.rows, directions, *ends
            )
        else:
            weights = radial.through(self.weights)  # (P, C of all paths)
            received = self.product(sent, weights, directions, *ends)

        def updated(
            received: dict[Irrep, Tensor],
            x: dict[Irrep, Tensor],
            species: Tensor,
            own: Tensor | None,
        ) -> dict[Irrep, Tensor]:
            y = self.after(received, self.scale)
            if self.self_connection is not None:
                kept = self.self_connection(x, atoms.table, species, own)
                y |= {irrep: y[irrep] + mixed for irrep, mixed in kept.items()}
            return self.gate(y)

        return _by_rows(updated, received, x, atoms.species, atoms.own)


class NequIP(nn.Module):
    """Invariant features of every atom from equivariant messages.

    Args:
        cutoff: A.
        channels: C of every irrep, or of those of every degree from 0 on; that of degree 0 is
            the number of features that come out.
        l_max: highest degree of tensors.
        layers: exchanges with the neighbours.
        parity: whether tensors of both parities are kept, or only those of a direction's;
            ``ignored``: couplings that tell mirror images apart.
        radial_functions: Bessel functions.
        radial_width: of the radial networks' hidden layers.
        radial_depth: how many of those.
        radial_knots: distances at which the radial networks are evaluated, with splines
            between them (:mod:`~qeqtrain.nn.knots`); ``None``: at every pair.
        cutoff_power: p of the cutoff polynomial, or ``switch``: no change up to 0.5 A before.
        train_bessel: whether the roots of the Bessel functions are trained.
        variant: see the module.
        conditioning: whether total charge, or charge and spin, enter the atoms' embedding.
        tensor_product: ``dense``, in plain torch, or ``cuequivariance``, kernels for GPUs.
        elements: atomic numbers the model knows.
        average_neighbors: directed edges per atom in the training data.
        attributes: numbers per atom that enter beside its species, as a second network's
            charges do: the embedding and every self-connection read them.

    Raises:
        UserMistake: channels that do not fit ``l_max``, a switch wider than the cutoff, or a
            kernel that cannot do what is asked.
    """

    def __init__(
        self,
        cutoff: float = 5.0,
        channels: int | list[int] = 32,
        l_max: int = 2,
        layers: int = 3,
        parity: Parity = True,
        radial_functions: int = 8,
        radial_width: int = 64,
        radial_depth: int = 2,
        radial_knots: int | None = None,
        cutoff_power: CutoffPower = 6,
        train_bessel: bool = True,
        variant: Variant = "current",
        conditioning: Conditions = "none",
        tensor_product: Kernel = "dense",
        *,
        elements: Sequence[int],
        average_neighbors: float,
        attributes: int = 0,
    ) -> None:
        super().__init__()
        sizes = _sizes(channels, l_max)
        blind = parity == "ignored"
        if tensor_product == "cuequivariance" and (blind or len(set(sizes)) > 1):
            met = "parity=ignored" if blind else f"channels={channels}"
            raise UserMistake(
                f"backbone.{met} needs backbone.tensor_product=dense, met cuequivariance"
            )
        if cutoff_power == "switch" and not cutoff > SWITCHED:
            raise UserMistake(
                f"backbone.cutoff_power=switch needs a cutoff above {SWITCHED} A, met {cutoff}"
            )
        self.cutoff = cutoff
        self.out_channels = sizes[0]
        self.reverse = variant == "reaxnet"
        self.current = variant == "current"
        self.n_species = len(elements)
        self.attributes = attributes
        self.basis = Bessel(radial_functions, cutoff, cutoff_power, trainable=train_bessel)
        self.radial = radial_reader(cutoff, radial_knots, vanishing=True)
        self.harmonics = SphericalHarmonics(l_max)
        self.embedding = nn.Parameter(torch.randn(len(elements) + attributes, sizes[0]))
        self.conditioning = (
            None if conditioning == "none" else ChargeSpinEmbedding(sizes[0], conditioning)
        )
        hidden = all_irreps(l_max, parity=parity is True)
        irreps: Sequence[Irrep] = [SCALAR]
        self.layers = nn.ModuleList()
        for k in range(layers):
            first, last = k == 0, k == layers - 1
            if self.current:
                wanted = [SCALAR] if last else hidden
                read = 0 if first else sizes[0]
            else:
                wanted, read = hidden, len(elements) + attributes
            layer = Layer(
                irreps,
                wanted,
                sizes,
                [radial_functions, *[radial_width] * radial_depth],
                read,
                average_neighbors,
                blind,
                variant,
                tensor_product,
            )
            self.layers.append(layer)
            irreps = layer.irreps_out

    @property
    def cutoffs(self) -> dict[str, float]:
        """Neighbour lists this module reads, by consumer."""
        return {"backbone": self.cutoff}

    def forward(
        self, structures: Structures, species: Tensor, attributes: Tensor | None = None
    ) -> Tensor:
        """Describe every atom.

        Args:
            structures: with edges for ``backbone``.
            species: index of every atom's element, shape ``(N,)``.
            attributes: further numbers of every atom, shape ``(N, attributes)``.

        Returns:
            Even scalars of the last layer, shape ``(N, C)``.
        """
        edges = structures.edges["backbone"]
        vectors = structures.edge_vectors("backbone")  # (P, 3)
        distance = vectors.norm(dim=-1)
        dtype = self.embedding.dtype
        radial = self.radial(self.basis, distance, dtype)
        unit = vectors / (-distance if self.reverse else distance)[:, None]
        directions = self.harmonics(unit.to(dtype))  # (P, Y)

        scalars, atoms = self._embed(structures, species, attributes)
        x = {SCALAR: scalars}
        for layer in self.layers:
            x = layer(x, radial, directions, edges, atoms)
        return x[SCALAR][:, 0]

    def _embed(
        self, structures: Structures, species: Tensor, attributes: Tensor | None
    ) -> tuple[Tensor, Atoms]:
        """Make the first scalars, ``(N, 1, C)``, and what self-connections read."""
        given = 0 if attributes is None else attributes.shape[1]
        if given != self.attributes:
            raise ValueError(f"{given} attributes per atom given, {self.attributes} expected")
        if attributes is not None:
            attributes = attributes.to(self.embedding.dtype)
        table, more = self.embedding.split([self.n_species, self.attributes])
        if self.current:
            # Species vectors of variance one, and attributes together as much again.
            extra = None if attributes is None else attributes @ (more * len(more) ** -0.5)
        else:
            size = len(self.embedding) ** -0.5
            table = table * size
            extra = None if attributes is None else attributes @ (more * size)
        z = table.index_select(0, species)
        if self.conditioning is not None:
            condition = self.conditioning(structures, z)
            extra = condition if extra is None else extra + condition
        if extra is not None:
            z = z + extra
        atoms = (
            Atoms(species, table, extra) if self.current else Atoms(species, None, attributes)
        )
        return z[:, None], atoms


def _by_rows(
    function: Callable[..., dict[Irrep, Tensor]], *inputs: dict[Irrep, Tensor] | Tensor | None
) -> dict[Irrep, Tensor]:
    """Do what :func:`~qeqtrain.physics.recomputing.by_rows` does, for tensors by irrep."""
    if not recomputed():
        return function(*inputs)
    flat = [t for x in inputs for t in (x.values() if isinstance(x, dict) else [x])]
    irreps: list[Irrep] = []

    def of_rows(*tensors: Tensor) -> tuple[Tensor, ...]:
        left = iter(tensors)
        given = [
            dict(zip(x, left, strict=False))
            if isinstance(x, dict)
            else (None if x is None else next(left))
            for x in inputs
        ]
        found = function(*given)
        irreps[:] = found
        return tuple(found.values())

    rows = by_rows(of_rows, *(t for t in flat if t is not None))
    return dict(zip(irreps, [rows] if isinstance(rows, Tensor) else rows, strict=True))


def _sizes(channels: int | Sequence[int], l_max: int) -> list[int]:
    """Channels of every degree from 0 to ``l_max``."""
    sizes = [channels] * (l_max + 1) if isinstance(channels, int) else list(channels)
    if len(sizes) != l_max + 1 or any(n < 1 for n in sizes):
        raise UserMistake(
            f"backbone.channels is {channels} and l_max is {l_max}; expected one number above "
            "0, or one for every degree from 0 to l_max"
        )
    return sizes
