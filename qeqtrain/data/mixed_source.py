"""Frames of several data sets behind one face, each of which knows the set it comes from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from qeqtrain.data.frames import Frame
from qeqtrain.data.joined import Joined
from qeqtrain.data.source import Source
from qeqtrain.data.texts import Chained, Prefixed


class MixedSource(Joined):
    """Sources of several data sets, one after the other; ids begin with the set's name.

    Args:
        sources: of every set, by its name, in the order of the sets' indices.
    """

    def __init__(self, sources: Mapping[str, Sequence[Source]]) -> None:
        """Join what is known of the sources; frames stay where they are."""
        every = [(name, source) for name, mine in sources.items() for source in mine]
        self._named = [Prefixed(f"{name}: ", source.source_ids) for name, source in every]
        self._begins = np.cumsum([0, *(len(source) for _, source in every)])
        self._places = {id(source): k for k, (_, source) in enumerate(every)}
        super().__init__([part for _, source in every for part in source.parts])
        sizes = [sum(len(s) for s in mine) for mine in sources.values()]
        self.owners = np.repeat(np.arange(len(sources), dtype=np.int16), sizes)

    def _ids(self) -> Sequence[str]:
        """Name of the set and id there of each frame."""
        return Chained(self._named)

    def first_of(self, source: Source) -> int:
        """Index here of the first frame of a source that was given."""
        return int(self._begins[self._places[id(source)]])

    def __getitem__(self, i: int) -> Frame:
        """Read one frame, which knows its data set."""
        frame = super().__getitem__(i)
        assert self.owners is not None
        structure = replace(frame.structure, data_set=int(self.owners[int(i)]))
        return replace(frame, structure=structure)
