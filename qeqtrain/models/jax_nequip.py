"""jax-md's NequIP in files: its configuration, its parameters, and what they are called here.

Names, shapes and order are those that its programme gives a network with even irreps of degree
0, 1, ... and one set of Bessel functions.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor

from qeqtrain.errors import UserMistake, nearest
from qeqtrain.nn.nequip import NequIP


@dataclass(frozen=True)
class JaxConfig:
    """The arguments of jax-md's network; those without default are always written.

    Attributes:
        graph_net_steps: layers.
        use_sc: self-connections.
        nonlinearities: of even and odd scalars.
        n_elements: length of the one-hot species, of which the first is no element.
        hidden_irreps: channels and degrees, ``128x0e + 64x1e + 4x2e``.
        sh_irreps: of the direction tensors.
        num_basis: Bessel functions.
        r_max: cutoff, A.
        radial_net_nonlinearity: of the radial networks.
        radial_net_n_hidden: width of their hidden layers.
        radial_net_n_layers: how many of those.
        shift, scale: eV, of an atom's energy.
        n_neighbors: that messages are divided by.
        scalar_mlp_std: of first weights; of no account here.
    """

    graph_net_steps: int
    n_elements: int
    hidden_irreps: str
    sh_irreps: str
    use_sc: bool = True
    nonlinearities: Mapping[str, str] | str = "raw_swish"
    num_basis: int = 8
    r_max: float = 4.0
    radial_net_nonlinearity: str = "raw_swish"
    radial_net_n_hidden: int = 64
    radial_net_n_layers: int = 2
    shift: float = 0.0
    scale: float = 1.0
    n_neighbors: float = 1.0
    scalar_mlp_std: float = 4.0

    @property
    def channels(self) -> list[int]:
        """Channels of every degree."""
        return [n for n, _ in _irreps(self.hidden_irreps)]


def read_yaml(path: Path) -> dict[Any, Any]:
    """Read a mapping of plain values."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserMistake(f"{path}: not plain YAML ({str(error).splitlines()[0]})") from error
    if not isinstance(content, dict):
        raise UserMistake(f"{path}: holds {type(content).__name__}, expected a mapping")
    return content


def read_config(path: Path) -> JaxConfig:
    """Read and check a configuration.

    Raises:
        UserMistake: keys that are unknown or missing, and networks that are not read.
    """
    content = read_yaml(path)
    known = {f.name: f for f in fields(JaxConfig)}
    problems = [
        f"{path}: has the key {key!r}, which jax-md's NequIP does not take"
        f"{nearest(str(key), known)}"
        for key in content
        if key not in known
    ]
    required = ("graph_net_steps", "n_elements", "hidden_irreps", "sh_irreps")
    problems += [f"{path}: lacks {name}" for name in required if name not in content]
    for name in ("graph_net_steps", "n_elements", "num_basis", "radial_net_n_hidden"):
        value = content.get(name, 1)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            problems.append(f"{path}: {name} is {value!r}, expected a whole number above 0")
    for name in ("r_max", "shift", "scale", "n_neighbors"):
        if isinstance(content.get(name, 1.0), bool | str | list | dict | None):
            problems.append(f"{path}: {name} is {content[name]!r}, expected a number")
    if problems:
        raise UserMistake(*problems)
    config = JaxConfig(**content)
    swish = config.nonlinearities
    even = swish.get("e") if isinstance(swish, Mapping) else swish
    met = {
        "use_sc": (config.use_sc, True),
        "nonlinearities of even scalars": (even, "raw_swish"),
        "radial_net_nonlinearity": (config.radial_net_nonlinearity, "raw_swish"),
        "degrees of sh_irreps": (
            _irreps(config.sh_irreps),
            [(1, degree) for degree in range(len(config.channels))],
        ),
    }
    wrong = [
        f"{path}: {name}: {value!r}; only {wanted!r} is read"
        for name, (value, wanted) in met.items()
        if value != wanted
    ]
    if wrong:
        raise UserMistake(*wrong)
    return config


def parameter_problems(
    met: Mapping[str, np.ndarray], expected: Mapping[str, tuple[int, ...]]
) -> list[str]:
    """List what is missing, unknown or of another shape."""
    problems = []
    missing = [name for name in expected if name not in met]
    unknown = [name for name in met if name not in expected]
    if missing:
        problems.append(f"lacks the parameters {', '.join(map(repr, missing))}")
    if unknown:
        problems.append(f"holds unknown parameters {', '.join(map(repr, unknown))}")
    for name, shape in expected.items():
        if name not in met:
            continue
        if met[name].shape != shape:
            problems.append(f"{name!r} has shape {met[name].shape}, expected {shape}")
        elif met[name].dtype.kind != "f" or not np.isfinite(met[name]).all():
            problems.append(f"{name!r} holds something else than finite real numbers")
    return problems


def expected_parameters(config: JaxConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the parameters of jax-md's network."""
    c, species = config.channels, config.n_elements
    top = len(c) - 1
    out = [sum(c), *c[1:]]  # scalars with the gates, then the other tensors
    pieces = [*c, *c[1:]]  # the same, scalars and gates apart
    found: dict[str, tuple[int, ...]] = {
        "BesselEmbedding_0/frequencies": (config.num_basis,),
        f"Linear_0/w[0,0] {species}x0e,{c[0]}x0e": (species, c[0]),
        f"Linear_1/w[0,0] {c[0]}x0e,{c[0] // 2}x0e": (c[0], c[0] // 2),
        f"Linear_2/w[0,0] {c[0] // 2}x0e,1x0e": (c[0] // 2, 1),
    }
    ways = _ways(top)
    radial = [config.num_basis, *[config.radial_net_n_hidden] * config.radial_net_n_layers]
    radial.append(sum(c[i] for i, _, _ in ways))
    for k in range(config.graph_net_steps):
        here = f"NequIPConvolution_{k}"
        met = range(1) if k == 0 else range(top + 1)  # degrees that come in
        for i in met:
            connection = f"w[{i},0,{i}] {c[i]}x{i}e,{species}x0e,{out[i]}x{i}e"
            found[f"{here}/FullyConnectedTensorProductE3nn_0/{connection}"] = (
                c[i],
                species,
                out[i],
            )
            found[f"{here}/Linear_0/w[{i},{i}] {c[i]}x{i}e,{c[i]}x{i}e"] = (c[i], c[i])
        for o, n in enumerate(pieces):
            degree = max(o - top, 0)
            m = sum(c[i] for i, _, d in ways if d == degree and i in met)
            found[f"{here}/Linear_1/w[{degree},{o}] {m}x{degree}e,{n}x{degree}e"] = (m, n)
        for m, shape in enumerate(itertools.pairwise(radial)):
            found[f"{here}/MLP_0/Dense_{m}/kernel"] = shape
    return found


def translate_jax(take: Mapping[str, Tensor], network: NequIP) -> dict[str, Tensor]:
    """Rename jax-md's tensors to ours and bring them into our layout and scale.

    Its radial networks have a column for couplings of tensors that the first layer does not
    have; their kernels are not scaled by their size, and what they read carries a 2 / r_c that
    jax-md works out in single precision. Its one-hot species has an entry that no
    element uses, and counts in what embedding and self-connection are divided by.

    Args:
        take: by name, float64.
        network: that the tensors are for.
    """
    ours = {"basis.roots": take["BesselEmbedding_0/frequencies"]}
    single = np.float32(2.0) / np.float32(network.cutoff)
    rounded = float(single) / (2.0 / network.cutoff)
    table = _one(take, "Linear_0")
    used = (network.n_species / len(table)) ** 0.5
    ours["embedding"] = used * table[1:]
    for k, layer in enumerate(network.layers):
        here, there = f"layers.{k}", f"NequIPConvolution_{k}"
        for irrep in layer.before.weights:
            i = int(irrep[0])
            ours[f"{here}.before.weights.{irrep}"] = _one(take, f"{there}/Linear_0", f"{i},{i}")
        start, columns = 0, {}
        sizes = layer.gate.channels
        top = max(irrep.degree for irrep in sizes)
        width = {irrep.degree: n for irrep, n in sizes.items()}
        for way in _ways(top):
            columns[way] = torch.arange(start, start + width[way[0]])
            start += width[way[0]]
        kept = [columns[p.feature.degree, p.edge, p.out.degree] for p in layer.product.paths]
        for m, gain in enumerate(layer.weights.gains):
            kernel = take[f"{there}/MLP_0/Dense_{m}/kernel"]
            if m == len(layer.weights.gains) - 1:
                kernel = kernel[:, torch.cat(kept)]
            size = len(kernel) ** 0.5 / gain * (rounded if m == 0 else 1.0)
            ours[f"{here}.weights.weights.{m}"] = kernel * size
        for irrep in layer.after.weights:
            degree = int(irrep[0])
            pieces = range(top + 1) if degree == 0 else [top + degree]
            parts = [_one(take, f"{there}/Linear_1", f"{degree},{o}") for o in pieces]
            ours[f"{here}.after.weights.{irrep}"] = torch.cat(parts, dim=1)
        for irrep in layer.self_connection.weights:
            i = int(irrep[0])
            own = _one(take, f"{there}/FullyConnectedTensorProductE3nn_0", f"{i},0,{i}")
            matrices = used * own.transpose(0, 1)[1:]
            ours[f"{here}.self_connection.weights.{irrep}"] = matrices
    return ours


def readout_weights(take: Mapping[str, Tensor]) -> list[Tensor]:
    """Weights of the two maps from an atom's scalars to its energy."""
    return [_one(take, name) for name in ("Linear_1", "Linear_2")]


def _one(take: Mapping[str, Tensor], module: str, indices: str = "0,0") -> Tensor:
    """Find the weight of a module whose name goes on with sizes."""
    (found,) = (v for k, v in take.items() if k.startswith(f"{module}/w[{indices}] "))
    return found


def _ways(top: int) -> list[tuple[int, int, int]]:
    """Degrees of feature, direction and message of every coupling, in jax-md's order."""
    degrees = range(top + 1)
    return [
        (i, j, o) for i in degrees for j in degrees for o in degrees if abs(i - j) <= o <= i + j
    ]


def _irreps(text: str) -> list[tuple[int, int]]:
    """Channels and degree of every part of ``128x0e + 64x1e``; degrees 0, 1, ... in order."""
    parts = [re.fullmatch(r"(\d+)x(\d+)e", p.strip()) for p in str(text).split("+")]
    found = [(int(p[1]), int(p[2])) for p in parts if p]
    if len(found) != len(parts) or [d for _, d in found] != list(range(len(found))):
        raise UserMistake(
            f"irreps {text!r}: expected even ones of degree 0, 1, ... in order, such as "
            "128x0e + 64x1e + 4x2e"
        )
    return found
