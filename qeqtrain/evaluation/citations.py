"""Which papers stand behind the parts of a model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

PAPERS: dict[str, tuple[str, ...]] = {
    "TensorNet": (
        "TensorNet: Simeon and De Fabritiis, NeurIPS 2023, arXiv 2306.06482",
        "QET, its form here: arXiv 2511.07249",
    ),
    "NequIP": ("NequIP: Batzner et al., Nat. Commun. 13, 2453 (2022), arXiv 2101.03164",),
    "DiagonalCharges": ("charges in closed form (QET): arXiv 2511.07249",),
    "GaussianCharges": (
        "charge equilibration: Rappe and Goddard, J. Phys. Chem. 95, 3358 (1991)",
        "equilibrated charges in NequIP (NequIP-LR): arXiv 2503.17949",
    ),
    "PolarizableCharges": (
        "polarizable charge equilibration: Naserifar et al., J. Chem. Phys. 146, 124117 (2017)",
        "its use beneath a network (ReaxNet): Gao et al., arXiv 2410.13820",
    ),
    "PQEqCharges": (
        "polarizable charge equilibration: Naserifar et al., J. Chem. Phys. 146, 124117 (2017)",
        "its use beneath a network (ReaxNet): Gao et al., arXiv 2410.13820",
    ),
    "Dispersion": ("D3 dispersion: Grimme et al., J. Chem. Phys. 132, 154104 (2010)",),
    "ScreenedNuclei": (
        "screened nuclei (ZBL): Ziegler, Biersack and Littmark, The Stopping and Range of Ions "
        "in Solids, Pergamon (1985)",
    ),
}
"""Citations by the name of a part's class."""


def papers_of(spec: Mapping[str, Any]) -> list[str]:
    """List what to cite for a model.

    Args:
        spec: recipe nodes of its parts, as in ``Potential.spec``.
    """
    found: dict[str, None] = {}
    for target in _targets(spec):
        found |= dict.fromkeys(PAPERS.get(target.rpartition(".")[2], ()))
    return list(found)


def _targets(node: Any) -> Iterator[str]:
    """Name the class of every part, however deep."""
    if isinstance(node, Mapping):
        if "_target_" in node:
            yield str(node["_target_"])
        for value in node.values():
            yield from _targets(value)
