"""What a resumed run cannot take up as it was: an epoch that other ranks had begun."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl

from qeqtrain.training.screen import say


class OtherRanks(pl.Callback):
    """Begins an epoch again if the number of ranks has changed in the middle of it.

    A global batch holds the budgets of all ranks, so that another number of them divides an
    epoch into other batches, and none of the places between two old ones is one of the new.
    """

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Move the place in a checkpoint to the nearest beginning of an epoch."""
        before, now = len(checkpoint["training"]["random"]), trainer.world_size
        if before == now:
            return
        loop = checkpoint["loops"]["fit_loop"]
        epoch = int(checkpoint["epoch"])
        place = loop["epoch_loop.batch_progress"]
        finished = place["is_last_batch"] and place["current"]["processed"] > 0
        say(
            f"the run had {_ranks(before)}, and has {_ranks(now)} now: "
            + (
                f"it goes on with epoch {epoch + 2}"
                if finished
                else f"epoch {epoch + 1} begins again, with the weights of step "
                f"{checkpoint['global_step']:,}"
            )
        )
        first = epoch + 1 if finished else epoch
        for counts in loop["epoch_progress"].values():
            counts.update(dict.fromkeys(counts, first))
        checkpoint["callbacks"]["Budget"] |= {
            "epochs_before": first,
            "steps_before": checkpoint["global_step"],
        }


def _ranks(count: int) -> str:
    return f"{count} rank" if count == 1 else f"{count} ranks"
