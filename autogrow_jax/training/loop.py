"""A whole run: epochs, growth, fine-tune, test; resumed where it was left.

    epoch of steps -> validation accuracy -> policy.update -> maybe grow or try -> checkpoint

until the policy says fine-tune, then `finetune.epochs` more, of each net of the front in turn, then
the test set, once.
"""

import os
import time
from contextlib import ExitStack
from functools import partial

import jax
import optax

from autogrow_jax import build, hosts
from autogrow_jax.command_line import put_off_signals
from autogrow_jax.data import Augmentation, Dataset
from autogrow_jax.growth import Policy
from autogrow_jax.optim import Loss, Schedule, Steps
from autogrow_jax.own import Own
from autogrow_jax.process import keep_freed_memory
from autogrow_jax.report.draw import draw_again, plot, report
from autogrow_jax.reporting import (
    ConsoleReporter,
    EpochStart,
    MetricsWriter,
    Reporter,
    Result,
    TensorBoardWriter,
    Workdir,
    track,
    write_result,
)
from autogrow_jax.reporting.metrics import truncate
from autogrow_jax.reporting.workdir import find_workdir, hold, open_workdir
from autogrow_jax.saving import CheckpointStore
from autogrow_jax.settings import Config, Settings, changed, differences, flatten
from autogrow_jax.steps import (
    MakeFeed,
    Trainer,
    choose_folder,
    find_begun,
    make_feed,
    settle_convolution,
)
from autogrow_jax.stream import keep_workers
from autogrow_jax.training.amid import Amid
from autogrow_jax.training.ending import finish, keep_predictions, read_finished
from autogrow_jax.training.epoch import run_epoch
from autogrow_jax.training.evaluation import evaluate_run
from autogrow_jax.training.front import Front
from autogrow_jax.training.growing import Grower
from autogrow_jax.training.inherited import load_data, settle_inherited
from autogrow_jax.training.run_state import Clock, save
from autogrow_jax.training.snapshots import Snapshots
from autogrow_jax.training.start import Divergences, begin, calm, find_start, go_on_if_diverged


def run(
    config: Config,
    workdir: str | os.PathLike[str],
    *,
    dataset: Dataset | None = None,
    loss: Loss | None = None,
    augment: Augmentation | None = None,
    optimizer: optax.GradientTransformation | Steps | None = None,
    schedule: Schedule | None = None,
    policy: Policy | None = None,
    reporter: Reporter | None = None,
    started: float | None = None,
) -> Result:
    """Runs a config in a folder, from the start or from where an earlier start left it.

    On a CPU with glibc this process keeps from now on what memory it frees, see
    `process.keep_freed_memory`: all of it, as the command line does, where JAX has not looked for
    its devices yet, else pieces of up to 64 MB.

    Args:
      config: a ConfigDict from `autogrow_jax.config.default_config`, changed at will.
      workdir: folder of the run; made if it is not there.
      dataset: images of one's own, as of `Dataset.from_arrays`. This and the next five take the
        place of a name in the config, which says "own" then; the result says what they were, and a
        start that resumes has to be given them again. Each has a registry for names as well.
      loss: (logits [N, K], labels int32 [N]) -> the loss of each image, [N].
      augment: (key, images uint8 [N, H, W, C]) -> images of that shape, pixels 0..255; in the
        training step, in place of crop and flip.
      optimizer: a function of the learning rate such as `optax.lion`, called with the schedule's;
        or an optax transformation that has its rate, whose updates are scaled as the schedule
        falls: by the epoch's rate over `config.optimizer.learning_rate`.
      schedule: (phase "growth", "finetune" or "scratch", epoch of it, its epochs) -> learning rate;
        the growth phase's number of epochs means nothing.
      policy: decides on growth; the config's limits hold for it, its other keys of growth do not.
      reporter: what is told about progress; prints lines and a bar by default.
      started: `time.perf_counter()` that the run's time counts from; by default now. The command
        line gives the start of its process.

    Returns:
      The result, with the network that was found and its weights.

    Raises:
      UserError: for a wrong config, data that cannot be used, a workdir that is another run's or
        in use.
      DivergedError: when the loss is no longer finite.
    """
    own = Own(dataset, loss, augment, optimizer, schedule, policy)
    return run_as(config, workdir, own, reporter, started=started)


@keep_workers()
def run_as(
    config: Config,
    workdir: str | os.PathLike[str],
    own: Own,
    reporter: Reporter | None,
    make_feed: MakeFeed = make_feed,
    *,
    started: float | None = None,
) -> Result:
    """Runs as `run` does, fed by another feed: of one seed among several."""
    started = time.perf_counter() if started is None else started
    keep_freed_memory()
    settings = build.resolve(config, own)
    reporter = reporter or ConsoleReporter(show_bar=None if settings.log.progress else False)
    reporter = reporter if hosts.is_first() else Reporter()
    try:
        try:
            choose_folder(settings.compilation_cache)
        except OSError as error:
            reporter.message(f"compiled programs are not kept: {error}")
        there = find_workdir(workdir)
        if settings.mode == "evaluate":
            # Dicts may name a few keys only, and then name what they mean; others have them all.
            given = flatten(config) if isinstance(config, dict) else changed(settings)
            return evaluate_run(settings, given, there, reporter, started)
        with ExitStack() as held:
            hosts.first(partial(held.enter_context, hold(there.lock)))
            jax.devices()  # Which takes a while, and longer on a GPU.
            seconds = {"start": time.perf_counter() - started}
            reporter = track(reporter, settings.log.tracker, there, flatten(settings))
            settings = settle_inherited(settings, there)
            settings = settle_convolution(settings, reporter, find_begun(there))
            seconds["build"] = time.perf_counter() - started - seconds["start"]
            hosts.first(partial(open_workdir, there, settings.to_dict(), differences))
            train = partial(_train, settings, there, reporter, make_feed)
            is_wanted = settings.on_divergence == "restart"
            return go_on_if_diverged(train, started, seconds, is_wanted, reporter.message)
    finally:
        reporter.close()


def _train(
    settings: Settings,
    workdir: Workdir,
    reporter: Reporter,
    make_feed: MakeFeed,
    started: float,
    seconds: dict[str, float],
    divergences: Divergences,
) -> Result:
    with ExitStack() as opened:
        store = CheckpointStore(workdir.checkpoints, settings.checkpoint.keep)
        opened.callback(store.close)
        if hosts.first(workdir.result.exists):
            result = read_finished(settings, workdir, store)
            reporter.message(f"{workdir.root} is finished; this is its result.")
            hosts.first(partial(draw_again, workdir, settings, result, reporter))
            reporter.end_run(result.to_dict())
            return result
        restored = find_start(workdir, store, reporter.message)
        dataset, inherited = load_data(settings, workdir, is_new=restored is None)
        trainer = Trainer(settings, dataset, make_feed)
        opened.callback(trainer.programs.close)
        trainer.seconds |= seconds
        data = dataset.image_shape, dataset.num_classes, len(dataset.validation.labels)
        policy = build.make_policy(settings, *data) if settings.mode == "grow" else None
        state = begin(trainer, restored, policy, reporter.message, inherited)
        divergences[:] = divergences or state.divergences
        state.divergences = divergences
        schedule = build.make_schedule(settings, policy)
        front = Front(trainer, state, workdir.candidates, reporter)
        clock = Clock(state, trainer, started)
        amid = Amid(workdir.amid, trainer, state, clock, restored, reporter.message)

        def before_growth() -> None:
            amid.before_growth()
            front.keep()

        grower = Grower(trainer, state, policy, schedule, reporter, before_growth)
        grower.resume(restored)
        lines = hosts.first(partial(truncate, workdir.metrics, state.epoch))
        snapshots = Snapshots(workdir.snapshots, settings.snapshots.every)
        snapshots.begin(trainer, state.epoch, is_new=restored is None)
        title = f"{settings.model.family} on {dataset.name}: {workdir.root}"
        reporter.begin_run(title, previous=lines)
        for note in (*dataset.notes, *settings.own.describe()):
            reporter.message(note)
        is_first = hosts.is_first()  # Others leave nothing behind.
        writer = MetricsWriter(workdir.metrics if is_first else os.devnull)
        # Signals wait until `amid` looks for them, and saves. The last steps of a run of several
        # processes, which would fail without each other, are not left alone by one of them.
        with writer as metrics, put_off_signals(for_good=hosts.count() > 1):
            folder = workdir.tensorboard if settings.log.tensorboard and is_first else None
            board = TensorBoardWriter(folder, first_epoch=state.epoch)
            opened.callback(board.close)
            # Do not change the order of what follows:
            # - The line of metrics.jsonl comes before the checkpoint of its epoch, which remembers
            #   it. Lines behind the last checkpoint are dropped by a start that resumes.
            # - Snapshots hold the net as it was trained and evaluated, so they come before growth.
            # - The policy decides before the line is written, which has its notes.
            # - The net grows, and a front changes nets, before the checkpoint: state and arrays are
            #   then of one moment, and a resumed run asks the policy no second time.
            # - What the next growth needs is compiled once the policy's state is new, and beside
            #   the saving.
            # - In a round of trials the trainer's net may not be the one that is kept: there is no
            #   checkpoint, and a run that is killed may begin the round again.
            # - Perturbed weights are of no use before an epoch, so checkpoints hold what was grown.
            # - Amid an epoch `amid` saves what the run remembered before the epoch: until the next
            #   checkpoint all that follows the steps is done again, and is the same.
            while not state.is_over(settings.finetune):
                if state.perturbed and state.begins_finetuning and not amid.resumes:
                    trainer.perturb(state.perturbed, state.epoch)
                amid.begin(grower.in_trials)
                length = settings.finetune.length(state.phase_start)
                rate = calm(divergences) * schedule(state.phase, state.epoch_of_phase, length)
                draws_of = grower.prepare()
                if grower.trials is not None:
                    amid.begin_trial(grower.trials)
                left = grower.epochs_left if state.phase == "growth" else state.epochs_left(length)
                steps = trainer.steps_per_epoch
                start = EpochStart(state.epoch, state.phase, trainer.depths, steps, left)
                reporter.begin_epoch(start)
                line, measured = run_epoch(trainer, state, clock, reporter, rate, draws_of, amid)
                decision = grower.decide(line, measured)
                state.metrics = metrics.write(line)
                board.write(line)
                lines.append(line)
                reporter.end_epoch(line)
                if state.trial is None:
                    snapshots.after_epoch(trainer, state.epoch)
                grower.follow(decision, line)
                front.advance(lines, measured)
                grower.compile_ahead(line, measured)
                if not grower.in_trials and save(trainer, state, store, clock):
                    amid.checkpointed()
                    front.after_saving(settings.checkpoint.keep)
                every = settings.log.plot_every
                if every and state.epoch % every == 0:
                    plot(workdir, lines, settings, dataset.name, data[-1])
        # Of a front the net that is recommended, which need not be the one that was trained last.
        own = [line["epoch"] for line in lines if tuple(line["depths"]) == trainer.depths]
        snapshots.end(trainer, own[-1] + 1 if own else state.epoch)
        result = finish(trainer, state, clock)
        # The result comes last: where it is, the run is finished and all else is on disk, but for
        # what is drawn from these files.
        with trainer.timed("checkpoint"):
            store.wait()
            amid.forget()
            front.after_saving(0)
        if settings.log.report:
            keep_predictions(workdir, trainer, reporter)
        if is_first:
            write_result(workdir.result, result.to_dict())
        plot(workdir, lines, settings, dataset.name, data[-1], result)
        reporter.end_run(result.to_dict())
        if settings.log.report:
            report(workdir, settings, reporter, dataset)
        hosts.from_first(None)  # Who would end before the first would not wait for it for long.
        return result
