"""QET once more, slowly and obviously: full 3x3 matrices, every edge in both directions.

It reads the weights of the fast model and shares none of its code. Numbers in comments are
those of the steps in the description of the forward pass (arXiv 2511.07249 as released).
"""

from __future__ import annotations

import math

import torch
from ase.data import covalent_radii
from torch import Tensor
from torch.nn.functional import layer_norm, silu, softplus

from qeqtrain.models.potential import Potential
from qeqtrain.structures import Structures


def basis(r: Tensor, functions: int, cutoff: float) -> Tensor:
    def sinc(x: Tensor) -> Tensor:
        return torch.sin(x) / x

    raw = [
        (-1) ** n
        * math.sqrt(2)
        * math.pi
        / cutoff**1.5
        * (n + 1)
        * (n + 2)
        / math.sqrt((n + 1) ** 2 + (n + 2) ** 2)
        * (sinc((n + 1) * math.pi * r / cutoff) + sinc((n + 2) * math.pi * r / cutoff))
        for n in range(functions)
    ]
    out, d = [raw[0]], 1.0
    for n in range(1, functions):
        e = n**2 * (n + 2) ** 2 / (4 * (n + 1) ** 4 + 1)
        before, d = d, 1 - e / d
        out.append((raw[n] + math.sqrt(e / before) * out[-1]) / math.sqrt(d))
    return torch.stack(out, -1)


def cross(u: Tensor) -> Tensor:
    x, y, z = u
    o = torch.zeros_like(x)
    return torch.stack([o, -z, y, z, o, -x, -y, x, o]).reshape(3, 3)


def split(X: Tensor) -> list[Tensor]:  # (C, 3, 3)
    eye = torch.eye(3, dtype=X.dtype)
    trace = X.diagonal(dim1=1, dim2=2).sum(-1)[:, None, None] * eye / 3
    return [trace, (X - X.mT) / 2, (X + X.mT) / 2 - trace]


def mix(weight: Tensor, ias: list[Tensor]) -> Tensor:
    return sum(torch.einsum("dc,cij->dij", w, t) for w, t in zip(weight, ias, strict=True))


def norm(X: Tensor) -> Tensor:
    return (X**2).sum((1, 2))


def dense(module: torch.nn.Module, x: Tensor) -> Tensor:
    return module.weight @ x + module.bias


def energy(potential: Potential, s: Structures, *, legacy: bool) -> tuple[Tensor, Tensor]:
    """Energy and charges of a single structure."""
    net = potential.backbone
    cutoff, C = net.cutoff, net.out_channels
    e = s.edges["backbone"].both_directions()
    shift = e.shift @ s.cell[0]
    v = s.positions[e.receiver] - s.positions[e.sender] + shift
    r = v.norm(dim=1)
    u = v / r[:, None]
    b = basis(r, net.embedding.filters.in_features, cutoff)
    c = (torch.cos(math.pi * r / cutoff) + 1) / 2
    eye = torch.eye(3, dtype=v.dtype)
    species = potential.species_index[s.numbers]
    z = net.embedding.species.weight[species]
    N = len(z)

    # 1.3 Embedding. The centre of an edge: its receiver (legacy) or its sender.
    emb = net.embedding
    centre = e.receiver if legacy else e.sender
    other = e.sender if legacy else e.receiver
    X = [torch.zeros(C, 3, 3, dtype=v.dtype) for _ in range(N)]
    J0, A, S = ([x.clone() for x in X] for _ in range(3))
    for k in range(len(r)):
        both = emb.first.weight @ z[e.sender[k]] + emb.second.weight @ z[e.receiver[k]]
        Z = both + emb.first.bias
        w = (c[k] * (emb.filters.weight @ b[k] + emb.filters.bias)).reshape(3, C) * Z
        i = int(centre[k])
        J0[i] = J0[i] + w[0][:, None, None] * eye
        A[i] = A[i] + w[1][:, None, None] * cross(u[k])
        S[i] = S[i] + w[2][:, None, None] * (torch.outer(u[k], u[k]) - eye / 3)
    for i in range(N):
        n = norm(J0[i] + A[i] + S[i])
        g = layer_norm(n, (C,), emb.norm.weight, emb.norm.bias)
        for layer in emb.gates.layers:
            g = silu(dense(layer, g))
        g = g.reshape(3, C)[:, :, None, None]
        mixed = [
            torch.einsum("dc,cij->dij", w, t)
            for w, t in zip(emb.mixing.weight, (J0[i], A[i], S[i]), strict=True)
        ]
        X[i] = sum(gk * t for gk, t in zip(g, mixed, strict=True))

    # 1.4 Interaction blocks.
    for block in net.interactions:
        f = []
        for k in range(len(r)):
            h = b[k]
            for layer in block.filters.layers:
                h = silu(dense(layer, h))
            f.append((h * c[k]).reshape(3, C)[:, :, None, None])
        X = [x / (norm(x) + 1)[:, None, None] for x in X]
        Y = [mix(block.before.weight, split(x)) for x in X]
        M = [torch.zeros_like(x) for x in X]
        for k in range(len(r)):
            i = int(centre[k])
            j = i if legacy else int(other[k])
            M[i] = M[i] + sum(fk * t for fk, t in zip(f[k], split(Y[j]), strict=True))
        for i in range(N):
            P = M[i] @ Y[i] + Y[i] @ M[i]
            D = mix(block.after.weight, split(P / (norm(P) + 1)[:, None, None]))
            X[i] = X[i] + D + D @ D

    # 1.5 Invariants, 1.6 charges.
    x = torch.stack([torch.cat([norm(t) for t in split(Xi)]) for Xi in X])
    x = layer_norm(x, (3 * C,), net.norm.weight, net.norm.bias)
    x = x @ net.readout.weight.T + net.readout.bias
    chi, eta = x, x
    for layer in potential.charge.electronegativity.layers:
        chi = silu(chi @ layer.weight.T + layer.bias)
    for layer in potential.charge.hardness.layers:
        eta = softplus(eta @ layer.weight.T + layer.bias)
    chi, eta = chi[:, 0], eta[:, 0]
    lam = (s.total_charge[0] + (chi / eta).sum()) / (1 / eta).sum()
    q = (lam - chi) / eta
    radii = [float(covalent_radii[a]) for a in s.numbers]
    sigma = torch.tensor(radii, dtype=v.dtype).to(potential.dtype).double()
    gamma = torch.sqrt(sigma[e.sender] ** 2 + sigma[e.receiver] ** 2)
    t = r / cutoff
    p = 1 - 10 * t**3 + 15 * t**4 - 6 * t**5
    kernel = 14.399645478425668 * torch.erf(r / (math.sqrt(2) * gamma)) * p / r
    V = torch.zeros_like(q).index_add(0, centre, kernel * q[centre if legacy else other])

    # 1.7 Energy.
    h = torch.cat([x, q[:, None], V[:, None]], dim=1)
    out = potential.coupling
    h = layer_norm(h, (C + 2,), out.norm.weight, out.norm.bias)
    a = g = h
    for i, (la, lg) in enumerate(
        zip(out.energy.value.layers, out.energy.gate.layers, strict=True)
    ):
        a, g = a @ la.weight.T + la.bias, g @ lg.weight.T + lg.bias
        if i < len(out.energy.value.layers) - 1:
            a, g = silu(a), silu(g)
    atomic = (a * torch.sigmoid(g))[:, 0]
    references = sum(potential.references[int(zz)] for zz in s.numbers)
    return potential.scale * atomic.sum() + references, q
