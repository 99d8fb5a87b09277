"""The command line: one module per verb, imported when the verb is used.

Nothing heavy is imported to print help or to say what is wrong with a recipe.
"""

from __future__ import annotations

import errno
import os
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module

from qeqtrain.cli.arguments import Parser
from qeqtrain.errors import (
    Diverged,
    EquilibrationFailed,
    Interrupted,
    UserMistake,
    nearest,
)

VERBS = {
    "fit": ("fit", "train a recipe"),
    "finetune": ("finetune", "the same from a foundation model or a checkpoint"),
    "sweep": ("sweep", "train a recipe many times with different values"),
    "evaluate": ("evaluate", "errors per quantity, parity plots and a report"),
    "benchmark": ("benchmark", "physical benchmarks, beside published models"),
    "predict": ("predict", "label structures with a model"),
    "export": ("export", "write a model as one self-contained file"),
    "check": ("check", "say everything that can be wrong with a recipe, before training"),
    "data": ("data", "convert, look at, or generate labelled data"),
    "list": ("recipes", "recipes, parts, foundation models, families of data, benchmarks"),
    "show": ("recipes", "print a recipe with everything it takes from elsewhere"),
    "copy": ("recipes", "write a recipe to a file of your own, to edit"),
}
"""Verb: its module here, and one line about it."""

EXIT_CODES = (
    "Exit codes: 0 done; 1 our fault; 2 your mistake; 3 training diverged; 75 to be resumed."
)


def usage() -> str:
    """Text of ``qeqtrain --help``."""
    lines = [f"  {verb:<10}{line}" for verb, (_, line) in VERBS.items()]
    return "\n".join(
        (
            "usage: qeqtrain VERB ...",
            "",
            "Train machine-learning interatomic potentials that know where the charge is.",
            "",
            *lines,
            "",
            "  qeqtrain VERB --help says more of a verb.",
            "",
            "Example, with your own data:",
            "  qeqtrain fit qet data.train=train.extxyz data.val=val.extxyz",
            "  qeqtrain evaluate runs/qet/latest test.extxyz",
            "",
            EXIT_CODES,
        )
    )


_OF_FILES = {
    *(errno.ENOENT, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR),
    *(errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.ENAMETOOLONG),
}
"""Errors of files and disks, which users mend; any other is a fault of ours."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb.

    Args:
        argv: words after the programme's name; those of the process unless given.

    Returns:
        The exit code.
    """
    # Before torch is loaded: on a machine whose cores had other work as well, threads that wait
    # by spinning made small batches 15 times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    words = list(sys.argv[1:] if argv is None else argv)
    verb = words[0] if words else ""
    try:
        return _run(verb, words)
    except UserMistake as mistake:
        return _say(verb, mistake)
    except EquilibrationFailed as failure:
        return _say(verb, UserMistake(f"charges could not be found: {failure}"))
    except Diverged as error:
        _error(f"training diverged: {error}")
        return 3
    except Interrupted as error:
        _error(f"stopped by a signal, everything is saved: {error}")
        return 75
    except KeyboardInterrupt:
        _error("stopped by the keyboard")
        return 130
    except BrokenPipeError:
        sys.stderr.close()  # the reader of a pipe has gone, as in `qeqtrain list | head -1`
        return 0
    except OSError as error:
        if error.errno not in _OF_FILES:
            return _fault()
        where = f"{error.filename}: " if error.filename else ""
        return _say(verb, UserMistake(f"{where}{error.strerror or error}"))
    except Exception:
        return _fault()


def _fault() -> int:
    """Show the traceback of an exception that should not have come this far."""
    traceback.print_exc()
    _error("this is a fault of qeqtrain, not yours; please report the lines above")
    return 1


def _run(verb: str, words: list[str]) -> int:
    if verb in {"", "-h", "--help", "help"}:
        sys.stdout.write(usage() + "\n")
        return 0 if verb else 2
    if verb in {"-V", "--version"}:
        from qeqtrain import __version__

        sys.stdout.write(f"qeqtrain {__version__}\n")
        return 0
    if verb not in VERBS:
        raise UserMistake(
            f"unknown verb '{verb}'{nearest(verb, VERBS)} (verbs: {', '.join(VERBS)})"
        )
    module = import_module(f"qeqtrain.cli.{VERBS[verb][0]}")
    parser = Parser(prog=f"qeqtrain {verb}")
    run = module.configure(parser, verb)
    arguments = parser.parse_intermixed_args(words[1:])
    code: int = run(arguments)
    return code


def _say(verb: str, mistake: UserMistake) -> int:
    for problem in mistake.problems:
        _error(problem)
    helped = f"qeqtrain {verb} --help" if verb in VERBS else "qeqtrain --help"
    count = len(mistake.problems)
    many = f"{count} mistakes" if count > 1 else "stopped"
    sys.stderr.write(f"{many}; usage: {helped}\n")
    return 2


def _error(text: str) -> None:
    sys.stderr.write(f"error: {text}\n")
    sys.stderr.flush()
