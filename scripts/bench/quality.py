"""Train a network of qeqtrain and a peer's on the same frames, in the same way; compare errors.

QET is set beside matgl's, NequIP beside nequip's; ``--crosses`` adds every combination of
backbone, charge model and coupling to the table. A driver without torch: every run is a
process of its own, in the environment of its program (``quality_<program>.py``), on one thread,
``--jobs`` at a time. Finished runs are kept as JSON lines; a run that is there already is not
repeated. See README.md.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

import shared
from combinations import combinations

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

PROGRAMS = {"qet": ("matgl", "qeqtrain"), "nequip": ("nequip", "qeqtrain")}
"""Peer and own program, by network."""
CROSS_RATES = {"nequip": 0.01, "tensornet": 4e-3}
"""Learning rates of the combinations, by backbone, as in ``compare.py``."""


@dataclass(frozen=True)
class Task:
    """What is trained: equal for both programs.

    Attributes:
        model: the network, a key of ``PROGRAMS``.
        data: folder with train and val files, below the shared inputs.
        seed: of initial weights and of the order of frames.
        epochs: passes over the training frames.
        batch: frames of a step.
        lr: highest learning rate.
        energy_weight: of the mean squared error of the energy per atom, 1/eV^2.
        force_weight: of the mean squared error of force components, A^2/eV^2.
        channels, layers, cutoff, radial_functions: shape of the network; cutoff in A.
        l_max, radial_width, radial_depth: of NequIP: highest rotation order, and the hidden
            layers of the radial network.
        cross: a combination's name instead of the plain network, or nothing; see
            ``combinations.py``. Charges then learn from energies and forces alone.
    """

    model: str = "qet"
    data: str = "data/spice_dipeptides_mbis"
    seed: int = 0
    epochs: int = 8
    batch: int = 4
    lr: float = 1e-3
    energy_weight: float = 1.0
    force_weight: float = 1.0
    channels: int = 64
    layers: int = 3
    cutoff: float = 5.0
    radial_functions: int = 9
    l_max: int = 1
    radial_width: int = 64
    radial_depth: int = 2
    cross: str = ""

    @classmethod
    def preset(cls, model: str) -> Task:
        """Give the task of a network where nothing else is asked for."""
        if model == "nequip":
            return cls(model=model, epochs=12, lr=0.02, channels=32, radial_functions=8)
        return cls(model=model)

    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        """Offer every field as an option; what is not given is the preset's."""
        for key, value in asdict(cls()).items():
            choices = sorted(PROGRAMS) if key == "model" else None
            word = f"--{key.replace('_', '-')}"
            parser.add_argument(word, type=type(value), choices=choices)

    @classmethod
    def from_options(cls, options: Mapping[str, object]) -> Task:
        """Take the fields from parsed options, the rest from the preset."""
        given = {f.name: options[f.name] for f in fields(cls)}
        given = {key: value for key, value in given.items() if value is not None}
        return replace(cls.preset(str(given.get("model", "qet"))), **given)

    def of_cross(self, name: str) -> Task:
        """Give the same task for a combination of ours, at a rate that suits its backbone."""
        return replace(self, cross=name, lr=CROSS_RATES[name.split()[0]])

    def words(self) -> list[str]:
        """Write the task as a command line."""
        pairs = [(f"--{key.replace('_', '-')}", str(v)) for key, v in asdict(self).items()]
        return [word for pair in pairs for word in pair]


def finished(results: Path) -> list[dict[str, object]]:
    """Read the runs done so far."""
    if not results.exists():
        return []
    return [json.loads(line) for line in results.read_text().splitlines() if line.strip()]


def known_run(results: Path, program: str, task: Task) -> dict[str, object] | None:
    """Find the last finished run of a task; fields that a line lacks are as by default."""
    same = [
        line
        for line in finished(results)
        if line["program"] == program and Task(**line["task"]) == task
    ]
    return same[-1] if same else None


def table(lines: Sequence[Mapping[str, object]], peer: str) -> Iterator[str]:
    """Tabulate runs, means over seeds and the ratio of the means, ours over the peer's."""
    header = ["run", "seed", "energy, meV/atom", "forces, meV/A", "CPU s", "parameters"]
    rows, means = [], {}
    crosses = [line for line in lines if line["task"].get("cross")]
    plain = [line for line in lines if not line["task"].get("cross")]
    for program in sorted({str(line["program"]) for line in plain}):
        own = [line for line in plain if line["program"] == program]
        errors = [(line["errors"]["e_rmse"], line["errors"]["f_rmse"]) for line in own]
        rows += [_row(line, str(line["version"])) for line in own]
        means[program] = [statistics.fmean(column) for column in zip(*errors, strict=True)]
        e, f = means[program]
        rows.append(
            [f"**{program}, mean**", f"{len(own)} seeds", f"{e:.2f}", f"{f:.1f}", "", ""]
        )
    if {peer, "qeqtrain"} <= set(means):
        pairs = zip(means["qeqtrain"], means[peer], strict=True)
        rows.append([f"qeqtrain / {peer}", "", *(f"{a / b:.3f}" for a, b in pairs), "", ""])
    rows += [_row(line, str(line["task"]["cross"])) for line in crosses]
    yield from shared.markdown(header, rows)


def _row(line: Mapping[str, object], name: str) -> list[str]:
    return [
        name,
        str(line["task"]["seed"]),
        f"{line['errors']['e_rmse']:.2f}",
        f"{line['errors']['f_rmse']:.1f}",
        f"{line['train_cpu_s']:.0f}",
        f"{line['params']}",
    ]


def main() -> None:
    """Run what is missing and print the table."""
    parser = shared.parser_with_python(
        __doc__, "Python of each program's environment (qeqtrain: this one)"
    )
    parser.add_argument("--programs", nargs="+", help="some of the network's two (all)")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--results", type=Path, default=Path("quality.jsonl"))
    parser.add_argument(
        "--crosses", action="store_true", help="every combination of ours, with the first seed"
    )
    parser.add_argument(
        "--skip", nargs="+", default=[], help="combinations whose names contain one of these"
    )
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time (1)")
    Task.add_arguments(parser)
    options = parser.parse_args()
    common = Task.from_options(vars(options))
    programs = options.programs or PROGRAMS[common.model]
    if strange := set(programs) - set(PROGRAMS[common.model]):
        parser.error(f"--programs {strange.pop()}: expected {PROGRAMS[common.model]}")
    pythons = {"qeqtrain": sys.executable, **shared.python_paths(options.python)}

    tasks = [
        (program, replace(common, seed=seed)) for seed in options.seeds for program in programs
    ]
    if options.crosses:
        first = replace(common, seed=options.seeds[0])
        names = [c.name for c in combinations("none")]
        crosses = [n for n in names if not set(options.skip) & set(n.split())]
        tasks += [("qeqtrain", first.of_cross(name)) for name in crosses]
    needed = {p for p, task in tasks if known_run(options.results, p, task) is None}
    if needed - set(pythons):
        name = min(needed - set(pythons))
        raise SystemExit(f"--python {name}=PATH is needed to run {name}")

    def ask(program: str, task: Task) -> dict[str, object]:
        line = known_run(options.results, program, task)
        if line is None:
            worker = shared.HERE / f"quality_{program}.py"
            line = shared.last_json(shared.run([pythons[program], worker, *task.words()]))
            with options.results.open("a") as file:
                file.write(json.dumps(line) + "\n")
        return line

    with ThreadPoolExecutor(max_workers=options.jobs) as pool:
        asked = list(pool.map(ask, *zip(*tasks, strict=True)))
    sys.stdout.write("\n".join(table(asked, PROGRAMS[common.model][0])) + "\n")


if __name__ == "__main__":
    main()
