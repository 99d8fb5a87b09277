"""Large systems on one core: time and memory of energy and forces, and steps of dynamics.

Every size has a process of its own, so that its peak of memory is its own. CPU time, one
thread. Exponents are slopes of CPU time over atoms in logarithms, from the least to the
largest size of a model; the least is measured before and after, for the machine's other load.
See README.md.

    python scripts/bench/large.py --python matgl=../matgl-venv/bin/python
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import shared

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

SIZES = {
    "qet": (1000, 8000, 27000, 50000, 97000),
    "reaxnet": (1000, 4096, 10648, 21952),
    "nequip_lr": (512, 2744, 10648),
}
"""Atoms, about: numbers of the form 8 n^3."""

CALLS_BELOW = 5000
"""Atoms below which four calls are made, else two: the first warms up, the median counts."""

TITLES = {"qet": "QET (qet-matq)", "reaxnet": "ReaxNet (PQEq)", "nequip_lr": "NequIP-LR"}

Line = dict[str, Any]


def table(lines: Sequence[Line]) -> Iterator[str]:
    """Tabulate sizes and what they cost."""
    header = ["model", "atoms", "CPU s", "CPU us/atom", "peak MB", "kB/atom", "solver"]
    rows = []
    for line in lines:
        taken = line["peak_mb"] - line["before_mb"]
        solver = line["solver"]
        if line["iterations"] > 1:
            solver += f", {line['iterations']} products"
        rows.append(
            [
                TITLES[line["task"]],
                f"{line['atoms']:,}",
                f"{line['cpu_s']:.2f}",
                f"{1e6 * line['cpu_s'] / line['atoms']:.0f}",
                f"{line['peak_mb']:,.0f}",
                f"{1024 * taken / line['atoms']:.0f}",
                solver,
            ]
        )
    yield from shared.markdown(header, rows)
    yield ""
    for task in SIZES:
        seconds: dict[int, list[float]] = {}
        for line in lines:
            if line["task"] == task:
                seconds.setdefault(line["atoms"], []).append(line["cpu_s"])
        if len(seconds) > 1:
            a, b = min(seconds), max(seconds)
            mean = {n: sum(seconds[n]) / len(seconds[n]) for n in (a, b)}
            slope = math.log(mean[b] / mean[a]) / math.log(b / a)
            yield (
                f"{TITLES[task]}: CPU time grows as atoms to the power {slope:.2f} from "
                f"{a:,} to {b:,}."
            )


def dynamics_table(lines: Sequence[Line]) -> Iterator[str]:
    """Tabulate steps of dynamics in the order of the runs."""
    header = ["program", "atoms", "CPU ms/step, median", "least", "peak MB"]
    rows = [
        [
            line["program"],
            f"{line['atoms']:,}",
            f"{1e3 * line['cpu_s']:.0f}",
            f"{1e3 * line['least_cpu_s']:.0f}",
            f"{line['peak_mb']:,.0f}",
        ]
        for line in lines
    ]
    yield from shared.markdown(header, rows)
    mean = {
        name: sum(own) / len(own)
        for name in ("matgl", "qeqtrain")
        if (own := [line["cpu_s"] for line in lines if line["program"] == name])
    }
    if len(mean) > 1:
        yield ""
        yield f"matgl's step takes {mean['matgl'] / mean['qeqtrain']:.1f} times as long."


def measure(python: str, *words: str, keep: Path | None) -> Line:
    """Run the adapter once."""
    weights = shared.shared("foundation/qet-matq")
    command = [python, shared.HERE / "large_adapter.py", *words, "--weights", weights]
    extra = {"QEQTRAIN_MODELS": str(weights.parent), "PYTHONPATH": ""}
    if python == sys.executable:
        extra["PYTHONPATH"] = str(shared.REPOSITORY)
    line = shared.last_json(shared.run(command, extra))
    if keep:
        with keep.open("a") as file:
            file.write(json.dumps(line) + "\n")
    return line


def main() -> None:
    """Run all sizes, then the dynamics in turns, and print two tables."""
    parser = shared.parser_with_python(
        __doc__, "Python of matgl's environment; without it ours alone is timed"
    )
    parser.add_argument("--models", nargs="*", choices=sorted(SIZES), default=list(SIZES))
    parser.add_argument("--largest", type=int, default=10**9, help="leave larger sizes out")
    parser.add_argument("--md-atoms", type=int, default=1000, help="of the dynamics; 0: none")
    parser.add_argument("--steps", type=int, default=10, help="of the dynamics")
    parser.add_argument("--results", type=Path, help="append the JSON lines here")
    options = parser.parse_args()
    pythons = shared.python_paths(options.python)
    if foreign := sorted(set(pythons) - {"matgl"}):
        raise SystemExit(f"--python {foreign[0]}: expected matgl")
    lines = []
    for model in options.models:
        sizes = [size for size in SIZES[model] if size <= options.largest]
        for size in [*sizes, *(sizes[:1] if len(sizes) > 1 else [])]:
            calls = "4" if size < CALLS_BELOW else "2"
            words = (model, str(size), "--calls", calls)
            lines.append(measure(sys.executable, *words, keep=options.results))
    if lines:
        sys.stdout.write("\n".join(table(lines)) + "\n\n")
    if not options.md_atoms:
        return
    order = ["matgl", "qeqtrain", "matgl"] if pythons else ["qeqtrain"]
    steps = []
    for program in order:
        words = ("md", str(options.md_atoms), "--program", program)
        words += ("--steps", str(options.steps))
        python = pythons.get(program, sys.executable)
        steps.append(measure(python, *words, keep=options.results))
    sys.stdout.write("\n".join(dynamics_table(steps)) + "\n")


if __name__ == "__main__":
    main()
