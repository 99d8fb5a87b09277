"""A run from recipe to best checkpoint: data, statistics, potential, Lightning, records."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities.exceptions import SIGTERMException

from qeqtrain.errors import Diverged, Interrupted, UserMistake, nearest
from qeqtrain.models.archive import restore
from qeqtrain.models.compiling import CompiledResponse
from qeqtrain.models.threads import respond_alone, respond_by_threads
from qeqtrain.training.assembly import potential_for, sketch_potential, unseen_state_notes
from qeqtrain.training.checkpoints import BEST, Checkpoints
from qeqtrain.training.finetuning.origin import ENTRY as FINETUNED_FROM
from qeqtrain.training.finetuning.settings import FineTuning
from qeqtrain.training.finetuning.tuning import Tuning
from qeqtrain.training.loss import TERMS, Loss
from qeqtrain.training.module import MONITOR, TrainingModule
from qeqtrain.training.optim import Optimization
from qeqtrain.training.parts import build
from qeqtrain.training.profile import StepProfile
from qeqtrain.training.progress import Progress, duration, number
from qeqtrain.training.quantities import QUANTITIES
from qeqtrain.training.ranks import end_other_ranks
from qeqtrain.training.records import MetricsFile, RunFolder, provenance
from qeqtrain.training.resuming import OtherRanks
from qeqtrain.training.screen import say
from qeqtrain.training.signals import StopSignals
from qeqtrain.training.stability import Recovery, named
from qeqtrain.training.tracking import Wandb
from qeqtrain.training.trainer import TrainerSettings, quiet

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from qeqtrain.data.batching import Batch, StatefulLoader
    from qeqtrain.data.prepared import PreparedFrames
    from qeqtrain.models.potential import Ask, Potential


def fit(
    *,
    data: PreparedFrames,
    potential: Mapping[str, Any],
    loss: Loss,
    optim: Optimization,
    trainer: TrainerSettings,
    logger: Mapping[str, Any] | None = None,
    callbacks: Mapping[str, Any] | None = None,
    seed: int = 0,
    folder: Path,
    recipe: Mapping[str, Any],
    resume: bool = False,
    signals: StopSignals | None = None,
    pictures: Callable[[Path, PreparedFrames], Mapping[str, Figure]] | None = None,
    finetune: FineTuning | None = None,
) -> dict[str, Any]:
    """Train a potential.

    Args:
        data: the recipe's data sets.
        potential: nodes ``backbone``, ``charge``, ``coupling``, and ``elements``,
            ``references``, ``scale``, ``dtype``.
        loss: what is minimised.
        optim: how.
        trainer: how long, and on what.
        logger: node of :class:`~qeqtrain.training.tracking.Wandb` or of a Lightning logger.
        callbacks: nodes of Lightning callbacks by name; ``None`` entries are skipped.
        seed: of weights and of whatever draws random numbers.
        folder: of the run.
        recipe: resolved, in plain values; kept in the folder and in every checkpoint.
        resume: continue the run in ``folder`` from its last step; from the beginning if it
            was ended before its first.
        signals: that may ask to stop, if somebody listens to them already.
        pictures: draws what a checkpoint makes of the data, for a logger that shows it.
        finetune: begins with a trained model, whose parts ``potential`` then has.

    Returns:
        What run.json says of the end: best checkpoint, score, errors, epochs, steps, seconds.

    Raises:
        UserMistake: the recipe and the data do not go together.
        Diverged: too many steps in a row were not finite.
        Interrupted: a signal asked to stop; the state is saved.
    """
    budget = trainer.budget()
    sketch = sketch_potential(potential)
    loss.refuse_impossible(
        has_charges=sketch.has_charges, fixed_charges=sketch.has_fixed_charges
    )
    loss.refuse_untrained_dipoles(atomic_dipoles=sketch.atomic_dipoles is not None)
    watchers = _callbacks(callbacks, tuple(getattr(data, "sets", ())))
    run = RunFolder(folder, resume=resume)
    start = run.checkpoint_to_resume() if resume else None
    tracker = None if not logger else build(logger, "logger")
    if isinstance(tracker, Wandb):
        tracker.decide()

    trainer.prepare_process()
    data.prepare(sketch.cutoffs, {name: loss.needs(name) for name in TERMS})
    for note in data.notes:
        say(f"data: {note}")
    if not data.split_ids["val"] and any(
        isinstance(w, pl.callbacks.EarlyStopping) for w in watchers
    ):
        raise UserMistake(
            "callbacks=early_stopping follows the validation errors, and there is no "
            "validation split; set data.val or data.split, or callbacks=none"
        )
    pl.seed_everything(seed, verbose=False)
    tuning = None
    if finetune is not None:
        tuning = Tuning(finetune, potential, data, optim, trainer.accelerator)
    if start is None:
        model = potential_for(potential, data) if tuning is None else tuning.start()
    else:
        run.refuse_other_data(data.fingerprint)
        model = restore(start.header, start.weights)
        if tuning is not None:
            model = tuning.resume(model, run.entry(FINETUNED_FROM) or {})
    signals = signals or StopSignals()
    checkpoints = Checkpoints(
        run.checkpoints, trainer.checkpoint_every, trainer.checkpoint_every_steps, signals
    )
    module = TrainingModule(
        model,
        loss,
        optim,
        done=budget.done,
        passport={
            "recipe": dict(recipe),
            "data_fingerprint": data.fingerprint,
            "versions": provenance()["versions"],
            **({} if tuning is None else tuning.passport),
        },
        log_every=trainer.log_every,
        spike_factor=trainer.spike_factor,
        members=[budget, signals, checkpoints],
        ask=_responder(model, trainer),
    )
    for note in unseen_state_notes(model, data):
        say(f"data: {note}")
    data.use_cutoffs(model.cutoffs)
    data.refuse_fields(model.field)
    parameters = sum(p.numel() for p in model.parameters())
    run.start(
        recipe,
        data.split_ids,
        seed=seed,
        data_fingerprint=data.fingerprint,
        parameters=parameters,
        threads=torch.get_num_threads(),
        resumed_from=None if start is None else start.file.name,
    )
    say(f"{parameters:,} parameters; run folder {folder}")
    if tuning is not None:
        tuning.before(model, run)
    recovery = Recovery(
        [checkpoints.last, checkpoints.best, checkpoints.previous],
        trainer.max_bad_steps,
        trainer.max_rollbacks,
    )
    end = (lambda _: {}) if pictures is None else partial(pictures, data=data)
    own = [
        recovery,
        OtherRanks(),
        budget,
        Progress(budget, checkpoints),
        MetricsFile(run.metrics, budget),
    ]
    with signals, quiet(), run.ending(), _logger(tracker, run, recipe, end) as tracked:
        profile = StepProfile(module) if trainer.profile else None
        lightning = trainer.build(
            folder,
            [*own, *watchers, checkpoints],
            tracked,
            validates=bool(data.split_ids["val"]),
            profiler=profile,
            files=checkpoints.files,
        )
        try:
            lightning.fit(
                module,
                datamodule=Batches(data),
                ckpt_path=None if start is None else start.file,
            )
        except SIGTERMException as error:
            raise Interrupted(
                f"SIGTERM: the last saved state is in {checkpoints.last}"
            ) from error
        except Diverged as error:
            kept = f"the best validated weights are in {checkpoints.best}"
            if not checkpoints.best.exists():
                kept = (
                    "no weights had been validated yet; the state before the last finite step "
                    f"is in {checkpoints.last}"
                )
            raise Diverged(f"{error}; {kept}") from error
        except Interrupted:
            raise  # on all ranks
        except BaseException:
            end_other_ranks(lightning)  # they may be waiting for this one
            raise
        finally:
            if profile is not None:
                profile.close()
        if profile is not None and profile.steps:
            say(profile.table())
            run.note(profile=profile.plain())
    summary = _conclude(run, lightning, module, budget.wall.seconds, checkpoints)
    if tuning is not None:
        tuning.after(run, Path(summary["best"]))
    return summary


def _responder(model: Potential, trainer: TrainerSettings) -> Ask:
    """Choose what predicts during training."""
    if trainer.compile:
        return partial(respond_by_threads, ask=CompiledResponse(model))
    # Parts that are timed by hooks are called one after the other.
    return respond_alone if trainer.profile else respond_by_threads


class Batches(pl.LightningDataModule):
    """Hands the loaders of the data sets to Lightning.

    Args:
        data: prepared.
    """

    def __init__(self, data: PreparedFrames) -> None:
        super().__init__()
        self.data = data

    def train_dataloader(self) -> Iterable[Batch]:
        """Batches of the training split for this rank."""
        return self.data.train_loader(self._rank, self._ranks)

    def val_dataloader(self) -> Iterable[Batch]:
        """Batches of the validation split for this rank."""
        return InOrder(self.data.val_loader(self._rank, self._ranks))

    @property
    def _rank(self) -> int:
        return 0 if self.trainer is None else self.trainer.global_rank

    @property
    def _ranks(self) -> int:
        return 1 if self.trainer is None else self.trainer.world_size


class InOrder:
    """Batches of a loader and nothing else of it.

    Lightning takes what has a ``sampler`` for torch's own loader and asks it for more.

    Args:
        loader: of batches that come in the same order each time.
    """

    def __init__(self, loader: StatefulLoader) -> None:
        self._loader = loader

    def __len__(self) -> int:
        """Count the batches."""
        return len(self._loader)

    def __iter__(self) -> Iterator[Batch]:
        """Hand out the batches."""
        return iter(self._loader)


def _callbacks(nodes: Mapping[str, Any] | None, sets: Sequence[str] = ()) -> list[pl.Callback]:
    """Build the recipe's own callbacks; errors may be followed by data set, if any is named."""
    built = []
    ends = ("", *(f"/{name}" for name in sets))
    for name, node in (nodes or {}).items():
        if node is None:
            continue
        if str(node.get("_target_", "")).endswith(".EarlyStopping"):
            # By itself it looks after the epoch's end, when the last state is saved already.
            node = {"check_on_train_epoch_end": False, **node}
        callback = build(node, f"callbacks.{name}")
        monitored = getattr(callback, "monitor", None)
        kinds = [f"val/{q}_{m}" for q in QUANTITIES for m in ("mae", "rmse")]
        known = [MONITOR, *(f"{kind}{end}" for end in ends for kind in kinds)]
        if monitored is not None and monitored not in known:
            raise UserMistake(
                f"callbacks.{name}.monitor is {monitored!r}; expected one of {', '.join(known)}"
                f"{nearest(str(monitored), known)}"
            )
        if not isinstance(callback, pl.Callback):
            raise UserMistake(f"callbacks.{name} is no Lightning callback: {node['_target_']}")
        built.append(callback)
    return built


@contextmanager
def _logger(
    built: object,
    run: RunFolder,
    recipe: Mapping[str, Any],
    pictures: Callable[[Path], Mapping[str, Figure]],
) -> Iterator[Logger | None]:
    """Start the recipe's logger, and end it with the run; metrics.csv is always written."""
    if built is None:
        yield None
        return
    if isinstance(built, Wandb):
        tracked = built.build(run.path, recipe, run.entry("wandb_id"))
        if tracked is None:
            yield None
            return
        run.note(wandb_id=tracked.experiment.id)
        try:
            yield tracked
            built.conclude(tracked, run.checkpoints / BEST, pictures)
        finally:
            tracked.experiment.finish()
        return
    if not isinstance(built, Logger):
        raise UserMistake(f"logger is no Lightning logger: {type(built).__name__}")
    yield built


def _conclude(
    run: RunFolder,
    lightning: pl.Trainer,
    module: TrainingModule,
    seconds: float,
    checkpoints: Checkpoints,
) -> dict[str, Any]:
    """Write down and print how the run ended."""
    best = run.checkpoints / BEST
    errors = {}
    if best.exists():
        kept = torch.load(best, map_location="cpu", weights_only=True)
        errors = kept["qeqtrain"]["metrics"]
    summary = {
        "best": str(best if best.exists() else checkpoints.last),
        "score": checkpoints.best_score if best.exists() else None,
        "errors": errors,
        "epochs": lightning.current_epoch,
        "steps": lightning.global_step,
        "seconds": round(seconds, 2),
        "skipped_steps": module.skipped_steps,
        "skipped_structures": module.skipped_ids,
    }
    if lightning.is_global_zero:
        run.note_end("finished", **summary)
        shown = ", ".join(
            f"{q.symbol} {number(errors[f'{name}_rmse'])} {q.unit}"
            for name, q in QUANTITIES.items()
            if f"{name}_rmse" in errors
        )
        say(f"{lightning.global_step:,} steps in {duration(seconds)}")
        if shown:
            say(f"best validation RMSE: {shown}")
        say(f"best checkpoint: {summary['best']}")
        if module.skipped_steps:
            say(
                f"{module.skipped_steps:,} steps were skipped (not finite, or spikes), with "
                f"these structures: {named(module.skipped_ids)}"
            )
    return summary
