"""The model of a benchmark: how a process loads it, and how rows know it again."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Literal

import torch

from qeqtrain.models.archive import load
from qeqtrain.models.charge_states import checked_policy
from qeqtrain.models.potential import Potential


@dataclass(frozen=True)
class Model:
    """What a worker process needs to load the same model.

    Attributes:
        path: a checkpoint, a run folder, or a foundation model's name.
        device: ``cpu`` unless given.
        dtype: precision of the network; as trained unless given.
        unseen_charge_states: ``error`` or ``allow``; as in the model's recipe unless given.
        data_set: of a model that was trained on several, the one that it speaks for; the main
            one unless given.
    """

    path: str
    device: str = "cpu"
    dtype: Literal["float32", "float64"] | None = None
    unseen_charge_states: str | None = None
    data_set: str | None = None

    def load(self) -> Potential:
        """Load it.

        Raises:
            UserMistake: no such model or data set, or a damaged file.
        """
        potential = load(
            self.path, device=self.device, dtype=self.dtype, data_set=self.data_set
        )
        if self.unseen_charge_states is not None:
            potential.unseen_charge_states = checked_policy(self.unseen_charge_states)
        return potential


def fingerprint(potential: Potential) -> str:
    """Tell models apart: a digest of all weights and of everything else a file keeps."""
    digest = hashlib.sha256(json.dumps(potential.header(), sort_keys=True).encode())
    for name, tensor in sorted(potential.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:32]
