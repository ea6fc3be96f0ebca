"""How a run ends: the test set, once, and the result; also of a run evaluated later."""

import time
from typing import Any

import jax

from autogrow_jax import build
from autogrow_jax.data import Dataset
from autogrow_jax.errors import UserError
from autogrow_jax.models import num_params
from autogrow_jax.reporting import Reporter
from autogrow_jax.reporting.workdir import Workdir, read_config
from autogrow_jax.settings import Settings, flatten
from autogrow_jax.training.checkpoint import CheckpointStore
from autogrow_jax.training.clock import Clock
from autogrow_jax.training.convolutions import settle_convolution
from autogrow_jax.training.memory import Memory
from autogrow_jax.training.result import Result, describe_devices, find_versions
from autogrow_jax.training.start import begin, load_data
from autogrow_jax.training.step import mean_loss, percent
from autogrow_jax.training.trainer import Trainer


def finish(
    settings: Settings, trainer: Trainer, memory: Memory, dataset: Dataset, clock: Clock
) -> Result:
    """Looks at the test set, once, and puts the result together.

    Args:
      settings: of the run.
      trainer: after the last epoch.
      memory: its `seconds` are brought up to date.
      dataset: the trainer's.
      clock: of this start.
    """
    tested = trainer.evaluate("test")
    variables = trainer.exact_variables()
    clock.update()
    return Result(
        family=settings.model.family,
        dataset=dataset.name,
        seed_depths=tuple(settings.model.depths),
        depths=memory.depths,
        test_accuracy=percent(tested),
        best_validation_accuracy=memory.best_validation_accuracy,
        validation=settings.data.validation,
        num_params=num_params(variables),
        growth=tuple(memory.growth),
        epochs=memory.epoch,
        seconds=memory.seconds,
        compilations=memory.compilations.get("train", 0),
        seed=settings.seed,
        versions=find_versions(),
        network=trainer.network,
        variables=variables,
        more={
            "mode": settings.mode,
            "test_loss": mean_loss(tested),
            "growth_epochs": memory.phase_start if memory.phase == "finetune" else 0,
            "trial_epochs": memory.trial_epochs,
            "train_examples": len(dataset.train.labels),
            "validation_examples": len(dataset.validation.labels),
            "compilations_by_program": memory.compilations,
            "compilations_ahead": memory.compilations_ahead,
            "devices": {**describe_devices(), "convolution": trainer.convolution},
            "num_classes": dataset.num_classes,
            "image_shape": dataset.image_shape,
        },
    )


def evaluate_run(settings: Settings, workdir: Workdir, reporter: Reporter) -> Result:
    """Evaluates the newest checkpoint of a run on these settings' data.

    Args:
      settings: where to evaluate. The network and its training are the saved run's.
      workdir: of that run.
      reporter: is told the validation accuracy, then the result.

    Raises:
      UserError: where there is no checkpoint, or it does not fit the data.
    """
    saved = read_config(workdir)
    own = flatten(settings)
    given = flatten(saved)
    merged = {**given, **{k: v for k, v in own.items() if k.startswith(("data.", "log."))}}
    merged["num_devices"], merged["data.fraction"] = own["num_devices"], 1.0
    run_settings = settle_convolution(build.resolve(merged), reporter)
    store = CheckpointStore(workdir.checkpoints, run_settings.checkpoint.keep)
    try:
        if store.latest() is None:
            raise UserError(f"{workdir.root} holds no checkpoint yet; nothing to evaluate")
        start = time.perf_counter()
        dataset = load_data(run_settings)
        trainer = Trainer(run_settings, dataset)
        memory = begin(trainer, store)
        clock = Clock(memory, trainer, start)
        validated = trainer.evaluate("validation")
        reporter.message(
            f"{workdir.root} after {memory.epoch} epochs: validation accuracy"
            f" {percent(validated):.2f} %, loss {mean_loss(validated):.4f}"
        )
        result = finish(run_settings, trainer, memory, dataset, clock)
        reporter.end_run(result.to_dict())
        return result
    finally:
        store.close()


def plot(
    workdir: Workdir,
    lines: list[dict[str, Any]],
    dataset: Dataset,
    settings: Settings,
    test_accuracy: float | None = None,
) -> None:
    """Draws `plots/growth.png` from the lines of metrics.jsonl; in the first process only."""
    if jax.process_index() or not lines:
        return
    # Here, not at the top: matplotlib takes a while and not every run ends with a picture.
    from autogrow_jax.reporting.plots import draw_growth
    from autogrow_jax.reporting.result import validation_label

    draw_growth(
        lines,
        workdir.plots / "growth.png",
        title=f"{settings.model.family} on {dataset.name}, seed {settings.seed}",
        validation_name=validation_label(settings.data.validation),
        test_accuracy=test_accuracy,
    )
