"""Structures on which a model must not become worse: mixed in, and measured.

They are trained on what the source said of them (no labels needed), or on labels of their own.
Both are on the source's scale of energies, so they follow when its references are refitted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from qeqtrain.data.batching import FrameBatches, StatefulLoader
from qeqtrain.data.frames import Frame
from qeqtrain.data.joined import Joined
from qeqtrain.data.plan import BatchPlan
from qeqtrain.data.source import Source
from qeqtrain.data.sources import open_source, source_from_frames
from qeqtrain.data.splits import split_indices
from qeqtrain.errors import UserMistake
from qeqtrain.neighbors import Reach, with_pairs
from qeqtrain.structures import collate

if TYPE_CHECKING:
    from qeqtrain.data.batching import Batch
    from qeqtrain.data.sets import DataSets
    from qeqtrain.models.potential import Potential
    from qeqtrain.training.finetuning.settings import FineTuning

KEPT_APART = {"val": 0.1}
MOST_KEPT = 200
TOGETHER = 16


@dataclass(frozen=True)
class Replay:
    """What is mixed in, and what is kept apart to measure forgetting.

    Attributes:
        train: labelled frames for training; ``None``: only measured.
        val: labelled frames that are never trained on.
        notes: what was left out.
    """

    train: Source | None
    val: Source
    notes: tuple[str, ...] = ()

    def loader(self, cutoffs: Mapping[str, Reach]) -> Iterator[Batch]:
        """Batches of the frames kept apart, in order."""
        frames = np.arange(len(self.val))
        batches = FrameBatches(self.val, tuple(self.val.present), cutoffs, frames)
        plan = BatchPlan(self.val.sizes.astype(np.float64), 512.0, 0, 1, False)
        return iter(StatefulLoader(batches, plan, 0, 0))

    def mix_into(self, data: DataSets) -> None:
        """Add the training frames to those of the data."""
        if self.train is not None:
            source, frames = data.source_of("train")
            more = len(source) + np.arange(len(self.train))
            data.train_on(Joined([source, self.train]), np.concatenate([frames, more]))


def prepare_replay(
    settings: FineTuning, origin: Potential, shift: Mapping[int, float], data: DataSets
) -> Replay:
    """Read, divide and label the frames to be replayed.

    Args:
        settings: of the recipe, with files.
        origin: the source, whose own elements alone count.
        shift: change of its references, eV by atomic number.
        data: prepared; its conventions hold for these files as well.

    Raises:
        UserMistake: unreadable files, or too few frames for the share that is asked for.
    """
    assert settings.replay is not None
    ours, chosen = data.source_of("train")
    try:
        source = open_source(settings.replay, ours.conventions)
    except UserMistake as mistake:
        raise UserMistake(*(f"finetune.replay: {p}" for p in mistake.problems)) from mistake
    known = set(origin.elements) - set(origin.conventions.get("untrained_elements", []))
    strange = np.array([not known.issuperset(_numbers(source, i)) for i in range(len(source))])
    notes = []
    if strange.any():
        notes.append(f"replay: {int(strange.sum()):,} frames have elements the source lacks")
    if settings.replay_labels == "data" and "energy" not in source.present:
        raise UserMistake(
            "finetune.replay_labels=data: the files have no energies; say "
            "finetune.replay_labels=source"
        )
    split = split_indices(source, KEPT_APART, "group", data.seed)
    val, train = (part[~strange[part]] for part in (split["val"], split["train"]))
    share = settings.replay_share
    wanted = round(share / (1.0 - share) * len(chosen))
    if not len(val) or (wanted and not len(train)):
        raise UserMistake(
            f"finetune.replay: {len(source):,} frames, {len(val):,} of which could be kept "
            "apart to measure forgetting; give at least ten of known elements"
        )
    random = np.random.default_rng([data.seed, 0x4EF1A7])
    val = np.sort(random.permutation(val)[:MOST_KEPT])
    train = np.sort(random.permutation(train)[:wanted])
    if len(train) < wanted:
        notes.append(
            f"replay: {len(train):,} frames are there, {wanted:,} would make the share of "
            f"{share:g}; each is seen once in an epoch"
        )
    own = settings.replay_labels == "data"

    def labelled(frames: np.ndarray, name: str) -> Source:
        made = [source[int(i)] for i in frames]
        told = [_shifted(f, shift) for f in made] if own else list(_said(origin, made, shift))
        named = [replace(f, source_id=f"replay: {f.source_id}") for f in told]
        return source_from_frames(named, name, source.conventions)

    return Replay(
        labelled(train, "replay") if len(train) else None, labelled(val, "replay"), tuple(notes)
    )


def _numbers(source: Source, i: int) -> set[int]:
    return set(source[i].structure.numbers.tolist())


def _shift_of(frame: Frame, shift: Mapping[int, float]) -> float:
    return sum(shift.get(int(z), 0.0) for z in frame.structure.numbers)


def _shifted(frame: Frame, shift: Mapping[int, float]) -> Frame:
    """Bring a frame's own energy to the references that training begins with."""
    labels = dict(frame.labels)
    if "energy" in labels:
        labels["energy"] = labels["energy"] + _shift_of(frame, shift)
    return replace(frame, labels=labels)


def _said(
    origin: Potential, frames: list[Frame], shift: Mapping[int, float]
) -> Iterator[Frame]:
    """Label frames with what the source says of them."""
    origin.eval()
    for k in range(0, len(frames), TOGETHER):
        some = frames[k : k + TOGETHER]
        batch = collate([with_pairs(f.structure, origin.cutoffs) for f in some])
        said = origin(batch).detach()
        first = 0
        for row, frame in enumerate(some):
            atoms = slice(first, first + len(frame))
            first = atoms.stop
            labels = {"energy": said.energy[row].numpy() + _shift_of(frame, shift)}
            assert said.forces is not None
            labels["forces"] = said.forces[atoms].numpy()
            if said.stress is not None and frame.structure.pbc.all():
                labels["stress"] = said.stress[row].numpy()
            if said.charges is not None:
                labels["charges"] = said.charges[atoms].double().numpy()
            yield replace(
                frame, labels={n: np.asarray(v, np.float64) for n, v in labels.items()}
            )
