"""``qeqtrain predict``: structures labelled by a model."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from qeqtrain.cli.arguments import Parser, split_overrides, take
from qeqtrain.cli.models import (
    add_compiled,
    add_policy,
    model_mistakes,
    path_mistakes,
    policy_mistakes,
)
from qeqtrain.cli.outputs import refuse_unwritable
from qeqtrain.errors import UserMistake

EPILOG = """\
examples:
  qeqtrain predict runs/qet/latest structures.extxyz labelled.extxyz
  qeqtrain predict qet-matq crystals.extxyz labelled.h5 data.total_charge=zero
  qeqtrain predict runs/mixed/latest crystals.extxyz labelled.h5 data.set=matpes

The name of OUT says its format: .extxyz, or .h5 for a store.
"""
SUFFIXES = (".extxyz", ".xyz", ".h5", ".hdf5")


def configure(parser: Parser, verb: str) -> Callable[[argparse.Namespace], int]:
    """Describe the arguments."""
    del verb
    parser.description = "Write energies, forces, stress and charges of a model to a file."
    parser.epilog = EPILOG
    parser.add_argument(
        "model", metavar="MODEL", help="run folder, checkpoint or published model"
    )
    parser.add_argument("words", nargs="*", metavar="IN OUT | data.key=value", help="two files")
    add_policy(parser)
    add_compiled(parser)
    return run


def run(arguments: argparse.Namespace) -> int:
    """Label a file."""
    paths, overrides = split_overrides(arguments.words)
    data_set, overrides = take(overrides, "data.set")
    if len(paths) != 2:
        raise UserMistake(f"expected MODEL IN OUT, met {len(paths)} files after MODEL")
    given, out = paths[0], Path(paths[1])
    problems = [*model_mistakes(arguments.model), *path_mistakes([given])]
    problems += policy_mistakes(arguments.unseen_charge_states)
    if out.suffix not in SUFFIXES:
        problems.append(f"{out}: expected a name that ends in {', '.join(SUFFIXES)}")
    elif out.exists() and Path(given).exists() and out.samefile(given):
        problems.append(f"{out}: is the file that is read; choose another name")
    if problems:
        raise UserMistake(*problems)
    refuse_unwritable(out)

    from qeqtrain.cli.evaluate import conventions_for, open_files
    from qeqtrain.models.archive import load

    potential = load(arguments.model, data_set=data_set, compiled=arguments.compiled)
    if arguments.unseen_charge_states is not None:
        potential.unseen_charge_states = arguments.unseen_charge_states
    (source,) = open_files([given], conventions_for(potential.conventions, overrides)).values()

    from qeqtrain.evaluation.predict import predict

    predict(potential, source, out)
    sys.stdout.write(f"{out}: {len(source):,} structures\n")
    return 0
