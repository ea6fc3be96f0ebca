"""A whole run: epochs, growth, fine-tune, test; resumed where it was left.

    epoch of steps -> validation accuracy -> policy.update -> maybe grow or try -> checkpoint

until the policy says fine-tune, then `finetune.epochs` more, then the test set, once.
"""

import os
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from autogrow_jax import build
from autogrow_jax.process import stop_if_terminated
from autogrow_jax.reporting import (
    ConsoleReporter,
    MetricsWriter,
    Reporter,
    TensorBoardWriter,
    write_result,
)
from autogrow_jax.reporting.metrics import truncate
from autogrow_jax.reporting.workdir import Workdir, begun_with, open_workdir
from autogrow_jax.settings import Settings, differences
from autogrow_jax.training import compilation_cache
from autogrow_jax.training.checkpoint import CheckpointStore
from autogrow_jax.training.clock import Clock
from autogrow_jax.training.convolutions import settle_convolution
from autogrow_jax.training.epoch import run_epoch
from autogrow_jax.training.finish import evaluate_run, finish, plot
from autogrow_jax.training.grower import Grower
from autogrow_jax.training.memory import Memory
from autogrow_jax.training.result import Result
from autogrow_jax.training.snapshots import Snapshots
from autogrow_jax.training.start import begin, load_data, read_finished
from autogrow_jax.training.trainer import Trainer


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
    settings = build.resolve(config)
    reporter = reporter or ConsoleReporter(show_bar=None if settings.log.progress else False)
    try:
        try:
            compilation_cache.choose(settings.compilation_cache)
        except OSError as error:
            reporter.message(f"compiled programs are not kept: {error}")
        there = Workdir(Path(workdir).expanduser())
        if settings.mode == "evaluate":
            return evaluate_run(settings, there, reporter)
        settings = settle_convolution(settings, reporter, begun_with(there))
        open_workdir(there, settings.to_dict(), differences)
        return _train(settings, there, reporter)
    finally:
        reporter.close()


def _train(settings: Settings, workdir: Workdir, reporter: Reporter) -> Result:
    start = time.perf_counter()
    with ExitStack() as opened:
        store = CheckpointStore(workdir.checkpoints, settings.checkpoint.keep)
        opened.callback(store.close)
        if workdir.result.exists():
            result = read_finished(settings, workdir, store)
            reporter.message(f"{workdir.root} is finished; this is its result.")
            reporter.end_run(result.to_dict())
            return result
        dataset = load_data(settings)
        trainer = Trainer(settings, dataset)
        opened.callback(trainer.programs.close)
        policy = None
        if settings.mode == "grow":
            policy = build.make_policy(settings, dataset.image_shape, dataset.num_classes)
        memory = begin(trainer, store, policy, settings.growth.compile_ahead)
        grower = Grower(settings, trainer, memory, policy, reporter)
        clock = Clock(memory, trainer, start)
        lines = truncate(workdir.metrics, memory.epoch)
        snapshots = Snapshots(workdir.root / "snapshots", settings.snapshots.every)
        snapshots.begin(trainer, memory.epoch)
        reporter.begin_run(
            f"{settings.model.family} on {dataset.name}: {workdir.root}", previous=lines
        )
        with MetricsWriter(workdir.metrics) as metrics:
            board = None
            if settings.log.tensorboard:
                board = TensorBoardWriter(workdir.tensorboard, first_epoch=memory.epoch)
            while not _is_done(settings, memory):
                stop_if_terminated()
                draws_of = grower.prepare()
                line, measured = run_epoch(settings, trainer, memory, clock, reporter, draws_of)
                metrics.write(line)
                if board is not None:
                    board.write(line)
                lines.append(line)
                reporter.end_epoch(line)
                if memory.trial is None:
                    snapshots.after_epoch(trainer, memory.epoch)
                grower.decide(line, measured)
                grower.compile_ahead(line, measured)
                if not grower.in_trials:
                    _save(settings, trainer, memory, store, clock)
                every = settings.log.plot_every
                if every and memory.epoch % every == 0:
                    plot(workdir, lines, dataset, settings)
            if board is not None:
                board.close()
        snapshots.end(trainer, memory.epoch)
        result = finish(settings, trainer, memory, dataset, clock)
        with clock.timed("checkpoint"):
            store.wait()
        write_result(workdir.result, result.to_dict())
        plot(workdir, lines, dataset, settings, result.test_accuracy)
        reporter.end_run(result.to_dict())
        return result


def _is_done(settings: Settings, memory: Memory) -> bool:
    return memory.phase != "growth" and memory.epoch_of_phase >= settings.finetune.length(
        memory.phase_start
    )


def _save(
    settings: Settings,
    trainer: Trainer,
    memory: Memory,
    store: CheckpointStore,
    clock: Clock,
) -> None:
    """Saves when it is time, right after a growth, and at the end."""
    grew = bool(memory.growth) and memory.growth[-1]["epoch"] == memory.epoch
    if memory.epoch % settings.checkpoint.every and not grew and not _is_done(settings, memory):
        return
    with clock.timed("checkpoint"):
        clock.update()
        store.save(
            memory.epoch, trainer.exact_state(), memory.to_dict(), memory.validation_accuracy
        )
