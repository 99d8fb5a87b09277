"""A potential in LAMMPS, through ``fix external``: energy, forces, pressure, charges of atoms.

Why not ML-IAP: it takes forces pair by pair within a cutoff, and computes the virial from them;
charges in equilibrium answer to every atom of the structure and to the lattice, so that their
forces and their pressure have no such pairs. It also reads models by unpickling.
``fix external`` (``pf/callback``) hands over all positions and takes totals. LAMMPS has to run
as one process, since an equilibration needs all atoms; torch may use several threads.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from ase.data import atomic_numbers

from qeqtrain.errors import UserMistake, nearest
from qeqtrain.models.archive import own_potential
from qeqtrain.models.potential import Potential
from qeqtrain.neighbors import with_pairs
from qeqtrain.structures import Structure, collate


class QeqForces:
    """Lets a potential drive a LAMMPS that has its box and its atoms.

    Charges of atoms go to ``q`` where the atom style has it (``atom_style charge``). Pressure
    is known where all three directions are periodic, and NaN elsewhere.

    Args:
        lmp: a ``lammps.lammps`` with ``units metal``, on one process. It needs a pair style;
            ``pair_style zero 1.0`` adds nothing.
        model: a checkpoint, an exported file, a run folder, a foundation model's name, or a
            loaded potential.
        elements: symbol of every atom type, in their order.
        device: ``cpu`` unless given.
        dtype: precision of the network; as trained unless given.
        total_charge: of the structure, e. May be left out where the model's policy is to take
            an absent total charge as zero.
        spin: multiplicity 2S+1, for models that read it.
        unseen_charge_states: as for :class:`~qeqtrain.calculator.QeqCalculator`.
        fix: id of the fix.

    Raises:
        UserMistake: other units, several processes, or atom types without an element.
    """

    def __init__(
        self,
        lmp: Any,
        model: str | Path | Potential,
        elements: Sequence[str],
        *,
        device: torch.device | str | None = None,
        dtype: Literal["float32", "float64"] | None = None,
        total_charge: float | None = None,
        spin: float | None = None,
        unseen_charge_states: Literal["error", "allow"] | None = None,
        fix: str = "qeqtrain",
    ) -> None:
        problems = [
            f"element {e!r}: unknown{nearest(e, list(atomic_numbers))}"
            for e in elements
            if e not in atomic_numbers
        ]
        if (units := lmp.extract_global("units")) != "metal":
            problems.append(f"LAMMPS has units {units}; expected units metal")
        if (ranks := lmp.extract_setting("world_size")) != 1:
            problems.append(f"LAMMPS runs as {ranks} processes; expected one")
        if (types := lmp.extract_setting("ntypes")) != len(elements):
            problems.append(
                f"LAMMPS has {types} atom types, and {len(elements)} elements given"
            )
        if problems:
            raise UserMistake(*problems)
        self.potential = own_potential(
            model, device=device, dtype=dtype, unseen_charge_states=unseen_charge_states
        )
        self.total_charge, self.spin = total_charge, spin
        self._numbers = np.array([0, *(atomic_numbers[e] for e in elements)])
        self._lmp, self._fix = lmp, fix
        self._failure: Exception | None = None
        lmp.command(f"fix {fix} all external pf/callback 1 1")
        lmp.command(f"fix_modify {fix} energy yes virial yes")
        lmp.set_fix_external_callback(fix, self._callback, lmp)

    def command(self, line: str) -> None:
        """Give LAMMPS a command, as ``run 100``; what goes wrong in the model is raised.

        ``lmp.command`` does the same, but LAMMPS passes over exceptions in a callback: it would
        stop with NaN and another message.

        Args:
            line: of an input script.

        Raises:
            UserMistake: an element or a charge state that the model does not know, or no total
                charge for a model that has to be told.
        """
        try:
            self._lmp.command(line)
        finally:
            failure, self._failure = self._failure, None
            if failure is not None:
                raise failure

    def _callback(self, _: Any, step: int, n: int, tag: Any, x: Any, f: Any) -> None:
        """Fill in the forces of a step; an exception must not leave a C callback."""
        del step, tag
        try:
            f[:] = self._evaluate(n, np.asarray(x))
        except Exception as error:
            self._failure = error
            f[:] = np.nan
            self._lmp.force_timeout()

    def _evaluate(self, n: int, positions: np.ndarray) -> np.ndarray:
        """Evaluate the potential, pass on energy, virial and charges, and give the forces."""
        low, high, xy, yz, xz, periodic, _ = self._lmp.extract_box()
        size = np.subtract(high, low)
        cell = np.array([[size[0], 0, 0], [xy, size[1], 0], [xz, yz, size[2]]])
        pbc = np.array(periodic, dtype=bool)
        numbers = self._numbers[self._lmp.numpy.extract_atom("type")[:n]]
        charge = self.total_charge
        if charge is None:
            remedy = "say QeqForces(..., total_charge=...)"
            charge = self.potential.charge_where_absent("the structure", remedy)
        structure = Structure(
            numbers=numbers,
            positions=np.array(positions[:n]),
            cell=np.where(pbc[:, None], cell, 0.0),
            pbc=pbc,
            total_charge=float(charge),
            spin=self.spin,
        )
        self.potential.refuse_unknown_elements(torch.from_numpy(np.unique(numbers)))
        self.potential.refuse_unseen_states(structure, "the structure")
        batch = collate([with_pairs(structure, self.potential.cutoffs)])
        known = bool(pbc.all())
        said = self.potential(batch.to(self.potential.device), stress=known).detach()
        virial = np.full(6, np.nan)
        if known:  # eV; LAMMPS counts compression positive, and orders xx yy zz xy xz yz
            stress = said.stress[0].double().cpu().numpy()
            order = ([0, 1, 2, 0, 0, 1], [0, 1, 2, 1, 2, 2])
            virial = -float(np.prod(size)) * stress[order]
        self._lmp.fix_external_set_energy_global(self._fix, float(said.energy[0]))
        self._lmp.fix_external_set_virial_global(self._fix, virial.tolist())
        if said.charges is not None and self._lmp.extract_setting("q_flag") == 1:
            self._lmp.numpy.extract_atom("q")[:n] = said.charges.double().cpu().numpy()
        return said.forces.double().cpu().numpy()
