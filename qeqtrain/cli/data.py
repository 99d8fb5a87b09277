"""``qeqtrain data``: files converted, looked at, and made."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from qeqtrain.cli.arguments import Parser, split_overrides
from qeqtrain.cli.outputs import refuse_unwritable
from qeqtrain.errors import UserMistake, nearest

if TYPE_CHECKING:
    from qeqtrain.data.labels import Conventions

EPILOG = """\
examples:
  qeqtrain data info train.extxyz
  qeqtrain data info my.yaml               the data sets of a recipe, as it reads them
  qeqtrain data convert train.extxyz more.extxyz train.h5 data.total_charge=zero
  qeqtrain data convert MPtrj_2022.9_full.json mptrj/ --shard-frames 200000 --pairs-cutoff 5 \\
      --on-bad skip --max-force 50 data.total_charge=zero
  qeqtrain data generate alkali_halides cells.h5 --count 200 --workers 2

What a file does not say itself is said by data.key=value: data.total_charge (error | zero |
sum_of_charges), data.nan (error | missing), data.aliases.<label>=<key of the file>,
data.dipole_origin (center_of_mass | coordinates), data.born_charges_order
(dipole_displacement | displacement_dipole), data.valences.<element>=<electrons of its
potential>, data.hdf5.<what>="<dataset> <unit>" for HDF5 of another layout.
"""


def configure(parser: Parser, verb: str) -> Callable[[argparse.Namespace], int]:
    """Describe the arguments of ``convert``, ``info`` and ``generate``."""
    del verb
    parser.description = "Convert files to a store, look at files, generate labelled data."
    parser.epilog = EPILOG
    parser.usage = (
        "qeqtrain data info PATH... [--verify] [--json FILE] [data.key=value ...]\n"
        "       qeqtrain data convert SRC... OUT [--pairs-cutoff A] [--workers W]\n"
        "           [--shard-frames N] [--max-force F] [--on-bad skip|error]\n"
        "           [data.key=value ...]\n"
        "       qeqtrain data generate FAMILY OUT --count N [--seed S] [--workers W]\n"
        "           [--method GFN1-xTB|GFN2-xTB] [--elements Sr,Cl]"
    )
    parser.add_argument("what", choices=None, help="info, convert or generate")
    parser.add_argument("words", nargs="*", help="as above")
    parser.add_argument("--json", type=Path, metavar="FILE", help="info: the same for machines")
    parser.add_argument(
        "--verify",
        action="store_const",
        const=True,
        help="info: read stores from end to end and compare them with their checksums first",
    )
    parser.add_argument(
        "--pairs-cutoff", type=float, metavar="A", help="convert: store neighbours"
    )
    parser.add_argument("--count", type=int, metavar="N", help="generate: how many structures")
    parser.add_argument(
        "--method", metavar="M", help="generate: GFN1-xTB (by default) or GFN2-xTB"
    )
    parser.add_argument(
        "--elements",
        metavar="Sr,Cl",
        help="generate: only salts made of these; all of the family unless given",
    )
    parser.add_argument("--seed", type=int, metavar="S", help="generate: 0 unless given")
    parser.add_argument(
        "--workers", type=int, metavar="W", help="convert, generate: all cores by default"
    )
    parser.add_argument(
        "--shard-frames",
        type=int,
        metavar="N",
        help="convert: OUT is a folder of stores of so many structures",
    )
    parser.add_argument(
        "--max-force",
        type=float,
        metavar="F",
        help="convert: a structure with a larger force on an atom, eV/A, is bad",
    )
    parser.add_argument(
        "--on-bad",
        metavar="skip|error",
        help="convert: leave bad structures out and list them in OUT.rejected.csv, or stop "
        "(by default)",
    )
    return run


_OPTIONS = {
    "info": ("json", "verify"),
    "convert": ("pairs_cutoff", "workers", "shard_frames", "max_force", "on_bad"),
    "generate": ("count", "seed", "workers", "method", "elements"),
}


def run(arguments: argparse.Namespace) -> int:
    """Run one of the three."""
    verbs = {"info": run_info, "convert": run_convert, "generate": run_generate}
    what = arguments.what
    if what not in verbs:
        raise UserMistake(f"data {what}: expected {', '.join(verbs)}{nearest(what, verbs)}")
    strange = {option for options in _OPTIONS.values() for option in options} - {
        *_OPTIONS[what]
    }
    given = sorted(name for name in strange if getattr(arguments, name) is not None)
    if given:
        raise UserMistake(
            *(f"data {what}: --{n.replace('_', '-')} has no use here" for n in given)
        )
    return verbs[what](arguments)


def conventions_of(overrides: Sequence[str]) -> Conventions:
    """Read ``data.key=value`` as conventions."""
    from qeqtrain.recipe.node import override_data

    values = override_data({}, overrides) if overrides else {}
    from qeqtrain.data.labels import Conventions

    return Conventions(**values)


def run_info(arguments: argparse.Namespace) -> int:
    """Describe files."""
    paths, overrides = split_overrides(arguments.words)
    if not paths:
        raise UserMistake("data info: expected one or several paths")
    refuse_unwritable(arguments.json)
    if len(paths) == 1 and paths[0].endswith((".yaml", ".yml")):
        from qeqtrain.cli.recipe_data import info_of_recipe

        text, numbers = info_of_recipe(paths[0], overrides)
        sys.stdout.write(text)
        write_json(arguments.json, numbers)
        return 0
    conventions = conventions_of(overrides)
    from qeqtrain.data.describe import describe, render

    if arguments.verify:
        verify_stores(paths)
    found = describe(paths, conventions)
    sys.stdout.write(render(found).rstrip() + "\n")
    write_json(arguments.json, found)
    return 0


def verify_stores(paths: Sequence[str]) -> None:
    """Compare stores with their checksums, all of every one.

    Raises:
        UserMistake: what is damaged, all together, or a file that is no store.
    """
    from qeqtrain.data import store
    from qeqtrain.data.reading import expand

    problems: list[str] = []
    for path in (file for given in paths for file in expand(given)):
        if path.exists() and not store.is_store(path):
            problems.append(f"{path}: is no store, and has no checksums to --verify")
            continue
        try:
            size = store.verify(path)
        except UserMistake as mistake:
            problems += mistake.problems
        else:
            sys.stdout.write(f"{path}: {size:,} bytes are as they were written\n")
    if problems:
        raise UserMistake(*problems)


def run_convert(arguments: argparse.Namespace) -> int:
    """Convert files."""
    paths, overrides = split_overrides(arguments.words)
    if len(paths) < 2:
        raise UserMistake("data convert: expected SRC... OUT, such as train.extxyz train.h5")
    *sources, out = paths
    path = Path(out)
    if arguments.shard_frames is None:
        refuse_unwritable(path)
    else:
        refuse_unwritable(folders=[path])
    if any(Path(s).exists() and path.exists() and path.samefile(s) for s in sources):
        raise UserMistake(f"{out}: is a file that is read; choose another name")
    conventions = conventions_of(overrides)
    from qeqtrain.data.convert import convert

    done = convert(
        sources,
        path,
        conventions,
        pairs_cutoff=arguments.pairs_cutoff,
        workers=_cores() if arguments.workers is None else arguments.workers,
        shard_frames=arguments.shard_frames,
        max_force=arguments.max_force,
        on_bad=arguments.on_bad or "error",
    )
    sys.stdout.write("\n".join(done.told()) + "\n")
    return 0


def run_generate(arguments: argparse.Namespace) -> int:
    """Generate labelled structures."""
    if len(arguments.words) != 2 or arguments.count is None:
        raise UserMistake(
            "data generate: expected FAMILY OUT --count N; `qeqtrain list families` names them"
        )
    family, out = arguments.words
    refuse_unwritable(Path(out))
    if arguments.seed is not None and arguments.seed < 0:
        raise UserMistake(f"--seed {arguments.seed}: expected 0 or more")
    workers = arguments.workers if arguments.workers is not None else _cores()
    from qeqtrain.data.generate import generate
    from qeqtrain.data.xtb import METHODS

    method = arguments.method or METHODS[0]
    seed = arguments.seed or 0
    elements = [e.strip() for e in (arguments.elements or "").split(",") if e.strip()]
    if arguments.elements is not None and not elements:
        raise UserMistake(f"--elements {arguments.elements!r}: expected symbols, as in Sr,Cl")
    done = generate(
        family, out, arguments.count, seed, workers, method=method, elements=elements
    )
    dropped = f", {done.dropped} dropped (not converged)" if done.dropped else ""
    sys.stdout.write(f"{out}: {done.frames} structures{dropped}, {done.seconds:.0f} s\n")
    return 0


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def write_json(file: Path | None, content: object) -> None:
    """Write the machine-readable twin of what was printed."""
    if file is not None:
        file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
