"""What ``compare.py`` compares: every backbone with every charge model and coupling."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

BACKBONES = ("tensornet", "nequip")
CHARGES: dict[str, tuple[tuple[str, ...], ...]] = {
    "none": (("feature",),),
    "diagonal": (("feature",), ("additive", "full"), ("variational",)),
    "gaussian": (
        ("feature",),
        ("additive", "full"),
        ("additive", "coulomb"),
        ("variational",),
    ),
    "polarizable": (("feature",), ("additive", "full"), ("variational",)),
    "pqeq": (("additive", "full"),),
}
"""Couplings by charge model; the second word, where there is one, is the energy it adds."""
OWN = ("nequip:backbone.l_max=1", "nequip:backbone.parity=false", "nequip:optim.lr=0.01")
"""Settings of a part: NequIP in the shape of the shared benchmark, with a rate for it."""
FURTHER = (("nequip", "gaussian", ("second_network",)),)
"""NequIP-LR: its second network is a NequIP."""


@dataclass(frozen=True)
class Combination:
    """One row of the comparison.

    Attributes:
        backbone, charge, coupling: options of the recipe's groups.
        charge_energy: what an additive coupling adds: ``full`` or ``coulomb``; else empty.
        conditioning: what the backbone is told: ``none`` or ``charge``.
        further: overrides of its own.
        label: its name, where the parts do not say it.
    """

    backbone: str
    charge: str
    coupling: str
    charge_energy: str = ""
    conditioning: str = "none"
    further: tuple[str, ...] = ()
    label: str = ""

    @property
    def name(self) -> str:
        """Name it as ``--only`` and the table do."""
        parts = [self.backbone, self.charge]
        if self.charge != "none":
            parts += [self.coupling, self.charge_energy]
        if self.conditioning != "none":
            parts.append("+Q")
        return self.label or " ".join(part for part in parts if part)

    def words(self) -> list[str]:
        """Write it as overrides of a recipe."""
        words = [
            f"backbone={self.backbone}",
            f"charge={self.charge}",
            f"coupling={self.coupling}",
            f"backbone.conditioning={self.conditioning}",
        ]
        if self.charge_energy:
            words.append(f"coupling.charge_energy={self.charge_energy}")
        if self.charge == "none":
            words.append("loss.charges=0")
        return [*words, *self.further]


def combinations(conditioning: str) -> Iterator[Combination]:
    """List all combinations.

    Args:
        conditioning: ``none``, ``charge``, or ``both``, which lists each of them twice.
    """
    listed = [
        (backbone, charge, coupling)
        for backbone in BACKBONES
        for charge, couplings in CHARGES.items()
        for coupling in couplings
    ]
    told = ("none", "charge") if conditioning == "both" else (conditioning,)
    for backbone, charge, coupling in sorted([*listed, *FURTHER], key=_order):
        for given in told:
            yield Combination(backbone, charge, *coupling, conditioning=given)


def _order(parts: tuple[str, str, tuple[str, ...]]) -> tuple[int, int]:
    backbone, charge, _ = parts
    return BACKBONES.index(backbone), list(CHARGES).index(charge)


def added(words: Sequence[str]) -> Iterator[Combination]:
    """Read ``NAME: key=value ...`` words: rows that are not in the list.

    Raises:
        SystemExit: a word without a name, or without one of the three parts.
    """
    for word in words:
        label, colon, rest = word.partition(":")
        pairs: Mapping[str, str] = dict(
            pair.split("=", 1) for pair in rest.split() if "=" in pair
        )
        parts = ("backbone", "charge", "coupling")
        if not colon or not all(part in pairs for part in parts):
            raise SystemExit(
                f"--add {word!r}: expected 'NAME: backbone=... charge=... coupling=... more'"
            )
        more = tuple(f"{key}={value}" for key, value in pairs.items() if key not in parts)
        conditioning = pairs.get("backbone.conditioning", "none")
        yield Combination(
            *(pairs[part] for part in parts),
            conditioning=conditioning,
            further=tuple(pair for pair in more if "conditioning" not in pair),
            label=label.strip(),
        )
