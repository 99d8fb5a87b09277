"""The `finetune` part of a recipe: where a run begins, what moves, what must not be lost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

from torch import nn

from qeqtrain.errors import UserMistake, nearest
from qeqtrain.training.finetuning.adapters import adapt
from qeqtrain.training.optim import Optimization

References = Literal["refit", "keep"]
NewElements = Literal["error", "add"]
ChargeHead = Literal["keep", "new"]
Conditioning = Literal["keep", "charge", "charge_and_spin"]
ReplayLabels = Literal["source", "data"]


class FineTuning:
    """How a run begins with a trained model.

    Args:
        model: foundation model's name, or path of a checkpoint, run folder or exported file.
        references: ``refit`` energies of elements to what the model leaves of the training
            labels, or ``keep`` the model's.
        train: ``all`` weights, ``heads`` (whatever is not the backbone), or patterns of names.
        freeze: patterns of those of them that stay as they are.
        new_elements: ``add`` those that the model lacks, beginning with the mean of chemically
            near ones, or treat them as an ``error``.
        charge: ``keep`` the model's charge head, or begin with a ``new`` one: for a model that
            had none, or for charges of another kind.
        conditioning: embed total ``charge``, or ``charge_and_spin``, in every atom of a model
            that did not read them, for several charge states; or ``keep`` what it reads.
        lr_decay: learning rate of a layer as a part of the next one's, from the readout down.
        rank: matrices of linear maps move by products of this rank alone (LoRA); ``None``:
            they move freely.
        replay: files with structures on which the model must not become worse.
        replay_share: part of the structures of an epoch that are such; 0 only measures.
        replay_labels: what they are trained on: what the ``source`` said of them, or the
            energies and forces of the ``data``.

    Raises:
        UserMistake: a value outside its range.
    """

    def __init__(
        self,
        model: str,
        references: References = "refit",
        train: str | list[str] = "all",
        freeze: list[str] | None = None,
        new_elements: NewElements = "error",
        charge: ChargeHead = "keep",
        conditioning: Conditioning = "keep",
        lr_decay: float = 1.0,
        rank: int | None = None,
        replay: str | list[str] | None = None,
        replay_share: float = 0.2,
        replay_labels: ReplayLabels = "source",
    ) -> None:
        choices: Mapping[str, tuple[object, object]] = {
            "references": (references, References),
            "new_elements": (new_elements, NewElements),
            "charge": (charge, ChargeHead),
            "conditioning": (conditioning, Conditioning),
            "replay_labels": (replay_labels, ReplayLabels),
        }
        problems = [
            f"finetune.{key} is {met!r}; expected {' | '.join(get_args(kind))}"
            f"{nearest(str(met), get_args(kind))}"
            for key, (met, kind) in choices.items()
            if met not in get_args(kind)
        ]
        if isinstance(train, str) and train not in ("all", "heads"):
            problems.append(
                f"finetune.train is {train!r}; expected all, heads, or a list of patterns: "
                f"[{train}]"
            )
        if not 0.0 < lr_decay <= 1.0:
            problems.append(f"finetune.lr_decay is {lr_decay!r}; expected above 0, up to 1")
        if rank is not None and rank < 1:
            problems.append(f"finetune.rank is {rank!r}; expected null or 1 and more")
        if not 0.0 <= replay_share < 1.0:
            problems.append(f"finetune.replay_share is {replay_share!r}; expected 0 to below 1")
        if problems:
            raise UserMistake(*problems)
        self.model = model
        self.references = references
        self.train = train
        self.freeze = list(freeze or [])
        self.new_elements = new_elements
        self.charge = charge
        self.conditioning = conditioning
        self.lr_decay = float(lr_decay)
        self.rank = rank
        self.replay = replay
        self.replay_share = float(replay_share)
        self.replay_labels = replay_labels

    def govern(self, optim: Optimization, model: nn.Module) -> None:
        """Say to the optimiser what of a model moves, and how fast.

        Args:
            optim: of the recipe; gets the patterns and the decay.
            model: whose matrices get adapters, if the recipe has a rank.

        Raises:
            UserMistake: the recipe says what moves in two places, or matches nothing.
        """
        both = [
            key
            for key, mine, theirs in (
                ("train", self.train != "all", optim.train),
                ("freeze", self.freeze, optim.freeze),
            )
            if mine and theirs
        ]
        if both:
            raise UserMistake(
                *(f"optim.{k}: finetune.{k} says it; leave one out" for k in both)
            )
        if self.train == "heads":
            names = (name for name, _ in model.named_parameters())
            optim.train = sorted({n for n in names if not n.startswith("backbone.")})
        elif self.train != "all":
            optim.train = list(self.train)
        if self.freeze:
            optim.freeze = list(self.freeze)
        optim.lr_decay = self.lr_decay
        optim.freeze_weights(model)
        if self.rank is not None:
            adapt(model, self.rank)
