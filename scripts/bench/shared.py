"""Where the benchmark's inputs lie, and how processes are started so that CPU times compare.

Data, clock and peers live outside the repository, in a folder named by the environment
variable ``QEQTRAIN_SHARED`` (default: ``shared`` beside the repository). Needs the standard
library only, because the peers' environments import it too.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from types import ModuleType

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
SHARED = Path(os.environ.get("QEQTRAIN_SHARED") or REPOSITORY.parent / "shared").resolve()

# One thread, and a glibc that keeps freed activations instead of handing them back to the
# kernel: without it page faults take up to a third of a step, for every program alike.
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "100000000000",
    "MALLOC_TOP_PAD_": "268435456",
}


def shared(path: str) -> Path:
    """Give the place of a file or folder of the shared inputs, or say what is missing."""
    found = SHARED / path
    if not found.exists():
        raise SystemExit(
            f"{found} does not exist; set QEQTRAIN_SHARED to the folder that has {path}"
        )
    return found


def load(path: str) -> ModuleType:
    """Import one Python file of the shared inputs."""
    file = shared(path)
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if spec is None or spec.loader is None:
        raise SystemExit(f"{file} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(command: Sequence[str | Path], extra: Mapping[str, str] | None = None) -> str:
    """Run a program on one thread and hand back what it printed; its warnings pass through."""
    environment = {**os.environ, **ENVIRONMENT, "QEQTRAIN_SHARED": str(SHARED), **(extra or {})}
    words = [str(word) for word in command]
    sys.stderr.write("+ " + " ".join(words) + "\n")
    done = subprocess.run(
        words, env=environment, stdout=subprocess.PIPE, text=True, check=False, cwd=Path.cwd()
    )
    if done.returncode:
        raise SystemExit(f"exit status {done.returncode} of: {' '.join(words)}")
    return done.stdout


def last_json(text: str) -> dict[str, object]:
    """Read the last line of a program's output that is a JSON object."""
    for line in reversed(text.splitlines()):
        if line.startswith("{"):
            return dict(json.loads(line))
    raise SystemExit(f"no JSON line in:\n{text[-2000:]}")


def parser_with_python(description: str | None, meaning: str) -> argparse.ArgumentParser:
    """Begin the command line of a benchmark that runs programs in environments of their own."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--python", nargs="*", default=[], metavar="PROGRAM=PATH", help=meaning)
    return parser


def python_paths(words: Sequence[str]) -> dict[str, str]:
    """Read ``name=path`` words: which Python runs which program."""
    pairs = [word.partition("=") for word in words]
    if wrong := [name for name, equals, path in pairs if not (equals and path)]:
        raise SystemExit(
            f"--python {wrong[0]}: expected program=path, as in matgl=venv/bin/python"
        )
    return {name: path for name, _, path in pairs}


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Lay out a Markdown table, first column left, others right."""
    yield "| " + " | ".join(header) + " |"
    yield "|" + "|".join([" --- "] + [" ---: "] * (len(header) - 1)) + "|"
    for row in rows:
        yield "| " + " | ".join(row) + " |"
