"""A run that begins with a trained model, from its first table to its last."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from ase.data import chemical_symbols

from qeqtrain.errors import UserMistake
from qeqtrain.models.archive import load
from qeqtrain.models.charge_states import checked_policy
from qeqtrain.models.potential import Potential
from qeqtrain.training.finetuning.elements import describe, with_elements
from qeqtrain.training.finetuning.heads import with_new_charges
from qeqtrain.training.finetuning.origin import read_origin
from qeqtrain.training.finetuning.refit import Shift, refit
from qeqtrain.training.finetuning.replay import Replay, prepare_replay
from qeqtrain.training.finetuning.settings import FineTuning
from qeqtrain.training.finetuning.tables import Errors, errors_of, table
from qeqtrain.training.screen import first_rank, say

if TYPE_CHECKING:
    from qeqtrain.data.sets import DataSets
    from qeqtrain.training.optim import Optimization
    from qeqtrain.training.records import RunFolder

ENTRY = "finetuned_from"
"""Entry of a model's conventions and of run.json that names the source."""

TITLES = {"val": "validation", "test": "test", "replay": "replay (forgetting)"}


class Tuning:
    """What fine-tuning adds to a run.

    Args:
        settings: of the recipe.
        nodes: the recipe's ``potential``, whose parts are the source's.
        data: prepared.
        optim: is told what moves.
        accelerator: where the first and last tables are worked out.

    Raises:
        UserMistake: no such model.
    """

    def __init__(
        self,
        settings: FineTuning,
        nodes: Mapping[str, Any],
        data: DataSets,
        optim: Optimization,
        accelerator: str = "cpu",
    ) -> None:
        self.settings, self.nodes, self.data, self.optim = settings, nodes, data, optim
        gpu = accelerator in ("gpu", "cuda", "auto") and torch.cuda.is_available()
        self.device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if gpu else "cpu"
        self.origin = read_origin(settings.model)
        self.added: list[int] = []
        self._tables: dict[str, dict[str, Errors]] = {}
        self._replay: Replay | None = None

    @property
    def passport(self) -> dict[str, Any]:
        """What every checkpoint says of its source."""
        return {ENTRY: self.origin.plain()}

    def start(self) -> Potential:
        """Make the model that training begins with, and say how it differs from the source.

        Raises:
            UserMistake: elements that the source lacks, without leave to add them; references
                to be kept that are not there; nothing that moves.
        """
        model = self._with_all_elements(copy.deepcopy(self.origin.potential))
        if self.settings.charge == "new":
            charges = self.data.statistics.charge_range
            model, new = with_new_charges(model, self.nodes, charges)
            say(f"finetune: charges begin anew; {len(new)} of the model's weights are new")
        model.conventions = self._conventions(model)
        model.unseen_charge_states = model.conventions["unseen_charge_states"]
        if self.settings.references == "refit":
            shift = self._refit(model)
            _set_references(
                model, {z: e + shift.get(z, 0.0) for z, e in model.references.items()}
            )
        self.settings.govern(self.optim, model)
        return model.train()

    def resume(self, model: Potential, said: Mapping[str, Any]) -> Potential:
        """Prepare the model of a checkpoint to go on.

        Args:
            model: as the checkpoint has it.
            said: entry ``finetuned_from`` of run.json.

        Raises:
            UserMistake: the source is another file than the one the run began with.
        """
        if said.get("sha256") not in (None, self.origin.sha256):
            raise UserMistake(
                f"{self.origin.name}: is not the model this run began with (sha256 "
                f"{self.origin.sha256[:12]}, was {str(said['sha256'])[:12]}); put that back"
            )
        self._tables = {k: dict(v) for k, v in (said.get("tables") or {}).items()}
        self.settings.govern(self.optim, model)
        return model

    def before(self, model: Potential, run: RunFolder) -> None:
        """Print and keep the errors before the first step; mix in what is replayed.

        Args:
            model: that training begins or goes on with.
            run: its folder.
        """
        own, mine = self.origin.potential.references, model.references
        shift = {z: e - own[z] for z, e in mine.items() if z in own}
        if self.settings.replay is not None:
            self._replay = prepare_replay(
                self.settings, self.origin.potential, shift, self.data
            )
            for note in self._replay.notes:
                say(f"finetune: {note}")
        if not self._tables and first_rank():
            self._first_tables(model, shift)
            run.note(**{ENTRY: {**self.origin.plain(), "tables": self._tables}})
        if self._replay is not None:
            self._replay.mix_into(self.data)

    def after(self, run: RunFolder, best: Path) -> None:
        """Print and keep the errors of the best checkpoint beside those before.

        Args:
            run: its folder.
            best: the checkpoint.
        """
        if not first_rank() or not best.exists():
            return
        model = load(best)
        for split, batches in self._splits(model):
            errors, _ = errors_of(model, batches, self.device)
            self._tables.setdefault(split, {})["fine-tuned"] = errors
            say(table(TITLES[split], self._tables[split]))
        run.note(**{ENTRY: {**self.origin.plain(), "tables": self._tables}})

    def _with_all_elements(self, source: Potential) -> Potential:
        """Add the elements of the data that the source lacks, if that is allowed."""
        missing = [z for z in self.data.elements if z not in source.elements]
        if not missing:
            return source
        symbols = ", ".join(chemical_symbols[z] for z in missing)
        problems = []
        if self.settings.new_elements == "error":
            problems.append(
                f"{self.settings.model} does not know {symbols}, which the data have; add "
                "them with finetune.new_elements=add, or take such frames out"
            )
        if self.settings.references == "keep":
            problems.append(
                f"finetune.references=keep: {self.settings.model} has no energy of {symbols}; "
                "say finetune.references=refit"
            )
        if problems:
            raise UserMistake(*problems)
        untrained = source.conventions.get("untrained_elements", [])
        trained = [z for z in source.elements if z not in untrained]
        say(f"finetune: {describe(missing, trained)}")
        self.added = missing
        return with_elements(source, missing, trained)

    def _conventions(self, model: Potential) -> dict[str, Any]:
        """Conventions of the source, with what the data add to them."""
        before, statistics = self.origin.potential.conventions, self.data.statistics
        trained = set(statistics.elements)
        found = {**before, **self.data.conventions}
        for key, met in (
            ("charge_states", statistics.total_charges),
            ("spins", statistics.spins),
        ):
            found[key] = sorted({*map(float, before.get(key, [])), *map(float, met)})
        strange = {*before.get("untrained_elements", []), *self.added}
        found["untrained_elements"] = sorted(z for z in strange if z not in trained)
        found["unseen_charge_states"] = checked_policy(
            str(self.nodes.get("unseen_charge_states", "error"))
        )
        return {**found, **self.passport}

    def _refit(self, model: Potential) -> dict[int, float]:
        """Fit the change of references, and warn of what stays open."""
        found: Shift = refit(model, self.data, self.device)
        if found.warning:
            say(f"warning: {found.warning}")
        shown = ", ".join(f"{chemical_symbols[z]} {e:+.3f}" for z, e in found.energies.items())
        if shown:
            say(f"finetune: references change by {shown} eV ({found.frames:,} frames)")
        return found.energies

    def _first_tables(self, model: Potential, shift: Mapping[int, float]) -> None:
        """Errors before the first step, with the source's references and refitted ones."""
        back = {z: -e for z, e in shift.items()}
        refitted = self.settings.references == "refit"
        for split, batches in self._splits(model):
            errors, raw = errors_of(model, batches, self.device, back)
            if split == "replay" or not refitted:
                self._tables[split] = {"zero-shot": errors}
            elif self.added:  # the source has no energy of these
                self._tables[split] = {"refitted": errors}
            else:
                self._tables[split] = {"zero-shot": raw, "refitted": errors}
            say(table(TITLES[split], self._tables[split]))

    def _splits(self, model: Potential) -> Iterator[tuple[str, Any]]:
        """Splits that have frames, with their batches."""
        for split in ("val", "test"):
            if self.data.split_ids[split]:
                loader = self.data.val_loader if split == "val" else self.data.test_loader
                yield split, loader()
        if self._replay is not None:
            yield "replay", self._replay.loader(model.cutoffs)


def _set_references(model: Potential, energies: Mapping[int, float]) -> None:
    """Give a potential other references, eV by atomic number."""
    model.references = {z: float(energies[z]) for z in model.elements}
    values = torch.tensor(list(model.references.values()), dtype=torch.float64)
    model.reference_energies = values.to(model.device)
