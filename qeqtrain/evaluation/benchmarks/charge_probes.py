"""Questions about charges that need no labels: each asks a potential, in plain values."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np
from ase import Atoms

from qeqtrain.errors import UserMistake
from qeqtrain.evaluation.benchmarks.relaxation import predict_in_batches
from qeqtrain.evaluation.benchmarks.suite import TaskFailed
from qeqtrain.models.potential import Potential

STEP = {"float64": 1e-4, "float32": 5e-3}
"""A: of finite differences, by the network's precision."""
FIELD = 0.02
"""V/A: of finite differences of the field."""


def conservation(potential: Potential, content: Mapping[str, Any]) -> dict[str, Any]:
    """Violation of the total charge by the sum of charges, at every total charge allowed."""
    violations: dict[str, float] = {}
    refused: list[str] = []
    for total in content["total_charges"]:
        atoms = _with_charge(content["atoms"], total)
        try:
            said = predict_in_batches(potential, [atoms])[0]
        except UserMistake:  # a charge state that the model never met
            refused.append(f"{total:+g}")
            continue
        violations[f"{total:+g}"] = abs(float(_charges(said.charges).sum()) - total)
    if not violations:
        raise TaskFailed(f"the model refuses total charges {' '.join(refused)}")
    return {"violation_e": violations, "refused": refused}


def far_transfer(potential: Potential, content: Mapping[str, Any]) -> dict[str, Any]:
    """Charge that flows between two neutral fragments, and energy that it brings.

    Far apart, both have to be what they are alone: no charge on either, and energies that add.
    """
    a, b = content["fragments"]
    alone = predict_in_batches(potential, [a, b])
    pairs = [_apart(a, b, distance) for distance in content["distances_A"]]
    said = predict_in_batches(potential, pairs)
    return {
        "distances_A": list(content["distances_A"]),
        "charge_of_first_e": [float(_charges(s.charges)[: len(a)].sum()) for s in said],
        "energy_eV": [s.energy - alone[0].energy - alone[1].energy for s in said],
    }


def dipole_rules(potential: Potential, content: Mapping[str, Any]) -> dict[str, Any]:
    r"""Sum rules of the derivatives of the dipole of a neutral molecule.

    .. math:: \sum_i Z_{i,ab} = Q \delta_{ab}, \qquad
       \sum_{i} Z_{i,ab} \epsilon_{bcd} r_{i,d} = \epsilon_{acd} \mu_d

    The first: the dipole of a neutral molecule does not change when it moves; the second: it
    turns with the molecule. Derivatives here are finite differences.
    """
    atoms: Atoms = content["atoms"]
    step = STEP[str(potential.dtype).removeprefix("torch.")]
    born, dipole = _born_by_differences(potential, atoms, step)
    position = atoms.positions - atoms.get_center_of_mass()
    epsilon = _levi_civita()
    turned = np.einsum("iab,bcd,id->ac", born, epsilon, position)
    expected = np.einsum("acd,d->ac", epsilon, dipole)
    values: dict[str, Any] = {
        "dipole_e_A": float(np.linalg.norm(dipole)),
        "largest_born_charge_e": float(np.abs(born).max()),
        "translation_e": float(np.abs(born.sum(axis=0)).max()),
        "rotation_e_A": float(np.abs(turned - expected).max()),
    }
    if answers_fields(potential):
        values |= _field_rules(potential, atoms, born, dipole)
    return values


def answers_fields(potential: Potential) -> bool:
    """Whether this version and this model know electric fields and Born charges."""
    known = "born_charges" in inspect.signature(type(potential).forward).parameters
    return known and potential.has_charges


def _field_rules(
    potential: Potential, atoms: Atoms, born: np.ndarray, dipole: np.ndarray
) -> dict[str, Any]:
    r"""Response to a field: :math:`-dE/dF = \mu`, :math:`dF_i/dE = Z_i`, and polarizability."""
    asked: dict[str, Any] = {"born_charges": True, "polarizability": True}
    said: Any = potential(atoms, **asked).detach()
    stated = said.born_charges.cpu().double().numpy()
    alpha = said.polarizability.cpu().double().numpy()[0]
    energies, forces, dipoles = [], [], []
    for axis in range(3):
        for sign in (-1.0, 1.0):
            pulled = atoms.copy()
            # Energy of a neutral molecule does not depend on the origin; charges' would.
            pulled.info["electric_field"] = (sign * FIELD * np.eye(3)[axis]).tolist()
            one = predict_in_batches(potential, [pulled])[0]
            energies.append(one.energy)
            forces.append(one.forces)
            dipoles.append(np.zeros(3) if one.dipole is None else one.dipole)
    slopes = [np.array(x[1::2]) - np.array(x[0::2]) for x in (energies, forces, dipoles)]
    by_energy, by_force, by_dipole = (s / (2 * FIELD) for s in slopes)
    return {
        "born_charges_mismatch_e": float(np.abs(stated - born).max()),
        "field_energy_mismatch_e_A": float(np.abs(-by_energy - dipole).max()),
        "field_force_mismatch_e": float(np.abs(np.moveaxis(by_force, 0, 1) - stated).max()),
        "polarizability_e_A2_per_V": float(np.trace(alpha) / 3),
        "polarizability_asymmetry": float(np.abs(alpha - alpha.T).max()),
        "polarizability_mismatch": float(np.abs(by_dipole.T - alpha).max()),
    }


def extensivity(potential: Potential, content: Mapping[str, Any]) -> dict[str, Any]:
    """Energy per atom and charges of a crystal, and of the same crystal in larger cells."""
    atoms: Atoms = content["atoms"]
    one, *others = predict_in_batches(
        potential, [atoms, *(_repeated(atoms, n) for n in content["repeats"])]
    )
    values: dict[str, Any] = {"repeats": [list(n) for n in content["repeats"]]}
    energies, charges = [], []
    for n, said in zip(content["repeats"], others, strict=True):
        copies = int(np.prod(n))
        energies.append(abs(said.energy / copies - one.energy) / len(atoms))
        same = np.tile(_charges(one.charges), copies)
        charges.append(float(np.abs(_charges(said.charges) - same).max()))
    return values | {"energy_eV_per_atom": energies, "charges_e": charges}


def locality(potential: Potential, content: Mapping[str, Any]) -> dict[str, Any]:
    """Change of charges and forces around one atom that is moved, by distance."""
    atoms: Atoms = content["atoms"]
    moved = atoms.copy()
    moved.positions[0] += content["move_A"] * np.array([1.0, 1.0, 1.0]) / 3**0.5
    before, after = predict_in_batches(potential, [atoms, moved])
    distance = atoms.get_all_distances(mic=True)[0]
    order = np.argsort(distance)
    change = np.abs(_charges(after.charges) - _charges(before.charges))
    force = np.linalg.norm(after.forces - before.forces, axis=1)
    return {
        "distance_A": distance[order].round(4).tolist(),
        "charge_change_e": change[order].tolist(),
        "force_change_eV_per_A": force[order].tolist(),
        "box_A": float(atoms.cell.lengths().min()),
    }


def charge_response(potential: Potential, content: Mapping[str, Any]) -> dict[str, Any]:
    """Energy and charges over total charge, and dE/dQ against the stated potential."""
    totals = list(content["total_charges"])
    if len(totals) < 3:
        raise TaskFailed(
            f"the model has met total charges {' '.join(f'{q:+g}' for q in totals)} only; "
            "allow others with --unseen-charge-states allow"
        )
    said = predict_in_batches(
        potential, [_with_charge(content["atoms"], total) for total in totals]
    )
    energy = [s.energy for s in said]
    neutral = totals.index(0.0)
    below, above = neutral - 1, neutral + 1
    slope = (energy[above] - energy[below]) / (totals[above] - totals[below])
    ends = [_charges(said[i].charges) for i in (0, -1)]
    shift = (ends[1] - ends[0]) / (totals[-1] - totals[0])
    return {
        "total_charges_e": totals,
        "energy_eV": [e - energy[neutral] for e in energy],
        "slope_eV_per_e": slope,
        "curvature_eV_per_e2": (energy[above] - 2 * energy[neutral] + energy[below])
        / (totals[above] - totals[neutral]) ** 2,
        "stated_potential_eV_per_e": said[neutral].chemical_potential,
        "smallest_share": float(shift.min()),
        "largest_share": float(shift.max()),
    }


def _born_by_differences(
    potential: Potential, atoms: Atoms, step: float
) -> tuple[np.ndarray, np.ndarray]:
    """Born charges d mu_a / d r_ib, ``(n, 3, 3)``, and the dipole, ``(3,)``."""
    many = [atoms]
    for i in range(len(atoms)):
        for axis in range(3):
            for sign in (-1, 1):
                displaced = atoms.copy()
                displaced.positions[i, axis] += sign * step
                many.append(displaced)
    said = predict_in_batches(potential, many)
    dipoles = np.array([s.dipole for s in said])
    slopes = (dipoles[2::2] - dipoles[1::2]) / (2 * step)  # (3 n, 3): row i, b; column a
    return slopes.reshape(len(atoms), 3, 3).transpose(0, 2, 1), dipoles[0]


def _charges(charges: np.ndarray | None) -> np.ndarray:
    if charges is None or not np.isfinite(charges).all():
        raise TaskFailed("charges are absent or not finite")
    return charges


def _with_charge(atoms: Atoms, total: float) -> Atoms:
    charged = atoms.copy()
    charged.info["charge"] = float(total)
    return charged


def _apart(a: Atoms, b: Atoms, distance: float) -> Atoms:
    """Put two molecules beside each other, their centres so far apart."""
    first, second = a.copy(), b.copy()
    first.positions -= first.positions.mean(axis=0)
    second.positions -= second.positions.mean(axis=0)
    second.positions += distance * np.array([1.0, 0.0, 0.0])
    return _with_charge(first + second, 0.0)


def _repeated(atoms: Atoms, n: tuple[int, int, int]) -> Atoms:
    return _with_charge(atoms.repeat(n), 0.0)


def _levi_civita() -> np.ndarray:
    epsilon = np.zeros((3, 3, 3))
    for i, j, k in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
        epsilon[i, j, k], epsilon[i, k, j] = 1.0, -1.0
    return epsilon
