"""What a run knows of its data, from its begin on, and the evaluation of its net on any images."""

import dataclasses
import io
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
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
from autogrow_jax.process import user_path
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


def read_normalization(init_from: str) -> Known | None:
    """What is known of the data by which the net of another run sees pixels; None without one."""
    if not init_from:
        return None
    there = Workdir(user_path(init_from))
    if known := read_known(there):
        return known
    raise UserError(
        f"{there.dataset} is not there, which says how the net that the run began with was to see"
        " pixels; bring it back"
    )


def keep_known(
    workdir: Workdir, dataset: Dataset, allow_changes: bool, origin: Workdir | None = None
) -> Dataset:
    """Writes what is known of a run's data, which have to be those that it was begun on.

    Of a run whose data changed, and of one that goes on from the net of `origin`, the images that
    the net was trained on are those of before, too.

    Returns:
      The data, normalised by the mean and standard deviation that the run began with.

    Raises:
      UserError: where the data changed and changes are not allowed, or do not fit the net.
    """
    old, new = read_known(workdir) if workdir.is_begun else None, dataset.known()
    lines: list[str] = []
    if old is not None:
        lines = list_changes(old, new)
        # Outputs are known by their places: a class may have another name, but none may move.
        pairs = zip(old.class_names, new.class_names, strict=False)
        stay = all(was == now or was not in new.class_names for was, now in pairs)
        same = len(old.class_names) == len(new.class_names) and old.image_shape == new.image_shape
        fits = same and stay
        if lines and not (fits and allow_changes):
            way_out = ", or go on with --config.data.allow_changes=True" if fits else ""
            raise UserError(
                f"the data of the run in {workdir.root} changed since it began; bring the old ones"
                f" back, start a run in another --workdir{way_out}. What differs:\n  "
                + "\n  ".join(lines)
            )
        dataset = dataset.normalized_as(old)
        if lines:
            told = f"they changed since the run began: {'; '.join(lines)}"
            dataset = dataclasses.replace(dataset, notes=(*dataset.notes, told))
        if (new.mean, new.std) != (old.mean, old.std):
            measured = new.mean, new.std
            new = dataclasses.replace(new, mean=old.mean, std=old.std, measured=measured)
    content = to_json(new.to_dict(), "dataset", indent=1)
    if hosts.from_first(content) != content:
        raise UserError(
            f"process {hosts.index()} has other images than process 0; let all of them find the"
            " same, in a folder that they share or in copies of it"
        )
    if not hosts.is_first():
        return dataset
    trained, buffer = dataset.train.ids, io.BytesIO()
    # Or the net would pass for one that never saw those of before.
    files = [each.train_ids for each in (workdir if old is not None else None, origin) if each]
    before = np.concatenate([trained[:0], *(_read_ids(file) for file in files if file.exists())])
    trained = np.concatenate([trained, np.setdiff1d(before, trained)])
    np.save(buffer, trained)
    replace_file(workdir.train_ids, buffer.getvalue())
    replace_file(workdir.dataset, content.encode("ascii") + b"\n")
    more = _describe_seen(dataset, before) if lines or origin else ()
    return dataclasses.replace(dataset, notes=(*dataset.notes, *more))


def _describe_seen(dataset: Dataset, trained: np.ndarray) -> Iterator[str]:
    """Lines on held-out images that a net has been trained on, by their ids."""
    for name in ("validation", "test")[dataset.validation is dataset.test :]:
        ids = dataset.parts[name].ids
        if seen := int(np.isin(ids, trained).sum()):
            counts = f"{seen:,} of the {len(ids):,} {name} images"
            yield f"{counts} the net was trained on before: what is measured on them is too good"


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
    is_own = len({full_name(k["data.name"], k["data.dir"]) for k in (own, own | ours)}) == 1
    if "data.layout" not in given and not is_own:
        ours["data.layout"] = "auto"  # The run's says how its own folder is laid out.
    objects = Own(dataset=settings.own.dataset, loss=settings.own.loss)
    settings = settle_convolution(build.resolve_own(own | ours, objects), reporter)
    if not workdir.checkpoints.is_dir():
        raise UserError(f"{workdir.root} holds no checkpoint yet; nothing to evaluate")
    with closing(CheckpointStore(workdir.checkpoints)) as store:  # A run may be at work in it.
        restored = read_last(store, workdir, "evaluate")
        for name in sorted((given.keys() & own.keys()) - _OF_EVALUATION):
            asked, has = (_show(values[name]) for values in (now, own))
            if name.startswith(_OF_NETS) and asked != has and asked != GIVEN:
                reporter.message(f"config.{name}={asked} is passed over: the run's {has} stays")
        kept = read_known(workdir)
        known, dataset = _load(own, settings, kept, is_own)
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


def _load(
    own: dict[str, Any], settings: Settings, known: Known | None, is_own: bool
) -> tuple[Known, Dataset]:
    """What is known of the run's own data, and the data to evaluate on."""
    if known is None:
        kept = build.load_data(build.resolve_own(own, to_read=True), to_train=False)
        known = kept.normalized_as(read_normalization(own.get("init_from", ""))).known()
    as_inherited = known if own.get("init_from") else None
    if settings.own.dataset is not None:
        dataset = build.load_data(settings, to_train=False).normalized_as(as_inherited)
        return known, adapt_parts(dataset, known, is_own=own["data.name"] == GIVEN)
    asked = settings.data
    places = {"directory": asked.dir, "cache_directory": asked.cache_dir}
    how = {"layout": asked.layout, "background": asked.background}
    if is_own:
        # However large the set is by now.
        as_then = dataclasses.replace(asked, stream="yes" if known.resized else "no")
        with suppress(NoTrainingPart):
            again = dataclasses.replace(settings, data=as_then)
            dataset = build.load_data(again, to_train=False)
            return known, adapt_parts(dataset.normalized_as(as_inherited), known)
    source = None
    if known.resized and can_stream(asked.name):  # As the run's own were read.
        size, workers = known.image_shape[0], asked.workers
        source = read_stream(asked.name, size, **places, **how, workers=workers, least_classes=1)
    return known, load_other(asked.name, known, source=source, **places, **how)


def _describe_overlap(workdir: Workdir, dataset: Dataset, known: Known | None) -> list[str]:
    """A line where images that are evaluated were trained on, or nobody knows."""
    if not workdir.train_ids.exists():  # Perhaps of a run from before they were kept.
        return [
            f"{workdir.train_ids} is not there, so nobody knows whether the net was trained on"
            " these images"
        ]
    trained = _read_ids(workdir.train_ids, known.parts["train"].images if known else 0)
    seen = int(np.isin(dataset.test.ids, trained).sum())
    return [f"{seen:,} of these images the net was trained on"] if seen else []


def _read_ids(path: Path, least: int = 0) -> np.ndarray:
    """The ids of `train_ids.npy`, uint64 [N], of which there are so many or more."""
    try:
        ids = np.load(path, allow_pickle=False)
        if ids.ndim != 1 or ids.dtype != np.uint64 or len(ids) < least:
            raise ValueError(f"it has the shape {ids.shape}")
    except (OSError, ValueError, EOFError) as error:
        raise UserError(
            f"{path} is damaged ({error}); bring it back, or delete it: nobody knows then whether"
            " the net was trained on images"
        ) from None
    return ids
