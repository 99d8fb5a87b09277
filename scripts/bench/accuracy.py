"""Train a recipe for a fixed CPU time through the command line, and test it as the rivals were.

The steps of the shared accuracy benchmark: see ``trial.py``. Prints a Markdown table; see
README.md.

    python scripts/bench/accuracy.py RECIPE --minutes 6 [key=value ...]
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import shared
import trial

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


def table(result: Mapping[str, Mapping[str, float]]) -> Iterator[str]:
    """Tabulate errors over all frames and per total charge."""
    columns = {
        "n": "frames",
        "e_mae": "E MAE, meV/atom",
        "e_rmse": "E RMSE",
        "e_bias": "E bias",
        "f_mae": "F MAE, meV/A",
        "f_rmse": "F RMSE",
        "q_mae": "q MAE, me",
        "q_rmse": "q RMSE",
        "q_sum_max": "worst total charge",
    }
    rows = [
        [name, *(f"{block[key]:.4g}" if key in block else "-" for key in columns)]
        for name, block in result.items()
    ]
    yield from shared.markdown(["charge state", *columns.values()], rows)


def main() -> None:
    """Fit, predict, compare."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("recipe", help="shipped name or YAML file")
    parser.add_argument(
        "overrides", nargs="*", help="key=value words, after those that are set here"
    )
    parser.add_argument(
        "--set", default="data/xtb_nacl8_multicharge", help="folder below the shared inputs"
    )
    parser.add_argument("--minutes", type=float, default=6.0, help="training CPU time")
    parser.add_argument("--batch", type=int, help="structures of a step (the recipe's own)")
    parser.add_argument("--seed", type=int, default=0)
    trial.add_program(parser)
    parser.add_argument("--keep", type=Path, help="keep the working files in this folder")
    parser.add_argument("--results", type=Path, help="append the JSON line here")
    options = parser.parse_intermixed_args()
    program = trial.find_program(options.qeqtrain)
    folder = shared.shared(options.set)
    work = options.keep or Path(tempfile.mkdtemp(prefix="accuracy_"))

    words = [
        *trial.cpu_budget(options.minutes),
        *([f"data.batch_structures={options.batch}"] if options.batch else []),
        *options.overrides,
    ]
    done = trial.attempt(program, options.recipe, words, folder, work, seed=options.seed)
    result = trial.common.metrics(trial.common.load(str(folder))["test"], done.predictions)

    line = {
        "recipe": options.recipe,
        "overrides": options.overrides,
        "set": options.set,
        "minutes": options.minutes,
        "seed": options.seed,
        "fit_cpu_s": done.fit_cpu_s,
        "predict_cpu_s": done.predict_cpu_s,
        "parameters": done.parameters,
        "steps": done.steps,
        "result": result,
    }
    if options.results:
        with options.results.open("a") as file:
            file.write(json.dumps(line) + "\n")
    sys.stdout.write("\n".join(table(result)) + "\n")
    sys.stdout.write(
        f"\nfit: {done.fit_cpu_s:.0f} CPU s with start-up and validation, {done.steps} steps, "
        f"{done.parameters:,} parameters, seed {options.seed}\n"
    )
    if options.keep is None:
        shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    main()
