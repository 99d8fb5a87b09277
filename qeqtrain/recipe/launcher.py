"""Hydra's choice of where runs start: ``hydra/launcher=submitit_slurm hydra.launcher.nodes=2``.

The settings are those of the plugin hydra-submitit-launcher, by their names and types there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from qeqtrain.errors import UserMistake, nearest

CHOICE = "hydra/launcher"
LAUNCHERS = ("basic", "submitit_slurm", "submitit_local")
_NOT_OURS = ("_target_", "submitit_folder", "max_num_timeout")
"""Settings that a sweep takes care of: it keeps one folder, and goes on after a time limit."""


@dataclass(frozen=True)
class LauncherChoice:
    """A launcher of submitit.

    Attributes:
        cluster: ``slurm``, or ``local`` for a trial of it on this machine.
        base: settings that every cluster has, by name.
        own: settings of this kind of cluster.
        parallel: jobs at a time.
    """

    cluster: str
    base: dict[str, Any]
    own: dict[str, Any]
    parallel: int


def split_launcher(overrides: Sequence[str]) -> tuple[LauncherChoice | None, list[str]]:
    """Separate what is said of the launcher from what is said of the recipe.

    Returns:
        The launcher, ``None`` for processes of this machine; and the other overrides.

    Raises:
        UserMistake: an unknown launcher or setting, or the plugin is not installed.
    """
    mine = [text for text in overrides if text.startswith((CHOICE, "hydra.launcher."))]
    rest = [text for text in overrides if text not in mine]
    if not mine:
        return None, rest
    chosen, settings = "basic", {}
    for text in mine:
        try:
            (override,) = OverridesParser.create().parse_overrides([text])
        except HydraException as error:
            raise UserMistake(
                f"override '{text}': expected hydra.launcher.KEY=VALUE"
            ) from error
        if override.key_or_group == CHOICE:
            chosen = str(override.value())
        else:
            settings[override.key_or_group.removeprefix("hydra.launcher.")] = override.value()
    if chosen not in LAUNCHERS:
        hint = nearest(chosen, LAUNCHERS)
        raise UserMistake(f"{CHOICE} is '{chosen}'; expected {' | '.join(LAUNCHERS)}{hint}")
    if chosen == "basic":
        if settings:
            raise UserMistake(
                f"hydra.launcher.{next(iter(settings))} is for {CHOICE}=submitit_slurm"
            )
        return None, rest
    return _checked(chosen.removeprefix("submitit_"), settings), rest


def _checked(cluster: str, settings: dict[str, Any]) -> LauncherChoice:
    try:
        from hydra_plugins.hydra_submitit_launcher import config as plugin
    except ImportError as error:
        raise UserMistake(
            f"{CHOICE}=submitit_{cluster} needs: pip install 'qeqtrain[cluster]'"
        ) from error
    schema = plugin.SlurmQueueConf if cluster == "slurm" else plugin.LocalQueueConf
    made = OmegaConf.structured(schema)
    made.submitit_folder, made.name = "submitit", "qeqtrain"  # else interpolations of Hydra's
    names = sorted(str(name) for name in made if name not in _NOT_OURS)
    problems = []
    for name, value in settings.items():
        if name not in names:
            problems.append(
                f"unknown setting hydra.launcher.{name}{nearest(name, names)} "
                f"(known: {', '.join(names)})"
            )
            continue
        try:
            made[name] = value
        except OmegaConfBaseException as error:
            problems.append(f"hydra.launcher.{name}: {str(error).splitlines()[0]}")
    if problems:
        raise UserMistake(*problems)
    values: dict[str, Any] = OmegaConf.to_container(made)  # type: ignore[assignment]
    plain = {name: values[name] for name in names}
    parallel = int(plain.pop("array_parallelism", 1))
    base = set(OmegaConf.structured(plugin.BaseQueueConf))
    return LauncherChoice(
        cluster,
        {name: value for name, value in plain.items() if name in base},
        {name: value for name, value in plain.items() if name not in base},
        parallel,
    )
