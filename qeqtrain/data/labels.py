"""The labels of a frame, the names the world gives them, and what must be said about them.

One table says which labels exist (:data:`LABELS`), a second which keys of files are taken for
them (:data:`ALIASES`). A key that could mean two things (Bader *counts* or net charges; two
charge schemes side by side) is never chosen silently: :class:`Conventions` is where the user
chooses.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Literal, get_args

from qeqtrain.data.elements import ATOMIC_NUMBERS, SYMBOLS
from qeqtrain.errors import UserMistake, nearest

TotalChargePolicy = Literal["error", "zero", "sum_of_charges"]
NanPolicy = Literal["error", "missing"]
DipoleOrigin = Literal["center_of_mass", "coordinates"]
BornOrder = Literal["dipole_displacement", "displacement_dipole"]
BORN_ORDERS = get_args(BornOrder)
"""Orders of the indices of Born charges, ours first."""


@dataclass(frozen=True)
class Label:
    """What a label is.

    Attributes:
        shape: shape for one structure, or for one atom where ``per_atom``.
        per_atom: whether there is one value per atom.
        unit: inside the package.
        meaning: one line for ``data info``.
    """

    shape: tuple[int, ...]
    per_atom: bool
    unit: str
    meaning: str


LABELS: dict[str, Label] = {
    "energy": Label((), False, "eV", "total energy"),
    "forces": Label((3,), True, "eV/A", "-dE/dr"),
    "stress": Label((3, 3), False, "eV/A^3", "(1/V) dE/dstrain, tension positive"),
    "charges": Label((), True, "e", "net charge of every atom"),
    "dipole": Label((3,), False, "e A", "dipole about the centre of mass"),
    "born_charges": Label((3, 3), True, "e", "[a, b] = d dipole_a / d position_b"),
    "magmoms": Label((), True, "mu_B", "magnetic moment of every atom"),
}

# The first name of each row is ours. Keys such as `free_energy` or `corrected_total_energy`
# name another energy, `bec` has no agreed index order, `pred_charges` are no labels: whoever
# wants them says so with `data.aliases`.
ALIASES: dict[str, tuple[str, ...]] = {
    "energy": (
        *("energy", "REF_energy", "ref_energy", "dft_energy", "DFT_energy", "Energy"),
        *("total_energy", "uncorrected_total_energy"),
    ),
    "forces": (
        *("forces", "force", "REF_forces", "ref_forces", "dft_forces", "DFT_forces", "Forces"),
        *("dft_force", "REF_force"),
    ),
    "stress": ("stress", "REF_stress", "ref_stress", "dft_stress", "DFT_stress"),
    "charges": (
        *("charges", "charge", "REF_charges", "ref_charges", "dft_charges", "net_charges"),
        *("atomic_charges", "partial_charges", "mbis_charges", "mbi_charges", "mbis"),
        *("hirshfeld_charges", "hirsh_charges", "hirshfeld", "mulliken_charges", "mul_charges"),
        *("mulliken", "ddec6", "ddec6_charges", "ddec_charges", "cm5", "cm5_charges"),
        *("npa_charges", "nbo_charges", "lowdin_charges", "resp_charges", "esp_charges"),
        "bader_net_charges",
    ),
    "dipole": ("dipole", "REF_dipole", "ref_dipole", "dft_dipole", "dipole_moment"),
    "born_charges": ("born_charges", "born_effective_charges", "REF_born_charges"),
    "magmoms": ("magmoms", "magmom", "magnetic_moments", "REF_magmoms"),
}

# Taken only where nothing else is there, and never if they are all zero: ASE writes them as
# the starting point of a calculation, some people as its result; RuNNer files always have a
# column of charges.
LAST_RESORT: dict[str, tuple[str, ...]] = {
    "charges": ("initial_charges", "runner_charges"),
    "magmoms": ("initial_magmoms",),
}

# Keys that could be a label but may mean something else, and what.
UNDECIDED: dict[str, tuple[tuple[str, ...], str]] = {
    "charges": (
        ("bader", "bader_charges", "bader_electrons", "bader_charge"),
        "Bader analyses report electron counts as often as net charges",
    ),
    "energy": (
        ("free_energy", "corrected_total_energy", "energy_corrected"),
        "it is another energy than the total one",
    ),
    "born_charges": (("bec", "BEC"), "codes differ in which index is the displacement"),
    "magmoms": (
        ("bader_magmoms", "ddec6_spin_moments"),
        "moments in Bader volumes, by DDEC6 and in VASP's spheres are different quantities",
    ),
}

TOTAL_CHARGE_KEYS = (
    "charge",
    "total_charge",
    "REF_total_charge",
    "net_charge",
    "molecular_charge",
)
SPIN_KEYS = ("spin_multiplicity", "multiplicity", "mult", "spin")
UNPAIRED_KEYS = ("uhf", "unpaired_electrons")


def _one_of(name: str, value: object, allowed: tuple[str, ...]) -> list[str]:
    if value in allowed:
        return []
    shown = " | ".join(allowed)
    return [f"data.{name} is {value!r}; expected {shown}{nearest(str(value), allowed)}"]


@dataclass(frozen=True)
class Conventions:
    """What the user says of the files, where they do not say it themselves.

    Attributes:
        total_charge: meaning of an absent total charge: a mistake, zero, or the rounded sum of
            the charges.
        nan: whether a label that is not a number is a mistake or a missing label.
        aliases: key to read for a label, e.g. ``{"charges": "hirsh_charges"}``; ``None`` leaves
            the label out.
        dipole_origin: about which point dipoles of charged frames were taken, where a frame
            does not say; without it they count as absent (neutral ones have no origin).
        born_charges_order: what the two indices of Born charges are, where a frame does not
            say; the key ``born_charges`` is ``dipole_displacement`` unless told otherwise,
            other keys have to be told (SPICE's ``bec`` is ``displacement_dipole``).
        valences: valence electrons by element, ``{"Na": 7}``, where Bader analyses count
            electrons and the reader's own table does not hold.
        hdf5: where a foreign HDF5 file keeps what (:mod:`qeqtrain.data.hdf5`).
    """

    total_charge: TotalChargePolicy = "error"
    nan: NanPolicy = "error"
    aliases: Mapping[str, str | None] = field(default_factory=dict)
    dipole_origin: DipoleOrigin | None = None
    born_charges_order: BornOrder | None = None
    valences: Mapping[str, float] = field(default_factory=dict)
    hdf5: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what is not a convention.

        Raises:
            UserMistake: naming every wrong value.
        """
        problems = _one_of("total_charge", self.total_charge, get_args(TotalChargePolicy))
        problems += _one_of("nan", self.nan, get_args(NanPolicy))
        if self.dipole_origin is not None:
            problems += _one_of("dipole_origin", self.dipole_origin, get_args(DipoleOrigin))
        if self.born_charges_order is not None:
            problems += _one_of("born_charges_order", self.born_charges_order, BORN_ORDERS)
        problems += [
            f"data.aliases names the label '{label}'; the labels are {', '.join(LABELS)}"
            f"{nearest(label, LABELS)} (written as label: key of the file)"
            for label in self.aliases
            if label not in LABELS
        ]
        problems += [
            f"data.valences names '{symbol}', which is no element{nearest(symbol, SYMBOLS)}"
            for symbol in self.valences
            if symbol not in ATOMIC_NUMBERS
        ]
        problems += [
            f"data.valences.{symbol} is {count:g}; expected a number of electrons above 0"
            for symbol, count in self.valences.items()
            if not count > 0
        ]
        if problems:
            raise UserMistake(*problems)

    def as_dict(self) -> dict[str, object]:
        """Give the conventions as plain values, for a checkpoint or a store."""
        mappings = {name: dict(getattr(self, name)) for name in ("aliases", "valences", "hdf5")}
        return {**asdict(self), **mappings}

    @classmethod
    def from_dict(cls, values: Mapping[str, object]) -> Conventions:
        """Take conventions back from plain values; other keys are left alone."""
        known = {k: v for k, v in values.items() if k in cls.__dataclass_fields__}
        return cls(**known)  # type: ignore[arg-type]


def plural(count: int, noun: str, many: str | None = None) -> str:
    """Write a count with its noun: ``1 frame``, ``3 frames``, ``2 geometries``."""
    return f"{count:,} {noun if count == 1 else many or noun + 's'}"
