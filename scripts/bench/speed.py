"""Time training steps of qeqtrain and of a peer, in turns, and print one table.

QET against matgl's, or NequIP against nequip's, at the same shape.

Machines drift while a benchmark runs; A-B-A shows by how much, and only the ratio of neighbours
is worth quoting. CPU time of the process, not wall time, on one thread. See README.md.
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import shared

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

PEERS = {
    "matgl": {
        "matgl": lambda: [shared.shared("bench/peers/matgl.py"), "--model", "qet"],
        "qeqtrain": lambda: [shared.HERE / "speed_adapter.py", "--model", "qet"],
    },
    "nequip": {
        "nequip": lambda: [shared.shared("bench/peers/nequip.py")],
        "qeqtrain": lambda: [shared.HERE / "speed_adapter.py", "--model", "nequip"],
    },
}
"""By peer, script and options of each program; all run the shared harness."""

COMPILED = "-compiled"
"""Ending of a program's name that asks for its own compiled mode."""

KNOTS = "-knots"
"""Ending of ours whose radial networks are evaluated on knots only."""

FEATURES = {"matgl": 64, "nequip": 32}
"""Channels of the comparison, unless given."""


def table(lines: Sequence[Mapping[str, object]], peer: str) -> Iterator[str]:
    """Tabulate the runs in the order they were made, then the ratios per system."""
    header = [
        "system",
        "run",
        "CPU ms/step",
        "atoms/CPU-s",
        f"CPU vs {peer}",
        "energy+forces, CPU ms",
        "first step, s",
        "peak RSS, MB",
        "parameters",
    ]
    rows, ratios = [], []
    for system in dict.fromkeys(str(line["system"]) for line in lines):
        own = [line for line in lines if line["system"] == system]
        cost = {
            name: statistics.fmean(
                x["cpu_s_per_1000_atoms"] for x in own if x["program"] == name
            )
            for name in dict.fromkeys(x["program"] for x in own)
        }
        for line in own:
            seconds = line["cpu_s_per_1000_atoms"]
            share = f"{seconds / cost[peer]:.2f}" if peer in cost else "-"
            rows.append(
                [
                    system,
                    f"{line['program']} {line['version']}",
                    f"{line['step_cpu_ms']:.0f}",
                    f"{1000 / seconds:.0f}",
                    share,
                    f"{line['infer_cpu_ms']:.0f}",
                    f"{line['first_step_s']:.1f}",
                    f"{line['rss_mb']}",
                    f"{line['params']}",
                ]
            )
        ratios += [
            f"{system}: {name} needs {seconds / cost[peer]:.2f} of the CPU time per atom that "
            f"{peer} needs"
            for name, seconds in cost.items()
            if peer in cost and name != peer
        ]
    yield from shared.markdown(header, rows)
    yield ""
    yield from ratios


def main() -> None:
    """Run in turns and print the table."""
    parser = shared.parser_with_python(
        __doc__, "Python of each program's environment (qeqtrain: this one)"
    )
    parser.add_argument("--peer", choices=sorted(PEERS), default="matgl")
    parser.add_argument(
        "--order",
        nargs="+",
        choices=sorted(
            {f"{name}{ending}" for name in (*PEERS, "qeqtrain") for ending in ("", COMPILED)}
            | {f"qeqtrain{KNOTS}", f"qeqtrain{KNOTS}{COMPILED}"}
        ),
        metavar="PROGRAM",
        help="of the runs (peer, qeqtrain, peer); qeqtrain-compiled and nequip-compiled: in "
        "its compiled mode; qeqtrain-knots, qeqtrain-knots-compiled: radial networks on knots",
    )
    parser.add_argument("--knots", type=int, default=64, help="of qeqtrain-knots")
    parser.add_argument(
        "--systems", nargs="+", choices=["periodic", "cluster"], default=["periodic", "cluster"]
    )
    parser.add_argument("--features", type=int, help="channels (64; of nequip 32)")
    parser.add_argument("--lmax", type=int, default=2, help="highest degree, of nequip")
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--steps", type=int, default=9, help="timed steps of each run")
    parser.add_argument("--results", type=Path, help="append the JSON lines here")
    options = parser.parse_args()
    peer = options.peer
    order = options.order or [peer, "qeqtrain", peer]
    options.features = options.features or FEATURES[peer]
    programs = {run: run.removesuffix(COMPILED).removesuffix(KNOTS) for run in order}
    if foreign := sorted(set(programs.values()) - set(PEERS[peer])):
        raise SystemExit(f"--order {foreign[0]}: expected {peer} and qeqtrain")
    pythons = {"qeqtrain": sys.executable, **shared.python_paths(options.python)}
    if missing := sorted(set(programs.values()) - set(pythons)):
        raise SystemExit(f"--python {missing[0]}=PATH is needed to run {missing[0]}")
    lines = []
    for system in options.systems:
        for run in order:
            program = programs[run]
            words = [pythons[program], *PEERS[peer][program](), "--system", system]
            for name in ("features", "layers", "lmax", "steps"):
                words += [f"--{name}", str(getattr(options, name))]
            words += ["--compile"] * run.endswith(COMPILED)
            words += ["--knots", str(options.knots)] * (KNOTS in run)
            lines.append({"program": run, **shared.last_json(shared.run(words))})
            if options.results:
                with options.results.open("a") as file:
                    file.write(json.dumps(lines[-1]) + "\n")
    sys.stdout.write("\n".join(table(lines, peer)) + "\n")


if __name__ == "__main__":
    main()
