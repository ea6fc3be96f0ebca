"""One epoch of a run: training, validation and the line of metrics.jsonl about both."""

import time
from typing import Any

from autogrow_jax import hosts
from autogrow_jax.errors import DivergedError
from autogrow_jax.reporting import Reporter
from autogrow_jax.steps import Trainer, mean_loss, percent
from autogrow_jax.training.amid import Amid
from autogrow_jax.training.ending import measure_classes
from autogrow_jax.training.run_state import Clock, RunState


def run_epoch(
    trainer: Trainer,
    state: RunState,
    clock: Clock,
    reporter: Reporter,
    rate: float,
    draws_of: int,
    amid: Amid | None = None,
) -> tuple[dict[str, Any], dict[str, float]]:
    """Trains and validates, and notes it in `state`; of a trial only that it took place.

    Order of batches and augmentation are those of the epoch `draws_of`; of one that was begun in an
    earlier start, as `amid` knows, the rest is trained.

    Returns:
      The line of metrics.jsonl, and the `MEASUREMENTS`, which are what the policy may look at.

    Raises:
      DivergedError: when the loss or a weight is no longer finite.
    """
    start, begun = (amid.started, amid.begun) if amid else (time.perf_counter(), None)
    epoch = state.epoch

    def progress(steps: int, images: int) -> None:
        seconds = max(time.perf_counter() - start, 1e-9)
        reporter.epoch_progress(epoch, steps, trainer.steps_per_epoch, images / seconds)

    watch = progress if trainer.settings.log.progress else None
    trained = trainer.train_epoch(draws_of, rate, watch, begun)
    before = trainer.programs.evaluating
    validated = trainer.evaluate("validation")
    latency = (trainer.programs.evaluating - before) / int(validated.examples)
    try:
        trainer.check_finite(epoch, rate, trained)
    except DivergedError:
        where = {"epoch": epoch, "depths": list(trainer.depths), "learning_rate": rate}
        state.divergences.append(where)
        if amid:  # Back to the last checkpoint: the whole epoch has the smaller rate then.
            amid.forget()
        raise
    clock.update()
    measured = {
        "train_loss": mean_loss(trained),
        "train_accuracy": percent(trained),
        "validation_loss": mean_loss(validated),
    }
    line = {
        "epoch": epoch,
        "phase": state.phase,
        **({} if state.trial is None else {"trial": state.trial}),
        **({} if state.kept is None else {"kept": state.kept}),
        **({} if state.candidate is None else {"candidate": state.candidate}),
        "depths": list(trainer.depths),
        "train_images": int(trained.examples),
        **measured,
        "validation_accuracy": percent(validated),
        "learning_rate": rate,
        "seconds": time.perf_counter() - start,
        "elapsed": state.seconds["total"],
    }
    length = trainer.settings.finetune.length(state.phase_start)
    is_last = state.phase != "growth" and state.epoch_of_phase + 1 >= length
    state.epoch, state.kept = state.epoch + 1, None
    if is_last:
        dataset = trainer.dataset
        line |= measure_classes(validated, dataset.validation, dataset.class_names)
    told = measured | {"seconds": state.seconds["total"], "latency": latency}
    line, measured = hosts.from_first((line, told))  # All decide by the clock of one.
    if state.trial is None:
        state.record(line)
    else:
        state.trial_epochs += 1
    return line, measured
