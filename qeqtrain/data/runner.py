"""RuNNer ``input.data`` (n2p2, RuNNer): Bohr, Hartree, Hartree/Bohr."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from qeqtrain.data.elements import ATOMIC_NUMBERS
from qeqtrain.data.frames import RawFrame
from qeqtrain.errors import UserMistake
from qeqtrain.units import BOHR, HARTREE


def _block(lines: list[str], where: str) -> RawFrame:
    """Read one frame, the lines between ``begin`` and ``end``."""
    lattice: list[list[float]] = []
    rows: list[list[float]] = []
    numbers: list[int] = []
    info: dict[str, object] = {}
    for line in lines:
        words = line.split()
        if not words:
            continue
        if words[0] == "atom":
            # x y z element charge (unused) fx fy fz
            numbers.append(ATOMIC_NUMBERS[words[4]])
            rows.append([float(w) for w in (*words[1:4], words[5], *words[7:10])])
        elif words[0] == "lattice":
            lattice.append([float(w) for w in words[1:4]])
        elif words[0] == "energy":
            info["energy"] = float(words[1]) * HARTREE
        elif words[0] == "charge":
            info["charge"] = float(words[1])
    if len(lattice) not in (0, 3):
        raise ValueError(f"{len(lattice)} lattice lines; expected none or three")
    values = np.array(rows, dtype=np.float64).reshape(-1, 7)
    return RawFrame(
        numbers=np.array(numbers, dtype=np.int64),
        positions=values[:, :3] * BOHR,
        cell=np.array(lattice) * BOHR if lattice else np.zeros((3, 3)),
        pbc=np.full(3, bool(lattice)),
        info=info,
        arrays={"charges": values[:, 3], "forces": values[:, 4:] * (HARTREE / BOHR)},
        where=where,
    )


def is_runner(head: str) -> bool:
    """Whether a file that starts like this is RuNNer's."""
    words = head.split(maxsplit=1)
    return bool(words) and words[0] == "begin"


def read_runner(path: Path) -> list[RawFrame]:
    """Read all frames; a column of zero charges throughout means that there are none.

    Raises:
        UserMistake: a block is not closed or a line cannot be read.
    """
    frames: list[RawFrame] = []
    block: list[str] | None = None
    start = 0
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            word = line.strip()
            if word == "begin":
                block, start = [], number
            elif word == "end" and block is not None:
                where = f"{path}, frame {len(frames)} (line {start})"
                try:
                    frames.append(_block(block, where))
                except KeyError as error:
                    raise UserMistake(f"{where}: {error.args[0]!r} is no element") from None
                except (ValueError, IndexError) as error:
                    raise UserMistake(
                        f"{where}: {error}; expected atom x y z Element charge unused fx fy fz"
                    ) from None
                block = None
            elif block is not None:
                block.append(line)
    if block is not None:
        raise UserMistake(f"{path}, line {start}: 'begin' without 'end'; the file is cut short")
    if not any(frame.arrays["charges"].any() for frame in frames):
        for frame in frames:
            del frame.arrays["charges"]
    return frames
