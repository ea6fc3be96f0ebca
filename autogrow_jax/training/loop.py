"""A whole run: epochs, growth, fine-tune, test; resumed where it was left.

    epoch of steps -> validation accuracy -> policy.update -> maybe grow or try -> checkpoint

until the policy says fine-tune, then `finetune.epochs` more, then the test set, once.
"""

import os
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from autogrow_jax import config as config_lib
from autogrow_jax.optim import finetune_epochs
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
    resolved = config_lib.resolve(config)
    reporter = reporter or ConsoleReporter(show_bar=None if resolved.log.progress else False)
    try:
        try:
            compilation_cache.choose(resolved.compilation_cache)
        except OSError as error:
            reporter.message(f"compiled programs are not kept: {error}")
        there = Workdir(Path(workdir).expanduser())
        if resolved.mode == "evaluate":
            return evaluate_run(resolved, there, reporter)
        resolved = settle_convolution(resolved, reporter, begun_with(there))
        open_workdir(there, resolved)
        return _train(resolved, there, reporter)
    finally:
        reporter.close()


def _train(config: Any, workdir: Workdir, reporter: Reporter) -> Result:
    start = time.perf_counter()
    with ExitStack() as opened:
        store = CheckpointStore(workdir.checkpoints, config.checkpoint.keep)
        opened.callback(store.close)
        if workdir.result.exists():
            result = read_finished(config, workdir, store)
            reporter.message(f"{workdir.root} is finished; this is its result.")
            reporter.end_run(result.to_dict())
            return result
        dataset = load_data(config)
        trainer = Trainer(config, dataset)
        opened.callback(trainer.programs.close)
        policy = None
        if config.mode == "grow":
            policy = config_lib.make_policy(config, dataset.image_shape, dataset.num_classes)
        memory = begin(trainer, store, policy, config.growth.compile_ahead)
        grower = Grower(config, trainer, memory, policy, reporter)
        clock = Clock(memory, trainer, start)
        lines = truncate(workdir.metrics, memory.epoch)
        snapshots = Snapshots(workdir.root / "snapshots", config.snapshots.every)
        snapshots.begin(trainer, memory.epoch)
        reporter.begin_run(
            f"{config.model.family} on {dataset.name}: {workdir.root}", previous=lines
        )
        with MetricsWriter(workdir.metrics) as metrics:
            board = None
            if config.log.tensorboard:
                board = TensorBoardWriter(workdir.tensorboard, first_epoch=memory.epoch)
            while not _is_done(config, memory):
                stop_if_terminated()
                draws_of = grower.prepare()
                line, measured = run_epoch(config, trainer, memory, clock, reporter, draws_of)
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
                    _save(config, trainer, memory, store, clock)
                every = config.log.plot_every
                if every and memory.epoch % every == 0:
                    plot(workdir, lines, dataset, config)
            if board is not None:
                board.close()
        snapshots.end(trainer, memory.epoch)
        result = finish(config, trainer, memory, dataset, clock)
        with clock.timed("checkpoint"):
            store.wait()
        write_result(workdir.result, result.to_dict())
        plot(workdir, lines, dataset, config, result.test_accuracy)
        reporter.end_run(result.to_dict())
        return result


def _is_done(config: Any, memory: Memory) -> bool:
    return memory.phase != "growth" and memory.epoch_of_phase >= finetune_epochs(
        config, memory.phase_start
    )


def _save(
    config: Any,
    trainer: Trainer,
    memory: Memory,
    store: CheckpointStore,
    clock: Clock,
) -> None:
    """Saves when it is time, right after a growth, and at the end."""
    grew = bool(memory.growth) and memory.growth[-1]["epoch"] == memory.epoch
    if memory.epoch % config.checkpoint.every and not grew and not _is_done(config, memory):
        return
    with clock.timed("checkpoint"):
        clock.update()
        store.save(
            memory.epoch, trainer.exact_state(), memory.to_dict(), memory.validation_accuracy
        )
