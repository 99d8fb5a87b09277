"""Weights & Biases: online when it can be, offline otherwise, and never a prompt or a hang.

With a key but without a network, ``wandb.init`` blocks for minutes and then ends the run;
without a key it asks for one. Both are found out here first, in seconds.
"""

from __future__ import annotations

import netrc
import os
import socket
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args
from urllib.parse import urlsplit

from qeqtrain.errors import UserMistake, nearest
from qeqtrain.training.screen import first_rank, say

if TYPE_CHECKING:
    from pytorch_lightning.loggers import WandbLogger

Mode = Literal["auto", "online", "offline"]
SERVER = "https://api.wandb.ai"


class Wandb:
    """Logs a run to Weights & Biases.

    Args:
        project: of the server, or of the offline folder.
        name: of the run; ``None`` takes the name of its folder.
        group: of runs that belong together.
        tags: of the run.
        entity: user or team.
        mode: ``auto`` goes online if a key is found and the server answers.
        timeout: seconds to wait for the server.
    """

    def __init__(
        self,
        project: str = "qeqtrain",
        name: str | None = None,
        group: str | None = None,
        tags: list[str] | None = None,
        entity: str | None = None,
        mode: Mode = "auto",
        timeout: float = 5.0,
    ) -> None:
        if mode not in get_args(Mode):
            known = get_args(Mode)
            raise UserMistake(
                f"logger.mode is {mode!r}; expected {' | '.join(known)}{nearest(mode, known)}"
            )
        self.project = project
        self.name = name
        self.group = group
        self.tags = tags
        self.entity = entity
        self.mode = mode
        self.timeout = timeout

    def build(
        self, folder: Path, recipe: Mapping[str, Any], run_id: str | None = None
    ) -> WandbLogger | None:
        """Start logging, on the first rank, unless ``WANDB_MODE`` is ``disabled``.

        Args:
            folder: of the run; offline files go to its ``wandb`` folder.
            recipe: shown as the run's config.
            run_id: of the run that is resumed.
        """
        if os.environ.get("WANDB_MODE") == "disabled" or not first_rank():
            return None
        why_not = self._why_offline()
        logger = None
        if why_not is None:
            try:
                logger = self._logger(folder, run_id, offline=False)
            except Exception as error:  # wandb raises what its server says, in many classes
                why_not = f"the server refused ({str(error).splitlines()[0]})"
        if logger is None:
            say(
                f"W&B: {why_not}; logging offline in {folder / 'wandb'} "
                "(upload later with: wandb sync)"
            )
            logger = self._logger(folder, run_id, offline=True)
        logger.log_hyperparams(dict(recipe))
        return logger

    def _logger(self, folder: Path, run_id: str | None, *, offline: bool) -> WandbLogger:
        import wandb
        from pytorch_lightning.loggers import WandbLogger

        # Started here and not by Lightning, whose arguments make W&B print warnings.
        run = wandb.init(
            project=self.project,
            entity=self.entity,
            name=self.name or folder.name,
            group=self.group,
            tags=self.tags,
            dir=folder,
            id=run_id,
            resume=None if offline else "allow",
            mode="offline" if offline else "online",
            settings=wandb.Settings(
                silent=offline, console="off", init_timeout=max(20.0, 4.0 * self.timeout)
            ),
        )
        run.define_metric("trainer/global_step")
        run.define_metric("*", step_metric="trainer/global_step", step_sync=True)
        return WandbLogger(experiment=run)

    def _why_offline(self) -> str | None:
        """Say why not to try the server; ``None`` to try it."""
        return why_offline(self.mode, self.timeout)


def why_offline(mode: Mode = "auto", timeout: float = 5.0) -> str | None:
    """Say why W&B's server need not be tried; ``None`` if there is a key and it answers.

    Args:
        mode: of the recipe; the environment variable ``WANDB_MODE`` can switch off too.
        timeout: seconds to wait for the server.
    """
    wanted = os.environ.get("WANDB_MODE", "online")
    if mode == "offline" or wanted in ("offline", "dryrun", "disabled"):
        return "offline mode was asked for"
    server = os.environ.get("WANDB_BASE_URL", SERVER)
    if not has_key(server):
        return "no key found (WANDB_API_KEY or wandb login)"
    if not answers(server, timeout):
        return f"{server} does not answer"
    return None


def has_key(server: str) -> bool:
    """Look for a W&B key where its own program keeps it."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    homes = [os.environ.get("NETRC"), Path.home() / ".netrc", Path.home() / "_netrc"]
    host = urlsplit(server).hostname or ""
    for file in (Path(h) for h in homes if h):
        try:
            if netrc.netrc(str(file)).authenticators(host):
                return True
        except (OSError, netrc.NetrcParseError):
            continue
    return False


def answers(server: str, timeout: float) -> bool:
    """Whether a connection to a server, or to the proxy before it, opens in time.

    The attempt runs beside: looking up a name has no time limit of its own.
    """
    proxy = os.environ.get("HTTPS_PROXY") or os.environ.get("https_proxy")
    parts = urlsplit(proxy or server)
    address = (parts.hostname or "", parts.port or (80 if parts.scheme == "http" else 443))
    reached = threading.Event()

    def attempt() -> None:
        try:
            socket.create_connection(address, timeout=timeout).close()
            reached.set()
        except OSError:
            pass

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(timeout)
    return reached.is_set()
