"""A whole run: epochs, growth, fine-tune, test; resumed where it was left.

    epoch of steps -> validation accuracy -> policy.update -> maybe grow -> checkpoint

until the policy says fine-tune, then `finetune.epochs` more, then the test set, once.
"""

import math
import os
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from autogrow_jax import config as config_lib
from autogrow_jax.data import Dataset
from autogrow_jax.errors import DivergedError, UserError
from autogrow_jax.models import num_params
from autogrow_jax.reporting import (
    ConsoleReporter,
    MetricsWriter,
    Reporter,
    TensorBoardWriter,
    write_result,
)
from autogrow_jax.reporting.metrics import truncate
from autogrow_jax.reporting.result import format_depths
from autogrow_jax.training.checkpoint import CheckpointStore
from autogrow_jax.training.memory import TIMED, Memory
from autogrow_jax.training.result import Result, describe_devices, find_versions
from autogrow_jax.training.schedule import make_schedule
from autogrow_jax.training.start import begin, load_data, read_finished
from autogrow_jax.training.step import Sums
from autogrow_jax.training.trainer import Trainer, mean_loss, percent
from autogrow_jax.training.workdir import Workdir, open_workdir, read_config


def run(
    config: Any, workdir: str | os.PathLike[str], *, reporter: Reporter | None = None
) -> Result:
    """Runs a config in a folder, from the start or from where an earlier start left it.

    Args:
      config: a ConfigDict from `autogrow_jax.config.default_config`, changed at will.
      workdir: folder of the run; made if it is not there.
      reporter: what is told about progress; prints lines and a bar by default.

    Returns:
      The result, with the network that was found and its weights.

    Raises:
      UserError: for a wrong config, data that cannot be used, a workdir that is another run's.
      DivergedError: when the loss is no longer finite.
    """
    resolved = config_lib.resolve(config)
    reporter = reporter or ConsoleReporter(show_bar=None if resolved.log.progress else False)
    try:
        if resolved.mode == "evaluate":
            return _evaluate(resolved, Workdir(Path(workdir).expanduser()), reporter)
        return _train(resolved, open_workdir(workdir, resolved), reporter)
    finally:
        reporter.close()


def _train(config: Any, workdir: Workdir, reporter: Reporter) -> Result:
    start = time.perf_counter()
    store = CheckpointStore(workdir.checkpoints, config.checkpoint.keep)
    try:
        if workdir.result.exists():
            result = read_finished(config, workdir, store)
            reporter.message(f"{workdir.root} is finished; this is its result.")
            reporter.end_run(result.to_dict())
            return result
        dataset = load_data(config)
        trainer = Trainer(config, dataset)
        memory = begin(config, trainer, store)
        clock = _Clock(memory, trainer, start)
        lines = truncate(workdir.metrics, memory.epoch)
        reporter.begin_run(
            f"{config.model.family} on {dataset.name}: {workdir.root}", previous=lines
        )
        with MetricsWriter(workdir.metrics) as metrics:
            board = None
            if config.log.tensorboard:
                board = TensorBoardWriter(workdir.tensorboard, first_epoch=memory.epoch)
            while not _is_done(config, memory):
                line = _run_epoch(config, trainer, memory, clock, reporter)
                metrics.write(line)
                if board is not None:
                    board.write(line)
                lines.append(line)
                reporter.end_epoch(line)
                _decide(config, trainer, memory, reporter)
                _save(config, trainer, memory, store, clock, line["validation_accuracy"])
                every = config.log.plot_every
                if every and memory.epoch % every == 0:
                    _plot(workdir, lines, dataset, config)
            if board is not None:
                board.close()
        result = _finish(config, trainer, memory, dataset, clock)
        with clock.timed("checkpoint"):
            store.wait()
        write_result(workdir.result, result.to_dict())
        _plot(workdir, lines, dataset, config, result.test_accuracy)
        reporter.end_run(result.to_dict())
        return result
    finally:
        store.close()


class _Clock:
    """Adds this start's seconds and compilations to those the memory brought along."""

    def __init__(self, memory: Memory, trainer: Trainer, start: float):
        self._before = dict(memory.seconds)
        self._compiled_before = dict(memory.compilations)
        self._memory, self._trainer, self._start = memory, trainer, start

    def timed(self, what: str):
        return self._trainer.timed(what)

    def update(self) -> None:
        trainer, memory = self._trainer, self._memory
        now = {**trainer.seconds, "compile": trainer.programs.seconds}
        memory.seconds = {name: self._before[name] + now[name] for name in TIMED}
        memory.seconds["total"] = self._before["total"] + time.perf_counter() - self._start
        counts = trainer.programs.counts
        memory.compilations = {
            kind: self._compiled_before.get(kind, 0) + counts.get(kind, 0)
            for kind in {**self._compiled_before, **counts}
        }


def _is_done(config: Any, memory: Memory) -> bool:
    return memory.phase != "growth" and memory.epoch_of_phase >= config.finetune.epochs


def _run_epoch(
    config: Any, trainer: Trainer, memory: Memory, clock: _Clock, reporter: Reporter
) -> dict[str, Any]:
    """Trains and validates; returns the line of metrics.jsonl."""
    start, epoch = time.perf_counter(), memory.epoch
    schedule = make_schedule(
        config.finetune.schedule, config.optimizer.learning_rate, config.growth.policy
    )
    rate = schedule(memory.phase, memory.epoch_of_phase, config.finetune.epochs)

    def progress(steps: int, images: int) -> None:
        seconds = max(time.perf_counter() - start, 1e-9)
        reporter.epoch_progress(epoch, steps, trainer.steps_per_epoch, images / seconds)

    trained = trainer.train_epoch(epoch, rate, progress if config.log.progress else None)
    validated = trainer.evaluate("validation")
    _check_finite(trainer, epoch, rate, trained, validated)
    memory.epoch += 1
    memory.train_accuracy = percent(trained)
    memory.evaluated_depths = memory.depths
    memory.validation_accuracy = accuracy = percent(validated)
    memory.best_validation_accuracy = max(memory.best_validation_accuracy, accuracy)
    clock.update()
    return {
        "epoch": epoch,
        "phase": memory.phase,
        "depths": list(memory.depths),
        "train_loss": mean_loss(trained),
        "train_accuracy": memory.train_accuracy,
        "validation_loss": mean_loss(validated),
        "validation_accuracy": accuracy,
        "learning_rate": rate,
        "seconds": time.perf_counter() - start,
        "elapsed": memory.seconds["total"],
    }


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


def _decide(config: Any, trainer: Trainer, memory: Memory, reporter: Reporter) -> None:
    """Asks the policy, in the growth phase, and grows as it says."""
    if memory.phase != "growth":
        return
    policy = config_lib.make_policy(config)
    memory.policy, decision = policy.update(memory.policy, memory.validation_accuracy)
    if decision.stages:
        before = memory.depths
        trainer.grow(decision.stages, memory.epoch, memory.train_accuracy)
        depths = list(before)
        for stage in decision.stages:
            depths[stage] += 1
            memory.growth.append({"epoch": memory.epoch, "stage": stage, "depths": list(depths)})
        memory.depths, memory.capacities = trainer.depths, trainer.capacities
        reporter.growth(before, memory.depths, config.growth.initializer)
    if decision.action == "finetune":
        memory.phase, memory.phase_start = "finetune", memory.epoch
        reporter.message(
            f"growth ended after {memory.epoch} epochs;"
            f" fine-tuning for {config.finetune.epochs} epochs"
        )


def _save(
    config: Any,
    trainer: Trainer,
    memory: Memory,
    store: CheckpointStore,
    clock: _Clock,
    accuracy: float,
) -> None:
    """Saves when it is time, right after a growth, and at the end."""
    grew = memory.depths != memory.evaluated_depths
    if memory.epoch % config.checkpoint.every and not grew and not _is_done(config, memory):
        return
    with clock.timed("checkpoint"):
        clock.update()
        store.save(memory.epoch, trainer.exact_state(), memory.to_dict(), accuracy)


def _finish(
    config: Any, trainer: Trainer, memory: Memory, dataset: Dataset, clock: _Clock
) -> Result:
    """Looks at the test set, once, and puts the result together."""
    tested = trainer.evaluate("test")
    variables = trainer.exact_variables()
    clock.update()
    return Result(
        family=config.model.family,
        dataset=dataset.name,
        seed_depths=tuple(config.model.depths),
        depths=memory.depths,
        test_accuracy=percent(tested),
        best_validation_accuracy=memory.best_validation_accuracy,
        validation=config.data.validation,
        num_params=num_params(variables),
        growth=tuple(memory.growth),
        epochs=memory.epoch,
        seconds=memory.seconds,
        compilations=memory.compilations.get("train", 0),
        seed=config.seed,
        versions=find_versions(),
        network=trainer.network,
        variables=variables,
        more={
            "mode": config.mode,
            "test_loss": mean_loss(tested),
            "growth_epochs": memory.phase_start if memory.phase == "finetune" else 0,
            "validation_examples": len(dataset.validation.labels),
            "compilations_by_program": memory.compilations,
            "devices": describe_devices(),
            "num_classes": dataset.num_classes,
            "image_shape": dataset.image_shape,
        },
    )


def _evaluate(config: Any, workdir: Workdir, reporter: Reporter) -> Result:
    """Evaluates the newest checkpoint of a run on this config's data."""
    saved = read_config(workdir)
    own = config_lib.flatten(config.to_dict())
    given = config_lib.flatten(saved)
    # The network and its training are the saved run's; where to evaluate is this config's.
    merged = {**given, **{k: v for k, v in own.items() if k.startswith(("data.", "log."))}}
    merged["num_devices"], merged["data.fraction"] = own["num_devices"], 1.0
    run_config = config_lib.resolve(config_lib.nest(merged))
    store = CheckpointStore(workdir.checkpoints, run_config.checkpoint.keep)
    try:
        if store.latest() is None:
            raise UserError(f"{workdir.root} holds no checkpoint yet; nothing to evaluate")
        start = time.perf_counter()
        dataset = load_data(run_config)
        trainer = Trainer(run_config, dataset)
        memory = begin(run_config, trainer, store)
        clock = _Clock(memory, trainer, start)
        validated = trainer.evaluate("validation")
        reporter.message(
            f"{workdir.root} after {memory.epoch} epochs: validation accuracy"
            f" {percent(validated):.2f} %, loss {mean_loss(validated):.4f}"
        )
        result = _finish(run_config, trainer, memory, dataset, clock)
        reporter.end_run(result.to_dict())
        return result
    finally:
        store.close()


def _plot(
    workdir: Workdir,
    lines: list[dict[str, Any]],
    dataset: Dataset,
    config: Any,
    test_accuracy: float | None = None,
) -> None:
    if jax.process_index() or not lines:
        return
    # Here, not at the top: matplotlib takes a while and not every run ends with a picture.
    from autogrow_jax.reporting.plots import draw_growth
    from autogrow_jax.reporting.result import validation_label

    draw_growth(
        lines,
        workdir.plots / "growth.png",
        title=f"{config.model.family} on {dataset.name}, seed {config.seed}",
        validation_name=validation_label(config.data.validation),
        test_accuracy=test_accuracy,
    )
