"""What a run knows of its data, from its begin on, and the evaluation of its net on any images."""

import dataclasses
import io
from contextlib import closing, suppress
from typing import Any

import numpy as np

from autogrow_jax import build, hosts
from autogrow_jax.data import (
    Dataset,
    Known,
    NoTrainingPart,
    adapt_parts,
    full_name,
    list_changes,
    load_other,
)
from autogrow_jax.errors import UserError
from autogrow_jax.own import GIVEN, Own
from autogrow_jax.reporting import Reporter, Result, Workdir, replace_file, to_json
from autogrow_jax.reporting.numbers import format_depths, round_percent
from autogrow_jax.reporting.workdir import read_config, read_object
from autogrow_jax.saving import CheckpointStore, read_last
from autogrow_jax.settings import Settings, flatten
from autogrow_jax.steps import Trainer, mean_loss, percent, settle_convolution
from autogrow_jax.stream import can_stream, read_stream
from autogrow_jax.training.ending import finish
from autogrow_jax.training.run_state import Clock
from autogrow_jax.training.start import resume

# Of the keys of the data, those that an evaluation takes from its own config: which images, where
# they lie and how they are fed. How images are parted and prepared stays the run's.
_OF_EVALUATION = {
    *("data.name", "data.dir", "data.cache_dir", "data.layout"),
    *("data.batch_size", "data.on_device", "data.workers"),
}
# Of the others, those that would change what is measured: where the run's differ, it is said.
_OF_NETS = ("data.", "model.", "optimizer.ema", "loss", "seed")


def read_known(workdir: Workdir) -> Known | None:
    """What a run keeps of its data; None of one that was begun before it was kept.

    Raises:
      UserError: where dataset.json is damaged.
    """
    try:
        return Known.from_dict(read_object(workdir.dataset))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{workdir.dataset} is damaged ({type(error).__name__}: {error}); bring it back, or"
            " delete it, and the run takes its data as they are now for those it was begun on"
        ) from None


def keep_known(workdir: Workdir, dataset: Dataset, allow_changes: bool) -> Dataset:
    """Writes what is known of a run's data, which have to be those that it was begun on.

    Returns:
      The data, normalised by the mean and standard deviation that the run began with.

    Raises:
      UserError: where the data changed and changes are not allowed, or do not fit the net.
    """
    old, new = read_known(workdir) if workdir.is_begun else None, dataset.known()
    if old is not None and (lines := list_changes(old, new)):
        fits = len(old.class_names) == len(new.class_names) and old.image_shape == new.image_shape
        if not fits or not allow_changes:
            way_out = ", or go on with --config.data.allow_changes=True" if fits else ""
            raise UserError(
                f"the data of the run in {workdir.root} changed since it began; bring the old ones"
                f" back, start a run in another --workdir{way_out}. What differs:\n  "
                + "\n  ".join(lines)
            )
    if old is not None:
        dataset = dataset.normalized_as(old)
        new = dataclasses.replace(new, mean=old.mean, std=old.std)
    content = to_json(new.to_dict(), "dataset", indent=1)
    if hosts.from_first(content) != content:
        raise UserError(
            f"process {hosts.index()} has other images than process 0; let all of them find the"
            " same, in a folder that they share or in copies of it"
        )
    if not hosts.is_first():
        return dataset
    buffer = io.BytesIO()
    np.save(buffer, dataset.train.ids)
    replace_file(workdir.train_ids, buffer.getvalue())
    replace_file(workdir.dataset, content.encode("ascii") + b"\n")
    return dataset


def evaluate_run(
    settings: Settings, given: dict[str, Any], workdir: Workdir, reporter: Reporter, started: float
) -> Result:
    """Evaluates the newest checkpoint of a run: on its own data, or on those that are given.

    Args:
      settings: of the evaluation; of the run's own are all but the log's, the number of devices and
        what is given of the data.
      given: the keys that the evaluation's config says something of, {"a.b": value}.
      workdir: of the run.
      reporter: is told what was evaluated.
      started: `time.perf_counter()` that the time counts from.

    Raises:
      UserError: where there is no checkpoint, or the data do not fit it.
    """
    hosts.refuse("mode 'evaluate'")
    own, now = _read_own(workdir), flatten(settings)
    ours = {name: now[name] for name in now if name.startswith("log.")}
    ours |= {name: now[name] for name in _OF_EVALUATION & given.keys()}
    ours |= {"num_devices": now["num_devices"]}
    objects = Own(dataset=settings.own.dataset, loss=settings.own.loss)
    settings = settle_convolution(build.resolve_own(own | ours, objects), reporter)
    with closing(CheckpointStore(workdir.checkpoints, settings.checkpoint.keep)) as store:
        restored = read_last(store, workdir, "evaluate")
        for name in sorted((given.keys() & own.keys()) - _OF_EVALUATION):
            asked, has = (_show(values[name]) for values in (now, own))
            if name.startswith(_OF_NETS) and asked != has and asked != GIVEN:
                reporter.message(f"config.{name}={asked} is passed over: the run's {has} stays")
        kept = read_known(workdir)
        known, dataset = _load(own, settings, kept)
        trainer = Trainer(settings, dataset)
        state = resume(trainer, restored, to_train=False)
        clock = Clock(state, trainer, started)
        reporter.message(f"{workdir.root} after {state.epoch} epochs, trained on {known.name}")
        for line in (*dataset.notes, *_describe_overlap(workdir, dataset, kept)):
            reporter.message(line)
        if dataset.validation is not dataset.test:
            validated = trainer.evaluate("validation")
            accuracy, loss = round_percent(percent(validated)), mean_loss(validated)
            reporter.message(f"validation accuracy {accuracy} %, loss {loss:.4f}")
        result = finish(trainer, state, clock)
        counts = {f"{n}_examples": known.parts[n].images for n in ("train", "validation")}
        result = dataclasses.replace(result, more=result.more | counts)
        reporter.end_run(result.to_dict())
        return result


def _read_own(workdir: Workdir) -> dict[str, Any]:
    """The keys of a run that its evaluation depends on, {"a.b": value}: not how it was trained."""
    flat = flatten(read_config(workdir))
    kept = {"growth.max_depths", "optimizer.ema"}
    trained_by = ("growth.", "optimizer.", "finetune.", "data.augment")
    own = {n: value for n, value in flat.items() if n in kept or not n.startswith(trained_by)}
    # An optimiser without a state.
    return own | {"optimizer.name": "sgd", "optimizer.momentum": 0.0}


def _show(value: Any) -> str:
    # JSON knows no tuples.
    return format_depths(value) if isinstance(value, list | tuple) else str(value)


def _load(own: dict[str, Any], settings: Settings, known: Known | None) -> tuple[Known, Dataset]:
    """What is known of the run's own data, and the data to evaluate on."""
    known = known or build.load_data(build.resolve_own(own, to_read=True), to_train=False).known()
    if settings.own.dataset is not None:
        dataset = build.load_data(settings, to_train=False)
        return known, adapt_parts(dataset, known, is_own=own["data.name"] == GIVEN)
    asked = settings.data
    places = {"directory": asked.dir, "cache_directory": asked.cache_dir}
    how = {"layout": asked.layout, "background": asked.background}
    if full_name(asked.name, asked.dir) == full_name(own["data.name"], own["data.dir"]):
        with suppress(NoTrainingPart):
            return known, adapt_parts(build.load_data(settings, to_train=False), known)
    source = None
    if known.resized and can_stream(asked.name):  # As the run's own were read.
        size, workers = known.image_shape[0], asked.workers
        source = read_stream(asked.name, size, **places, workers=workers, **how)
    return known, load_other(asked.name, known, source=source, **places, **how)


def _describe_overlap(workdir: Workdir, dataset: Dataset, known: Known | None) -> list[str]:
    """A line where images that are evaluated were trained on, or nobody knows."""
    if not workdir.train_ids.exists():  # Perhaps of a run from before they were kept.
        return [
            f"{workdir.train_ids} is not there, so nobody knows whether the net was trained on"
            " these images"
        ]
    try:
        trained = np.load(workdir.train_ids, allow_pickle=False)
        if known is not None and trained.shape != (known.parts["train"].images,):
            raise ValueError(f"it has the shape {trained.shape}")
    except (OSError, ValueError, EOFError) as error:
        raise UserError(
            f"{workdir.train_ids} is damaged ({error}); bring it back, or delete it: nobody knows"
            " then whether the net was trained on these images"
        ) from None
    seen = int(np.isin(dataset.test.ids, trained).sum())
    return [f"{seen:,} of these images the net was trained on"] if seen else []
