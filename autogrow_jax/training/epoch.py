"""One epoch of a run: train, validate, and the line of metrics.jsonl about it."""

import math
import time
from typing import Any, NamedTuple

import jax
import numpy as np

from autogrow_jax.errors import DivergedError
from autogrow_jax.optim import make_schedule
from autogrow_jax.reporting import Reporter
from autogrow_jax.reporting.result import format_depths
from autogrow_jax.settings import Settings
from autogrow_jax.training.clock import Clock
from autogrow_jax.training.memory import Memory
from autogrow_jax.training.step import Sums, mean_loss, percent
from autogrow_jax.training.trainer import Trainer


class Trained(NamedTuple):
    """What an epoch measured.

    Attributes:
      line: of metrics.jsonl.
      measurements: for the policy, beside the validation accuracy: train_accuracy in percent,
        train_loss and validation_loss in nats, seconds since the start of the run over all its
        starts, latency in seconds per validation image.
    """

    line: dict[str, Any]
    measurements: dict[str, float]


def run_epoch(
    settings: Settings,
    trainer: Trainer,
    memory: Memory,
    clock: Clock,
    reporter: Reporter,
    draws_of: int | None = None,
) -> Trained:
    """Trains and validates.

    Args:
      settings: of the run.
      trainer: whose state is trained.
      memory: told of the epoch; of what a trial measured only that it took place.
      clock: brought up to date.
      reporter: told about progress within the epoch.
      draws_of: the epoch whose order of batches and augmentation this one uses; None for its own.

    Returns:
      The line of metrics.jsonl, and what the policy may look at.

    Raises:
      DivergedError: when the loss or a weight is no longer finite.
    """
    start, epoch = time.perf_counter(), memory.epoch
    schedule = make_schedule(
        settings.finetune.schedule, settings.optimizer.learning_rate, settings.growth.policy
    )
    rate = schedule(
        memory.phase, memory.epoch_of_phase, settings.finetune.length(memory.phase_start)
    )

    def progress(steps: int, images: int) -> None:
        seconds = max(time.perf_counter() - start, 1e-9)
        reporter.epoch_progress(epoch, steps, trainer.steps_per_epoch, images / seconds)

    trained = trainer.train_epoch(
        epoch if draws_of is None else draws_of, rate, progress if settings.log.progress else None
    )
    before = trainer.seconds["evaluate"]
    validated = trainer.evaluate("validation")
    latency = (trainer.seconds["evaluate"] - before) / int(validated.examples)
    _check_finite(trainer, epoch, rate, trained, validated)
    clock.update()
    line = {
        "epoch": epoch,
        "phase": memory.phase,
        **({} if memory.trial is None else {"trial": memory.trial}),
        "depths": list(trainer.depths),
        "train_images": int(trained.examples),
        "train_loss": mean_loss(trained),
        "train_accuracy": percent(trained),
        "validation_loss": mean_loss(validated),
        "validation_accuracy": percent(validated),
        "learning_rate": rate,
        "seconds": time.perf_counter() - start,
        "elapsed": memory.seconds["total"],
    }
    memory.epoch += 1
    if memory.trial is None:
        memory.record(line)
    else:
        memory.trial_epochs += 1
    measurements = {
        "train_accuracy": percent(trained),
        "train_loss": mean_loss(trained),
        "validation_loss": mean_loss(validated),
        "seconds": memory.seconds["total"],
        "latency": latency,
    }
    return Trained(line, measurements)


def _check_finite(
    trainer: Trainer, epoch: int, rate: float, trained: Sums, validated: Sums
) -> None:
    """Raises DivergedError before weights that are lost could become a checkpoint."""
    if trained.bad_step >= 0:
        step = f"step {int(trained.bad_step)}"
    elif math.isfinite(mean_loss(validated)) or _is_finite(trainer.exact_variables()):
        return
    else:
        # The loss of a step is that of the weights before it, so no step has seen these.
        step = f"step {trainer.steps_per_epoch - 1}, the last"
    raise DivergedError(
        f"the loss is not finite any more: epoch {epoch}, {step} (learning rate {rate:g}, depths"
        f" {format_depths(trainer.depths)}). Checkpoints of earlier epochs are kept. Lower"
        " config.optimizer.learning_rate and start in another --workdir."
    )


def _is_finite(variables: Any) -> bool:
    return all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(variables))
