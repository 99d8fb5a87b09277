"""``qeqtrain export``: a model as one self-contained file."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from qeqtrain.cli.arguments import Parser, take
from qeqtrain.cli.models import model_mistakes
from qeqtrain.cli.outputs import refuse_unwritable
from qeqtrain.errors import UserMistake, nearest

DTYPES = ("float32", "float64")
EPILOG = """\
examples:
  qeqtrain export runs/quickstart/latest nacl.safetensors
  qeqtrain export runs/mixed/latest matpes.safetensors data.set=matpes
  qeqtrain export qet-matq matq64.safetensors --dtype float64
  qeqtrain export runs/quickstart/latest nacl.safetensors --compiled

The file holds weights, recipe, conventions, elements and metrics as plain data, with a
checksum: nothing in it is executed, and a damaged or changed one is refused. Every command
takes it as MODEL; so do qeqtrain.load and qeqtrain.QeqCalculator, which need neither Hydra nor
Lightning.

With --compiled there is a second file beside it, nacl.pt2: machine code for energy, forces,
stress and charges of structures of any size, for this version of torch and processors like
this one. It runs where it is asked for (predict and evaluate --compiled, compiled=True in
Python) and nowhere else: whoever asks runs code of the file's maker.
"""


def configure(parser: Parser, verb: str) -> Callable[[argparse.Namespace], int]:
    """Describe the arguments."""
    del verb
    parser.description = "Write a model as one self-contained file, for use elsewhere."
    parser.epilog = EPILOG
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="run folder, checkpoint or published model",
    )
    parser.add_argument("out", metavar="OUT", type=Path, help="file to write")
    parser.add_argument(
        "words",
        nargs="*",
        metavar="data.set=NAME",
        help="of a model of several data sets, the one that the file speaks for",
    )
    parser.add_argument(
        "--dtype",
        metavar="D",
        help="float32 or float64, of the weights; as trained unless given",
    )
    parser.add_argument(
        "--compiled",
        action="store_true",
        help="write machine code beside it as well, in some minutes: OUT with the ending .pt2",
    )
    return run


def run(arguments: argparse.Namespace) -> int:
    """Export."""
    out: Path = arguments.out
    data_set, rest = take(arguments.words, "data.set")
    problems = model_mistakes(arguments.model)
    problems += [f"{word}: expected MODEL OUT, and perhaps data.set=NAME" for word in rest]
    if arguments.dtype not in (None, *DTYPES):
        near = nearest(arguments.dtype, DTYPES)
        problems.append(f"--dtype {arguments.dtype}: expected {' or '.join(DTYPES)}{near}")
    if out.is_file() and Path(arguments.model).is_file() and out.samefile(arguments.model):
        problems.append(f"{out}: is the file that is read; choose another name")
    if arguments.compiled and out.suffix == ".pt2":
        problems.append(
            f"{out}: is the name of the machine code, which lies beside the model; choose "
            f"{out.with_suffix('.safetensors')}"
        )
    if problems:
        raise UserMistake(*problems)
    refuse_unwritable(out)

    from qeqtrain.data.elements import SYMBOLS
    from qeqtrain.models.archive import best_checkpoint, export

    entry = export(
        arguments.model,
        out,
        dtype=arguments.dtype,
        data_set=data_set,
        compiled=arguments.compiled,
    )
    header = entry["potential"]
    symbols = [SYMBOLS[z] for z in header["elements"]]
    shown = " ".join(symbols) if len(symbols) <= 20 else f"{len(symbols)} of them"
    size = f"{out.stat().st_size / 1e6:.2f} MB"
    path = Path(arguments.model)
    if path.exists():
        file = best_checkpoint(path)
        size += f" ({file}: {file.stat().st_size / 1e6:.2f} MB)"
    lines = [f"{out}: {size}, {header['spec']['dtype']}", f"elements: {shown}"]
    origin = entry.get("foundation") or entry.get("finetuned_from") or {}
    words = {"model": "fine-tuned from", "source": "source", "license": "licence"}
    lines += [f"{word}: {origin[key]}" for key, word in words.items() if key in origin]
    if arguments.compiled:
        code, said = out.with_suffix(".pt2"), entry["machine_code"]
        lines.append(
            f"{code}: {code.stat().st_size / 1e6:.2f} MB of machine code, torch "
            f"{said['torch']}, {said['system']}, {said['instructions']}"
        )
    sys.stdout.write("\n".join(lines) + "\n")
    return 0
