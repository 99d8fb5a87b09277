"""Damaged files of every format: a clear message, or the frames that are left; never worse.

Each case is a small sound file of a format, damaged in a way that its number decides.
"""

from __future__ import annotations

import signal
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from qeqtrain.data.labels import Conventions
from qeqtrain.data.sources import open_source
from qeqtrain.data.streams import Bad, open_stream
from qeqtrain.errors import UserMistake
from tests.data import published

SECONDS = 20  # a file of some kB takes milliseconds
MEGABYTES = 64
ANY = Conventions("zero", nan="missing", dipole_origin="center_of_mass")


def damage(sound: bytes, random: np.random.Generator) -> bytes:
    """Cut, flip, overwrite, repeat, or remove some bytes."""
    text = bytearray(sound)
    kind = random.integers(7)
    at = int(random.integers(len(text)))
    stop = min(at + int(random.integers(1, 60)), len(text))
    if kind == 0:
        return bytes(text[:at])
    if kind == 1:
        for place in random.integers(len(text), size=random.integers(1, 9)):
            text[place] ^= 1 << int(random.integers(8))
    elif kind == 2:
        text[at:stop] = random.bytes(stop - at)
    elif kind == 3:
        text[at:at] = text[at:stop] * int(random.integers(1, 200))
    elif kind == 4:
        del text[at:stop]
    elif kind == 5:
        digits = np.flatnonzero(np.isin(text, np.frombuffer(b"0123456789", dtype=np.uint8)))
        for place in random.choice(digits, size=min(len(digits), 4)):
            text[place] = int(random.choice(list(b'9e-"]}{[')))
    else:
        return random.bytes(int(random.integers(1, 3000)))
    return bytes(text)


def streamed(path: Path) -> int:
    """Read a file as one that cuts it does; count the frames."""
    stream = open_stream(path, ANY)
    pieces = stream.pieces(3 if path.suffix in {".h5", ".aselmdb"} else 400)
    return sum(not isinstance(raw, Bad) for piece in pieces for raw in stream.read(piece))


def outcome(reader: Callable[[Path], object], path: Path) -> tuple[object, tuple[str, ...]]:
    """Run a reader: what it gives, and what it says."""
    try:
        return reader(path), ()
    except UserMistake as mistake:
        return 0, mistake.problems


def read(path: Path) -> int:
    """Read a file both ways; count the frames."""
    count, said = outcome(streamed, path)
    assert all(path.name in problem for problem in said)
    _, said = outcome(lambda file: open_source(file, ANY), path)
    assert all(problem.strip() for problem in said)
    return int(count)


class Alarm:
    """Turns a hang into a failure."""

    def __enter__(self):
        self.before = signal.signal(signal.SIGALRM, self.ring)
        signal.alarm(SECONDS)

    def __exit__(self, *_):
        signal.alarm(0)
        signal.signal(signal.SIGALRM, self.before)

    def ring(self, *_):
        raise AssertionError(f"not done after {SECONDS} s")


def check_damaged(folder: Path, name: str, cases: range) -> None:
    sound = published.FORMATS[name](folder / name).read_bytes()
    path = folder / f"damaged.{name}"
    survivors = 0
    for case in cases:
        path.write_bytes(damage(sound, np.random.default_rng([case, len(name)])))
        tracemalloc.start()
        try:
            with Alarm():
                survivors += read(path)
            assert tracemalloc.get_traced_memory()[1] < MEGABYTES * 2**20, case
        finally:
            tracemalloc.stop()
    # What is sound in a damaged file is read; a compressed one is unreadable as a whole.
    assert survivors > 0 or name.endswith(".gz")


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numbers that overflow
@pytest.mark.parametrize("name", published.FORMATS)
def test_a_damaged_file_gives_frames_or_a_clear_message(tmp_path, name):
    check_damaged(tmp_path, name, range(40))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("name", published.FORMATS)
def test_hundreds_of_damaged_files_give_frames_or_a_clear_message(tmp_path, name):
    check_damaged(tmp_path, name, range(40, 500))


@pytest.mark.parametrize("suffix", [".json", ".extxyz", ".h5", ".aselmdb", ".data", ".json.gz"])
def test_noise_of_any_length_is_refused(tmp_path, suffix):
    path = tmp_path / f"noise{suffix}"
    for seed in range(20):
        random = np.random.default_rng(seed)
        path.write_bytes(random.bytes(int(random.integers(1, 9000))))
        with Alarm(), pytest.raises(UserMistake, match="noise"):
            open_source(path, ANY)


@pytest.mark.parametrize("text", ["{" * 5000, "[" * 5000, '{"a":' * 3000, '"' * 4001, "}" * 99])
def test_deep_or_unclosed_json_is_refused(tmp_path, text):
    path = tmp_path / "deep.json"
    for head in ("", '{"mp-1": {"0": {"structure": {"sites": '):
        path.write_text(head + text)
        with Alarm(), pytest.raises(UserMistake, match=r"deep\.json"):
            open_source(path, ANY)
