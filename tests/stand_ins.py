"""Runs that stop where a test wants, and files of runs that never were."""

import json
import os
import signal
from contextlib import contextmanager

import numpy as np
import pytest
from PIL import Image, ImageDraw

from autogrow_jax.config import default_config
from autogrow_jax.report import draw
from autogrow_jax.reporting import QuietReporter, drawing, plots
from autogrow_jax.reporting.metrics import read
from autogrow_jax.training import loop, run


def compile_quickly():
    """The environment of a process that takes so few steps that none has to be quick."""
    return os.environ | {"XLA_FLAGS": os.environ["XLA_FLAGS"].replace("level=1", "level=0")}


@contextmanager
def pictures(page=False):
    """Has runs write their picture, and their page if wanted, which conftest leaves out."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plots, "save_figure", drawing.save_figure)
        if page:
            patch.setattr(loop, "report", draw.report)
        yield


def tiny_config(**changes):
    """A run on a tenth of the digits, which grows a block each epoch and has no front or bars."""
    config = default_config()
    config.data.fraction, config.data.batch_size, config.num_devices = 0.1, 32, 1
    config.growth.interval = 1
    config.finetune.front = False
    config.log.progress = config.log.tensorboard = False
    config.update_from_flattened_dict(changes)
    return config


def untimed_lines(workdir):
    """metrics.jsonl without what a clock says."""
    lines = read(workdir / "metrics.jsonl")
    return [{k: v for k, v in line.items() if k not in ("seconds", "elapsed")} for line in lines]


class Told(QuietReporter):
    """Keeps the messages of a run."""

    def __init__(self):
        self.messages = []

    def message(self, text):
        self.messages.append(text)


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

    def begin_run(self, title, *, previous=()):
        self.resumed_after = len(previous)

    def end_epoch(self, line):
        if line["epoch"] == self.epoch:
            raise KeyboardInterrupt


class SignalAt(QuietReporter):
    """Sends this process SIGTERM once so many steps of an epoch, or more, are known to be done.

    Attributes:
      seen: what was told of progress, as (epoch, steps done).
      told: the messages.
    """

    def __init__(self, epoch=-1, steps=0):
        self.at = epoch, steps
        self.seen, self.told = [], []

    def epoch_progress(self, epoch, steps_done, steps_total, images_per_second=None):
        self.seen.append((epoch, steps_done))
        # A quick device is done with several before the first is told of.
        if epoch == self.at[0] and steps_done >= self.at[1]:
            self.at = -1, 0
            signal.raise_signal(signal.SIGTERM)

    def message(self, text):
        self.told.append(text)


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


SHAPES = ("circle", "ring", "square")


def draw_shapes(folder, each, seed):
    """Fills `folder/CLASS` with coloured pictures of odd sizes, `each` of them a class."""
    random = np.random.default_rng(seed)
    for name in SHAPES:
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(each):
            width, height = random.integers(15, 50, 2).tolist()
            image = Image.new("RGB", (width, height), tuple(random.integers(150, 256, 3).tolist()))
            colour, side = tuple(random.integers(0, 120, 3).tolist()), min(width, height)
            box = (side // 4, side // 4, side * 3 // 4, side * 3 // 4)
            pen = ImageDraw.Draw(image)
            if name == "square":
                pen.rectangle(box, fill=colour)
            else:
                pen.ellipse(box, None if name == "ring" else colour, outline=colour, width=2)
            image.save(folder / name / f"{number}.{('png', 'jpg', 'bmp')[number % 3]}")


def train_on_shapes(folder):
    """A run of two epochs on pictures in folder/pictures; returns its workdir and result."""
    draw_shapes(folder / "pictures" / "train", 8, seed=0)
    draw_shapes(folder / "pictures" / "test", 5, seed=1)
    config = default_config()
    config.mode, config.num_devices = "scratch", 1
    config.model.depths = (2, 1, 3)
    config.data.name = f"folder:{folder / 'pictures'}"
    config.data.cache_dir = str(folder / "cache")
    config.data.image_size, config.data.batch_size = 16, 8
    config.data.background = "#ff8000"
    config.finetune.epochs = 2
    config.log.progress = False
    return folder / "run", run(config, folder / "run", reporter=QuietReporter())
