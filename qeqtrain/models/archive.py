"""Where potentials are kept: checkpoints, run folders, exported files; foundation models.

A checkpoint is a file of plain values and tensors, read with ``weights_only=True``: nothing in
it is ever executed. Its entry ``qeqtrain`` carries a format number; one function per step
upgrades older formats. Reading one needs torch alone, not the programmes that trained it. An
exported file (``models/exported.py``) has the same entry and one set of weights.
"""

from __future__ import annotations

import copy
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from qeqtrain.errors import UserMistake, nearest
from qeqtrain.models.charge_states import checked_policy
from qeqtrain.models.exported import is_exported, read_exported, write_exported
from qeqtrain.models.foundation import FOUNDATION_MODELS, first_line
from qeqtrain.models.mixture import choose_set
from qeqtrain.models.potential import DTYPES, Compiled, Potential, build_potential

FORMAT = 1
"""Number of the checkpoint format written today."""

UPGRADES: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}
"""From a format number to the function that brings an entry to the next."""

RAW, AVERAGED = "potential.", "averaged.module."
"""Prefixes of the trained weights and of their running average in a checkpoint's state."""


def restore(header: Mapping[str, Any], state: Mapping[str, Tensor]) -> Potential:
    """Rebuild a potential from what :meth:`Potential.header` gave and its weights."""
    scale = header["scale"]
    potential = build_potential(
        header["spec"],
        elements=header["elements"],
        references={int(z): e for z, e in header["references"].items()},
        scale={int(z): s for z, s in scale.items()} if isinstance(scale, Mapping) else scale,
        average_neighbors=header["average_neighbors"],
        charge_range=header.get("charge_range"),  # absent from older files, as the next
        charge_references=header.get("charge_references"),
        conventions=header["conventions"],
        mixture=header.get("mixture"),
    )
    potential.load_state_dict(dict(state))
    return potential


def load(
    model: str | Path,
    *,
    device: torch.device | str | None = None,
    dtype: Literal["float32", "float64"] | torch.dtype | None = None,
    data_set: str | None = None,
    compiled: bool = False,
) -> Potential:
    """Load a potential, ready to predict.

    Args:
        model: a checkpoint, an exported file, a run folder (its best checkpoint), or a
            foundation model's name. Averaged weights are taken where training kept an average.
        device: ``cpu`` unless given.
        dtype: precision of the network; as trained unless given.
        data_set: of a model that was trained on several, the one whose energies and charges
            are wanted; the main one unless given.
        compiled: predict through compiled code: that of the package beside an exported file,
            if it was exported with one, which runs code of the file's maker; else made at the
            first question, in minutes.

    Raises:
        UserMistake: no such file, model or data set, a file that is not a whole checkpoint, or
            compiled code that cannot be made or is not for here.
    """
    if isinstance(dtype, str) and dtype not in DTYPES:
        raise UserMistake(f"dtype {dtype!r}: expected {' or '.join(DTYPES)}")
    path = Path(model)
    if path.exists():
        potential = _read_checkpoint(best_checkpoint(path))
    elif str(model) in FOUNDATION_MODELS:
        potential = FOUNDATION_MODELS[str(model)].read()
    else:
        names = ", ".join(FOUNDATION_MODELS)
        raise UserMistake(
            f"{model}: no such file or run folder, and no foundation model of that name "
            f"({names}){nearest(str(model), FOUNDATION_MODELS)}"
        )
    if dtype is not None:
        potential = potential.to(DTYPES[dtype] if isinstance(dtype, str) else dtype)
    if data_set is not None:
        choose_set(potential, data_set)
    potential = potential.to(device or "cpu").eval()
    if compiled:
        potential.compiled = _compiled(path, potential)
    return potential


def own_potential(
    model: Potential | str | Path,
    *,
    device: torch.device | str | None = None,
    dtype: Literal["float32", "float64"] | None = None,
    data_set: str | None = None,
    unseen_charge_states: Literal["error", "allow"] | None = None,
    compiled: bool = False,
) -> Potential:
    """Give an interface a potential of its own: one that is loaded, or a copy of the caller's.

    Args:
        model: as for :func:`load`, or a potential, which stays as it is.
        device: as for :func:`load`; of a potential, where it is.
        dtype: as for :func:`load`; of a potential, its own.
        data_set: as for :func:`load`.
        unseen_charge_states: what to do about total charges that the model reads and was not
            trained on; as in its recipe unless given.
        compiled: as for :func:`load`; a potential may have its code already.

    Raises:
        UserMistake: as :func:`load`, or an unknown policy.
    """
    if isinstance(model, Potential):
        kind = model.dtype if dtype is None else DTYPES[dtype]
        potential = copy.deepcopy(model).to(device or model.device, kind).eval()
        if data_set is not None:
            choose_set(potential, data_set)
        if compiled and potential.compiled is None:
            potential.compiled = _compiled(None, potential)
    else:
        potential = load(
            model, device=device, dtype=dtype, data_set=data_set, compiled=compiled
        )
    if unseen_charge_states is not None:
        potential.unseen_charge_states = checked_policy(unseen_charge_states)
    return potential.requires_grad_(False)  # else more is kept for gradients nobody asks for


def export(
    model: str | Path,
    out: Path,
    *,
    dtype: Literal["float32", "float64"] | None = None,
    data_set: str | None = None,
    compiled: bool = False,
) -> dict[str, Any]:
    """Write a model as one self-contained file, which :func:`load` reads.

    It holds the weights once (averaged, where training kept an average), the resolved recipe,
    conventions, references, elements, metrics, and source and licence of a foundation model;
    neither the state of the optimiser nor anything that is executed.

    Args:
        model: as for :func:`load`.
        out: the file, replaced if it exists.
        dtype: precision of the weights in it; as trained unless given.
        data_set: of a model that was trained on several, the one that the file speaks for.
        compiled: also write a package of machine code beside it
            (:mod:`~qeqtrain.models.machine_code`).

    Returns:
        What the file says beside the weights.

    Raises:
        UserMistake: there is no such model, or it cannot be compiled.
    """
    potential = load(model, dtype=dtype, data_set=data_set)
    header = potential.header()
    header["spec"] = {**header["spec"], "dtype": str(potential.dtype).removeprefix("torch.")}
    entry = {**passport(model), "format": FORMAT, "potential": header}
    entry.pop("machine_code", None)
    if compiled:
        # Here: torch's compiler takes a second to import.
        from qeqtrain.models.machine_code import package_beside, write_machine_code

        entry["machine_code"] = write_machine_code(potential, package_beside(out))
    write_exported(out, entry, potential.state_dict())
    return entry


def _compiled(path: Path | None, potential: Potential) -> Compiled:
    """Load the machine code beside an exported file, or prepare to make code."""
    if path is not None and path.is_file() and is_exported(path):
        said = read_exported(path)[0].get("machine_code")
        if said is not None:
            from qeqtrain.models.machine_code import MachineCode

            return MachineCode(path, said, potential)
    from qeqtrain.models.compiling import CompiledResponse

    return CompiledResponse(potential, "compiled code", differentiable=False)


def passport(model: str | Path) -> dict[str, Any]:
    """Say where a model comes from, in plain values.

    Returns:
        Of a checkpoint or exported file: ``recipe``, ``data_fingerprint``, ``versions``,
        ``metrics``. Of a foundation model, and of what was exported from it, ``foundation``:
        ``name``, ``summary``, ``source``, ``license``, ``page``.

    Raises:
        UserMistake: there is no such model.
    """
    if Path(model).exists():
        entry, _ = read_entry(best_checkpoint(Path(model)))
        return {k: v for k, v in entry.items() if k not in ("format", "potential")}
    known = FOUNDATION_MODELS[str(model)]
    names = ("name", "summary", "source", "license", "page")
    return {"foundation": {name: getattr(known, name) for name in names}}


def best_checkpoint(path: Path) -> Path:
    """Find the checkpoint that stands for ``path``: itself, or the best of a run folder."""
    if path.is_file():
        return path
    for name in ("best.ckpt", "last.ckpt", "previous.ckpt"):
        if (path / "checkpoints" / name).is_file():
            return path / "checkpoints" / name
    raise UserMistake(f"{path}: a folder without checkpoints/best.ckpt; expected a run folder")


def read_entry(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read what a checkpoint or exported file says of its potential, in today's format.

    Returns:
        The entry ``qeqtrain`` and the whole ``state_dict``; weights of an exported file are
        named as those of a checkpoint.

    Raises:
        UserMistake: not a file of ours, damaged, or written by a newer version.
    """
    if is_exported(path):
        entry, weights = read_exported(path)
        return _upgraded(entry, path), {RAW + name: value for name, value in weights.items()}
    if path.suffix == ".pt2":
        raise UserMistake(
            f"{path}: machine code, not a model; name the model that it was exported with, and "
            "ask for compiled code (--compiled, compiled=True)"
        )
    if not zipfile.is_zipfile(path):  # torch would try other readers, by the file's name
        raise UserMistake(f"{path}: damaged or not a checkpoint or exported file of qeqtrain")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise UserMistake(
            f"{path}: damaged or not a checkpoint ({first_line(error)})"
        ) from error
    except Exception as error:  # torch raises pickle's own errors for foreign files
        if type(error).__name__ != "UnpicklingError":
            raise
        raise UserMistake(
            f"{path}: not a checkpoint of qeqtrain ({first_line(error)})"
        ) from error
    if not isinstance(content, dict) or "qeqtrain" not in content:
        raise UserMistake(f"{path}: holds no potential of qeqtrain")
    return _upgraded(content["qeqtrain"], path), content["state_dict"]


def _upgraded(entry: Any, path: Path) -> dict[str, Any]:
    """Bring an entry to today's format."""
    if not isinstance(entry, dict) or not {"format", "potential"} <= set(entry):
        raise UserMistake(f"{path}: its entry 'qeqtrain' is not one that qeqtrain writes")
    while entry["format"] in UPGRADES:
        entry = UPGRADES[entry["format"]](entry)
    if entry["format"] != FORMAT:
        raise UserMistake(
            f"{path}: written in format {entry['format']}, this version reads up to {FORMAT}; "
            "update qeqtrain"
        )
    return entry


def _read_checkpoint(path: Path) -> Potential:
    entry, state = read_entry(path)
    prefix = AVERAGED if any(k.startswith(AVERAGED) for k in state) else RAW
    weights = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    return restore(entry["potential"], weights)
