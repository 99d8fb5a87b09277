r"""NequIP: a backbone of equivariant tensors that meet the directions to their neighbours.

Batzner et al., Nat. Commun. 13, 2453 (2022). A layer mixes channels, sums the neighbours'
tensors coupled with the harmonics of the edge (:mod:`~qeqtrain.nn.tensor_product`), mixes
again, adds a self-connection that knows the species, and passes a gate. Channels lie last,
tensors are (atom, component, channel); a pair's radial network runs once for both directions.

Two variants of the same idea are one switch here:

* ``current``, as in nequip 0.19: no self-connection in the first layer, so that an isolated
  atom has no features at all; the last layer makes scalars only; self-connections read the
  embedded species; the radial network is plain silu between weights scaled for it.
* ``lr``, as in release 0.6.1, which NequIP-LR (arXiv 2503.17949) was built on: a
  self-connection in every layer, reading the one-hot species; a last layer like the others,
  whose tensors nobody reads; silu normalised to unit variance in the radial network. Numbers
  of parameters are those of the authors' code.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from qeqtrain.nn.conditioning import ChargeSpinEmbedding, Conditions
from qeqtrain.nn.gate import Gate
from qeqtrain.nn.irrep_linear import IrrepLinear, SelfConnection
from qeqtrain.nn.irreps import (
    SCALAR,
    Irrep,
    Path,
    SphericalHarmonics,
    all_irreps,
    couplings,
    reachable,
    slices,
)
from qeqtrain.nn.radial import Bessel, RadialNetwork
from qeqtrain.nn.tensor_product import DenseProduct
from qeqtrain.structures import Edges, Structures

Variant = Literal["current", "lr"]
Kernel = Literal["dense", "cuequivariance"]


def _product(
    kernel: Kernel, irreps: Sequence[Irrep], l_max: int, paths: Sequence[Path], channels: int
) -> nn.Module:
    """Build the product that ``tensor_product`` names."""
    if kernel == "cuequivariance":
        from qeqtrain.nn.cuequivariance import CuEquivarianceProduct

        return CuEquivarianceProduct(irreps, l_max, paths, channels)
    return DenseProduct(irreps, l_max, paths)


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
        channels: C.
        l_max: highest degree of the direction tensors.
        radial: widths of the radial network's input and hidden layers.
        attributes: numbers per atom that the self-connection reads; 0 for none.
        average_neighbors: messages are divided by its root.
        variant: see the module.
        tensor_product: see :class:`NequIP`.
    """

    def __init__(
        self,
        irreps: Sequence[Irrep],
        wanted: Sequence[Irrep],
        channels: int,
        l_max: int,
        radial: Sequence[int],
        attributes: int,
        average_neighbors: float,
        variant: Variant,
        tensor_product: Kernel,
    ) -> None:
        super().__init__()
        self.irreps_in = list(irreps)
        self.irreps_out = reachable(irreps, l_max, wanted)
        self.scale = average_neighbors**-0.5
        self.gate = Gate(self.irreps_out)
        copies = {i: self.gate.copies(i) for i in self.irreps_out}
        paths = couplings(irreps, l_max, self.irreps_out)
        ways = Counter(path.out for path in paths)
        self.before = IrrepLinear(dict.fromkeys(irreps, (channels, channels)))
        self.product = _product(tensor_product, irreps, l_max, paths, channels)
        self.weights = RadialNetwork(
            [*radial, len(paths) * channels], normalized=variant == "lr"
        )
        self.after = IrrepLinear(
            {i: (ways[i] * channels, n * channels) for i, n in copies.items()}
        )
        kept = {i: n for i, n in copies.items() if i in self.irreps_in}
        self.self_connection = (
            SelfConnection(channels, attributes, kept) if attributes else None
        )

    def forward(
        self, x: Tensor, radial: Tensor, directions: Tensor, edges: Edges, atoms: Atoms
    ) -> Tensor:
        """Update the tensors.

        Args:
            x: shape ``(N, D, C)``.
            radial: basis at every pair, shape ``(P, K)``.
            directions: harmonics of every pair, shape ``(P, Y)``.
            edges: the pairs.
            atoms: what the self-connection reads.

        Returns:
            Shape ``(N, D', C)``.
        """
        parts = {irrep: x[:, at] for irrep, at in slices(self.irreps_in)}
        mixed = torch.cat(list(self.before(parts).values()), dim=1)
        weights = self.weights(radial).unflatten(1, (-1, x.shape[-1]))  # (P, paths, C)
        messages = self.product(mixed, weights, directions, edges.sender, edges.receiver)
        y = self.after(messages, self.scale)
        if self.self_connection is not None:
            for irrep, own in self.self_connection(
                parts, atoms.table, atoms.species, atoms.own
            ).items():
                y[irrep] = y[irrep] + own
        return self.gate(y)


class NequIP(nn.Module):
    """Invariant features of every atom from equivariant messages.

    Args:
        cutoff: A.
        channels: C of every irrep, also the number of features that come out.
        l_max: highest degree of tensors.
        layers: exchanges with the neighbours.
        parity: whether tensors of both parities are kept, or only those of a direction's.
        radial_functions: Bessel functions.
        radial_width: of the radial networks' hidden layers.
        radial_depth: how many of those.
        cutoff_power: p of the cutoff polynomial.
        train_bessel: whether the roots of the Bessel functions are trained.
        variant: see the module.
        conditioning: whether total charge, or charge and spin, enter the atoms' embedding.
        tensor_product: ``dense``, in plain torch, or ``cuequivariance``, kernels for GPUs.
        elements: atomic numbers the model knows.
        average_neighbors: directed edges per atom in the training data.
        attributes: numbers per atom that enter beside its species, as a second network's
            charges do: the embedding and every self-connection read them.
    """

    def __init__(
        self,
        cutoff: float = 5.0,
        channels: int = 32,
        l_max: int = 2,
        layers: int = 3,
        parity: bool = True,
        radial_functions: int = 8,
        radial_width: int = 64,
        radial_depth: int = 2,
        cutoff_power: int = 6,
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
        self.cutoff = cutoff
        self.out_channels = channels
        self.current = variant == "current"
        self.n_species = len(elements)
        self.attributes = attributes
        self.basis = Bessel(radial_functions, cutoff, cutoff_power, trainable=train_bessel)
        self.harmonics = SphericalHarmonics(l_max)
        self.embedding = nn.Parameter(torch.randn(len(elements) + attributes, channels))
        self.conditioning = (
            None if conditioning == "none" else ChargeSpinEmbedding(channels, conditioning)
        )
        hidden = all_irreps(l_max, parity=parity)
        irreps: Sequence[Irrep] = [SCALAR]
        self.layers = nn.ModuleList()
        for k in range(layers):
            first, last = k == 0, k == layers - 1
            if self.current:
                wanted = [SCALAR] if last else hidden
                read = 0 if first else channels
            else:
                wanted, read = hidden, len(elements) + attributes
            layer = Layer(
                irreps,
                wanted,
                channels,
                l_max,
                [radial_functions, *[radial_width] * radial_depth],
                read,
                average_neighbors,
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
        radial = self.basis(distance).to(dtype)  # (P, K)
        directions = self.harmonics((vectors / distance[:, None]).to(dtype))  # (P, Y)

        x, atoms = self._embed(structures, species, attributes)
        for layer in self.layers:
            x = layer(x, radial, directions, edges, atoms)
        return x[:, 0]

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
