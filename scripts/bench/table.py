"""Time our networks and those of other programs, keep every measurement, and print one table.

    python scripts/bench/table.py --python matgl=../matgl-venv/bin/python nequip=...
    python scripts/bench/table.py --networks nequip --threads 2 --sizes 8 1x2
    python scripts/bench/table.py --show       the table of what was measured; nothing is run
    python scripts/bench/table.py --readme     the same, written into README.md

Each case is run in turns, rival - ours - rival, each in a process of its own, through the
shared harness (batches ready, the same loss and optimiser). Programs without a Python are left
out. On a CPU with one thread CPU time counts, otherwise the least time by the clock. See
README.md.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import shared
from table_cases import ALONE, CLUSTER, NETWORKS, OWN, PERIODIC, Network, Size
from table_layout import table

RESULTS = shared.HERE / "results.jsonl"
README = shared.REPOSITORY / "README.md"
BEGIN = "<!-- made by `python scripts/bench/table.py --readme` -->"
END = "<!-- end of the table -->"


def read(path: Path) -> list[dict[str, Any]]:
    """Read the measurements."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def hardware() -> str:
    """Name the processor and the number of its cores; nothing that identifies the machine."""
    name = platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                name = line.partition(":")[2].strip()
                break
    cores = os.cpu_count()
    return f"{cores} cores of {name}"


def commit() -> str:
    """Name the commit that is measured, with a plus sign if files were changed since."""

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", "-C", str(shared.REPOSITORY), *words],
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        ).stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no", "--", "qeqtrain")
    return git("rev-parse", "--short", "HEAD") + "+" * bool(changed)


def turns(network: Network, pythons: Mapping[str, str], *, compiled: bool) -> list[list[str]]:
    """List the programs of a case in the order they run, with their further words."""
    rival = [network.rival] if network.rival == ALONE or network.rival in pythons else []
    ours = [[OWN], *([[OWN, "--compile"]] if compiled else [])]
    return [*([r] for r in rival), *ours, *([r] for r in rival)]


def measure(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Run every case that was asked for."""
    pythons = shared.python_paths(options.python)
    started = datetime.datetime.now(datetime.UTC)
    about = {
        "run": started.strftime("%Y-%m-%dT%H:%M:%S"),
        "date": started.strftime("%Y-%m-%d"),
        "commit": commit(),
        "hardware": hardware(),
        "command": "python scripts/bench/table.py " + " ".join(_plain_words(sys.argv[1:])),
    }
    cases = itertools.product(options.networks, options.systems, options.sizes, options.threads)
    for name, system, word, threads in cases:
        network, size = NETWORKS[name], Size.read(word)
        if system == CLUSTER and size.repeat > 1:
            continue  # a group of molecules has no cell to repeat
        if network.rival not in (*pythons, ALONE):
            sys.stderr.write(f"{name}: no --python {network.rival}=PATH, ours runs alone\n")
        for turn in turns(network, pythons, compiled=options.compiled):
            program, more = turn[0], turn[1:]
            words = [pythons.get(program, sys.executable), shared.HERE / "table_adapter.py"]
            words += ["--program", program, "--network", name, "--system", system]
            words += ["--batch", str(size.batch), "--repeat", str(size.repeat)]
            words += ["--threads", str(threads), "--device", options.device]
            words += ["--steps", str(options.steps), *more]
            for key, value in {**network.options, **network.model}.items():
                words += [f"--{key}", str(value)]
            extra = {key: str(threads) for key in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
            load = round(os.getloadavg()[0], 1)  # of others, before this run
            line = shared.last_json(shared.run(words, extra))
            yield {**line, **about, "load": load}


def _plain_words(words: Sequence[str]) -> list[str]:
    """Leave out where the Pythons of other programs are."""
    kept, skipping = [], False
    for word in words:
        if word.startswith("--"):
            skipping = word in ("--python", "--results")
        if not skipping:
            kept.append(word)
    return kept


def in_readme(text: str, lines: Sequence[Mapping[str, Any]]) -> str:
    """Put the table between its two marks in the text of README.md."""
    before, _, rest = text.partition(BEGIN)
    old, mark, after = rest.partition(END)
    if not old or not mark:
        raise SystemExit(f"README.md has no {BEGIN} and {END}")
    return "\n".join([before + BEGIN, "", *table(lines), END + after])


def main() -> None:
    """Measure, or show what was measured."""
    parser = shared.parser_with_python(
        __doc__, "Python of another program's environment: matgl, nequip"
    )
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument(
        "--systems", nargs="+", choices=[PERIODIC, CLUSTER], default=[PERIODIC, CLUSTER]
    )
    parser.add_argument(
        "--sizes", nargs="+", default=["8"], help="8: structures; 1x2: of cells repeated 2x2x2"
    )
    parser.add_argument("--threads", nargs="+", type=int, default=[1])
    parser.add_argument("--device", default="cpu", help="cpu, or cuda")
    parser.add_argument("--compiled", action="store_true", help="ours compiled as well")
    parser.add_argument("--steps", type=int, default=7, help="timed steps of each run")
    parser.add_argument("--results", type=Path, default=RESULTS, help="JSON lines, appended to")
    parser.add_argument("--show", action="store_true", help="print the table and run nothing")
    parser.add_argument("--readme", action="store_true", help="write it into README.md")
    options = parser.parse_args()
    for word in options.sizes:
        Size.read(word)
    if not (options.show or options.readme):
        for line in measure(options):
            with options.results.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
    lines = read(options.results)
    if options.readme:
        text = in_readme(README.read_text(encoding="utf-8"), lines)
        README.write_text(text, encoding="utf-8")
    else:
        sys.stdout.write("\n".join(table(lines)) + "\n")


if __name__ == "__main__":
    main()
