"""The model that a run begins with, and what is said of it ever after."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from qeqtrain.models.archive import best_checkpoint, load
from qeqtrain.models.foundation import FOUNDATION_MODELS
from qeqtrain.models.mixture import as_one_set
from qeqtrain.models.potential import Potential


@dataclass(frozen=True)
class Origin:
    """A trained model.

    Attributes:
        name: of a foundation model, or a path.
        sha256: of the file with the weights.
        potential: with averaged weights where training kept an average.
    """

    name: str
    sha256: str
    potential: Potential

    def plain(self) -> dict[str, str]:
        """Name and digest, for the header of checkpoints."""
        return {"model": self.name, "sha256": self.sha256}


def read_origin(model: str) -> Origin:
    """Read a model by name or path; one of several data sets as that it speaks for.

    Args:
        model: as for :func:`qeqtrain.load`; of a run folder the best checkpoint.

    Raises:
        UserMistake: no such model, or a damaged file.
    """
    path = Path(model)
    if path.exists():
        file = best_checkpoint(path)
        name = str(path.absolute())
    else:
        potential = load(model)  # says what is wrong with the name, and finds the files
        known = FOUNDATION_MODELS[model]
        return Origin(model, _sha256(known.folder() / next(iter(known.files))), potential)
    potential = load(file)
    as_one_set(potential)
    return Origin(name, _sha256(file), potential)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
