"""Weights & Biases: online when it can be, offline otherwise, and never a prompt or a hang.

With a key but without a network, ``wandb.init`` blocks for minutes and then ends the run;
without a key it asks for one. Both are found out here first, in seconds.
"""

from __future__ import annotations

import netrc
import os
import socket
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args
from urllib.parse import urlsplit

import numpy as np

from qeqtrain.errors import UserMistake, nearest
from qeqtrain.models.archive import read_entry
from qeqtrain.training.screen import first_rank, say

if TYPE_CHECKING:
    from matplotlib.figure import Figure
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
        upload_checkpoint: whether the best checkpoint goes to the server as well, when the run
            ends, as an artifact.
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
        upload_checkpoint: bool = False,
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
        self.upload_checkpoint = upload_checkpoint
        self._reason: str | None = None

    def decide(self) -> None:
        """Find out whether to go online, before anything that takes long.

        On the first rank; the others have nobody to talk to.
        """
        if os.environ.get("WANDB_MODE") == "disabled" or not first_rank():
            return
        self._reason = self._why_offline()
        if self._reason is not None:
            say(f"W&B: {self._reason}; logging offline (upload later with: wandb sync)")

    def build(
        self, folder: Path, recipe: Mapping[str, Any], run_id: str | None = None
    ) -> WandbLogger | None:
        """Start logging, on the first rank, unless ``WANDB_MODE`` is ``disabled``.

        :meth:`decide` comes first.

        Args:
            folder: of the run; offline files go to its ``wandb`` folder.
            recipe: shown as the run's config.
            run_id: of the run that is resumed.
        """
        if os.environ.get("WANDB_MODE") == "disabled" or not first_rank():
            return None
        logger = None
        if self._reason is None:
            try:
                logger = self._logger(folder, run_id, offline=False)
            except Exception as error:  # wandb raises what its server says, in many classes
                said = next(iter(str(error).splitlines()), type(error).__name__)
                say(f"W&B: the server refused ({said}); logging offline in {folder / 'wandb'}")
        if logger is None:
            logger = self._logger(folder, run_id, offline=True)
        logger.log_hyperparams(dict(recipe))
        return logger

    def _logger(self, folder: Path, run_id: str | None, *, offline: bool) -> WandbLogger:
        import wandb
        from pytorch_lightning.loggers import WandbLogger

        # Started here and not by Lightning, whose arguments make W&B print warnings.
        swept = "WANDB_SWEEP_ID" in os.environ  # the sweep then says whose run it is
        run = wandb.init(
            project=None if swept else self.project,
            entity=None if swept else self.entity,
            name=self.name or folder.name,
            group=self.group,
            tags=self.tags,
            dir=folder.absolute(),
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

    def conclude(
        self, logger: WandbLogger, best: Path, pictures: Callable[[Path], Mapping[str, Figure]]
    ) -> None:
        """Send what is known at the end: errors, pictures and weights of the best checkpoint.

        Args:
            logger: that :meth:`build` returned.
            best: checkpoint; nothing is sent where none was written.
            pictures: draws what a checkpoint predicts.
        """
        import wandb

        if not best.exists():
            return
        run = logger.experiment
        errors = read_entry(best)[0].get("metrics") or {}
        # A sweep compares what is kept, not what came last.
        run.summary.update({f"val/{name}": value for name, value in errors.items()})
        drawn = {f"best/{name}": wandb.Image(_pixels(f)) for name, f in pictures(best).items()}
        if drawn:
            run.log(drawn)
        if self.upload_checkpoint:
            artifact = wandb.Artifact(f"model-{run.id}", type="model", metadata=dict(errors))
            artifact.add_file(str(best))
            run.log_artifact(artifact, aliases=["best"])

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


def _pixels(figure: Figure) -> np.ndarray:
    """Draw a figure, shape ``(height, width, 4)``, without matplotlib's global state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())


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
