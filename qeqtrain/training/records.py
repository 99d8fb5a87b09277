"""What a run writes about itself: recipe, provenance, splits, and metrics line by line."""

from __future__ import annotations

import csv
import json
import platform
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import yaml
from torch import Tensor

from qeqtrain.errors import UserMistake
from qeqtrain.models.archive import RAW, read_entry
from qeqtrain.training.budget import Budget
from qeqtrain.training.checkpoints import LAST, PREVIOUS
from qeqtrain.training.launchers import job
from qeqtrain.training.module import TrainingModule
from qeqtrain.training.progress import learning_rate
from qeqtrain.training.quantities import QUANTITIES
from qeqtrain.training.screen import first_rank, say
from qeqtrain.training.solves import COLUMNS

PACKAGES = ("qeqtrain", "torch", "pytorch-lightning", "numpy", "ase", "e3nn", "h5py", "vesin")


@dataclass(frozen=True)
class Start:
    """A checkpoint to go on from.

    Attributes:
        file: the checkpoint.
        header: of its potential.
        weights: raw weights of its potential.
    """

    file: Path
    header: dict[str, Any]
    weights: dict[str, Tensor]


class RunFolder:
    """The folder of a run; of several ranks the first one writes.

    Args:
        path: where; made when the run starts.
        resume: whether a run lies there already.

    Raises:
        UserMistake: a new run over an old one, or nothing to resume.
    """

    def __init__(self, path: Path, *, resume: bool) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"
        if resume and not (path / "recipe.yaml").is_file() and not self.checkpoints.is_dir():
            raise UserMistake(f"nothing to resume in {path}: it has no folder 'checkpoints'")
        if not resume and first_rank() and path.is_dir() and any(path.iterdir()):
            raise UserMistake(
                f"{path} is not empty; choose another run_folder, "
                f"or continue it with resume={path}"
            )

    @property
    def metrics(self) -> Path:
        """One line per validation."""
        return self.path / "metrics.csv"

    def start(
        self, recipe: Mapping[str, Any], splits: Mapping[str, Sequence[str]], **entries: Any
    ) -> None:
        """Make the folder; write the recipe, the splits, and how this process was started.

        Args:
            recipe: resolved.
            splits: source ids by split.
            **entries: of this session, for run.json.
        """
        if not first_rank():
            return
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        text = yaml.safe_dump(_plain(recipe), sort_keys=False, allow_unicode=True)
        write_atomically(self.path / "recipe.yaml", text)
        write_atomically(self.path / "splits.json", _lines(splits))
        session = {"argv": sys.argv, "started": now(), "host": platform.node(), **entries}
        if job() is not None:
            session["job"] = job()
        sessions = [*(self.entry("sessions") or []), session]
        self.note(**provenance(), state="running", sessions=sessions)

    @contextmanager
    def ending(self) -> Iterator[None]:
        """Note in run.json how a run that does not finish ended."""
        try:
            yield
        except BaseException as error:
            known = {"Interrupted": "interrupted", "Diverged": "diverged"}
            self.note_end(known.get(type(error).__name__, "failed"), reason=str(error))
            raise

    def note(self, **entries: Any) -> None:
        """Add entries to run.json."""
        if not first_rank():
            return
        file = self.path / "run.json"
        known = self._entries()
        write_atomically(file, json.dumps({**known, **_plain(entries)}, indent=2) + "\n")

    def note_end(self, state: str, **entries: Any) -> None:
        """Note in run.json how this process ended."""
        sessions = self.entry("sessions") or [{}]
        sessions[-1].update(ended=now(), state=state, **_plain(entries))
        self.note(state=state, sessions=sessions, **entries)

    def entry(self, name: str) -> Any:
        """Read one entry of run.json; ``None`` if it is not there."""
        return self._entries().get(name)

    def _entries(self) -> dict[str, Any]:
        file = self.path / "run.json"
        if not file.exists():
            return {}
        try:
            entries: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserMistake(
                f"{file}: is damaged ({error}); remove it, the checkpoints are enough to resume"
            ) from error
        return entries

    def refuse_other_data(self, fingerprint: str) -> None:
        """Make sure that a run goes on with the data it began with.

        Raises:
            UserMistake: frames or splits are others.
        """
        sessions = self.entry("sessions") or []
        before = sessions[-1].get("data_fingerprint") if sessions else None
        if before not in (None, fingerprint):
            raise UserMistake(
                f"the data are not those the run in {self.path} began with (fingerprint "
                f"{fingerprint[:12]}, was {str(before)[:12]}); restore the files, or start anew"
            )

    def checkpoint_to_resume(self) -> Start | None:
        """Find the newest checkpoint that can be read, and say so if it is not the last.

        Returns:
            ``None`` where the run was ended before it saved anything.

        Raises:
            UserMistake: there are some, and none can be read.
        """
        if not any((self.checkpoints / name).exists() for name in (LAST, PREVIOUS)):
            say(f"nothing had been saved in {self.path}: it begins again")
            return None
        seen = []
        for name in (LAST, PREVIOUS):
            file = self.checkpoints / name
            if not file.exists():
                seen.append(f"{name} is missing")
                continue
            try:
                entry, state = read_entry(file)
            except UserMistake as mistake:
                seen.append(f"{name} cannot be read ({mistake})")
                continue
            if seen:
                say(f"{'; '.join(seen)}: resuming from {file}")
            weights = {k.removeprefix(RAW): v for k, v in state.items() if k.startswith(RAW)}
            return Start(file, entry["potential"], weights)
        raise UserMistake(f"nothing to resume in {self.checkpoints}: {'; '.join(seen)}")


class MetricsFile(pl.Callback):
    """Writes metrics.csv: one row per validation, with the training loss since the one before.

    Lightning's CSV logger empties its file when a run is resumed and puts training and
    validation on rows of their own.

    Args:
        file: what to write; rows beyond the step a run resumes from are dropped.
        budget: knows the time spent.
    """

    def __init__(self, file: Path, budget: Budget) -> None:
        self.file = file
        self.budget = budget
        kinds = [(n, k) for n in QUANTITIES for k in ("mae", "rmse")]
        self._columns = {
            f"{name}_{kind}": f"{name}_{kind} ({QUANTITIES[name].unit})" for name, kind in kinds
        }

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the head, or drop what a resumed run does again."""
        if not trainer.is_global_zero:
            return
        assert isinstance(pl_module, TrainingModule)
        mixture = pl_module.potential.mixture
        for name in () if mixture is None else mixture.names:
            for quantity, about in QUANTITIES.items():
                key = f"{quantity}_rmse/{name}"
                self._columns[key] = f"{key} ({about.unit})"
        kept: list[list[str]] = []
        if self.file.exists():
            with self.file.open(newline="") as lines:
                rows = list(csv.reader(lines))
            kept = [
                row
                for row in rows[1:]
                if len(row) > 1 and row[1].isdigit() and int(row[1]) <= trainer.global_step
            ]
        first = ["epoch", "step", "seconds", "cpu_seconds", "lr", "train_loss", "skipped_steps"]
        head = [*first, "score", *self._columns.values(), *COLUMNS]
        part = self.file.with_suffix(".part")
        with part.open("w", newline="") as lines:
            csv.writer(lines).writerows([head, *kept])
        part.replace(self.file)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Add a row."""
        self._add_row(trainer, pl_module)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Add a row of the training loss where nothing is validated."""
        if not trainer.enable_validation:
            self._add_row(trainer, pl_module)

    def _add_row(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        assert isinstance(module, TrainingModule)
        if trainer.is_global_zero:
            errors, solves = module.errors, module.solves.values()
            row = [
                trainer.current_epoch + 1,
                trainer.global_step,
                f"{self.budget.wall.seconds:.2f}",
                f"{self.budget.cpu.seconds:.2f}",
                f"{learning_rate(trainer):.6g}",
                f"{module.mean_loss:.8g}",
                module.skipped_steps,
                f"{errors['score']:.8g}" if errors else "",
                *(f"{errors[key]:.6g}" if key in errors else "" for key in self._columns),
                *(f"{solves[key]:.3g}" if key in solves else "" for key in COLUMNS),
            ]
            with self.file.open("a", newline="") as lines:
                csv.writer(lines).writerow(row)
        module.start_new_mean()
        module.solves.forget()


def provenance() -> dict[str, Any]:
    """Versions of the packages that matter, and the commit of the checkout, if there is one."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return {"versions": versions, "commit": _commit()}


def _commit() -> str | None:
    """Commit of the checkout that the package runs from; ``+`` marks changes on top of it."""
    here = Path(__file__).resolve().parents[2]
    if not (here / ".git").exists():
        return None
    try:
        commit = _git(here, "rev-parse", "HEAD")
        changed = _git(here, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return None
    return commit + ("+" if changed else "")


def _git(folder: Path, *words: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(folder), *words],
        capture_output=True,
        text=True,
        timeout=10,
        check=True,
    )
    return done.stdout.strip()


def now() -> str:
    """Local time with its offset, to the second."""
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


def write_atomically(file: Path, text: str) -> None:
    """Write a file in one go, or not at all."""
    part = file.with_name(file.name + ".part")
    part.write_text(text, encoding="utf-8")
    part.replace(file)


def _lines(splits: Mapping[str, Sequence[str]]) -> str:
    """Write lists of names as JSON, a name a line: a million take no list of their pieces."""
    lists = []
    for name, ids in splits.items():
        inside = ",\n".join(map(json.dumps, ids))
        lists.append(f"{json.dumps(name)}: " + (f"[\n{inside}\n]" if inside else "[]"))
    return "{\n" + ",\n".join(lists) + "\n}"


def _plain(value: Any) -> Any:
    """Turn mappings, sequences and numpy scalars into what JSON and YAML know."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(v) for v in value]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "item") and not isinstance(value, str):
        return value.item()
    return value
