"""TensorBoard events, where tensorboardX is installed (the extra `tensorboard`)."""

import os
from collections.abc import Mapping
from typing import Any

__all__ = ["TensorBoardWriter"]

# name of the scalar -> key of the metrics line
_SCALARS = {
    "loss/train": "train_loss",
    "loss/validation": "validation_loss",
    "accuracy/train": "train_accuracy",
    "accuracy/validation": "validation_accuracy",
    "learning_rate": "learning_rate",
    "seconds": "seconds",
}


class TensorBoardWriter:
    """Writes one point an epoch and scalar; does nothing where tensorboardX is missing."""

    def __init__(self, directory: str | os.PathLike[str], *, first_epoch: int = 0):
        """Opens an events file in `directory`.

        Args:
          directory: where events go; made if missing.
          first_epoch: the first epoch that will be written. A resumed run gives the epoch it goes
            on from, and TensorBoard hides what an earlier process wrote from there on.
        """
        try:
            from tensorboardX import SummaryWriter
        except ImportError:
            self._writer = None
            return
        # File names tell seconds apart, and a run may be stopped and resumed within one.
        self._writer = SummaryWriter(
            os.fspath(directory), purge_step=first_epoch, filename_suffix=f".{first_epoch:06d}"
        )

    @property
    def enabled(self) -> bool:
        """Whether events are written, that is, whether tensorboardX is installed."""
        return self._writer is not None

    def write(self, line: Mapping[str, Any]) -> None:
        """Writes the losses, accuracies, learning rate, seconds and depths of an epoch.

        Args:
          line: a line of metrics.jsonl; scalars that are missing or None are left out. Of a trial
            only the validation accuracy is written, under `trial/stage_N`.
        """
        if self._writer is None:
            return
        epoch = line["epoch"]
        if line.get("trial") is not None:
            # Not into the curves: they are those of the nets that are kept.
            if line.get("validation_accuracy") is not None:
                name = f"trial/stage_{line['trial']}"
                self._writer.add_scalar(name, float(line["validation_accuracy"]), epoch)
            return
        for name, key in _SCALARS.items():
            if line.get(key) is not None:
                self._writer.add_scalar(name, float(line[key]), epoch)
        for stage, depth in enumerate(line["depths"]):
            self._writer.add_scalar(f"depth/stage_{stage}", depth, epoch)
        self._writer.add_scalar("depth/total", sum(line["depths"]), epoch)
        self._writer.flush()

    def close(self) -> None:
        """Flushes and closes the events file; closing twice does no harm."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
