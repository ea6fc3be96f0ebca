"""Runs that stop where a test wants, and files of runs that never were."""

import json

from autogrow_jax.reporting import QuietReporter


class StopAt(QuietReporter):
    """Ends a run without progress, as Ctrl-C would, once the line of `epoch` is written.

    Attributes:
      resumed_after: epochs that were done when the run began.
    """

    def __init__(self, epoch):
        self.epoch = epoch
        self.resumed_after = None

    def epoch_progress(self, epoch, steps_done, steps_total, images_per_second=None):
        raise AssertionError("progress is off")

    def begin_run(self, title, *, num_epochs=None, previous=()):
        self.resumed_after = len(previous)

    def end_epoch(self, line):
        if line["epoch"] == self.epoch:
            raise KeyboardInterrupt


def write_finished(workdir, **changes):
    """What a run of two epochs, which grew once, leaves in its workdir for a table."""
    workdir.mkdir(parents=True)
    result = {
        "family": "plain3",
        "dataset": "digits",
        "seed_depths": [1, 1, 1],
        "depths": [2, 1, 1],
        "test_accuracy": 91.25,
        "best_validation_accuracy": 95.0,
        "validation": "held-out",
        "num_params": 1234,
        "growth": [],
        "epochs": 2,
        "seconds": {"total": 3.0, "compile": 1.0},
        "compilations": 1,
        "seed": 0,
        "versions": {"jax": "1.2.3"},
        "image_shape": [8, 8, 1],
        "num_classes": 10,
        **changes,
    }
    (workdir / "result.json").write_text(json.dumps(result))
    lines = [
        {"epoch": 0, "depths": [1, 1, 1], "train_images": 100},
        {"epoch": 1, "depths": [2, 1, 1], "train_images": 100},
    ]
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
