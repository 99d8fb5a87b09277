"""What the table of speeds sets side by side, and which process runs which program.

A case is a network in one shape on one set of structures. It is run three times: its rival,
ours, its rival (A-B-A). Rivals of QET and NequIP are other programs; that of NequIP-LR is our
NequIP of half its layers, and that of ReaxNet is its own network without charges. Needs the
standard library only, because the environments of other programs import it too.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

OWN = "qeqtrain"
ALONE = "qeqtrain, network alone"
"""Our network without charges; of NequIP-LR the first of its two networks."""

PERIODIC, CLUSTER = "periodic", "cluster"


@dataclass(frozen=True)
class Network:
    """One shape that all its programs have.

    Attributes:
        title: for the table.
        rival: the program that ours is set beside.
        options: of the adapters of the shared harness.
        model: of the rival's adapter, if it asks.
    """

    title: str
    rival: str
    options: dict[str, int]
    model: dict[str, str] = field(default_factory=dict)


NETWORKS = {
    "qet": Network("QET, 64 channels, 3 layers", "matgl", {"features": 64}, {"model": "qet"}),
    "tensornet": Network(
        "TensorNet, 64 channels, 3 layers", "matgl", {"features": 64}, {"model": "tensornet"}
    ),
    "nequip": Network("NequIP, l 2, 32 channels, 3 layers", "nequip", {"lmax": 2}),
    "nequip_lr": Network(
        "NequIP-LR, l 1, 32 channels, 4 + 4 layers, 16 bins", ALONE, {"layers": 4}
    ),
    "reaxnet": Network("ReaxNet, 128 + 64 + 4 channels, 5 layers", ALONE, {"layers": 5}),
}


@dataclass(frozen=True)
class Size:
    """How many structures a batch has, and how often their cells are repeated each way."""

    batch: int
    repeat: int = 1

    @classmethod
    def read(cls, word: str) -> Size:
        """Read ``8`` (structures) or ``1x2`` (one structure, its cell repeated 2 x 2 x 2)."""
        batch, _, repeat = word.partition("x")
        try:
            made = cls(int(batch), int(repeat or 1))
        except ValueError:
            made = cls(0)
        if made.batch < 1 or made.repeat < 1:
            raise SystemExit(
                f"--sizes {word}: expected structures, as 8, or with cells, as 1x2"
            )
        return made

    def __str__(self) -> str:
        """Write it as it is read."""
        return str(self.batch) if self.repeat == 1 else f"{self.batch}x{self.repeat}"


def specification(network: str, program: str, args: Any) -> dict[str, Any]:
    """Describe one of our networks, for ``build_potential``.

    Args:
        network: key of :data:`NETWORKS`.
        program: :data:`OWN` or :data:`ALONE`.
        args: of the harness.
    """
    import speed_adapter

    from qeqtrain.models.nequip_lr import nequip_lr_spec
    from qeqtrain.models.reaxnet import NO_CHARGES, PUBLISHED_CHARGES, reaxnet_spec

    linear = {"_target_": "qeqtrain.nn.couplings.FeatureCoupling", "readout": "linear"}
    if network == "tensornet":
        coupling = {"_target_": "qeqtrain.nn.couplings.FeatureCoupling"}
        return {**speed_adapter.qet(args), "charge": NO_CHARGES, "coupling": coupling}
    if network == "nequip_lr":
        spec = nequip_lr_spec(
            l_max=1, layers=args.layers, second_layers=args.layers, dtype="float32"
        )
        spec["coupling"] |= {"bins": 16}  # ours; 50 as published
        spec["charge"] |= {"hardness_floor": 1.0}  # an untrained one may be too small
        if program == ALONE:
            spec |= {"charge": NO_CHARGES, "coupling": linear}
        return spec
    if network == "reaxnet":
        charge = NO_CHARGES if program == ALONE else PUBLISHED_CHARGES
        return reaxnet_spec(charge, layers=args.layers, dtype="float32")
    return speed_adapter.qet(args) if network == "qet" else speed_adapter.nequip(args)
