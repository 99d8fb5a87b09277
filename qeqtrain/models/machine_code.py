"""Machine code of an exported model: an AOTInductor package beside the file of plain data.

``qeqtrain export MODEL out.safetensors --compiled`` also writes ``out.pt2``, code for energy,
forces, stress and charges of batches of any size. It holds no weights: those are data, in the
file, which also keeps the package's sha256 and says what it was made for. Nothing of a package
is read unless the caller asks for compiled code. Whoever asks runs code of the file's maker: a
checksum tells damage and confusion from what was exported, not good intent from bad.

torch's own reader of packages unpickles some of what it may find in them; the loader used here
takes libraries out of the archive and nothing else.
"""

from __future__ import annotations

import hashlib
import platform
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from qeqtrain.errors import UserMistake
from qeqtrain.models.compiling import asked_padded, keep_code, refuse_uncompilable
from qeqtrain.models.graph import (
    LAYOUT,
    PER_ATOM,
    TENSORS,
    ResponseGraph,
    flat_tensors,
    is_usual,
    weights_of,
)
from qeqtrain.models.potential import Potential
from qeqtrain.structures import Prediction, Structures

SUFFIX = ".pt2"
ENTRY = "machine_code"
"""Under which an exported file describes the package beside it."""

_LEVELS = {"AVX2": "x86-64-v3", "AVX512": "x86-64-v4"}
"""What torch calls the vector instructions of a processor, and compilers the processors with
them: code made for a level runs on all of that level, not only on the one it was made on."""


def package_beside(path: Path) -> Path:
    """Name the package that belongs to an exported file."""
    return path.with_suffix(SUFFIX)


def write_machine_code(potential: Potential, path: Path) -> dict[str, Any]:
    """Compile a potential into a package.

    Args:
        potential: on a CPU.
        path: replaced if it exists; ends in ``.pt2``.

    Returns:
        What the exported file has to say of it, plain values.

    Raises:
        UserMistake: a part cannot be compiled, or there is no compiler.
    """
    refuse_uncompilable(potential, "--compiled", alone=True)
    keep_code()
    graph = ResponseGraph(potential, forces=True, stress=True)
    inputs = ([w.detach() for w in weights_of(potential)], graph.flat(graph.example))
    with torch.no_grad(), warnings.catch_warnings():
        for category in (FutureWarning, DeprecationWarning):  # of torch about its own pieces
            warnings.simplefilter("ignore", category)
        program = torch.export.export(
            _Plain(graph), inputs, dynamic_shapes=_sizes(graph, len(inputs[0])), strict=False
        )
        part = path.with_suffix(".part.pt2")
        options: dict[str, Any] = {}
        if platform.machine() == "x86_64" and _instructions() in _LEVELS:
            options["cpp.march"] = _LEVELS[_instructions()]
        torch._inductor.aoti_compile_and_package(
            program, package_path=str(part), inductor_configs=options
        )
    digest = hashlib.sha256(part.read_bytes()).hexdigest()
    part.replace(path)
    return {
        "sha256": digest,
        "gives": graph.names,
        "reads": graph.consumers,
        **_here(),
    }


class MachineCode:
    """The package of an exported model, loaded: energy, forces and stress of any batch.

    Args:
        path: of the exported file; the package lies beside it.
        said: what the file says of the package.
        potential: that was read from the file.

    Raises:
        UserMistake: the package is not there, is not the one that was exported, or is of
            another version of qeqtrain or torch, or for another processor.
    """

    def __init__(self, path: Path, said: Mapping[str, Any], potential: Potential) -> None:
        package = package_beside(path)
        if not package.is_file():
            raise UserMistake(
                f"{path}: was exported with machine code, but {package} is not there; copy it "
                "as well, or export again"
            )
        content = package.read_bytes()
        if hashlib.sha256(content).hexdigest() != said["sha256"]:
            raise UserMistake(
                f"{package}: is not the machine code that was exported with {path}, or was "
                "damaged or changed since; it was not run. Export again, or copy both files "
                "again"
            )
        _refuse_elsewhere(package, said)
        self.threads: int | None = said["threads"]
        self._names = list(said["gives"])
        self._consumers = list(said["reads"])
        self._kind = potential.dtype
        # A copy of what was checked, in a folder of our own: nobody changes it in between.
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / f"checked{SUFFIX}"
            copy.write_bytes(content)
            self._code = torch._C._aoti.AOTIModelPackageLoader(str(copy), "model", False, 1, -1)

    def __deepcopy__(self, memo: object) -> MachineCode:
        """Serve copies of a potential as well: there are no weights in it."""
        return self

    def is_made(
        self, potential: Potential, *, forces: bool, stress: bool, threads: int
    ) -> bool:
        """Tell that code is there, whatever is asked."""
        return True

    def answer(
        self, potential: Potential, structures: Structures, *, forces: bool, stress: bool
    ) -> Prediction | None:
        """Predict a batch of known elements, or give ``None`` where code for it is not made.

        Raises:
            UserMistake: the potential has another precision, or is on another device.
        """
        if not (forces or stress) or not is_usual(structures):
            return None
        if potential.dtype != self._kind or potential.device.type != "cpu":
            raise UserMistake(
                f"the machine code of this model is for {self._kind} on a cpu, met "
                f"{potential.dtype} on {potential.device.type}; load it without compiled code"
            )
        mixture = potential.mixture
        owners = None if mixture is None else mixture.index_of(structures)
        structures = replace(structures, data_set=owners)
        found = asked_padded(self._ask, potential, structures)
        return replace(
            found,
            forces=found.forces if forces else None,
            stress=found.stress if stress else None,
        )

    def _ask(self, potential: Potential, structures: Structures) -> Prediction:
        tensors = [*weights_of(potential), *flat_tensors(structures, self._consumers)]
        found = self._code.boxed_run([t.detach().contiguous() for t in tensors])
        return Prediction(**dict(zip(self._names, found, strict=True)))


class _Plain(torch.nn.Module):
    """A graph as the module that torch exports."""

    def __init__(self, graph: ResponseGraph) -> None:
        super().__init__()
        self.written = graph.plain

    def forward(
        self, weights: list[torch.Tensor], flat: list[torch.Tensor]
    ) -> list[torch.Tensor]:
        found: list[torch.Tensor] = self.written(weights, flat)
        return found


def _sizes(graph: ResponseGraph, weights: int) -> tuple[list[None], list[dict[int, Any]]]:
    """Say which sizes of the inputs vary."""
    atoms = torch.export.Dim("atoms", min=2)
    structures = torch.export.Dim("structures", min=2)
    flat = [{0: atoms if name in PER_ATOM else structures} for name in TENSORS]
    if graph.mixed:
        flat.append({0: structures})
    for k in range(len(graph.consumers)):
        flat += [{0: torch.export.Dim(f"pairs_{k}", min=2)}] * 3
        flat.append({0: structures})
    return [None] * weights, flat


def _instructions() -> str:
    return torch.backends.cpu.get_cpu_capability()


def _here() -> dict[str, Any]:
    """Say what code made here runs on; the compiler writes the number of threads into it."""
    return {
        "layout": LAYOUT,
        "torch": torch.__version__,
        "system": f"{platform.system()} {platform.machine()}",
        "instructions": _instructions(),
        "threads": torch.get_num_threads(),
    }


def _refuse_elsewhere(package: Path, said: Mapping[str, Any]) -> None:
    """Raise a :class:`UserMistake` where a package was made for something else.

    Another number of threads is told in a warning: it costs time, or takes it from others.
    """
    if said.get("layout") != LAYOUT:
        raise UserMistake(
            f"{package}: made by another version of qeqtrain, which gave batches to machine "
            "code in another order; export again, or load the model without compiled code"
        )
    here = _here()
    problems = [
        f"{package}: machine code for {name} {said[name]}, this is {here[name]}; export again "
        "here, or load the model without compiled code"
        for name in ("torch", "system")
        if said[name] != here[name]
    ]
    levels: Sequence[str] = ["DEFAULT", *_LEVELS]
    able = said["instructions"] == here["instructions"] or (
        {said["instructions"], here["instructions"]} <= set(levels)
        and levels.index(said["instructions"]) <= levels.index(here["instructions"])
    )
    if not able:
        problems.append(
            f"{package}: machine code for a processor with {said['instructions']}, this one "
            f"has {here['instructions']}; export again here, or load the model without "
            "compiled code"
        )
    if problems:
        raise UserMistake(*problems)
    if said["threads"] != here["threads"]:
        warnings.warn(
            f"{package}: machine code for {said['threads']} threads, and it runs on as many; "
            f"this process has {here['threads']}. Export again with as many (OMP_NUM_THREADS)",
            stacklevel=2,
        )
