"""Some frames of a source, as evaluation reads them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from qeqtrain.data.frames import Frame
    from qeqtrain.evaluation.inference import Frames


class Chosen:
    """The frames of a split, read when they are asked for.

    Args:
        source: all frames.
        frames: indices of the chosen ones.
    """

    def __init__(self, source: Frames, frames: np.ndarray) -> None:
        self._source, self._frames = source, frames

    def __len__(self) -> int:
        """Count the frames."""
        return len(self._frames)

    def __getitem__(self, i: int, /) -> Frame:
        """Read one frame."""
        return self._source[int(self._frames[i])]
