r"""Train every combination of backbone, charge model and coupling on one set with one budget.

Each run goes through the command line (see ``trial.py``) on one thread; its line in the results
file makes the next call skip it, so that a comparison can be interrupted and resumed. Prints
one Markdown table and draws one figure; see README.md.

    python scripts/bench/compare.py --set data/xtb_nacl8_multicharge --minutes 6 \
        --conditioning both --jobs 2 --results clusters.jsonl --figure clusters.png
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import chain
import compare_table
import gap
import shared
import trial
from combinations import OWN, Combination, added, combinations

if TYPE_CHECKING:
    from collections.abc import Sequence

EVALUATIONS = (chain, gap)
"""Modules with measures of one set alone."""


@dataclass(frozen=True)
class Plan:
    """What every run of a comparison has in common.

    Attributes:
        program: qeqtrain's command.
        recipe: that the combinations override.
        data: folder with train, val and perhaps test files.
        seed: of weights and order.
        budget: overrides that end a run.
        overrides: for all runs.
        own: overrides for runs with a part: ``{"nequip": ["optim.lr=0.01"]}``.
        work: folder for runs.
        keep: whether runs stay there.
    """

    program: str
    recipe: str
    data: Path
    seed: int
    budget: tuple[str, ...]
    overrides: tuple[str, ...]
    own: dict[str, list[str]]
    work: Path
    keep: bool

    def words(self, combination: Combination) -> list[str]:
        """Write a run as overrides; later ones win."""
        parts = (combination.backbone, combination.charge, combination.coupling)
        own = [word for part in parts for word in self.own.get(part, ())]
        told = combination.words()
        return [*told[:4], *self.budget, *self.overrides, *own, *told[4:]]

    def identity(self, combination: Combination) -> dict[str, object]:
        """What makes a finished run this run."""
        return {
            "name": combination.name,
            "set": self.data.name,
            "recipe": self.recipe,
            "seed": self.seed,
            "words": self.words(combination),
        }


def compare_one(plan: Plan, combination: Combination) -> dict[str, object]:
    """Train, predict and measure one combination; one line of results."""
    folder = plan.work / f"{combination.name.replace(' ', '_')}_seed{plan.seed}"
    shutil.rmtree(folder, ignore_errors=True)  # of a run that was cut off
    done = trial.attempt(
        plan.program,
        plan.recipe,
        plan.words(combination),
        plan.data,
        folder,
        seed=plan.seed,
    )
    frames = trial.common.load(str(plan.data))["test"]
    line = {
        **plan.identity(combination),
        "parts": [combination.backbone, combination.charge, combination.conditioning],
        "parameters": done.parameters,
        "steps": done.steps,
        "fit_cpu_s": done.fit_cpu_s,
        "result": trial.common.metrics(frames, done.predictions),
    }
    for module in EVALUATIONS:
        if module.applies(frames):
            line["further"] = module.measures(frames, done.predictions)
    if not plan.keep:
        shutil.rmtree(folder)
    return line


def finished(results: Path) -> list[dict[str, object]]:
    """Read the runs done so far."""
    if not results.exists():
        return []
    return [json.loads(line) for line in results.read_text().splitlines() if line.strip()]


def compare(
    plan: Plan, chosen: Sequence[Combination], results: Path, jobs: int
) -> tuple[list[dict[str, object]], list[str]]:
    """Run what is missing.

    Returns:
        Lines of all in the order asked for, and the names of those that failed.
    """
    known = finished(results)
    lines: dict[str, dict[str, object]] = {}
    for combination in chosen:
        same = plan.identity(combination)
        for line in known:
            if all(line[key] == value for key, value in same.items()):
                lines[combination.name] = line
    missing = [c for c in chosen if c.name not in lines]
    failed: list[str] = []
    with ThreadPoolExecutor(max_workers=jobs) as pool:
        waiting: dict[Future[dict[str, object]], Combination] = {
            pool.submit(compare_one, plan, combination): combination for combination in missing
        }
        for future in as_completed(waiting):
            name = waiting[future].name
            try:
                line = future.result()
            except SystemExit as failure:  # one that fails must not end the others
                sys.stderr.write(f"{name}: {failure}\n")
                failed.append(name)
                continue
            lines[name] = line
            with results.open("a") as file:
                file.write(json.dumps(line) + "\n")
            sys.stderr.write(f"{name}: {compare_table.brief(line)}\n")
    return [lines[c.name] for c in chosen if c.name in lines], failed


def options_of(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Describe and read the command line."""
    parser.add_argument(
        "--set", required=True, help="folder: a path, or below the shared inputs"
    )
    length = parser.add_mutually_exclusive_group(required=True)
    length.add_argument("--minutes", type=float, help="training CPU time of every run")
    length.add_argument("--steps", type=int)
    length.add_argument("--epochs", type=int)
    parser.add_argument("--recipe", default="qet", help="that the combinations override")
    parser.add_argument("--conditioning", choices=["none", "charge", "both"], default="none")
    parser.add_argument("--only", nargs="+", help="names that contain all of these words")
    parser.add_argument("--skip", nargs="+", help="and none of these")
    parser.add_argument(
        "--add", nargs="+", default=[], metavar="'NAME: key=value ...'", help="rows of your own"
    )
    parser.add_argument("--overrides", nargs="+", default=[], help="key=value, for all runs")
    parser.add_argument(
        "--own",
        nargs="+",
        default=list(OWN),
        metavar="PART:key=value",
        help="for runs with that backbone, charge model or coupling",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, choices=[1, 2], default=1, help="runs at once")
    parser.add_argument("--results", type=Path, default=Path("compare.jsonl"))
    parser.add_argument("--figure", type=Path, help="PNG to draw")
    parser.add_argument("--keep", type=Path, help="keep the runs in this folder")
    parser.add_argument("--list", action="store_true", help="print the names and stop")
    trial.add_program(parser)
    return parser.parse_args()


def main() -> None:
    """Compare."""
    options = options_of(
        argparse.ArgumentParser(
            description=__doc__, formatter_class=argparse.RawTextHelpFormatter
        )
    )
    chosen = [
        c
        for c in [*combinations(options.conditioning), *added(options.add)]
        if all(word in c.name.split() for word in options.only or ())
        and not any(word in c.name.split() for word in options.skip or ())
    ]
    if options.list or not chosen:
        sys.stdout.write("\n".join(c.name for c in chosen) + "\n")
        return
    if options.minutes:
        budget = trial.cpu_budget(options.minutes)
    elif options.steps:
        budget = ["trainer.max_epochs=null", f"trainer.max_steps={options.steps}"]
    else:
        budget = [f"trainer.max_epochs={options.epochs}"]
    own: dict[str, list[str]] = {}
    for word in options.own:
        part, _, override = word.partition(":")
        own.setdefault(part, []).append(override)
    here = Path(options.set)
    plan = Plan(
        program=trial.find_program(options.qeqtrain),
        recipe=options.recipe,
        data=here.resolve() if here.is_dir() else shared.shared(options.set),
        seed=options.seed,
        budget=tuple(budget),
        overrides=tuple(options.overrides),
        own=own,
        work=options.keep or Path(tempfile.mkdtemp(prefix="compare_")),
        keep=options.keep is not None,
    )
    lines, failed = compare(plan, chosen, options.results, options.jobs)
    sys.stdout.write("\n".join(compare_table.markdown(lines)) + "\n")
    if options.figure and lines:
        compare_table.draw(lines, options.figure)
    if options.keep is None and not failed:  # logs of runs that failed are worth a look
        shutil.rmtree(plan.work)
    if failed:
        raise SystemExit(f"failed, and left out: {', '.join(failed)}")


if __name__ == "__main__":
    main()
