r"""TensorNet: a backbone of Cartesian tensors of rank two, in nine components.

Simeon and De Fabritiis, NeurIPS 2023 (arXiv 2306.06482), in the form QET gave it
(arXiv 2511.07249). Every atom carries one 3x3 matrix per channel. It is kept as its nine
coordinates in an orthonormal basis of the matrices: one for the trace (I), three for the
antisymmetric part (A), five for the traceless symmetric part (S). Decomposition is then a
slice, the squared Frobenius norm a plain sum of squares, and channels lie last, next to each
other in memory: tensors are (atom, component, channel). Edges are listed once per pair, so that
the radial networks, most of the arithmetic, run once for both directions.

Two conventions exist under the name QET, and both are one switch here:

* ``corrected``: an atom gathers its *neighbours'* features (matgl since April 2026);
* ``legacy``: an atom multiplies *its own* features by the sum of its edge filters: the paper's
  programme and the weights published with it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from qeqtrain.nn.conditioning import ChargeSpinEmbedding, Conditions
from qeqtrain.nn.forms import Gathered, Spread, Summed
from qeqtrain.nn.knots import Radial, radial_reader
from qeqtrain.nn.matrices import MatrixProducts
from qeqtrain.nn.messages import PARTS, gather, spread
from qeqtrain.nn.mlp import MLP
from qeqtrain.nn.radial import BASES, cosine_cutoff
from qeqtrain.nn.streamed import streamed
from qeqtrain.nn.tables import Table
from qeqtrain.physics.recomputing import by_rows, recomputed
from qeqtrain.structures import Edges, Structures

Convention = Literal["corrected", "legacy"]
RadialBasis = Literal["smooth_bessel", "gaussian"]


def direction_components(unit: Tensor) -> Tensor:
    """Write 1, the cross-product matrix of u, and uu - 1/3 in the basis.

    Args:
        unit: directions, shape ``(P, 3)``.

    Returns:
        Components of I, A and S, shape ``(P, 9)``.
    """
    x, y, z = unit.unbind(-1)
    root2, root6 = math.sqrt(2.0), math.sqrt(6.0)
    components = [
        torch.full_like(x, math.sqrt(3.0)),
        root2 * x,
        root2 * y,
        root2 * z,
        (x * x - y * y) / root2,
        (2 * z * z - x * x - y * y) / root6,
        root2 * x * y,
        root2 * x * z,
        root2 * y * z,
    ]
    return torch.stack(components, dim=-1)


def parts(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Split ``(..., 9, C)`` into I, A and S."""
    one, three, five = torch.split(x, PARTS, dim=-2)
    return one, three, five


def normalized(x: Tensor) -> Tensor:
    """Divide every channel by one plus its squared Frobenius norm."""
    return x / ((x * x).sum(dim=-2, keepdim=True) + 1.0)


class PartwiseLinear(nn.Module):
    """Mix channels, with one matrix for each of I, A and S.

    Args:
        channels: C, in and out.
        bound: weights start uniform between plus and minus this.
    """

    def __init__(self, channels: int, bound: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(3, channels, channels))
        nn.init.uniform_(self.weight, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, 9, C)`` to ``(N, 9, C)``."""
        return torch.cat([p @ w.T for p, w in zip(parts(x), self.weight, strict=True)], dim=-2)


def weighted(x: Tensor, weights: Tensor) -> Tensor:
    """Multiply the parts of ``(N, 9, C)`` by weights ``(N, 3, C)``."""
    each = zip(parts(x), weights.split(1, dim=1), strict=True)
    return torch.cat([p * w for p, w in each], dim=-2)


def filters_of(network: Callable[[Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """Make filters of pairs, ``(P, 3, C)``, from what they read and the envelope ``(P, 1)``."""
    return lambda rows, envelope: (network(rows) * envelope).unflatten(1, (3, -1))


class Embedding(nn.Module):
    """First tensors of every atom, from its species, its neighbours' and their directions.

    Args:
        species: how many.
        channels: C.
        functions: K, radial functions.
        convention: see the module.
    """

    def __init__(
        self, species: int, channels: int, functions: int, convention: Convention
    ) -> None:
        super().__init__()
        self.convention = convention
        self.species = nn.Embedding(species, channels)
        # Two halves of one map of both ends' species, so they start as such.
        self.first = nn.Linear(channels, channels)
        self.second = nn.Linear(channels, channels, bias=False)
        for tensor in (self.first.weight, self.first.bias, self.second.weight):
            nn.init.uniform_(tensor, -((2 * channels) ** -0.5), (2 * channels) ** -0.5)
        self.filters = nn.Linear(functions, 3 * channels)
        self.norm = nn.LayerNorm(channels)
        self.mixing = PartwiseLinear(channels, bound=channels**-0.5)
        self.gates = MLP([channels, 2 * channels, 3 * channels], activate_last=True)
        parity = torch.tensor([1.0] + 3 * [-1.0] + 5 * [1.0], dtype=torch.float64)
        self.register_buffer("parity", parity, persistent=False)

    def forward(
        self, z: Tensor, radial: Radial | Table, envelope: Tensor, unit: Tensor, edges: Edges
    ) -> Tensor:
        """Embed.

        Args:
            z: vector of every atom, shape ``(N, C)``.
            radial: basis of K functions, at every pair or at knots.
            envelope: cutoff function, shape ``(P, 1)``.
            unit: direction from sender to receiver, shape ``(P, 3)``.
            edges: the pairs.

        Returns:
            Shape ``(N, 9, C)``.
        """
        # Species of both ends of an edge; which comes first is the convention.
        centre, neighbor = self.first(z), self.second(z)
        if self.convention == "legacy":
            centre, neighbor = neighbor, centre
        send, receive = edges.sender, edges.receiver
        directions = direction_components(unit)  # (P, 9)
        # Seen from its other end an edge points the other way: A is odd, I and S even.
        parity = self.parity.to(directions.dtype)
        make = filters_of(radial.reader(self.filters))
        if recomputed():
            form = Spread(send, receive, parity)
            terms, features = (centre, neighbor, directions), (radial.rows, envelope)
            (x,) = streamed(form, len(send), make, terms, features)
            return by_rows(self._mixed, x)
        into_receiver = centre.index_select(0, receive) + neighbor.index_select(0, send)
        into_sender = centre.index_select(0, send) + neighbor.index_select(0, receive)
        filters = make(radial.rows, envelope)  # (P, 3, C)
        turned = directions * parity
        x = spread(filters * into_receiver[:, None], directions, receive, z.shape[0])
        x = x + spread(filters * into_sender[:, None], turned, send, z.shape[0])
        return by_rows(self._mixed, x)

    def _mixed(self, x: Tensor) -> Tensor:
        """Mix channels, and open gates by the size of the tensors."""
        gates = self.gates(self.norm((x * x).sum(dim=-2))).unflatten(1, (3, -1))
        return weighted(self.mixing(x), gates)


class Interaction(nn.Module):
    """One exchange between an atom and its neighbours.

    Args:
        channels: C.
        functions: K, radial functions.
        convention: see the module.
    """

    def __init__(self, channels: int, functions: int, convention: Convention) -> None:
        super().__init__()
        self.own = convention == "legacy"
        sizes = [functions, channels, 2 * channels, 3 * channels]
        self.filters = MLP(sizes, activate_last=True)
        for layer in self.filters.layers:
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
        xavier = (3.0 / channels) ** 0.5
        self.before = PartwiseLinear(channels, bound=xavier)
        self.after = PartwiseLinear(channels, bound=xavier)
        self.products = MatrixProducts()

    def forward(
        self, x: Tensor, radial: Radial | Table, envelope: Tensor, edges: Edges
    ) -> Tensor:
        """Update ``(N, 9, C)``; other shapes as in :class:`Embedding`."""
        x = by_rows(normalized, x)
        y = by_rows(self.before, x)
        return by_rows(self._updated, x, y, self._received(y, radial, envelope, edges))

    def _received(
        self, y: Tensor, radial: Radial | Table, envelope: Tensor, edges: Edges
    ) -> Tensor:
        """Sum over the neighbours: their tensors, filtered, or the filters ``(N, 3, C)``."""
        s, r = edges.sender, edges.receiver
        make = filters_of(radial.reader(self.filters))
        if recomputed():
            form = Summed(s, r, y, y.shape[0], y.shape[2]) if self.own else Gathered(s, r)
            terms = () if self.own else (y,)
            return streamed(form, len(s), make, terms, (radial.rows, envelope))[0]
        filters = make(radial.rows, envelope)
        if not self.own:
            return gather(y, filters, s, r)
        total = filters.new_zeros((y.shape[0], *filters.shape[1:]))
        return total.index_add(0, r, filters).index_add(0, s, filters)

    def _updated(self, x: Tensor, y: Tensor, received: Tensor) -> Tensor:
        """Update an atom by what it receives; under ``legacy`` a weight of its own tensor."""
        m = weighted(y, received) if self.own else received
        d = self.after(normalized(self.products.anticommutator(m, y)))
        return x + d + self.products.square(d)


class TensorNet(nn.Module):
    """Invariant features of every atom from Cartesian tensor messages.

    Args:
        cutoff: A.
        channels: C, also the number of features that come out.
        layers: interaction blocks.
        radial_functions: size of the radial basis.
        radial_basis: ``smooth_bessel`` as published, or ``gaussian``.
        radial_knots: distances at which the radial networks are evaluated, with splines
            between them (:mod:`~qeqtrain.nn.knots`); ``None``: at every pair.
        convention: whose features a message carries; see the module.
        conditioning: whether total charge, or charge and spin, enter the atoms' embedding.
        elements: atomic numbers the model knows.
        attributes: numbers per atom that a linear map adds to its species vector.
    """

    def __init__(
        self,
        cutoff: float = 5.0,
        channels: int = 64,
        layers: int = 3,
        radial_functions: int = 9,
        radial_basis: RadialBasis = "smooth_bessel",
        radial_knots: int | None = None,
        convention: Convention = "corrected",
        conditioning: Conditions = "none",
        *,
        elements: Sequence[int],
        attributes: int = 0,
    ) -> None:
        super().__init__()
        self.cutoff = cutoff
        self.out_channels = channels
        self.basis = BASES[radial_basis](radial_functions, cutoff)
        self.radial = radial_reader(cutoff, radial_knots, vanishing=False)
        self.embedding = Embedding(len(elements), channels, radial_functions, convention)
        self.interactions = nn.ModuleList(
            Interaction(channels, radial_functions, convention) for _ in range(layers)
        )
        self.norm = nn.LayerNorm(3 * channels)
        self.readout = nn.Linear(3 * channels, channels)
        self.conditioning = (
            None if conditioning == "none" else ChargeSpinEmbedding(channels, conditioning)
        )
        self.attributes = nn.Linear(attributes, channels, bias=False) if attributes else None

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
            Invariant features, shape ``(N, C)``.

        Raises:
            ValueError: attributes are given and not expected, or the other way round.
        """
        edges = structures.edges["backbone"]
        vectors = structures.edge_vectors("backbone")  # (P, 3)
        distance = vectors.norm(dim=-1)
        z = self.embedding.species(species)
        given = 0 if attributes is None else attributes.shape[1]
        expected = 0 if self.attributes is None else self.attributes.in_features
        if given != expected:
            raise ValueError(f"{given} attributes per atom given, {expected} expected")
        if self.attributes is not None:
            z = z + self.attributes(attributes.to(z.dtype))
        if self.conditioning is not None:
            z = z + self.conditioning(structures, z)
        unit = (vectors / distance[:, None]).to(z.dtype)
        distance = distance.to(z.dtype)
        radial = self.radial(self.basis, distance, z.dtype)
        envelope = cosine_cutoff(distance, self.cutoff)[:, None]

        x = self.embedding(z, radial, envelope, unit, edges)
        for interaction in self.interactions:
            x = interaction(x, radial, envelope, edges)

        return by_rows(self._invariants, x)

    def _invariants(self, x: Tensor) -> Tensor:
        """Read ``(N, C)`` from the sizes of the tensors."""
        squares = [(p * p).sum(dim=-2) for p in parts(x)]  # n(I), n(A), n(S)
        return self.readout(self.norm(torch.cat(squares, dim=-1)))
