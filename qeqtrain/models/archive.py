"""Where potentials are kept: checkpoints and run folders; foundation models by name.

A checkpoint is a file of plain values and tensors, read with ``weights_only=True``: nothing in
it is ever executed. Its entry ``qeqtrain`` carries a format number; one function per step
upgrades older formats. Reading one needs torch alone, not the programmes that trained it.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from qeqtrain.errors import UserMistake, nearest
from qeqtrain.models.foundation import FOUNDATION_MODELS, first_line
from qeqtrain.models.potential import DTYPES, Potential, build_potential

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
    )
    potential.load_state_dict(dict(state))
    return potential


def load(
    model: str | Path,
    *,
    device: torch.device | str | None = None,
    dtype: Literal["float32", "float64"] | torch.dtype | None = None,
) -> Potential:
    """Load a potential, ready to predict.

    Args:
        model: a checkpoint, a run folder (its best checkpoint), or a foundation model's name.
            Averaged weights are taken where training kept an average.
        device: ``cpu`` unless given.
        dtype: precision of the network; as trained unless given.

    Raises:
        UserMistake: no such file or model, or a file that is not a whole checkpoint.
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
    return potential.to(device or "cpu").eval()


def best_checkpoint(path: Path) -> Path:
    """Find the checkpoint that stands for ``path``: itself, or the best of a run folder."""
    if path.is_file():
        return path
    for name in ("best.ckpt", "last.ckpt", "previous.ckpt"):
        if (path / "checkpoints" / name).is_file():
            return path / "checkpoints" / name
    raise UserMistake(f"{path}: a folder without checkpoints/best.ckpt; expected a run folder")


def read_entry(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read what a checkpoint says of its potential, upgraded to today's format.

    Returns:
        The entry ``qeqtrain`` and the whole ``state_dict``.

    Raises:
        UserMistake: not a checkpoint of ours, damaged, or written by a newer version.
    """
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
    entry = content["qeqtrain"]
    if not isinstance(entry, dict) or not {"format", "potential"} <= set(entry):
        raise UserMistake(f"{path}: its entry 'qeqtrain' is not one that qeqtrain writes")
    while entry["format"] in UPGRADES:
        entry = UPGRADES[entry["format"]](entry)
    if entry["format"] != FORMAT:
        raise UserMistake(
            f"{path}: written in format {entry['format']}, this version reads up to {FORMAT}; "
            "update qeqtrain"
        )
    return entry, content["state_dict"]


def _read_checkpoint(path: Path) -> Potential:
    entry, state = read_entry(path)
    prefix = AVERAGED if any(k.startswith(AVERAGED) for k in state) else RAW
    weights = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    return restore(entry["potential"], weights)
