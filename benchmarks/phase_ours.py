"""Growth phases of the package's own training loop; for `alone.run_alone`."""

import tempfile
from typing import Any

from autogrow_jax.config import default_config, resolve
from autogrow_jax.reporting import QuietReporter
from autogrow_jax.settings import flatten
from autogrow_jax.settings_files import DEFAULT_CONFIG, load_config
from autogrow_jax.training import run
from benchmarks.phases import IMAGE_SIDE, Record, make_record, say_depths
from benchmarks.step_times import StepTimes

# Every start is to be as the first on a machine is.
_COLD = {"compilation_cache": "none"}


def make_config(
    data: str,
    family: str,
    last: int,
    interval: int,
    batch_size: int,
    settings: dict[str, Any] | None = None,
) -> Any:
    """The config of a run as any other, from 1-1-1 to a maximum depth, without fine-tuning.

    Args:
      data: an .npz file with parts for training, validation and test.
      family: of three stages.
      last: blocks in each stage at the end.
      interval: epochs at each depth.
      batch_size: images a step.
      settings: further config keys, such as {"model.remat": True}.
    """
    config = default_config()
    config.update_from_flattened_dict(
        {
            "model.family": family,
            "num_devices": 1,
            "data.name": f"npz:{data}",
            "data.image_size": IMAGE_SIDE,
            "data.crop_padding": 0,
            "data.flip": "no",
            "data.batch_size": batch_size,
            "growth.interval": interval,
            "growth.window": 10**6,  # Never full, so that nothing stops early.
            "growth.max_depths": (last,),
            "finetune.epochs": 0,
            **_COLD,
            **(settings or {}),
        }
    )
    return config


def train_ours(**arguments: Any) -> Record:
    """Runs a config of `make_config`, which takes the arguments."""
    return _train(make_config(**arguments))


def train_exact(settings: dict[str, Any] | None = None, **arguments: Any) -> Record:
    """The same with a program for each depth, compiled while the one before it trains."""
    return train_ours(settings={**(settings or {}), "growth.capacity": 0}, **arguments)


def train_digits(settings: dict[str, Any] | None = None) -> Record:
    """The package's default run, fine-tuning included.

    Args:
      settings: config keys to change.
    """
    return _train(resolve(flatten(load_config(DEFAULT_CONFIG)) | _COLD | (settings or {})))


def _train(config: Any) -> Record:
    listener = _Listener(config.data.batch_size)
    with tempfile.TemporaryDirectory() as folder:
        result = run(config, folder, reporter=listener)
    seconds = result.seconds
    return make_record(
        seconds,
        listener.times.by_depth(seconds["evaluate"] / result.epochs),
        result.num_params,
        sum(result.more["compilations_by_program"].values()),
        listener.losses,
    )


class _Listener(QuietReporter):
    """Hears of a run what any reporter does."""

    def __init__(self, batch_size: int):
        self.times = StepTimes()
        self.losses: list[float] = []
        self._batch_size = batch_size

    def epoch_progress(self, epoch, steps_done, steps_total, images_per_second=None):
        self.times.tick(steps_done)

    def end_epoch(self, line):
        steps = line["train_images"] // self._batch_size
        self.times.end_epoch(tuple(line["depths"]), steps, line["seconds"])
        self.losses.append(line["train_loss"])

    def growth(self, before, after, initializer):
        say_depths("ours", after)
