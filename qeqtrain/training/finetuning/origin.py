"""The model that a run begins with, and what is said of it ever after."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from qeqtrain.models.archive import best_checkpoint, load, passport
from qeqtrain.models.foundation import FOUNDATION_MODELS
from qeqtrain.models.mixture import as_one_set
from qeqtrain.models.potential import Potential

ENTRY = "finetuned_from"
"""Entry of a checkpoint, of a model's conventions and of run.json that names the source."""


@dataclass(frozen=True)
class Origin:
    """A trained model.

    Attributes:
        name: of a foundation model, or a path.
        sha256: of the file with the weights.
        potential: with averaged weights where training kept an average.
        published: ``source`` and ``license`` of the published model that it is, or that it was
            itself fine-tuned from.
    """

    name: str
    sha256: str
    potential: Potential
    published: Mapping[str, str] = field(default_factory=dict)

    def plain(self) -> dict[str, str]:
        """Name, digest and licence, for the header of checkpoints."""
        return {"model": self.name, "sha256": self.sha256, **self.published}


def read_origin(model: str) -> Origin:
    """Read a model by name or path; one of several data sets as that it speaks for.

    Args:
        model: as for :func:`qeqtrain.load`; of a run folder the best checkpoint.

    Raises:
        UserMistake: no such model, or a damaged file.
    """
    path = Path(model)
    potential = load(model)  # says what is wrong with the name, and finds the files
    said = passport(model)
    about = said.get("foundation") or said.get(ENTRY) or {}
    published = {key: str(about[key]) for key in ("source", "license") if key in about}
    if path.exists():
        name, file = str(path.absolute()), best_checkpoint(path)
    else:
        known = FOUNDATION_MODELS[model]
        name, file = model, known.folder() / next(iter(known.files))
    as_one_set(potential)
    return Origin(name, _sha256(file), potential, published)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
